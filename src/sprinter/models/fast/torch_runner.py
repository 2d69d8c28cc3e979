"""The forward pass of a Llama-family model in plain torch operations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sprinter.core.rows import Part, Views
from sprinter.models.base import ancestors, facts_of, is_finite
from sprinter.models.fast.cache import FastCache, Rotary, shared_out
from sprinter.models.fast.config import Architecture
from sprinter.models.fast.quant import Linear
from sprinter.models.fast.weights import HEAD, linear

_CHUNK: Final = 512  # rows of one part at a time; bounds the memory of a long prompt's attention mask


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer."""

    attn_norm: Tensor  # [hidden]
    mlp_norm: Tensor  # [hidden]
    q_norm: Tensor | None  # [head_dim]
    k_norm: Tensor | None  # [head_dim]
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one part that are computed at once; they take slots `start` .. `end` - 1 of their cache."""

    cache: FastCache
    tokens: Sequence[int]
    positions: Sequence[int]
    start: int
    mask: Tensor | None  # additive [rows, end]; None where a single row sees all
    wanted: int  # of the last rows

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


class TorchRunner:
    """Layers, norms and head of one model."""

    def __init__(self, arch: Architecture, tensors: Mapping[str, Tensor], embed: Tensor, device: str = "cpu") -> None:
        self._arch = arch
        self._device = torch.device(device)
        # On a GPU the table must be at hand; on a CPU it stays mapped from its file.
        self._embed = embed if self._device.type == "cpu" else embed.to(self._device)  # [vocab, hidden]
        tensors = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        self._layers = [
            Layer(
                attn_norm=tensors[f"{i}.attn_norm"],
                mlp_norm=tensors[f"{i}.mlp_norm"],
                q_norm=tensors.get(f"{i}.q_norm"),
                k_norm=tensors.get(f"{i}.k_norm"),
                qkv=linear(tensors, f"{i}.qkv"),
                out=linear(tensors, f"{i}.out"),
                gate_up=linear(tensors, f"{i}.gate_up"),
                down=linear(tensors, f"{i}.down"),
            )
            for i in range(arch.num_layers)
        ]
        self._norm = tensors["norm"]
        self._head = linear(tensors, HEAD)
        halves = self._device.type != "cpu" and f"{HEAD}.weight" in tensors
        self._kv_type = tensors[f"{HEAD}.weight"].dtype if halves else torch.float32
        self._rotary = Rotary(arch, self._device)
        self._left_out: Collection[int] = ()  # see `core.rows.Model.without`

    def without(self, left_out: Collection[int], arch: Architecture) -> Self:
        """See `Runner.without`."""
        view = copy(self)
        view._arch, view._left_out = arch, left_out
        return view

    def open(self) -> FastCache:
        """A new, empty cache."""
        return FastCache(self._arch, self._device, self._kv_type)

    def run(
        self, parts: Sequence[Part], caches: Sequence[FastCache], positions: Sequence[Sequence[int]]
    ) -> list[Views]:
        """See `Runner.run`."""
        for part, cache in zip(parts, caches, strict=True):
            cache.reserve(len(part.tokens))
        with torch.inference_mode():
            logits, hidden = (found.cpu().numpy() for found in self._compute(parts, caches, positions))
        if not is_finite(logits):
            raise FloatingPointError
        return shared_out(parts, logits, hidden, facts_of(logits).table)

    def _compute(
        self, parts: Sequence[Part], caches: Sequence[FastCache], positions: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """(logits [wanted, width], hidden [wanted, hidden]) where the model is."""
        found: list[list[Tensor]] = [[] for _ in parts]
        for begin in range(0, max(len(part.tokens) for part in parts), _CHUNK):
            numbers = [i for i, part in enumerate(parts) if len(part.tokens) > begin]
            pieces = [self._piece(parts[i], caches[i], positions[i], begin) for i in numbers]
            rows = torch.split(self._layers_on(pieces), [len(piece.tokens) for piece in pieces])
            for i, piece, x in zip(numbers, pieces, rows, strict=True):
                found[i].append(x[len(x) - piece.wanted :])
        x = torch.cat([rows for rows_of_part in found for rows in rows_of_part])
        if len(x) == 0:
            return x.new_empty(0, 1), x
        hidden = F.rms_norm(x, (self._arch.hidden_size,), self._norm, self._arch.norm_eps)
        return self._head(hidden), hidden

    def _piece(self, part: Part, cache: FastCache, positions: Sequence[int], begin: int) -> Piece:
        """Up to `_CHUNK` rows of `part` from row `begin` on."""
        tokens = part.tokens[begin : begin + _CHUNK]
        end = begin + len(tokens)
        wanted = max(0, end - max(begin, len(part.tokens) - part.wanted))
        start = cache.length + len(cache.parents) + begin
        mask = None
        if part.parents is not None:
            mask = self._branches([*cache.parents, *part.parents], cache, start, len(tokens))
        elif len(tokens) > 1:
            mask = self._hidden_all(len(tokens), start + len(tokens), cache).triu_(start + 1)
        return Piece(cache, tokens, positions[begin:end], start, mask, wanted)

    def _hidden_all(self, rows: int, slots: int, cache: FastCache) -> Tensor:
        return torch.full((rows, slots), -torch.inf, device=self._device, dtype=cache.kv.dtype)

    def _branches(self, parents: Sequence[int], cache: FastCache, start: int, rows: int) -> Tensor:
        """The mask of `rows` loose rows from slot `start` on: each sees the line, its ancestors and itself."""
        mask, first = self._hidden_all(rows, start + rows, cache), start - cache.length
        for row, parent in enumerate(parents[first : first + rows]):
            if parent >= first:
                mask[row] = mask[parent - first]
            else:
                mask[row, : cache.length] = 0
                mask[row, [cache.length + at for at in ancestors(parents, parent)]] = 0
            mask[row, start + row] = 0
        return mask

    def _layers_on(self, pieces: Sequence[Piece]) -> Tensor:
        """The residual stream of all rows of the pieces after the last layer, [rows, hidden]."""
        arch = self._arch
        ids = torch.tensor([t for piece in pieces for t in piece.tokens], device=self._device)
        positions = torch.tensor([p for piece in pieces for p in piece.positions], device=self._device)
        rotary = self._rotary.upto(max(max(piece.positions) for piece in pieces) + 1)[positions][:, None]
        # The queries of one key-value head are further rows of one attention: no copy of keys per query head.
        masks = [None if piece.mask is None else piece.mask.repeat(arch.group_size, 1) for piece in pieces]
        x = self._embed[ids].float()  # [rows, hidden]
        for i, layer in enumerate(self._layers):
            if 2 * i not in self._left_out:
                x += self._attention(i, layer, x, rotary, pieces, masks)
            if 2 * i + 1 not in self._left_out:
                normed = F.rms_norm(x, (arch.hidden_size,), layer.mlp_norm, arch.norm_eps)
                gate, up = layer.gate_up(normed).chunk(2, -1)
                x += layer.down(F.silu(gate).mul_(up))
        return x

    def _attention(
        self,
        number: int,
        layer: Layer,
        x: Tensor,
        rotary: Tensor,
        pieces: Sequence[Piece],
        masks: Sequence[Tensor | None],
    ) -> Tensor:
        """What the attention of layer `number` adds to all rows of the pieces, [rows, hidden]."""
        qkv = layer.qkv(F.rms_norm(x, (self._arch.hidden_size,), layer.attn_norm, self._arch.norm_eps))
        q, k, v = self._heads(layer, qkv, rotary)
        attended, at = [], 0
        for piece, mask in zip(pieces, masks, strict=True):
            rows = slice(at, at := at + len(piece.tokens))
            keys, values = piece.cache.kv[:, number, :, : piece.end]  # [kv_head, slot, head_dim] each
            keys[:, piece.start :] = k[rows].transpose(0, 1).to(keys.dtype)
            values[:, piece.start :] = v[rows].transpose(0, 1).to(values.dtype)
            attended.append(self._attend(q[rows], keys, values, mask))
        return layer.out(attended[0] if len(attended) == 1 else torch.cat(attended))

    def _heads(self, layer: Layer, qkv: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [rows, num_heads, head_dim], rotated keys and values [rows, num_kv_heads, head_dim]."""
        arch, num_rows = self._arch, qkv.shape[0]
        heads = qkv.view(num_rows, -1, arch.head_dim)  # [row, q heads then k heads then v heads, head_dim]
        num_rotated = arch.num_heads + arch.num_kv_heads
        rotated = heads[:, :num_rotated]
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = torch.split(rotated, [arch.num_heads, arch.num_kv_heads], 1)
            shape = (arch.head_dim,)
            q, k = F.rms_norm(q, shape, layer.q_norm, arch.norm_eps), F.rms_norm(k, shape, layer.k_norm, arch.norm_eps)
            rotated = torch.cat([q, k], 1)
        pairs = torch.view_as_complex(rotated.reshape(num_rows, num_rotated, -1, 2)) * rotary
        rotated = torch.view_as_real(pairs).view(num_rows, num_rotated, arch.head_dim)
        return rotated[:, : arch.num_heads], rotated[:, arch.num_heads :], heads[:, num_rotated:]

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention output before its projection, [rows, num_heads * head_dim], for q [rows, num_heads, head_dim]."""
        arch, num_rows = self._arch, q.shape[0]
        q = q.reshape(num_rows, arch.num_kv_heads, arch.group_size, arch.head_dim)
        q = q.permute(1, 2, 0, 3).reshape(arch.num_kv_heads, -1, arch.head_dim)  # [kv_head, group * row, head_dim]
        y = F.scaled_dot_product_attention(q[None].to(keys.dtype), keys[None], values[None], attn_mask=mask)[0]
        y = y.view(arch.num_kv_heads, arch.group_size, num_rows, arch.head_dim).permute(2, 0, 1, 3)
        return y.reshape(num_rows, arch.num_heads * arch.head_dim)
