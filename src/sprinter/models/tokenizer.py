"""Prompts to token ids: a thin holder of the tokenizers library, without importing transformers where possible."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from sprinter.errors import BackendError, ConfigError
from sprinter.models.chat import Chat, choose, marked, messages_of, pieces, render
from sprinter.models.tokenizer_files import (
    DOOR,
    SPECIAL,
    end_ids,
    folder_of,
    read_fast,
    settings_of,
    templates_of,
    token_text,
)


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer with its special ids and chat templates."""

    fast: FastTokenizer
    bos_id: int | None
    eos_ids: frozenset[int]
    chat_template: str | None
    special: Mapping[str, str]  # texts by name ("bos_token", "pad_token", ...), for the chat template
    more_templates: Mapping[str, str] = field(default_factory=dict)  # by name, beside the default one

    @cached_property
    def vocab_size(self) -> int:
        """Ids 0 .. vocab_size - 1 may have a text."""
        # Some vocabularies have holes, so their count is not their reach.
        return 1 + max(self.fast.get_vocab(with_added_tokens=True).values(), default=-1)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides which ids a text has."""
        return sha256(self.fast.to_str().encode()).hexdigest()

    @property
    def knows_tools(self) -> bool:
        """Whether a chat template of the model writes of tools."""
        return "tool_use" in self.more_templates or "tools" in (self.chat_template or "")

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

    def encode_chat(
        self,
        chat: Chat,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **more: Any,
    ) -> list[int]:
        """Ids of messages in the model's chat template, ready for its answer; a text is one user's message.

        `more` goes to the template by name, as `enable_thinking` does. A special token that a message spells out stays
        the text it is. Raises ConfigError where the model has no such template, BackendError where it fails.
        """
        templates = {**self.more_templates}
        if self.chat_template is not None:
            templates["default"] = self.chat_template
        template = choose(templates, tools)
        special = self._special_in(template)
        given = {"messages": messages_of(chat, system), "tools": tools, "documents": documents, **more}
        variables = {**self.special, **marked(given, special), "add_generation_prompt": True}
        ids = self._encode_marked(_without_surrogates(render(template, variables)), special)
        if not ids:
            raise BackendError("the model's chat template renders nothing: leave out --chat")
        return ids

    def _special_in(self, template: str) -> re.Pattern[str]:
        """What a message must not forge: special tokens, and added ones that the template writes."""
        added = self.fast.get_added_tokens_decoder().values()
        texts = {t.content for t in added if t.content.strip() and (t.special or t.content in template)}
        longest_first = sorted(texts, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def _encode_marked(self, text: str, special: re.Pattern[str]) -> list[int]:
        first, *others = pieces(text, special)
        ids = list(self.fast.encode(first or "", add_special_tokens=False).ids)
        for place, piece in enumerate(others):
            if piece:
                ids += self._encode_within(piece, as_text=place % 2 == 0)
        return ids

    def _encode_within(self, piece: str, as_text: bool) -> list[int]:
        """Ids of a piece from the middle of a text; `as_text`: it is a special token that a user has spelled out."""
        core = self._blind if as_text else self.fast
        # Behind a line break, or some tokenizers would put a space before it as at the beginning of a text.
        line_break, ids = ("\n", core.encode("\n" + piece, add_special_tokens=False).ids)
        lead = core.encode(line_break, add_special_tokens=False).ids
        ids = ids[len(lead) :] if ids[: len(lead)] == lead else core.encode(piece, add_special_tokens=False).ids
        if as_text and self.fast.token_to_id(piece) in ids:
            raise ConfigError(f"the chat holds {piece!r}, which this model's template uses: write it in another way")
        return list(ids)

    @cached_property
    def _blind(self) -> FastTokenizer:
        """The tokenizer without an eye for special tokens."""
        blind = FastTokenizer.from_str(self.fast.to_str())
        blind.encode_special_tokens = True
        return blind

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens."""
        return str(self.fast.decode(ids, skip_special_tokens=True))


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model folder or GGUF file. Raises BackendError."""
    folder = folder_of(path)
    settings = settings_of(folder)
    if not (folder / "tokenizer.json").is_file():
        return _from_transformers(folder)
    fast = read_fast(folder / "tokenizer.json")
    special = {name: text for name in SPECIAL if (text := token_text(settings.get(name)))}
    templates = templates_of(folder, settings)
    beginning = special.get("bos_token")
    return Tokenizer(
        fast,
        fast.token_to_id(beginning) if beginning else None,
        end_ids(folder, fast, special.get("eos_token")),
        templates.pop("default", None),
        special,
        templates,
    )


_PROBES = (
    "The quick brown fox, jumping; over 12345 lazy dogs' 3.14159 tails!",
    "  two  spaces\tand a tab\n\n\nlines\r\n end ",
    "naïve café Übermäßig straße ﬁne Ａｂｃ",  # noqa: RUF001
    "def f(x):\n    return x**2  # it's $5,000.00 or 50%",
    "你好，世界。日本語のテキスト 한국어 ภาษาไทย العربية हिन्दी",  # noqa: RUF001
    "🚀👩‍👧 e\u0301 \u200b\ufeff <b>&amp;</b> http://a.b/c?d=e_f",
    "I'll we've they'd DON'T x's 2nd 1st camelCase snake_case __init__",
)


def require_same(draft: Tokenizer, target: Tokenizer) -> None:
    """ConfigError naming the first difference, unless both tokenizers cut every text alike.

    Vocabularies and merges must agree; what else decides the cutting can be written in several ways, so where it
    differs, texts of every kind are cut by both.
    """
    ours, theirs = ({i: t for t, i in k.fast.get_vocab(with_added_tokens=True).items()} for k in (draft, target))
    for token_id in sorted(ours.keys() | theirs.keys()):
        if ours.get(token_id) != theirs.get(token_id):
            raise ConfigError(
                f"the tokenizers differ at id {token_id}: the draft says {ours.get(token_id)!r}, the target "
                f"{theirs.get(token_id)!r}; a draft must share its target's tokenizer (sprinter distill makes one)"
            )
    mine, other = (DOOR.parse(k.fast.to_str(), dict[str, Any], "a tokenizer") for k in (draft, target))
    merges = zip(mine["model"].get("merges", []), other["model"].get("merges", []), strict=False)
    for rank, (a, b) in enumerate(merges):
        if a != b:
            raise ConfigError(f"the tokenizers differ at merge {rank}: the draft joins {a!r}, the target {b!r}")
    for part in ("normalizer", "pre_tokenizer"):
        if mine.get(part) == other.get(part):
            continue
        for text in _PROBES:
            if (
                draft.fast.encode(text, add_special_tokens=False).ids
                != target.fast.encode(text, add_special_tokens=False).ids
            ):
                raise ConfigError(
                    f"the tokenizers differ in their {part.replace('_', '-')}: they would cut a text apart, "
                    f"{text[:20]!r} for one"
                )


def _from_transformers(folder: Path) -> Tokenizer:
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow import, only for models without a tokenizer.json

    try:
        loaded: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        fast = loaded.backend_tokenizer
        fast.no_truncation()
        fast.no_padding()
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        ImportError,
        TypeError,
        RuntimeError,
        RecursionError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackendError(f"no usable tokenizer in {folder}: {reason}") from error
    special = {name: str(text) for name, text in loaded.special_tokens_map.items()}
    templates = loaded.chat_template if isinstance(loaded.chat_template, dict) else {"default": loaded.chat_template}
    named = {name: text for name, text in templates.items() if isinstance(text, str)}
    ends = end_ids(folder, fast, special.get("eos_token"))
    return Tokenizer(fast, loaded.bos_token_id, ends, named.pop("default", None), special, named)


def _without_surrogates(text: str) -> str:
    # A terminal hands undecodable bytes over as lone surrogates, which no tokenizer takes.
    return text.encode("utf-8", "replace").decode("utf-8") if any("\ud800" <= c <= "\udfff" for c in text) else text
