"""A lean runner for Llama-family checkpoints: fused projections, preallocated caches, quantised weights on the CPU."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor

from sprinter.cache import cache_dir
from sprinter.core.rows import EVERYTHING, Cache, FloatArray, IntArray, ModelInfo, Part, Views
from sprinter.errors import BackendError
from sprinter.models.base import check_blocks, check_distinct, check_part, not_finite, thinner
from sprinter.models.checkpoint import (
    HEAD_TOKENS,
    Checkpoint,
    head_tokens,
    open_checkpoint,
    require_target,
)
from sprinter.models.fast.cache import FastCache
from sprinter.models.fast.config import Architecture, architecture
from sprinter.models.fast.native_runner import NativeRunner, fits
from sprinter.models.fast.shapes import EMBED, require_parts
from sprinter.models.fast.torch_runner import TorchRunner
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
    """Runs rows against the caches it opens."""

    def open(self) -> FastCache:
        """A new, empty cache."""

    def run(self, parts: Sequence[Part], caches: Sequence[Any], positions: Sequence[Sequence[int]]) -> list[Views]:
        """The views of each part, whose cache and rows' positions are those beside it; float32.

        The parts have been checked. The new rows' keys and values lie in the caches afterwards, but do not count yet.
        Raises FloatingPointError when a row of logits holds NaN or +inf.
        """

    def without(self, left_out: Collection[int], arch: Architecture) -> Runner:
        """One on the same weights that leaves blocks out; `arch`: whose caches it opens."""


class FastModel:
    """A Llama, Mistral, Qwen2 or Qwen3 model behind the protocol of `core.rows`; see `load`."""

    gives = EVERYTHING

    def __init__(
        self, info: ModelInfo, arch: Architecture, runner: Runner, embed: Tensor, head_ids: Tensor | None = None
    ) -> None:
        self.info = info
        self._arch = arch
        self._runner = runner
        self._embed = embed  # [vocab, hidden]
        self._table: FloatArray | None = embed.numpy() if embed.dtype == torch.float32 else None
        self._head_tokens: IntArray | None = None if head_ids is None else head_ids.numpy()  # [width], ascending

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
            else:
                runner = TorchRunner(arch, tensors, embed, device)
        info = _describe(source, arch, tensors, weights, device, width)
        if compiled is not None:
            # The compiled pass rounds activations to 8 bits: another arithmetic, so a certificate must tell them apart.
            info = replace(info, backend="fast-compiled")
        return cls(info, arch, runner, embed, head_ids)

    @property
    def compiled(self) -> bool:
        """Whether the compiled forward pass computes this model, rather than torch operations."""
        return isinstance(self._runner, NativeRunner)

    @property
    def head_tokens(self) -> IntArray | None:
        """Ascending token ids the head covers, [width]; None when it covers the whole vocabulary."""
        return self._head_tokens

    def open(self) -> Cache:
        """A new, empty cache."""
        return self._runner.open()

    def without(self, left_out: Collection[int]) -> FastModel:
        """See `core.rows.Model.without`."""
        left_out = frozenset(left_out)
        check_blocks(self.info, left_out)
        attention, mlp = _block_sizes(self._arch)
        info = thinner(self.info, left_out, sum(mlp if block % 2 else attention for block in left_out))
        # Another object of the same shapes: a cache tells by it whose it is.
        arch = replace(self._arch)
        view = FastModel(info, arch, self._runner.without(left_out, arch), self._embed)
        view._head_tokens = self._head_tokens
        return view

    def forward(self, parts: Sequence[Part]) -> list[Views]:
        """See `core.rows.Model.forward`."""
        if not parts:
            return []
        if len(parts) > 1:
            check_distinct(parts)
        caches, positions = [], []
        for part in parts:
            cache = part.cache
            if not isinstance(cache, FastCache) or cache.arch is not self._arch:
                raise BackendError(f"{self.info.name} was given a cache that another model has opened")
            where = cache.positions_of(part)
            check_part(self.info, part, where)
            caches.append(cache)
            positions.append(where)
        try:
            views = self._runner.run(parts, caches, positions)
        except FloatingPointError:
            raise not_finite(self.info.name) from None
        # Only now: had the pass failed, no cache must claim its rows.
        for part, cache, where in zip(parts, caches, positions, strict=True):
            cache.add(part, where)
        return views

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


def _block_sizes(arch: Architecture) -> tuple[int, int]:
    """Parameters of a layer's attention and of its MLP."""
    attention = arch.hidden_size * (arch.qkv_rows + arch.num_heads * arch.head_dim)
    return attention, 3 * arch.hidden_size * arch.intermediate_size


def _describe(
    source: _Source, arch: Architecture, tensors: Mapping[str, Tensor], weights: str, device: str, width: int
) -> ModelInfo:
    # Norms and the float32 copies for wide passes are not what one token reads.
    read = [t for name, t in tensors.items() if not name.endswith((".wide", "norm"))]
    return ModelInfo(
        name=source.checkpoint.path.name,
        vocab_size=arch.vocab_size,
        context_length=arch.context_length,
        hidden_size=arch.hidden_size,
        num_layers=arch.num_layers,
        num_parameters=arch.num_layers * sum(_block_sizes(arch)) + width * arch.hidden_size,
        bytes_per_step=sum(t.numel() * t.element_size() for t in read),
        fingerprint=source.checkpoint.fingerprint,
        backend="fast",
        weights=weights,
        device=device,
    )
