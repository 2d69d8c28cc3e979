"""Messages to the text a model was trained to answer, as transformers' `apply_chat_template` writes it.

A template is rendered outside this process (`chat_worker.py`), with limits of time, memory and length.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sprinter.door import one_line
from sprinter.errors import BackendError, ConfigError

MOST_SECONDS: Final = 5.0  # the longest template of a known model takes 10 ms
MOST_CHARACTERS: Final = 8 << 20
_MOST_MEMORY: Final = 512 << 20  # bytes
_WORKER: Final = Path(__file__).with_name("chat_worker.py")
# What Python itself needs to start; nothing of what else a shell may hold, keys for instance.
_PASSED_ON: Final = (
    "PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "HOME",
    "TZ",
    "LANG",
    "LC_ALL",
    "SYSTEMROOT",
)
_REASONING: Final = ("reasoning_content", "thinking", "reasoning")
# Put around special tokens that a user's text spells out, so that they can be told from the template's own.
_BEGIN, _END = "\U000f0000", "\U000f0001"

Message = Mapping[str, Any]
Chat = str | Sequence[Message]


def messages_of(chat: Chat, system: str | None = None) -> list[dict[str, Any]]:
    """`chat` as messages: a text is one user's message; `system` comes before all. ConfigError for anything else."""
    given = [{"role": "user", "content": chat}] if isinstance(chat, str) else list(chat)
    if not given:
        raise ConfigError("the chat is empty: give at least one message")
    if not all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in given):
        raise ConfigError("a chat is a list of messages like {'role': 'user', 'content': 'Hello'}")
    found = [{key: value for key, value in m.items() if value is not None} for m in given]
    for message in found:
        # Models disagree on the name of what was thought before answering.
        thought = next((message[name] for name in _REASONING if name in message), None)
        if thought is not None:
            message.setdefault("thinking", thought)
            message["reasoning_content"] = thought
    return [*([] if system is None else [{"role": "system", "content": system}]), *found]


def choose(templates: Mapping[str, str], tools: object) -> str:
    """The template for a chat, among a model's named ones; ConfigError where none is for it."""
    for name in ("tool_use", "default") if tools is not None else ("default",):
        if name in templates:
            return templates[name]
    if templates:
        raise ConfigError(f"this model has no default chat template, only {', '.join(sorted(templates))}: no --chat")
    raise ConfigError("this model has no chat template: leave out --chat")


def marked(value: Any, special: re.Pattern[str]) -> Any:
    """`value` (JSON types) with `special` tokens in its strings put between marks."""
    if isinstance(value, str):
        return special.sub(f"{_BEGIN}\\g<0>{_END}", value.replace(_BEGIN, "").replace(_END, ""))
    if isinstance(value, Mapping):
        return {key: marked(item, special) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [marked(item, special) for item in value]
    return value


def pieces(text: str, special: re.Pattern[str]) -> list[str | None]:
    """`text` cut at its marks: the template's text at even places, a user's special token (or None) at odd ones."""
    return re.split(f"{_BEGIN}({special.pattern}){_END}|[{_BEGIN}{_END}]", text)


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The template's text; BackendError in one line where it fails, takes too long or writes too much."""
    try:
        asked = json.dumps({"template": template, "variables": variables, "most_characters": MOST_CHARACTERS})
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"messages, tools and documents must be plain JSON values ({one_line(str(error))})") from None
    answer = _process.ask(asked)
    if "text" not in answer:
        raise BackendError(f"the model's chat template fails ({one_line(answer['error'])}): leave out --chat")
    return answer["text"]


class _Worker:
    """The one process that renders; started when first needed, again after it had to be ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._owner = 0

    def ask(self, asked: str) -> dict[str, str]:
        with self._lock:
            try:
                return self._answer(asked.encode("utf-8", "surrogatepass"))
            except (OSError, ValueError) as error:
                self.end()
                return {"error": one_line(str(error)) or "it ended the process that renders it"}

    def _answer(self, asked: bytes) -> dict[str, str]:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(MOST_SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(asked + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        finally:
            in_time = timer.is_alive()
            timer.cancel()
        if not line:
            raise OSError("it takes too much memory" if in_time else f"it takes more than {MOST_SECONDS:g} seconds")
        answer: dict[str, str] = json.loads(line)
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():
            self._process = None  # a fork's: the parent talks to it
        if self._process is None or self._process.poll() is not None:
            environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER), str(_MOST_MEMORY)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us
            )
            self._owner = os.getpid()
        return self._process

    def end(self) -> None:
        """End the process, if this one started it."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()


_process: Final = _Worker()
atexit.register(_process.end)
