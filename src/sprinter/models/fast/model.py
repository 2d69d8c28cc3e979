"""A lean runner for Llama-family checkpoints: fused projections, preallocated cache, quantised weights on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor

from sprinter.cache import cache_dir
from sprinter.core.records import FloatArray, IntArray, RowFacts
from sprinter.errors import BackendError
from sprinter.models.base import (
    Capabilities,
    ModelInfo,
    ModelOutput,
    check_request,
    common_prefix,
    not_finite,
)
from sprinter.models.checkpoint import (
    HEAD_TOKENS,
    Checkpoint,
    head_tokens,
    open_checkpoint,
    require_target,
)
from sprinter.models.fast.config import Architecture, architecture
from sprinter.models.fast.cuda import CudaRunner
from sprinter.models.fast.native_runner import NativeRunner, fits
from sprinter.models.fast.torch_runner import TorchRunner
from sprinter.models.fast.shapes import EMBED, require_parts
from sprinter.models.fast.weights import (
    NATIVE,
    cached,
    check_format,
    check_widths,
    native_parts,
    open_head,
    prepare,
    quantised_parts,
)
from sprinter.native.library import library

if TYPE_CHECKING:
    from collections.abc import Mapping


class Runner(Protocol):
    """Runs tokens at given positions against a cache of its own."""

    def run(self, ids: Sequence[int], start: int, num_last: int) -> tuple[FloatArray, FloatArray, RowFacts | None]:
        """(logits [num_last, width], hidden [num_last, hidden]) float32 after `ids` at positions `start`, start+1, ...

        Third come facts about the logits, where finding them costs the runner little.
        Positions before `start` must have been run before; `ids` holds at least `num_last` tokens. Raises
        FloatingPointError when a row of logits holds NaN or +inf.
        """


class FastModel:
    """A Llama, Mistral, Qwen2 or Qwen3 model behind the `LanguageModel` protocol; see `load`."""

    def __init__(self, info: ModelInfo, runner: Runner, embed: Tensor, head_ids: Tensor | None = None) -> None:
        self.info = info
        self.capabilities = Capabilities(full_probs=True, hidden=True, embedding=True)
        self._runner = runner
        self._embed = embed  # [vocab, hidden]
        self._table: FloatArray | None = embed.numpy() if embed.dtype == torch.float32 else None
        self._head_tokens: IntArray | None = None if head_ids is None else head_ids.numpy()  # [width], ascending
        self._cached: list[int] = []  # tokens whose keys and values the runner holds

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | Checkpoint,
        weights: str = "int4",
        device: str = "cpu",
        target: str | Path | Checkpoint | None = None,
        cache: Path | None = None,
    ) -> Self:
        """Load a transformers folder (safetensors), or a shared draft whose `target` lends the rest of its tensors.

        `weights` is "int4", "int8", "bfloat16" or "float32". Quantised weights are kept under `cache` (default: the
        user's cache folder). Raises ConfigError for an impossible format or device, BackendError for a checkpoint that
        is damaged, incomplete, of an unknown architecture, or a draft of another target.
        """
        check_format(weights, device)
        source = _Source.open(checkpoint, target)
        arch = architecture(source.checkpoint.config, str(source.checkpoint.path))
        head_ids = head_tokens(source.checkpoint)
        place = cache or cache_dir()
        compiled = library() if weights in ("int4", "int8") and fits(arch) else None

        head = open_head(source, arch, str(source.checkpoint.path), head_ids)  # [width, hidden]
        check_widths(arch, weights)
        width = len(head)

        def make() -> dict[str, Tensor]:
            return prepare(source, arch, head, weights, native_parts if compiled else quantised_parts)

        def sound(found: Mapping[str, Tensor]) -> bool:
            return compiled is None or require_parts(found, arch, width)

        with torch.inference_mode():
            # torch's int4 layout depends on the processor, and the folder may be shared between machines.
            kind = f"{weights}-{NATIVE if compiled else torch.backends.cpu.get_cpu_capability().lower()}"
            quantised = weights in ("int4", "int8")
            tensors = cached(place / "fast", source.checkpoint.fingerprint, kind, make, sound) if quantised else make()
            embed = source.read(EMBED)
            runner: Runner
            if compiled is not None:
                runner = NativeRunner(compiled, arch, tensors, embed, width)
            elif device == "cpu":
                runner = TorchRunner(arch, tensors, embed)
            else:
                runner = CudaRunner(arch, tensors, embed, device)
        info = _describe(source, arch, tensors, weights, device, width)
        if compiled is not None:
            # The compiled pass rounds activations to 8 bits: another arithmetic, so a certificate must tell them apart.
            info = replace(info, backend="fast-compiled")
        return cls(info, runner, embed, head_ids)

    @property
    def compiled(self) -> bool:
        """Whether the compiled forward pass computes this model, rather than torch operations."""
        return isinstance(self._runner, NativeRunner)

    @property
    def head_tokens(self) -> IntArray | None:
        """Ascending token ids the head covers, [width]; None when it covers the whole vocabulary."""
        return self._head_tokens

    def forward(self, tokens: Sequence[int], num_last: int) -> ModelOutput:
        """See `LanguageModel.forward`."""
        tokens = tokens if isinstance(tokens, list) else list(tokens)
        start = self._reuse(tokens, num_last)
        new = tokens[start:]
        try:
            logits, hidden, facts = self._runner.run(new, start, num_last)
        except FloatingPointError:
            raise not_finite(self.info.name) from None
        # Only now: had the pass failed, the cache must not claim its positions.
        self._cached += new
        return ModelOutput(logits, hidden, len(new), facts)

    def _reuse(self, tokens: list[int], num_last: int) -> int:
        """How many of `tokens` the cache keeps when the last `num_last` are asked for; it drops all behind them."""
        check_request(self.info, tokens, num_last)
        # Rows asked for are computed even where their keys are cached: the cache holds no logits.
        start = min(common_prefix(self._cached, tokens), len(tokens) - num_last)
        new = tokens[start:]
        if min(new) < 0 or max(new) >= self.info.vocab_size:
            last = self.info.vocab_size - 1
            raise BackendError(f"a token id is outside 0..{last}, the vocabulary of {self.info.name}")
        del self._cached[start:]
        return start

    @property
    def stepper(self) -> TorchRunner | None:
        """What runs steps of static shapes (`TorchRunner.step_at`); None where the compiled pass computes."""
        return self._runner if isinstance(self._runner, TorchRunner) else None

    def catch_up(self, tokens: list[int]) -> int:
        """Bring all but the last of `tokens` into the cache, for steps from the last on; returns how many it computed.

        Nothing is read back, so non-finite numbers show in the steps that follow. Raises as `forward` does, and
        BackendError where there are no static steps.
        """
        if self.stepper is None:
            raise BackendError(f"the compiled pass of {self.info.name} has no steps of static shapes")
        start = self._reuse(tokens, 1)
        new = tokens[start:-1]
        if new:
            self.stepper.advance(new, start)
            self._cached += new
        return len(new)

    def stepped(self, tokens: list[int]) -> None:
        """Take note that steps have brought the keys and values of all `tokens` into the cache."""
        self._cached = list(tokens)

    def embedding(self, token: int) -> FloatArray:
        """The input embedding of `token`, [hidden] float32."""
        row: FloatArray = self._table[token] if self._table is not None else self._embed[token].float().numpy()
        return row


class _Source:
    """The tensors of a checkpoint together with those it borrows from its target."""

    def __init__(self, checkpoint: Checkpoint, target: Checkpoint | None) -> None:
        self.checkpoint = checkpoint
        self._target = target
        self._borrowed = frozenset(checkpoint.draft.shared if checkpoint.draft else ())
        self.names = (frozenset(checkpoint.names) | self._borrowed) - {HEAD_TOKENS}

    @classmethod
    def open(cls, checkpoint: str | Path | Checkpoint, target: str | Path | Checkpoint | None) -> Self:
        opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
        if opened.is_gguf:
            raise BackendError(f"the fast backend reads model folders, not {opened.path}: use --backend hf")
        if opened.draft is None:
            return cls(opened, None)
        if target is None:
            raise BackendError(f"{opened.path} borrows tensors of its target: name the target too")
        lender = target if isinstance(target, Checkpoint) else open_checkpoint(target)
        require_target(opened, lender)
        return cls(opened, lender)

    def read(self, name: str) -> Tensor:
        """The tensor called `name`, mapped where it is float32 already; BackendError if there is none."""
        if name in self._borrowed and self._target is not None:
            return self._target.tensor(name)
        return self.checkpoint.tensor(name)


def _describe(
    source: _Source, arch: Architecture, tensors: Mapping[str, Tensor], weights: str, device: str, width: int
) -> ModelInfo:
    heads = arch.num_heads * arch.head_dim
    per_layer = arch.hidden_size * (arch.qkv_rows + heads + 3 * arch.intermediate_size)
    # Norms and the float32 copies for wide passes are not what one token reads.
    read = [t for name, t in tensors.items() if not name.endswith((".wide", "norm"))]
    return ModelInfo(
        name=source.checkpoint.path.name,
        vocab_size=arch.vocab_size,
        context_length=arch.context_length,
        hidden_size=arch.hidden_size,
        num_layers=arch.num_layers,
        num_parameters=arch.num_layers * per_layer + width * arch.hidden_size,
        bytes_per_step=sum(t.numel() * t.element_size() for t in read),
        fingerprint=source.checkpoint.fingerprint,
        backend="fast",
        weights=weights,
        device=device,
    )
