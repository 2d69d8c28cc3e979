"""Settings to objects: the only place where names meet classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sprinter.config import DecodingConfig, ModelConfig
from sprinter.core.protocols import Recipe, Scorer
from sprinter.core.rows import EVERYTHING, Model, ModelInfo, Needs
from sprinter.core.text import Limits
from sprinter.errors import BackendError, CapabilityError, ConfigError
from sprinter.gates.verifier import Verifier, load_verifier, require_pair
from sprinter.models.checkpoint import open_checkpoint
from sprinter.models.fast.config import objection
from sprinter.models.fast.weights import FORMATS
from sprinter.models.tokenizer import Tokenizer, load_tokenizer, require_same
from sprinter.registry import find, names
from sprinter.theory.lookahead import usual_lookahead
from sprinter.zoo import default_pair

UNTRAINED_THRESHOLD = 0.5
FAST_CPU_GROWTH = 0.1  # measured: 0.09 to 0.13, by the speed of memory


@dataclass(frozen=True)
class Pair:
    """A target with its draft; each model loads when it is first used and stays."""

    config: ModelConfig

    @cached_property
    def target_path(self) -> Path:
        return locate(self.config.target, "target")

    @cached_property
    def draft_path(self) -> Path:
        return locate(self.config.draft, "draft")

    @cached_property
    def target(self) -> Model:
        return load_model(self.target_path, self.config)

    @cached_property
    def draft(self) -> Model:
        require_same_tokenizer(self.draft_path, self.tokenizer)
        return load_model(self.draft_path, self.config, self.target_path)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.target_path)

    def limits(self, with_draft: bool) -> Limits:
        """What bounds a sequence of this pair; ConfigError if the draft knows fewer ids than the target can write."""
        # Ids beyond the tokenizer's are padding of the head: they have no text, and no method may write one.
        writable = min(self.target.info.vocab_size, self.tokenizer.vocab_size)
        models = [self.target, self.draft] if with_draft else [self.target]
        for model in models:
            if model.info.vocab_size < writable:
                raise ConfigError(
                    f"the draft {model.info.name} knows {model.info.vocab_size} ids, but the target writes {writable}: "
                    "use a draft of the target's own family"
                )
        return Limits(
            vocab_size=writable,
            context_length=self.target.info.context_length,
            eos_ids=self.tokenizer.eos_ids,
            draft_window=self.draft.info.context_length if with_draft else None,
        )

    def verifier(self, output: str) -> Verifier:
        """The pair's verifier; refused if it was trained for another pair."""
        path = locate_verifier(self.config)
        verifier = load_verifier(path, output)
        require_pair(verifier, self.draft.info.fingerprint, self.target.info.fingerprint, path)
        return verifier

    def cut(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """See `protocols.Kit`."""
        cut = self.tokenizer.fast.encode(text, add_special_tokens=False)
        return list(cut.ids), list(cut.offsets)

    def promises(self, part: str) -> Needs:
        """The most that the backend of "draft" or "target" can give; loads no weights."""
        path = self.draft_path if part == "draft" else self.target_path
        backend = find("models", choose_backend(path, self.config))
        found: Needs = getattr(backend, "promises", EVERYTHING)
        return found

    def scorer(self, name: str) -> tuple[Scorer, float]:
        """See `protocols.Kit`."""
        if name in names("scorers"):
            return find("scorers", name)(), UNTRAINED_THRESHOLD
        verifier = self.verifier(name)
        return verifier, verifier.record.default_threshold


def build_recipe(pair: Pair, config: DecodingConfig) -> Recipe:
    """The parts of one method. Raises ConfigError, CapabilityError, BackendError or DataError."""
    way = config.way
    # Once before any weights are read, by what the classes say; once more when features and families are known.
    runs_draft = way.runs_draft
    _compare(way.parts(), pair.promises("draft") if runs_draft else EVERYTHING, pair.promises("target"), config)
    told = settle(pair, config).settled()
    gate, rule, *drafters = (part.build(told.of(part.Settings), pair) for part in way.parts())
    drafted = pair.draft.gives if runs_draft else EVERYTHING
    _compare([gate, rule, *drafters], drafted, pair.target.gives, config)
    return Recipe(gate, rule, drafters[0] if drafters else None, config.method)


def _compare(parts: Sequence[Any], draft: Needs, target: Needs, config: DecodingConfig) -> None:
    """CapabilityError naming what a gate, a rule and perhaps a drafter need and the models do not give."""
    gate, rule, *drafters = parts
    asked = [("draft", draft, gate.needs), ("target", target, rule.needs)]
    asked += [("draft", draft, drafter.needs) for drafter in drafters]
    asked += [("target", target, drafter.target_needs) for drafter in drafters]
    for model, gives, needs in asked:
        if isinstance(needs, Needs) and (missing := gives.missing(needs)):
            raise CapabilityError(
                f"method {config.method!r} needs {', '.join(missing)} of the {model}, which its backend does not give: "
                "choose another backend, scorer or method"
            )


def settle(pair: Pair, config: DecodingConfig) -> DecodingConfig:
    """`config` with the lookahead and the cap that the cost model gives this pair, where the user has set none.

    From weight bytes, backend and device alone, never from a clock: the same command decides alike every time. Loads
    the pair.
    """
    if not config.drafts_past_doubt or (config.lookahead is not None and config.max_draft is not None):
        return config
    target, draft = pair.target.info, pair.draft.info
    bound, cap = usual_lookahead(draft.bytes_per_step / target.bytes_per_step, width_growth(target))
    return dataclasses.replace(
        config,
        lookahead=bound if config.lookahead is None else config.lookahead,
        max_draft=cap if config.max_draft is None else config.max_draft,
    )


def width_growth(target: ModelInfo) -> float:
    """What a further token adds to a target forward of one token, as a share of it (docs/fast.md)."""
    # A GPU, or transformers on a CPU, takes about as long for 20 tokens as for one.
    return FAST_CPU_GROWTH if target.backend.startswith("fast") and target.device == "cpu" else 0.0


def load_model(path: Path, config: ModelConfig, target: Path | None = None) -> Model:
    """A model behind its backend. `target`: whose tensors a shared draft borrows."""
    if config.device.startswith("cuda"):
        _require_cuda(config.device)
    backend = choose_backend(path, config)
    model: Model = find("models", backend).load(path, choose_weights(backend, config), config.device, target)
    return model


def _require_cuda(device: str) -> None:
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        raise BackendError(f"device {device} was asked for, but this machine has no usable CUDA device: leave it out")


def choose_backend(path: Path, config: ModelConfig) -> str:
    """'fast' or 'hf': the asked one, or with 'auto' fast wherever it knows the architecture and number format."""
    if config.backend != "auto":
        return config.backend
    checkpoint = open_checkpoint(path)
    known = not checkpoint.is_gguf and objection(checkpoint.config) is None
    return "fast" if known and config.weights in ("auto", *FORMATS) else "hf"


def choose_weights(backend: str, config: ModelConfig) -> str:
    """The number format: the asked one, or with 'auto' what computes the model as it is stored.

    The default target's file holds 4-bit numbers, so int4 is its own format; another model is not quantised unasked.
    """
    if config.weights != "auto":
        return config.weights
    if config.device.startswith("cuda"):
        return "bfloat16"
    return "int4" if backend == "fast" and config.target == "default" else "float32"


def require_same_tokenizer(draft_path: Path, tokenizer: Tokenizer) -> None:
    """ConfigError naming the first difference if the draft brings another tokenizer than the target's."""
    if (draft_path / "draft.json").is_file():
        return  # a shared draft has no tokenizer but its target's
    require_same(load_tokenizer(draft_path), tokenizer)


def locate(name: str, part: str) -> Path:
    """The folder or GGUF file of a model: a path, 'default', or a hub id, fetched once if a hub can be reached.

    Raises BackendError when there is none.
    """
    if name == "default":
        return default_pair.default_target() if part == "target" else default_pair.default_draft()
    if not name:
        raise BackendError(f"the {part} has an empty name: give a folder, a .gguf file, a hub id or 'default'")
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise BackendError(f"no {part} model at {name}: give a folder, a .gguf file, a hub id or 'default'")
    return _fetch(name, part)


def _fetch(hub_id: str, part: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        # Patterns name what is read: pickled weights are not even downloaded.
        return Path(
            snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"])
        )
    except Exception as error:  # the hub client raises many kinds, all meaning that the model cannot be had
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BackendError(f"no {part} model {hub_id}: not a folder here, and the hub says: {reason}") from None


def locate_verifier(config: ModelConfig) -> Path:
    """The verifier folder; ConfigError where a pair has none."""
    if config.verifier == "none":
        raise ConfigError("this method needs a verifier: give --verifier DIR, or --scorer confidence, which needs none")
    if config.verifier != "default":
        return Path(config.verifier).expanduser()
    if config.draft != "default" or config.target != "default":
        raise ConfigError(
            "the default verifier belongs to the default pair: give --verifier DIR (sprinter collect and sprinter "
            "train make one), or --scorer confidence, which needs none"
        )
    return default_pair.default_verifier()
