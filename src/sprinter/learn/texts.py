"""What the target writes after each prompt, with its states: computed once, read by every draft and every head.

The contexts of exact decoding are the target's own, whatever the draft. So the dear part of `collect --policy exact`,
the target's pass, is kept: another draft of the same target is judged on it in a fraction of the time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sprinter.core.rows import FloatArray
from sprinter.core.sampling import Dice, Sampling
from sprinter.errors import CapabilityError, DataError
from sprinter.learn.batched import BatchModel
from sprinter.models.base import LanguageModel

TEXTS_FORMAT: Final = 1
_INDEX: Final = "texts.json"


@dataclass(frozen=True)
class TextSettings:
    """What decides the target's texts; a folder made with other settings is not gone on with."""

    sampling: Sampling
    num_tokens: int
    seed: int
    vocab_size: int
    eos_ids: frozenset[int]

    def describe(self, fingerprint: str) -> dict[str, Any]:
        """As JSON types, with the target's fingerprint."""
        found: dict[str, Any] = json.loads(json.dumps({**asdict(self), "eos_ids": sorted(self.eos_ids)}))
        return {"format": TEXTS_FORMAT, "target_fingerprint": fingerprint, **found}


@dataclass(frozen=True)
class Text:
    """One continuation; `hidden[i]` is the target's state that predicts `tokens[i]`."""

    tokens: list[int]  # the last may be an end of text
    hidden: FloatArray  # [tokens, hidden] float32


class TextStore:
    """A folder of continuations, one file per prompt, each written beside and then renamed."""

    def __init__(self, folder: Path, target: BatchModel | LanguageModel, settings: TextSettings) -> None:
        """`target`: a BatchModel writes side by side, any other backend one text after the other.

        Raises DataError when the folder holds texts of another target or other settings.
        """
        self._folder = folder
        self._target = target
        self._settings = settings
        described = settings.describe(target.info.fingerprint)
        file = folder / _INDEX
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not file.is_file():
                beside = file.with_suffix(".part")
                beside.write_text(json.dumps(described, indent=1) + "\n")
                beside.replace(file)
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot use {file} ({error}): choose another folder for the target's texts") from error
        for name, value in described.items():
            if found.get(name) != value:
                raise DataError(f"{folder} holds the target's texts with another {name}: choose another folder")

    def texts(self, prompt_ids: Sequence[str], prompts: Sequence[Sequence[int]]) -> list[Text]:
        """The continuations of prompts (token ids), written now where they are missing."""
        files = [self._folder / f"{self._key(i, p)}.safetensors" for i, p in zip(prompt_ids, prompts, strict=True)]
        missing = [n for n, file in enumerate(files) if not file.is_file()]
        if missing:
            write = self._side_by_side if isinstance(self._target, BatchModel) else self._one_by_one
            written = write([prompt_ids[n] for n in missing], [prompts[n] for n in missing])
            for n, text in zip(missing, written, strict=True):
                _save(files[n], text)
        return [_load(file) for file in files]

    def _key(self, prompt_id: str, prompt: Sequence[int]) -> str:
        # The same prompt cut by another tokenizer is another text.
        return f"{prompt_id}-{hashlib.sha256(str(list(prompt)).encode()).hexdigest()[:8]}"

    def _one_by_one(self, prompt_ids: Sequence[str], prompts: Sequence[Sequence[int]]) -> list[Text]:
        settings, target = self._settings, self._target
        assert not isinstance(target, BatchModel)
        written = []
        for prompt_id, prompt in zip(prompt_ids, prompts, strict=True):
            dice, tokens = dice_for(settings.seed, prompt_id), list(prompt)
            states: list[FloatArray] = []
            while len(states) < settings.num_tokens and not (states and tokens[-1] in settings.eos_ids):
                output = target.forward(tokens, 1)
                if output.hidden is None:
                    raise CapabilityError(f"the {target.info.backend} backend gives no hidden states: use another")
                states.append(output.hidden[0].copy())
                tokens.append(dice.draw(settings.sampling.law(output.logits[0, : settings.vocab_size], tokens)))
            written.append(Text(tokens[len(prompt) :], np.stack(states)))
        return written

    def _side_by_side(self, prompt_ids: Sequence[str], prompts: Sequence[Sequence[int]]) -> list[Text]:
        settings = self._settings
        assert isinstance(self._target, BatchModel)
        dice = [dice_for(settings.seed, i) for i in prompt_ids]
        texts: list[list[int]] = [[] for _ in prompts]
        states: list[FloatArray] = []
        logits, hidden = (part[:, 0] for part in self._target.begin(prompts))  # [batch, vocab], [batch, hidden]
        for step in range(settings.num_tokens):
            states.append(hidden)
            for row, text in enumerate(texts):
                # An ended row goes on so that the batch keeps its shape; what follows the end is cut off below.
                law = settings.sampling.law(logits[row, : settings.vocab_size], [*prompts[row], *text])
                text.append(dice[row].draw(law))
            if step == settings.num_tokens - 1 or all(settings.eos_ids & set(t) for t in texts):
                break
            logits, hidden = self._target.step([t[-1] for t in texts])
        kept = [self._until_end(text) for text in texts]
        return [Text(t, np.stack([s[row] for s in states[: len(t)]])) for row, t in enumerate(kept)]

    def _until_end(self, text: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(text) if token in self._settings.eos_ids]
        return text[: ends[0] + 1] if ends else text


def _save(file: Path, text: Text) -> None:
    beside = file.with_suffix(".part")
    try:
        save_file({"tokens": np.array(text.tokens, np.int32), "hidden": text.hidden.astype(np.float32)}, str(beside))
        beside.replace(file)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise DataError(f"cannot write {file} ({error}): free some space and run the same command again") from error


def _load(file: Path) -> Text:
    try:
        with safe_open(str(file), framework="np") as stream:
            return Text(stream.get_tensor("tokens").tolist(), stream.get_tensor("hidden"))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} is damaged ({error}): delete it and run the same command again") from error


def dice_for(seed: int, prompt_id: str) -> Dice:
    """A generator of the prompt's own: which prompts share its batch does not matter."""
    return Dice(np.random.default_rng([seed, int(prompt_id, 16)]))
