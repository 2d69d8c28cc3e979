"""Prompts to token ids: a thin holder of the tokenizers library, without importing transformers where possible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from sprinter.errors import BackendError, ConfigError


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer with its special ids and chat template."""

    fast: FastTokenizer
    bos_id: int | None
    eos_ids: frozenset[int]
    chat_template: str | None
    special: Mapping[str, str]  # "bos_token", "eos_token": their texts, for the chat template

    @cached_property
    def vocab_size(self) -> int:
        """Ids 0 .. vocab_size - 1 may have a text."""
        # Some vocabularies have holes, so their count is not their reach.
        return 1 + max(self.fast.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str) -> list[int]:
        """Ids of a plain prompt, with the special tokens the model was trained with.

        An empty prompt becomes the beginning token; ConfigError if the tokenizer has none.
        """
        ids = list(self.fast.encode(_without_surrogates(text), add_special_tokens=True).ids)
        if ids:
            return ids
        if self.bos_id is None:
            raise ConfigError("the prompt is empty and this tokenizer has no beginning token: write a prompt")
        return [self.bos_id]

    def encode_chat(self, text: str) -> list[int]:
        """Ids of `text` as a user's message in the model's chat template; ConfigError if it has none."""
        if self.chat_template is None:
            raise ConfigError("this model has no chat template: leave out --chat")
        rendered = _render(self.chat_template, [{"role": "user", "content": _without_surrogates(text)}], self.special)
        ids = list(self.fast.encode(rendered, add_special_tokens=False).ids)
        if not ids:
            raise BackendError("the model's chat template renders nothing: leave out --chat")
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens."""
        return str(self.fast.decode(ids, skip_special_tokens=True))


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model folder or GGUF file. Raises BackendError."""
    if path.is_file():
        return _from_transformers(path.parent, gguf_file=path.name)
    settings = _json(path / "tokenizer_config.json")
    if not (path / "tokenizer.json").is_file():
        return _from_transformers(path)
    try:
        fast = FastTokenizer.from_file(str(path / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise BackendError(f"{path / 'tokenizer.json'} is damaged ({error}): copy or download it again") from error
    special = {key: _token_text(settings.get(key)) for key in ("bos_token", "eos_token")}
    template = settings.get("chat_template")
    if template is None and (path / "chat_template.jinja").is_file():
        template = (path / "chat_template.jinja").read_text(encoding="utf-8")
    eos = {fast.token_to_id(special["eos_token"])} if special["eos_token"] else set()
    for name in ("config.json", "generation_config.json"):
        eos |= _ids(_json(path / name).get("eos_token_id"))
    return Tokenizer(
        fast,
        fast.token_to_id(special["bos_token"]) if special["bos_token"] else None,
        frozenset(i for i in eos if i is not None),
        template if isinstance(template, str) else None,
        special,
    )


def require_same(draft: Tokenizer, target: Tokenizer) -> None:
    """ConfigError naming the first difference, unless both tokenizers cut every text alike."""
    ours, theirs = ({i: t for t, i in k.fast.get_vocab(with_added_tokens=True).items()} for k in (draft, target))
    for token_id in sorted(ours.keys() | theirs.keys()):
        if ours.get(token_id) != theirs.get(token_id):
            raise ConfigError(
                f"the tokenizers differ at id {token_id}: the draft says {ours.get(token_id)!r}, the target "
                f"{theirs.get(token_id)!r}; a draft must share its target's tokenizer (sprinter distill makes one)"
            )
    mine, other = (json.loads(k.fast.to_str()) for k in (draft, target))
    for part in ("normalizer", "pre_tokenizer"):
        if mine.get(part) != other.get(part):
            raise ConfigError(f"the tokenizers differ in their {part.replace('_', '-')}: they would cut a text apart")
    merges = zip(mine["model"].get("merges", []), other["model"].get("merges", []), strict=False)
    for rank, (a, b) in enumerate(merges):
        if a != b:
            raise ConfigError(f"the tokenizers differ at merge {rank}: the draft joins {a!r}, the target {b!r}")


def _from_transformers(folder: Path, gguf_file: str | None = None) -> Tokenizer:
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow import, only for models without a tokenizer.json

    try:
        loaded: Any = AutoTokenizer.from_pretrained(
            str(folder), gguf_file=gguf_file, local_files_only=True, trust_remote_code=False
        )
        fast = loaded.backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackendError(f"no usable tokenizer in {folder}: {reason}") from error
    special = {"bos_token": loaded.bos_token or "", "eos_token": loaded.eos_token or ""}
    eos = _ids(loaded.eos_token_id) | _ids(_json(folder / "generation_config.json").get("eos_token_id"))
    return Tokenizer(fast, loaded.bos_token_id, frozenset(eos), loaded.chat_template, special)


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(f"{file} is not valid JSON ({error}): copy or download it again") from error
    if not isinstance(loaded, dict):
        raise BackendError(f"{file} must hold one JSON object: copy or download it again")
    return loaded


def _token_text(entry: Any) -> str:
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else ""


def _ids(value: Any) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {v for v in values if isinstance(v, int) and not isinstance(v, bool)}


def _without_surrogates(text: str) -> str:
    # A terminal hands undecodable bytes over as lone surrogates, which no tokenizer takes.
    return text.encode("utf-8", "replace").decode("utf-8") if any("\ud800" <= c <= "\udfff" for c in text) else text


def _render(template: str, messages: list[dict[str, str]], special: Mapping[str, str]) -> str:
    try:
        return str(_compiled(template).render(messages=messages, add_generation_prompt=True, **special))
    except Exception as error:  # a template can fail in any way a program can
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackendError(f"the model's chat template fails ({reason}): leave out --chat") from error


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    """The template ready to render; compiling it takes 2 ms, as long as a target call."""
    from jinja2 import TemplateError  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # A template is a program that came with the model: the sandbox keeps it from anything but text.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    # Templates are written for transformers, which offers these and does not escape HTML in JSON.
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment.from_string(template)
