"""Who answers a chat: the pair here, or a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sprinter.cli.chat import Piece, Talk
from sprinter.cli.options import Given
from sprinter.errors import BackendError, ConfigError


class Here:
    """The pair in this process."""

    def __init__(self, settings: Given) -> None:
        from sprinter.api import Sprinter
        from sprinter.build import Pair
        from sprinter.config import make_config

        self._settings = {name: value for name, value in settings.items() if value is not None}
        self._sprinter = Sprinter(Pair(make_config(None, self._settings).models))
        self._account = ""

    def answer(self, talk: Talk) -> Iterator[Piece]:
        """See `Speaker.answer`."""
        from sprinter.certify.choose import Wish
        from sprinter.cli.show import statistics
        from sprinter.config import make_config

        contract = talk.contract["contract"]
        own = {**self._settings, "method": "exact" if contract == "exact" else "sprinter"}
        if talk.seed is not None:
            own["seed"] = talk.seed
        config = make_config(None, own)
        if contract == "certified":
            wish = Wish(max_atypical=talk.contract["max_atypical"])
            config, choice = self._sprinter.certified(config, wish, [*self._settings], chat=True)
            if choice.caveat is not None:
                raise ConfigError(f"certified was asked for: {choice.caveat}")
        stream = self._sprinter.start(talk.messages, config)
        try:
            for token in stream:
                yield token.text, token.origin
        finally:
            stream.close()
        self._account = statistics(stream.generation)

    def account(self) -> str:
        """See `Speaker.account`."""
        return self._account


class There:
    """A running `sprinter serve`, or what speaks like one."""

    def __init__(self, url: str, key: str | None, settings: Given) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ConfigError(
                f"talking to a server needs more packages ({error}): pip install 'sprinter-decoding[serve]'"
            ) from None
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--server is {url!r}, but must begin with http:// or https://")
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=url.rstrip("/").removesuffix("/v1"), headers=headers, timeout=60)
        self._settings = {name: value for name, value in settings.items() if value is not None}
        self._account = ""
        self._model = str(self._ask("GET", "/v1/models")["data"][0]["id"])

    def answer(self, talk: Talk) -> Iterator[Piece]:
        """See `Speaker.answer`."""
        own = dict(self._settings)
        ask: dict[str, Any] = {
            "model": self._model,
            "messages": talk.messages,
            "stream": True,
            "sprinter": talk.contract,
            "max_tokens": own.pop("max_new_tokens", 512),
            "temperature": own.pop("temperature", 0.0),
            **own,
            **({} if talk.seed is None else {"seed": talk.seed}),
        }
        self._account = ""
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=ask) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _refusal(answer)
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        yield from self._pieces(json.loads(line[6:]))
        except self._errors as error:
            raise BackendError(f"the server cannot be reached any more ({error}): is it running?") from None

    def account(self) -> str:
        """See `Speaker.account`."""
        return self._account

    def _pieces(self, event: dict[str, Any]) -> Iterator[Piece]:
        if "error" in event:
            raise BackendError(f"the server says: {event['error']['message']}")
        told = event.get("sprinter", {})
        if "contract" in told:
            self._account = f"{told['contract']} by {told['method']}, {told['target_calls']} target calls"
        tokens = told.get("tokens")
        if tokens is not None:
            yield from ((token["text"], token["origin"]) for token in tokens)
        else:
            yield from ((choice["delta"].get("content") or "", "") for choice in event["choices"])

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        import httpx

        return (httpx.HTTPError,)

    def _ask(self, verb: str, path: str) -> Any:
        try:
            answer = self._client.request(verb, path)
        except self._errors as error:
            raise BackendError(
                f"no server at {self._client.base_url} ({error}): start one with sprinter serve"
            ) from None
        if answer.status_code != 200:
            raise _refusal(answer)
        return answer.json()


def _refusal(answer: Any) -> BackendError:
    try:
        words = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        words = f"status {answer.status_code}"
    return BackendError(f"the server says: {words}")
