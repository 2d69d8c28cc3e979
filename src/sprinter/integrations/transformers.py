"""SPRINTER as a decoding loop of transformers: `target.generate(..., custom_generate=...)`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sprinter.build import Pair, build_recipe
from sprinter.config import Config, make_config
from sprinter.core.chance import Chance
from sprinter.core.protocols import Recipe
from sprinter.core.records import AuditReport
from sprinter.core.text import Text
from sprinter.engine import Engine
from sprinter.errors import ConfigError
from sprinter.models.hf import HFModel
from sprinter.observers.audit import Audit

# Values under which a setting of GenerationConfig changes nothing; any other is a wish we cannot grant.
_IDLE: Final[dict[str, tuple[Any, ...]]] = {
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
    "prompt_lookup_num_tokens": (None,),
    "penalty_alpha": (None, 0.0),
    "dola_layers": (None,),
}
# The processors that generate makes of the settings obeyed here: class name -> the attribute that holds the setting.
_OWN: Final = {
    "TemperatureLogitsWarper": "temperature",
    "TopKLogitsWarper": "top_k",
    "TopPLogitsWarper": "top_p",
    "MinPLogitsWarper": "min_p",
    "RepetitionPenaltyLogitsProcessor": "penalty",
}


class SprinterGenerate:
    """A decoding loop for one target model, to be handed to its `generate`.

    >>> loop = SprinterGenerate("path/to/target", draft="path/to/draft", scorer="confidence")   # doctest: +SKIP
    >>> target.generate(**inputs, custom_generate=loop, do_sample=True, top_p=0.9)              # doctest: +SKIP

    Obeys do_sample, temperature, top_k, top_p, min_p, repetition_penalty, max_length, max_new_tokens, eos_token_id,
    a streamer and every stopping criterion; raises ConfigError for what it cannot obey (beams, batches, padding,
    processors of your own, a cache that is not empty, another assistant). Chance comes from torch's global generator,
    so `torch.manual_seed` repeats a text. `audit` tells what the approximation cost in the last call.
    """

    def __init__(self, target: str | Path, draft: str | Path, verifier: str | Path = "none", **decoding: Any) -> None:
        """`target`: the folder the model was loaded from. `decoding`: fields of DecodingConfig."""
        names = {"target": str(target), "draft": str(draft), "verifier": str(verifier), "backend": "hf"}
        self._config = make_config(None, {**names, **decoding})
        self._pair = Pair(self._config.models)
        self._wrapped: Any = None
        self._recipe: Recipe | None = None
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
        streamer = _withheld("streamer") if streamer is None else streamer
        given = {"synced_gpus": synced_gpus, "assistant_model": _withheld("assistant_model"), **model_kwargs}
        config = _checked(self._config, generation_config, input_ids, given)
        _refuse_strangers(config, logits_processor or ())
        text, audit = self._begun(model, config, generation_config, input_ids)
        ids = input_ids
        for token in _written(Engine(self._pair.target), text):
            ids = torch.cat([ids, torch.tensor([[token]], device=ids.device)], dim=1)
            if streamer is not None:
                streamer.put(ids[0, -1:].cpu())
            if any(bool(torch.as_tensor(criterion(ids, None)).all()) for criterion in stopping_criteria or ()):
                break
        if streamer is not None:
            streamer.end()
        self.audit = audit.report(ids.shape[1] - input_ids.shape[1])
        return ids

    def _begun(self, model: Any, config: Config, asked: Any, input_ids: Tensor) -> tuple[Text, Audit]:
        """The text on its way, with the audit that looks on."""
        prompt = input_ids[0].tolist()
        room = asked.max_length - len(prompt)
        if room < 1:
            raise ConfigError(f"max_length is {asked.max_length}, but the prompt has {len(prompt)} tokens")
        recipe = self._parts(model, config)
        limits = replace(self._pair.limits(recipe.runs_draft), eos_ids=_eos_ids(asked))
        chance = Chance(int(torch.randint(2**62, ()).item()))
        text = Text(prompt, room, config.generation.sampling, chance, limits)
        audit = Audit.of(recipe, config.generation.budget)
        text.hold_to(audit.may_vouch)
        Engine(self._pair.target).begin(text, recipe, [audit])
        return text, audit

    def _parts(self, model: Any, config: Config) -> Recipe:
        """The recipe, with `model` itself as the pair's target, so that nothing is loaded twice."""
        if self._wrapped is not model or self._recipe is None:
            # cached_property reads the instance's dictionary first.
            self._pair.__dict__["target"] = HFModel(
                model, self._pair.target_path.name, _fingerprint(self._pair.target_path)
            )
            self._wrapped, self._recipe = model, build_recipe(self._pair, config.decoding)
        return self._recipe


