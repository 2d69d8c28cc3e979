"""A GGUF file as a model folder: converted once into the cache, whichever command asks, with all that decides its law.

transformers reads the weights of many architectures. What it leaves out is added here: rotary scaling, the ids that end
a text, chat templates. A key of the architecture that nobody reads is refused by name, since a model without it would
be another one.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from sprinter.cache import cache_dir
from sprinter.door import Door, one_line
from sprinter.errors import BackendError
from sprinter.fingerprint import fingerprint_of, remembered_sha256
from sprinter.writing import whole_folder
from sprinter.zoo.gguf_header import GgufFile, read_gguf

_VERSION: Final = 1  # of the conversion; raise it whenever an older one was wrong
_RECORD: Final = "converted.json"
_ROPE_FACTORS: Final = "rope_freqs.weight"
# Keys of the architecture that say how the file was made, or what the tensors' shapes say too.
_NO_LAW: Final = frozenset({"tensor_data_layout", "rope.scaling.finetuned", "vocab_size", "rope.dimension_count"})
# Keys that transformers leaves out, and the field of its config that holds them.
_ALSO: Final = {
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention.layer_norm_epsilon": "layer_norm_eps",
}
_SCALING: Final = "rope.scaling."
_ENDS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")


def converted(path: Path) -> Path:
    """The model folder of a GGUF file, made in the cache when it is first asked for.

    Raises BackendError when the file is no GGUF, cut, of an unknown architecture, or holds what no config can say.
    """
    source = read_gguf(path)
    folder = cache_dir() / "gguf" / f"{path.stem[:40]}-{remembered_sha256(path)[:16]}-v{_VERSION}"
    if _is_sound(folder):
        return folder
    _require_disk(source, folder)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        with whole_folder(folder) as beside:
            _convert(source, beside)
            record = {"source": path.name, "fingerprint": _fingerprint(beside)}
            (beside / _RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
            if not _is_sound(folder):
                beside.replace(folder)
    except OSError as error:
        raise BackendError(f"cannot write {folder} ({error}): free some space or set SPRINTER_CACHE") from error
    return folder


def _fingerprint(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    return fingerprint_of(Door().json(folder / "config.json", dict[str, Any]), files)


def _is_sound(folder: Path) -> bool:
    """Whether the folder holds what was converted, undamaged."""
    if not (folder / _RECORD).is_file():
        return False
    try:
        return Door().json(folder / _RECORD, dict[str, Any]).get("fingerprint") == _fingerprint(folder)
    except BackendError:
        return False


def _require_disk(source: GgufFile, folder: Path) -> None:
    needed = sum(4 * math.prod(place.shape) for place in source.tensors.values())
    place = next(p for p in folder.parents if p.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise BackendError(
            f"{source.path} converted takes {needed / 1e9:.1f} GB, {place} has {free / 1e9:.1f}: free some space or "
            "set SPRINTER_CACHE"
        )


def _convert(source: GgufFile, folder: Path) -> None:
    """Write config, weights and tokenizer of `source` to `folder`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - slow import
    from transformers.utils import logging  # noqa: PLC0415

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place, name = str(source.path.parent), source.path.name
    options: dict[str, Any] = {"gguf_file": name, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(place, **options)
        _complete(config, source)
        model, found = AutoModelForCausalLM.from_pretrained(
            place, config=config, dtype="float32", output_loading_info=True, **options
        )
        lost = sorted(set(found["missing_keys"]) | {str(m[0]) for m in found["mismatched_keys"]})
        if lost:
            raise ValueError(f"{len(lost)} tensors are missing or misshapen, {lost[0]} first")
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        _require_scaling(config, source)
        _save(model, folder)
        tokenizer.chat_template = None
        tokenizer.save_pretrained(str(folder))
        _drop_invented(source.fields, folder)
    except (BackendError, OSError):
        raise
    except Exception as error:  # what transformers raises for a file it does not know is of every kind
        reason = one_line(str(error))[:300] or type(error).__name__
        raise BackendError(f"{source.path} cannot be converted: {reason}; use a model folder instead") from error
    _write_ends(source.fields, folder)
    _write_templates(source.fields, folder)


def _save(model: Any, folder: Path) -> None:
    """config.json and the weights, a tied head left out."""
    from safetensors.torch import save_file  # noqa: PLC0415

    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    head, lookup = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is lookup.weight:
        tensors = {name: t for name, t in tensors.items() if t is not tensors.get(_name_of(model, head))}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the numbers are no longer quantised
    config.save_pretrained(str(folder))


def _name_of(model: Any, module: Any) -> str:
    return next(f"{name}.weight" for name, found in model.named_modules() if found is module)


def _complete(config: Any, source: GgufFile) -> None:
    """Put into `config` what transformers leaves out; BackendError for a key that nobody reads."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING  # noqa: PLC0415

    architecture = str(source.fields.get("general.architecture"))
    read = {
        key for key, field in GGUF_CONFIG_MAPPING.get(str(config.model_type), {}).items() if field not in (None, -1)
    }
    read |= GGUF_CONFIG_MAPPING.get(architecture, {}).keys()
    own = {k.removeprefix(f"{architecture}."): v for k, v in source.fields.items() if k.startswith(f"{architecture}.")}
    for key, value in own.items():
        if key in _ALSO and hasattr(config, _ALSO[key]):
            setattr(config, _ALSO[key], value)
        elif key == "attention.value_length":
            if value != own.get("attention.key_length", value):
                raise _unsaid(source, key, value)
        elif key not in read and key not in _NO_LAW and not key.startswith(_SCALING):
            raise _unsaid(source, key, value)
    scaling = _scaling(own, source)
    if scaling is not None:
        theta = float(own.get("rope.freq_base", 10000.0))
        config.rope_parameters = {**scaling, "rope_theta": theta}


def _unsaid(source: GgufFile, key: str, value: object) -> BackendError:
    return BackendError(
        one_line(
            f"{source.path} sets {key} to {str(value)[:40]}, which no reader here knows: use a model folder instead"
        )
    )


def _scaling(own: Mapping[str, Any], source: GgufFile) -> dict[str, Any] | None:
    """`rope_parameters` without the base, from the keys or from the factors that Llama 3.1's scaling is stored as."""
    told = {key.removeprefix(_SCALING): value for key, value in own.items() if key.startswith(_SCALING)}
    told.pop("finetuned", None)
    kind = told.pop("type", "none")
    for name in source.tensors:
        if name.startswith("rope_") and name != _ROPE_FACTORS:
            raise _unsaid(source, name, "a tensor")
    if _ROPE_FACTORS in source.tensors:
        if told or kind not in ("none", "llama3"):
            raise _unsaid(source, "rope.scaling.type", kind)
        return _llama3(source)
    if kind == "none":
        return None
    factor, original = told.pop("factor", None), told.pop("original_context_length", None)
    attention = told.pop("attn_factor", 1.0)
    if kind not in ("linear", "yarn") or factor is None or attention != 1.0 or told:
        raise _unsaid(source, "rope.scaling.type", kind)
    scaling: dict[str, Any] = {"rope_type": kind, "factor": float(factor)}
    if kind == "yarn" and original is not None:
        scaling["original_max_position_embeddings"] = int(original)
    return scaling


def _llama3(source: GgufFile) -> dict[str, Any]:
    """The parameters whose factors per pair are those stored, as Llama 3.1 and 3.2 have them; else BackendError."""
    stored = source.tensor(_ROPE_FACTORS).ravel().astype(np.float64)  # [head_dim / 2]
    base = float(source.fields.get(f"{source.fields.get('general.architecture')}.rope.freq_base", 10000.0))
    frequencies = base ** -(np.arange(len(stored)) / len(stored))
    factor, low, high, length = float(stored.max()), 1.0, 4.0, 8192.0
    smooth = np.clip((length * frequencies / (2 * math.pi) - low) / (high - low), 0.0, 1.0)
    with np.errstate(divide="ignore"):
        wanted = 1.0 / (smooth + (1 - smooth) / factor)
    if not np.allclose(stored, wanted, rtol=1e-3):
        raise _unsaid(source, _ROPE_FACTORS, "factors of an unknown scaling")
    return {
        "rope_type": "llama3",
        "factor": round(factor, 4),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": int(length),
    }


def _require_scaling(config: Any, source: GgufFile) -> None:
    """BackendError if the rotary scaling did not survive in what will be saved."""
    architecture = str(source.fields.get("general.architecture"))
    own = {k.removeprefix(f"{architecture}."): v for k, v in source.fields.items()}
    scaling = _scaling(own, source)
    if scaling is not None and (config.rope_parameters or {}).get("rope_type") != scaling["rope_type"]:
        raise _unsaid(source, "rope.scaling.type", scaling["rope_type"])


def _drop_invented(fields: Mapping[str, Any], folder: Path) -> None:
    """Take out the special tokens that transformers adds where a file has none of their kind."""
    known = frozenset(fields.get("tokenizer.ggml.tokens", ()))
    door = Door()
    core = door.json(folder / "tokenizer.json", dict[str, Any])
    invented = {t["content"] for t in core.get("added_tokens", ()) if t["content"] not in known}
    if not known or not invented:
        return
    core["added_tokens"] = [t for t in core["added_tokens"] if t["content"] not in invented]
    settings = door.json(folder / "tokenizer_config.json", dict[str, Any])
    kept = {key: value for key, value in settings.items() if not (isinstance(value, str) and value in invented)}
    (folder / "tokenizer.json").write_text(json.dumps(core, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(kept, indent=2), encoding="utf-8")


def _write_ends(fields: Mapping[str, Any], folder: Path) -> None:
    ends = [fields.get(f"tokenizer.ggml.{name}") for name in _ENDS]
    ids = sorted({i for i in ends if isinstance(i, int) and not isinstance(i, bool)})
    if ids:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}) + "\n", encoding="utf-8")


def _write_templates(fields: Mapping[str, Any], folder: Path) -> None:
    """The chat template, and named ones beside it, where the file has any."""
    plain = fields.get("tokenizer.chat_template")
    if isinstance(plain, str):
        (folder / "chat_template.jinja").write_text(plain, encoding="utf-8")
    prefix = "tokenizer.chat_template."
    named = {key.removeprefix(prefix): text for key, text in fields.items() if key.startswith(prefix)}
    for name, text in named.items():
        if isinstance(text, str) and name.isidentifier():
            (folder / "additional_chat_templates").mkdir(exist_ok=True)
            (folder / "additional_chat_templates" / f"{name}.jinja").write_text(text, encoding="utf-8")
