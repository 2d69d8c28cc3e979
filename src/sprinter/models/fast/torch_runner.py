"""The forward pass of a Llama-family model in plain torch operations, with its key-value cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from sprinter.core.records import FloatArray
from sprinter.models.base import is_finite
from sprinter.models.fast.capture import upload
from sprinter.models.fast.config import Architecture, rotary_table
from sprinter.models.fast.quant import Linear
from sprinter.models.fast.weights import HEAD, linear

_FIRST_CAPACITY: Final = 256  # positions
_CHUNK: Final = 512  # rows per pass; bounds the memory of a long prompt's attention mask


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


class SequenceCache:
    """Keys and values of one sequence, and the rotations of its positions; grows in powers of two.

    It only knows positions: writing from `start` on overwrites what was there, so going back to an earlier length
    costs nothing.
    """

    def __init__(self, arch: Architecture, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """On a CPU `dtype` is best float32: one token's attention takes four times as long in bfloat16."""
        self._arch = arch
        self._device = device
        self.kv = torch.empty(2, arch.num_layers, arch.num_kv_heads, 0, arch.head_dim, device=device, dtype=dtype)
        self.rotary = torch.empty(0)
        self.reserve(1)

    def reserve(self, length: int) -> bool:
        """Make room for `length` positions; True if the tensors moved."""
        arch, held = self._arch, self.kv.shape[3]
        if length <= held:
            return False
        capacity = max(held, _FIRST_CAPACITY)
        while capacity < length:
            capacity *= 2
        capacity = min(capacity, arch.context_length)
        grown = self.kv.new_zeros(2, arch.num_layers, arch.num_kv_heads, capacity, arch.head_dim)
        grown[:, :, :, :held] = self.kv
        self.kv = grown  # [key/value, layer, kv_head, position, head_dim]
        self.rotary = rotary_table(arch, capacity)[:, None].to(self._device)  # [position, 1, head_dim / 2]
        return True


