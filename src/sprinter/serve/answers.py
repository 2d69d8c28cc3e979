"""What goes back: OpenAI's objects, whole or in chunks, with our account under `sprinter`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sprinter.core.records import Generation, Token
from sprinter.observers.logprobs import Logprob
from sprinter.serve.contracts import Agreed
from sprinter.serve.tools import calls_in, shown

FINISH: Final = {"eos": "stop", "stop": "stop", "length": "length", "cancelled": "stop", "error": "stop"}
Spell = Callable[[int], str]


@dataclass(frozen=True)
class Answer:
    """The frame of one answer, of either kind."""

    chat: bool
    model: str
    spell: Spell  # an id's text
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    tools: bool = False  # whether the text may hold calls of tools
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[dict[str, Any]], usage: dict[str, Any], told: list[dict[str, Any]]) -> Any:
        """The answer in one piece."""
        return {**self._frame("chat.completion"), "choices": list(choices), "usage": usage, "sprinter": told}

    def chunk(self, choices: Sequence[dict[str, Any]], told: dict[str, Any] | None = None) -> dict[str, Any]:
        """One piece of a streamed answer."""
        frame: dict[str, Any] = {**self._frame("chat.completion.chunk"), "choices": list(choices)}
        return frame if told is None else {**frame, "sprinter": told}

    def choice(self, index: int, made: Generation, logprobs: Sequence[Logprob] | None) -> dict[str, Any]:
        """One text of a whole answer."""
        reason, content = FINISH[made.finish_reason], self._content(made.text)
        if content.get("message", {}).get("tool_calls"):
            reason = "tool_calls"
        told = None if logprobs is None else self.logprobs(logprobs[: made.num_tokens], made.tokens)
        return {"index": index, **content, "logprobs": told, "finish_reason": reason}

    def piece(
        self, index: int, tokens: Sequence[Token], logprobs: Sequence[Logprob] | None, first: bool, text: str
    ) -> dict[str, Any]:
        """Some tokens of a text; `text`: what of it is shown with them."""
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        told = None if logprobs is None else self.logprobs(logprobs, tokens)
        content = {"delta": delta} if self.chat else {"text": text}
        return {"index": index, **content, "logprobs": told, "finish_reason": None}

    def end(self, index: int, made: Generation) -> dict[str, Any]:
        """A text's last chunk."""
        reason, delta = FINISH[made.finish_reason], dict[str, Any]()
        if self.tools:
            left, calls = calls_in(made.text)
            rest = left[len(shown(made.text)) :] if not calls else ""
            delta = {"content": rest} if rest else {}
            if calls:
                reason = "tool_calls"
                delta = {"tool_calls": [{"index": n, **call} for n, call in enumerate(calls)]}
        content: dict[str, Any] = {"delta": delta} if self.chat else {"text": ""}
        return {"index": index, **content, "logprobs": None, "finish_reason": reason}

    def _content(self, text: str) -> dict[str, Any]:
        if not self.chat:
            return {"text": text}
        left, calls = calls_in(text) if self.tools else (text, [])
        if not calls:
            return {"message": {"role": "assistant", "content": text}}
        return {"message": {"role": "assistant", "content": left or None, "tool_calls": calls}}

    def logprobs(self, found: Sequence[Logprob], tokens: Sequence[Token]) -> dict[str, Any]:
        """The target's own, in the form of the endpoint."""
        if not self.chat:
            offsets, at = [], 0
            for token in tokens:
                offsets.append(at)
                at += len(token.text)
            return {
                "tokens": [self.spell(one.token) for one in found],
                "token_logprobs": [one.logprob for one in found],
                "top_logprobs": [{self.spell(i): p for i, p in one.top} for one in found],
                "text_offset": offsets,
            }
        return {
            "content": [
                {**self._entry(one.token, one.logprob), "top_logprobs": [self._entry(i, p) for i, p in one.top]}
                for one in found
            ],
            "refusal": None,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.spell(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "surrogatepass"))}

    def _frame(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
        }


def usage_of(made: Sequence[Generation], prompts: int) -> dict[str, int]:
    """Tokens of an answer; `prompts`: of its prompts, each counted once."""
    written = sum(one.num_tokens for one in made)
    return {"prompt_tokens": prompts, "completion_tokens": written, "total_tokens": prompts + written}


def provenance(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Who vouched for each token."""
    return [{"id": t.id, "text": t.text, "origin": t.origin, "score": t.score} for t in tokens]


def account(agreed: Agreed, made: Generation) -> dict[str, Any]:
    """Contract, method, certificate, audit, and every token's origin."""
    return {**agreed.told(made), "tokens": provenance(made.tokens)}
