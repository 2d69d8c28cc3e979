"""Model folders on disk: config, tensors (safetensors only), fingerprints, and drafts that borrow a target's tensors.

A *shared draft* is a folder that stores only what its target does not have:

    config.json         transformers config of the draft
    model.safetensors   its own tensors under transformers' names; provenance stamp as metadata; when the head covers
                        only part of the vocabulary also `sprinter.head_tokens` [num_head_tokens] int32
    draft.json          {format, shared, target_fingerprint, head_tokens, sha256, record}

`shared` names the tensors taken from the target under the same names (embedding, untied head). With head tokens, the
draft's law lives on those ids alone: logits are the rows `head_tokens` of the full head, every other id has
probability zero.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sprinter.door import Door
from sprinter.errors import BackendError
from sprinter.fingerprint import damaged, fingerprint_of, sha256_of
from sprinter.models.gguf import converted
from sprinter.writing import whole_folder
from sprinter.zoo.gguf_header import looks_like_gguf

DRAFT_FORMAT: Final = 1
HEAD_TOKENS: Final = "sprinter.head_tokens"
_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_DOOR: Final = Door()
_MOST_SHARDS: Final = 2000


@dataclass(frozen=True)
class DraftInfo:
    """What draft.json says."""

    shared: tuple[str, ...]
    target_fingerprint: str
    head_tokens: int | None
    sha256: str
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """An opened model folder, or one GGUF file (then only its path and fingerprint are known here)."""

    path: Path
    config: Mapping[str, Any]
    files: Mapping[str, Path]  # tensor name -> safetensors file
    draft: DraftInfo | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether this is a GGUF file, which only transformers or a conversion can read."""
        return self.path.is_file()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors stored here, without those a shared draft borrows."""
        return tuple(sorted(self.files))

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder brings its own tokenizer; a shared draft uses its target's."""
        return self.is_gguf or any((self.path / n).is_file() for n in ("tokenizer.json", "tokenizer_config.json"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over config and tensors; equal for equal models, whatever folder or metadata they come with."""
        return fingerprint_of(self.config, sorted(set(self.files.values())) or [self.path])

    def tensor(self, name: str) -> Tensor:
        """One stored tensor, read now; BackendError when it is missing or its file is damaged."""
        # Hub files of older families leave the body's prefix out ("wte.weight" for "transformer.wte.weight").
        stored = name if name in self.files else name.partition(".")[2]
        if stored not in self.files:
            raise BackendError(f"{self.path} has no tensor {name!r}: it belongs to another kind of model")
        try:
            with safe_open(str(self.files[stored]), framework="pt") as stream:
                loaded: Tensor = stream.get_tensor(stored)
                return loaded
        except (OSError, SafetensorError) as error:
            raise damaged(self.files[stored], error) from error


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model folder, or the one a GGUF file is converted to, without reading any weight.

    Raises BackendError when it is missing, malformed, truncated, a pickle, or a draft whose checksum is wrong.
    """
    place = Path(path).expanduser()
    if place.is_file():
        if not looks_like_gguf(place):
            raise BackendError(f"{place} is neither a model folder nor a GGUF file: give one of them")
        place = converted(place)
    if not place.is_dir():
        raise BackendError(
            f"no model at {place}: give a folder with config.json and model.safetensors, or a .gguf file"
        )
    config = _DOOR.json(place / "config.json", dict[str, Any])
    checkpoint = Checkpoint(place, config, _tensor_files(place))
    return Checkpoint(place, config, checkpoint.files, _draft_info(place) if (place / "draft.json").exists() else None)


def _tensor_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> file, from the headers, so that a truncated file is found before anything is computed."""
    if (folder / _INDEX).is_file():
        index = _DOOR.json(folder / _INDEX, _Index)
        files = [folder / shard for shard in sorted(set(index.weight_map.values()))]
        # A shard lies beside its index; a path that leads out of the folder would read another's files.
        stray = next((f for f in files if f.parent != folder or f.suffix != ".safetensors"), None)
        if stray is not None or len(files) > _MOST_SHARDS:
            raise _DOOR.refuse(f"{folder / _INDEX} names shards that are no files of the model folder")
    else:
        files = [folder / _WEIGHTS]
    found: dict[str, Path] = {}
    for file in files:
        if not file.is_file():
            raise BackendError(f"{file} is missing: only safetensors weights are loaded, pickles (.bin, .pt) never are")
        try:
            with safe_open(str(file), framework="pt") as stream:
                found.update(dict.fromkeys(stream.keys(), file))
        except (OSError, SafetensorError) as error:
            raise damaged(file, error) from error
    return found


class _Index(msgspec.Struct):
    """What is read of model.safetensors.index.json."""

    weight_map: dict[str, str]


class _DraftFile(msgspec.Struct):
    """draft.json."""

    format: int
    shared: tuple[str, ...]
    target_fingerprint: str
    head_tokens: int | None
    sha256: str
    record: dict[str, Any] = {}


def _draft_info(folder: Path) -> DraftInfo:
    file = folder / "draft.json"
    version = _DOOR.json(file, dict[str, Any]).get("format")
    if version != DRAFT_FORMAT:
        raise BackendError(f"{file} has format {str(version)[:20]!r}, not {DRAFT_FORMAT}: update sprinter")
    door = Door(advice="make the draft again with `sprinter distill`")
    raw = door.json(file, _DraftFile)
    info = DraftInfo(raw.shared, raw.target_fingerprint, raw.head_tokens, raw.sha256, raw.record)
    found = sha256_of(folder / _WEIGHTS)
    if found != info.sha256:
        raise BackendError(
            f"{folder / _WEIGHTS} has SHA-256 {found[:16]}..., draft.json says {info.sha256[:16]}...: copy it again"
        )
    return info


def head_tokens(checkpoint: Checkpoint) -> Tensor | None:
    """Ids [num_head_tokens] int64 the draft's head covers, ascending; None when it covers the whole vocabulary."""
    if checkpoint.draft is None or checkpoint.draft.head_tokens is None:
        return None
    ids = checkpoint.tensor(HEAD_TOKENS).long()  # [num_head_tokens]
    if ids.shape != (checkpoint.draft.head_tokens,):
        raise BackendError(
            f"{checkpoint.path} promises {checkpoint.draft.head_tokens} head tokens, holds {tuple(ids.shape)}: copy it "
            "again"
        )
    if len(ids) == 0 or int(ids[0]) < 0 or bool((ids[1:] <= ids[:-1]).any()):
        raise BackendError(f"{checkpoint.path} has head tokens that do not ascend: copy it again")
    return ids


def require_target(draft: Checkpoint, target: Checkpoint) -> None:
    """BackendError unless `target` is the one this shared draft was made for."""
    if draft.draft is None:
        return
    found, wanted = target.fingerprint, draft.draft.target_fingerprint
    if found != wanted:
        raise BackendError(
            f"the draft {draft.path} borrows tensors of target {wanted[:12]}, but {target.path} is {found[:12]}: "
            "use the target it was made for, or distill a new draft"
        )


def write_draft(
    folder: str | Path,
    config: Mapping[str, Any],
    own: Mapping[str, Tensor],
    info: DraftInfo,
    head_token_ids: Sequence[int] | None = None,
    stamp: Mapping[str, str] | None = None,
) -> None:
    """Write a shared draft: `own` tensors as bfloat16; the folder appears whole or not at all.

    `info.sha256` and `info.head_tokens` are filled in here. Raises BackendError when the disk is full.
    """
    place = Path(folder)
    tensors = {name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in own.items()}
    if head_token_ids is not None:
        tensors[HEAD_TOKENS] = torch.tensor(sorted(head_token_ids), dtype=torch.int32)
    try:
        with whole_folder(place) as beside:
            save_file(tensors, str(beside / _WEIGHTS), metadata={"format": "pt", **(stamp or {})})
            described = {
                "format": DRAFT_FORMAT,
                "shared": list(info.shared),
                "target_fingerprint": info.target_fingerprint,
                "head_tokens": None if head_token_ids is None else len(head_token_ids),
                "sha256": sha256_of(beside / _WEIGHTS),
                "record": dict(info.record),
            }
            own_config = {key: value for key, value in config.items() if key != "_name_or_path"}
            (beside / "config.json").write_text(json.dumps(own_config, indent=2, sort_keys=True) + "\n")
            (beside / "draft.json").write_text(json.dumps(described, indent=2) + "\n")
            _replace_folder(beside, place)
    except (OSError, SafetensorError) as error:
        raise BackendError(f"cannot write {place} ({error}): free some space") from error


def _replace_folder(beside: Path, place: Path) -> None:
    """Rename a finished folder into place; an older one there is moved away first and deleted last."""
    old = beside.with_name(beside.name + ".old")
    if place.exists():
        os.rename(place, old)  # noqa: PTH104 - os.rename never overwrites a non-empty folder
    os.rename(beside, place)  # noqa: PTH104
    shutil.rmtree(old, ignore_errors=True)


def load_torch_draft(
    draft_dir: str | Path, target_dir: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[Any, Tensor | None]:
    """(transformers model, head token ids or None) of a draft folder, with what it shares taken from the target.

    The model is in eval mode on the CPU and has the FULL output layer; with head tokens the caller must restrict the
    law to these ids. Raises BackendError on damage, on missing tensors, or on another target than the draft's own.
    """
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 - slow import

    draft, target = open_checkpoint(draft_dir), open_checkpoint(target_dir)
    require_target(draft, target)
    borrowed = draft.draft.shared if draft.draft else ()
    state = {name: draft.tensor(name).to(dtype) for name in draft.names if name != HEAD_TOKENS}
    state |= {name: target.tensor(name).to(dtype) for name in borrowed}
    try:
        config = AutoConfig.from_pretrained(str(draft.path), trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise BackendError(f"{draft.path} does not fit its own config.json ({error}): copy it again") from error
    # A tied head has no tensor of its own; anything else missing would silently stay random.
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    lost = [name for name in missing if name not in tied]
    if lost or unexpected:
        raise BackendError(f"{draft.path} lacks {lost[:3]} or has unknown {list(unexpected)[:3]}: copy it again")
    model.tie_weights()
    return model.eval(), head_tokens(draft)
