"""Settings to objects: the only place where names meet classes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sprinter.config import PAPER_THRESHOLD, DecodingConfig, ModelConfig
from sprinter.core.sampling import Sampling
from sprinter.drafters.ahead import ChunkDrafter
from sprinter.drafters.base import Drafter
from sprinter.drafters.chunk import ChunkProgram, fits
from sprinter.drafters.model import ModelDrafter
from sprinter.engine import Engine, Limits
from sprinter.errors import BackendError, CapabilityError, ConfigError
from sprinter.gates.ahead import Ahead
from sprinter.gates.base import Gate, Scorer
from sprinter.gates.budget import BudgetGate
from sprinter.gates.confidence import Certainty, Confidence, Margin
from sprinter.gates.fixed import FixedGate, OpenGate
from sprinter.gates.threshold import ThresholdGate
from sprinter.gates.verifier import Verifier, load_verifier, require_pair
from sprinter.models.base import Capabilities, LanguageModel, ModelInfo
from sprinter.models.checkpoint import open_checkpoint
from sprinter.models.fast.config import objection
from sprinter.models.fast.model import FastModel
from sprinter.models.fast.weights import FORMATS
from sprinter.models.tokenizer import Tokenizer, load_tokenizer, require_same
from sprinter.rules.base import AcceptanceRule
from sprinter.rules.exact import ExactRule
from sprinter.rules.greedy import GreedyRule
from sprinter.rules.vouched import VouchedRule
from sprinter.theory.lookahead import usual_lookahead
from sprinter.zoo import default_pair

UNTRAINED: dict[str, type[Confidence] | type[Certainty] | type[Margin]] = {
    "confidence": Confidence,
    "certainty": Certainty,
    "margin": Margin,
}
DEFAULT_DRAFT_LENGTH = 4
DEFAULT_CUDA_CHUNK = 4  # no GPU was at hand to choose it by measurement: benchmarks/gpu_steps.py measures it
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
    def target(self) -> LanguageModel:
        return load_model(self.target_path, self.config)

    @cached_property
    def draft(self) -> LanguageModel:
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
            context_length=min(m.info.context_length for m in models),
            eos_ids=self.tokenizer.eos_ids,
        )

    def verifier(self, output: str) -> Verifier:
        """The pair's verifier; refused if it was trained for another pair."""
        path = locate_verifier(self.config)
        verifier = load_verifier(path, output)
        require_pair(verifier, self.draft.info.fingerprint, self.target.info.fingerprint, path)
        return verifier


def build_engine(pair: Pair, config: DecodingConfig, sampling: Sampling) -> Engine:
    """The engine of one method. Raises ConfigError, CapabilityError, BackendError or DataError."""
    limits = pair.limits(with_draft=config.method != "target")
    chunk = chunk_length(pair, config, sampling)
    gate = build_gate(pair, config, scored_ahead=chunk > 1)
    if config.method != "target":
        require_capabilities(pair.draft, gate.needs)
    drafter = _drafter(pair, config, sampling, limits, gate, chunk)
    return Engine(pair.target, drafter, gate, _rule(config, sampling), sampling, limits)


def chunk_length(pair: Pair, config: DecodingConfig, sampling: Sampling) -> int:
    """Draft tokens to compute ahead of the gate; 1 is one at a time. ConfigError where the asked chunk cannot be."""
    if config.method == "target" or config.draft_chunk == 1:
        return 1
    obstacle = _no_chunks(pair.draft, sampling, config)
    if obstacle and config.draft_chunk is not None:
        raise ConfigError(f"draft_chunk is {config.draft_chunk}, but {obstacle}")
    if obstacle or (config.draft_chunk is None and not pair.config.device.startswith("cuda")):
        return 1
    # Steps beyond what a round can hold would always be dropped.
    longest = (config.draft_length or DEFAULT_DRAFT_LENGTH) if config.method == "exact" else config.draft_cap
    asked = config.draft_chunk or DEFAULT_CUDA_CHUNK
    return asked if longest is None or config.method == "draft" else min(asked, longest)


def _no_chunks(draft: LanguageModel, sampling: Sampling, config: DecodingConfig) -> str | None:
    """Why this draft is drawn from one token at a time, in words; None where chunks can be computed."""
    if not isinstance(draft, FastModel):
        return f"the {draft.info.backend} backend drafts one token at a time: use --backend fast"
    if draft.stepper is None:
        return "the compiled pass drafts one token at a time: use --weights float32 or bfloat16"
    if not fits(sampling):
        return "top-k, top-p, min-p and a repetition penalty are applied one token at a time: leave them out"
    if config.survival:
        return (
            f"{config.scorer} vouches while {config.survival} tells what survives, and a chunk holds one score a token"
        )
    return None