def _written(engine: Engine, text: Text) -> Iterator[int]:
    """The tokens of a text as they become final."""
    while True:
        emitted, text.out = text.out, []
        yield from (item.id for item in emitted)
        if text.error is not None:
            raise text.error
        if text.finish_reason is not None:
            return
        engine.tick([text])


def _withheld(name: str) -> Any:
    """What `generate` was given under this name and, up to transformers 5.23, keeps from a loop that is no string."""
    caller = sys._getframe(2)
    return caller.f_locals.get(name) if caller.f_code.co_name == "generate" else None


def _fingerprint(path: Path) -> str:
    from sprinter.models.checkpoint import open_checkpoint  # noqa: PLC0415

    return open_checkpoint(path).fingerprint


def _checked(config: Config, asked: Any, input_ids: Tensor, given: dict[str, Any]) -> Config:
    """`config` with the sampling of a GenerationConfig; ConfigError for what it asks and we cannot do."""
    for name, idle in _IDLE.items():
        value = getattr(asked, name, None)
        if value not in idle:
            raise ConfigError(f"{name} is {value!r}, which SPRINTER cannot obey: leave it out")
    if input_ids.shape[0] != 1:
        raise ConfigError(f"the batch has {input_ids.shape[0]} sequences, but SPRINTER writes one at a time")
    mask, places, cache = (given.get(name) for name in ("attention_mask", "position_ids", "past_key_values"))
    if mask is not None and not bool(mask.all()):
        raise ConfigError("the prompt is padded: hand it over without padding")
    if places is not None and places.flatten().tolist() != list(range(input_ids.shape[1])):
        raise ConfigError("position_ids are not 0, 1, 2, ..., which SPRINTER cannot obey: leave them out")
    if cache is not None and cache.get_seq_length() > 0:
        raise ConfigError("past_key_values holds tokens, which SPRINTER cannot take over: leave it out")
    if given.get("inputs_embeds") is not None or given["synced_gpus"]:
        raise ConfigError("SPRINTER needs token ids on one device: no inputs_embeds, no synchronised devices")
    if given["assistant_model"] is not None:
        raise ConfigError("assistant_model: SPRINTER's draft is the one given to SprinterGenerate: leave it out")
    sampling = {
        "temperature": _or(asked.temperature, 1.0) if asked.do_sample else 0.0,
        "top_k": _or(asked.top_k, 50) if asked.do_sample else 0,
        "top_p": _or(asked.top_p, 1.0) if asked.do_sample else 1.0,
        "min_p": _or(asked.min_p, 0.0) if asked.do_sample else 0.0,
        "repetition_penalty": _or(asked.repetition_penalty, 1.0),
    }
    return replace(config, generation=replace(config.generation, **sampling))


def _refuse_strangers(config: Config, processors: Sequence[Any]) -> None:
    """ConfigError for a processor that is not the one `generate` makes of the settings obeyed above."""
    sampling, met = config.generation, set()
    for thing in processors:
        name = type(thing).__name__
        attribute = _OWN.get(name) if type(thing).__module__.startswith("transformers.") else None
        wanted = None if attribute is None else getattr(sampling, attribute.replace("penalty", "repetition_penalty"))
        if attribute is None or name in met or getattr(thing, attribute) != wanted:
            raise ConfigError(f"{name} is a processor SPRINTER cannot obey: leave it out, or set it as a setting")
        met.add(name)


def _eos_ids(asked: Any) -> frozenset[int]:
    given = asked.eos_token_id
    if given is None:
        return frozenset()
    return frozenset(int(i) for i in (given if isinstance(given, list | tuple) else [given]))


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