class TorchRunner:
    """Layers, norms and head of one model, and the keys and values of one sequence."""

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
        self._cache = SequenceCache(arch, self._device, tensors[f"{HEAD}.weight"].dtype if halves else torch.float32)

    def run(self, ids: Sequence[int], start: int, num_last: int) -> tuple[FloatArray, FloatArray, None]:
        """See `Runner.run`."""
        with torch.inference_mode():
            logits, hidden = (part.cpu().numpy() for part in self.compute(ids, start, num_last))
        if not is_finite(logits):
            raise FloatingPointError
        return logits, hidden, None

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def capacity(self) -> int:
        """Positions the cache has room for; its tensors move when, and only when, this changes."""
        return self._cache.kv.shape[3]

    @property
    def kv_bytes(self) -> int:
        """Bytes of all keys and values in the cache: what one step of static shapes reads of it."""
        return self._cache.kv.numel() * self._cache.kv.element_size()

    def reserve(self, length: int) -> None:
        """Make room for `length` positions."""
        self._cache.reserve(length)

    def embedding(self, tokens: Tensor) -> Tensor:
        """Input embeddings of tokens [rows] int64, where the model is: float32 [rows, hidden], a copy."""
        return self._embed[tokens].float()

    def advance(self, ids: Sequence[int], start: int) -> None:
        """Bring the keys and values of `ids` at positions `start`, start+1, ... into the cache; waits for nothing."""
        with torch.inference_mode():
            self.reserve(start + len(ids))
            if len(ids) == 1:
                # As a chunk of steps would have computed it, to the last bit.
                where = (upload([value], torch.int64, self._device) for value in (ids[0], start))
                self.step_at(*where)
            else:
                for i in range(0, len(ids), _CHUNK):
                    self._blocks(ids[i : i + _CHUNK], start + i)

    def step_at(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [rows, width], hidden [rows, hidden]) of tokens [rows] int64 at `positions` [rows] int64.

        Static shapes: attends over the cache's whole capacity under a mask, and waits for nothing. The positions must
        have room, and those before them must have been run.
        """
        capacity, group = self.capacity, self._arch.group_size
        hides = torch.arange(capacity, device=self._device) > positions[:, None]  # [rows, capacity]
        mask = torch.zeros(hides.shape, device=self._device, dtype=self._cache.kv.dtype)
        mask = mask.masked_fill(hides, -torch.inf).repeat(group, 1)  # [group * rows, capacity]
        rotary = self._cache.rotary[positions]  # [rows, 1, head_dim / 2]
        return self._finish(self._layers_on(self.embedding(tokens), rotary, self._cache.kv, positions, mask))

    def compute(self, ids: Sequence[int], start: int, num_last: int) -> tuple[Tensor, Tensor]:
        """(logits [num_last, width], hidden [num_last, hidden]) where the model is."""
        self.reserve(start + len(ids))
        rows = [self._blocks(ids[i : i + _CHUNK], start + i) for i in range(0, len(ids), _CHUNK)]
        return self._finish((rows[0] if len(rows) == 1 else torch.cat(rows))[-num_last:])

    def _finish(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(logits, hidden) of rows of the residual stream, [rows, hidden]."""
        hidden = F.rms_norm(x, (self._arch.hidden_size,), self._norm, self._arch.norm_eps)
        return self._head(hidden), hidden

    def _mask(self, num_rows: int, start: int) -> Tensor | None:
        """Additive causal mask [group * rows, start + rows]; None for one row, which sees everything."""
        if num_rows == 1:
            return None
        shape, dtype = (num_rows, start + num_rows), self._cache.kv.dtype
        mask = torch.full(shape, -torch.inf, device=self._device, dtype=dtype).triu_(start + 1)
        return mask.repeat(self._arch.group_size, 1)

    def _blocks(self, ids: Sequence[int], start: int) -> Tensor:
        """The residual stream after the last layer, [rows, hidden]."""
        end, indices = start + len(ids), upload(ids, torch.int64, self._device)
        place, kv = slice(start, end), self._cache.kv[:, :, :, :end]
        mask = self._mask(len(ids), start)
        return self._layers_on(self.embedding(indices), self._cache.rotary[place], kv, place, mask)

    def _layers_on(self, x: Tensor, rotary: Tensor, kv: Tensor, place: slice | Tensor, mask: Tensor | None) -> Tensor:
        """All layers on x [rows, hidden] (overwritten), whose keys and values go to `place` in kv's positions.

        `kv` is [key/value, layer, kv_head, position, head_dim]; `mask` is added to the scores.
        """
        arch = self._arch
        keys, values = kv.unbind(0)  # [layer, kv_head, position, head_dim] each
        for layer, layer_keys, layer_values in zip(self._layers, keys.unbind(0), values.unbind(0), strict=True):
            qkv = layer.qkv(F.rms_norm(x, (arch.hidden_size,), layer.attn_norm, arch.norm_eps))
            q = self._write_heads(layer, qkv, rotary, layer_keys, layer_values, place)
            x += layer.out(self._attend(q, layer_keys, layer_values, mask))
            gate, up = layer.gate_up(F.rms_norm(x, (arch.hidden_size,), layer.mlp_norm, arch.norm_eps)).chunk(2, -1)
            x += layer.down(F.silu(gate).mul_(up))
        return x

    def _write_heads(
        self, layer: Layer, qkv: Tensor, rotary: Tensor, keys: Tensor, values: Tensor, place: slice | Tensor
    ) -> Tensor:
        """Rotated queries [rows, num_heads, head_dim]; the rows' keys and values go to `place`.

        `keys` and `values` are [kv_head, position, head_dim].
        """
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
        keys[:, place] = rotated[:, arch.num_heads :].transpose(0, 1).to(keys.dtype)
        values[:, place] = heads[:, num_rotated:].transpose(0, 1).to(values.dtype)
        return rotated[:, : arch.num_heads]

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention output before its projection, [rows, num_heads * head_dim], for q [rows, num_heads, head_dim]."""
        arch, num_rows = self._arch, q.shape[0]
        # The queries of one key-value head are further rows of one attention: no copy of keys per query head.
        q = q.reshape(num_rows, arch.num_kv_heads, arch.group_size, arch.head_dim)
        q = q.permute(1, 2, 0, 3).reshape(arch.num_kv_heads, -1, arch.head_dim)  # [kv_head, group * row, head_dim]
        y = F.scaled_dot_product_attention(q[None].to(keys.dtype), keys[None], values[None], attn_mask=mask)[0]
        y = y.view(arch.num_kv_heads, arch.group_size, num_rows, arch.head_dim).permute(2, 0, 1, 3)
        return y.reshape(num_rows, arch.num_heads * arch.head_dim)