def _drafter(pair: Pair, config: DecodingConfig, sampling: Sampling, limits: Limits, gate: Gate, chunk: int) -> Drafter:
    # The target alone drafts nothing, so it can stand where a drafter is expected.
    model = pair.target if config.method == "target" else pair.draft
    scorer = gate.scorer if isinstance(gate, ThresholdGate | BudgetGate) else None
    if chunk == 1 or not isinstance(model, FastModel):
        echoes = isinstance(scorer, Verifier) and not {"echo_same", "echo_other"}.isdisjoint(scorer.record.features)
        return ModelDrafter(model, sampling, limits.vocab_size, echoes)
    verifier = scorer.verifier if isinstance(scorer, Ahead) else None
    # An untrained scorer reads the draft's logits on the host.
    logits = scorer is not None and verifier is None
    return ChunkDrafter(ChunkProgram(model, sampling, limits.vocab_size, chunk, verifier, logits))


def build_gate(pair: Pair, config: DecodingConfig, scored_ahead: bool = False) -> Gate:
    """The gate of a method with its scorer. `scored_ahead`: a verifier's scores will come with the proposals."""
    if config.method == "target":
        return FixedGate(0)
    if config.method == "draft":
        return OpenGate()
    if config.method == "exact":
        return FixedGate(config.draft_length or DEFAULT_DRAFT_LENGTH)
    config = settle(pair, config)
    scorer, threshold = _scorer(pair, config)
    if scored_ahead and isinstance(scorer, Verifier):
        scorer = Ahead(scorer)
    if config.budget is not None:
        return BudgetGate(scorer, config.budget, config.draft_cap)
    return ThresholdGate(
        scorer,
        threshold=math.inf if config.method == "lossless" else threshold,
        lookahead=1.0 if config.lookahead is None else config.lookahead,
        max_draft=config.draft_cap,
        test_last=config.preset == "paper",
        survivor=_survivor(config, scorer, pair),
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


def _survivor(config: DecodingConfig, scorer: Scorer, pair: Pair) -> Scorer | None:
    """Who says whether an unvouched token will pass, where the scorer predicts something else."""
    if not config.survival or not isinstance(scorer, Verifier):
        return None
    predicts = {"accept", "accept_hard"} & set(scorer.record.outputs)
    return pair.verifier(config.survival) if predicts else None


def _scorer(pair: Pair, config: DecodingConfig) -> tuple[Scorer, float]:
    """The scorer and the threshold to use with it."""
    if config.scorer in UNTRAINED:
        scorer: Scorer = UNTRAINED[config.scorer]()
        default = UNTRAINED_THRESHOLD
    else:
        verifier = pair.verifier(config.scorer)
        scorer, default = verifier, verifier.record.default_threshold
    if config.preset == "paper":
        default = PAPER_THRESHOLD
    return scorer, default if config.threshold is None else config.threshold


def _rule(config: DecodingConfig, sampling: Sampling) -> AcceptanceRule:
    if config.method in ("draft", "sprinter", "lookahead"):
        return VouchedRule()
    return GreedyRule() if sampling.greedy else ExactRule()


def load_model(path: Path, config: ModelConfig, target: Path | None = None) -> LanguageModel:
    """A model behind its backend. `target`: whose tensors a shared draft borrows."""
    if config.device.startswith("cuda"):
        _require_cuda(config.device)
    backend = choose_backend(path, config)
    weights = choose_weights(backend, config)
    if backend == "fast":
        return FastModel.load(path, weights, config.device, target)
    from sprinter.models.hf import HFModel  # noqa: PLC0415 - transformers takes seconds to import

    return HFModel.load(path, weights, config.device, target)


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


def require_capabilities(model: LanguageModel, needs: Capabilities) -> None:
    """CapabilityError naming what a gate needs and the draft model's backend cannot give."""
    missing = model.capabilities.missing(needs)
    if missing:
        raise CapabilityError(
            f"the gate needs {', '.join(missing)}, which the {model.info.backend} backend of {model.info.name} does "
            "not give: choose another backend or scorer"
        )


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
