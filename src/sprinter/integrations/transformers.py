"""SPRINTER as a decoding loop of transformers: `target.generate(..., custom_generate=...)`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprinter.build import Pair, build_engine
from sprinter.config import Config, make_config
from sprinter.core.records import AuditReport
from sprinter.core.sampling import Dice
from sprinter.errors import ConfigError
from sprinter.models.hf import HFModel
from sprinter.observers.audit import Audit

# Values under which a setting of GenerationConfig changes nothing; any other is a wish we cannot grant.
_IDLE: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "return_dict_in_generate": (None, False),
    "typical_p": (None, 1.0),
    "top_h": (None,),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "sequence_bias": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "min_new_tokens": (None, 0),
    "min_length": (None, 0),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1.0),
    "watermarking_config": (None,),
    "stop_strings": (None,),
    "max_time": (None,),
    "prompt_lookup_num_tokens": (None,),
    "penalty_alpha": (None, 0.0),
    "dola_layers": (None,),
}


class SprinterGenerate:
    """A decoding loop for one target model, to be handed to its `generate`.

    >>> loop = SprinterGenerate("path/to/target", draft="path/to/draft", scorer="confidence")   # doctest: +SKIP
    >>> target.generate(**inputs, custom_generate=loop, do_sample=True, top_p=0.9)              # doctest: +SKIP

    Obeys do_sample, temperature, top_k, top_p, min_p, repetition_penalty, max_length, max_new_tokens and eos_token_id
    of the generation config; raises ConfigError for what it cannot obey (beams, batches, padding, processors of your
    own). Chance comes from torch's global generator, so `torch.manual_seed` repeats a text. transformers 5.23 hands no
    streamer to a custom loop; where it does, or when the loop is called directly, the streamer hears every token.
    `audit` tells what the approximation cost in the last call.
    """

    def __init__(self, target: str | Path, draft: str | Path, verifier: str | Path = "none", **decoding: Any) -> None:
        """`target`: the folder the model was loaded from. `decoding`: fields of DecodingConfig."""
        names = {"target": str(target), "draft": str(draft), "verifier": str(verifier), "backend": "hf"}
        self._config = make_config(None, {**names, **decoding})
        self._pair = Pair(self._config.models)
        self._wrapped: Any = None
        self.audit: AuditReport | None = None

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Tensor:
        """What `generate` calls after it prepared its arguments; returns prompt and new tokens, [1, length]."""
        config = _checked(self._config, generation_config, input_ids, model_kwargs, synced_gpus)
        _refuse_strangers(logits_processor, stopping_criteria)
        prompt = input_ids[0].tolist()
        room = generation_config.max_length - len(prompt)
        if room < 1:
            raise ConfigError(f"max_length is {generation_config.max_length}, but the prompt has {len(prompt)} tokens")
        engine = build_engine(self._for(model), config.decoding, config.generation.sampling)
        engine.limits = replace(engine.limits, eos_ids=_eos_ids(generation_config))
        audit = Audit()
        dice = Dice(np.random.default_rng(int(torch.randint(2**62, ()).item())))
        tokens = list(prompt)
        for emitted in engine.start(prompt, room, dice, audit):
            tokens.append(emitted.id)
            if streamer is not None:
                streamer.put(torch.tensor([emitted.id]))
        if streamer is not None:
            streamer.end()
        self.audit = audit.report(len(tokens) - len(prompt))
        return torch.tensor([tokens], device=input_ids.device)

    def _for(self, model: Any) -> Pair:
        """The pair with `model` itself as the target, so that nothing is loaded twice."""
        if self._wrapped is not model:
            fingerprint = _fingerprint(self._pair.target_path)
            # cached_property reads the instance's dictionary first.
            self._pair.__dict__["target"] = HFModel(model, str(self._pair.target_path.name), fingerprint)
            self._wrapped = model
        return self._pair


def _fingerprint(path: Path) -> str:
    from sprinter.models.checkpoint import open_checkpoint  # noqa: PLC0415

    return open_checkpoint(path).fingerprint


def _checked(config: Config, asked: Any, input_ids: Tensor, model_kwargs: dict[str, Any], synced: bool) -> Config:
    """`config` with the sampling of a GenerationConfig; ConfigError for what it asks and we cannot do."""
    for name, idle in _IDLE.items():
        value = getattr(asked, name, None)
        if value not in idle:
            raise ConfigError(f"{name} is {value!r}, which SPRINTER cannot obey: leave it out")
    if input_ids.shape[0] != 1:
        raise ConfigError(f"the batch has {input_ids.shape[0]} sequences, but SPRINTER writes one at a time")
    mask = model_kwargs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise ConfigError("the prompt is padded: hand it over without padding")
    if model_kwargs.get("inputs_embeds") is not None or synced:
        raise ConfigError("SPRINTER needs token ids on one device: no inputs_embeds, no synchronised devices")
    sampling = {
        "temperature": _or(asked.temperature, 1.0) if asked.do_sample else 0.0,
        "top_k": _or(asked.top_k, 50) if asked.do_sample else 0,
        "top_p": _or(asked.top_p, 1.0) if asked.do_sample else 1.0,
        "min_p": _or(asked.min_p, 0.0) if asked.do_sample else 0.0,
        "repetition_penalty": _or(asked.repetition_penalty, 1.0),
    }
    return replace(config, generation=replace(config.generation, **sampling))


def _refuse_strangers(processors: Any, criteria: Any) -> None:
    """ConfigError for a processor or criterion that does not come from the settings obeyed above."""
    known = ("Temperature", "TopK", "TopP", "MinP", "RepetitionPenalty", "MaxLength", "EosToken")
    for thing in [*(processors or ()), *(criteria or ())]:
        if not type(thing).__name__.startswith(known):
            raise ConfigError(f"{type(thing).__name__} is a processor or criterion SPRINTER cannot obey: leave it out")


def _eos_ids(asked: Any) -> frozenset[int]:
    given = asked.eos_token_id
    if given is None:
        return frozenset()
    return frozenset(int(i) for i in (given if isinstance(given, list | tuple) else [given]))


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
