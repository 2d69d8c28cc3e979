"""A transformers model over many sequences at once, padded on the left so that their newest tokens line up."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sprinter.core.records import FloatArray, IntArray
from sprinter.errors import CapabilityError
from sprinter.learn.teacher import OutputLaw, output_law
from sprinter.models.base import LanguageModel, ModelInfo, check_finite
from sprinter.models.hf import HFModel


class Batch(Protocol):
    """What walking through contexts asks of a model."""

    info: ModelInfo
    head_tokens: IntArray | None

    def begin(self, prompts: Sequence[Sequence[int]], num_last: int = 1) -> tuple[FloatArray, FloatArray]: ...

    def step(self, tokens: Sequence[int]) -> tuple[FloatArray, FloatArray]: ...

    def embeddings(self, tokens: Sequence[int]) -> FloatArray: ...


class OneByOne:
    """Any backend in the place of a batch: sequences one after the other, exactly as decoding computes them.

    A verifier's rows then come from the very numbers it will see, quantisation included. Good for passes over whole
    texts; `step` reads every sequence anew, for a backend caches one.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.info = model.info
        self.head_tokens = model.head_tokens
        self._model = model
        self._sequences: list[list[int]] = []

    def begin(self, prompts: Sequence[Sequence[int]], num_last: int = 1) -> tuple[FloatArray, FloatArray]:
        """As BatchModel.begin; CapabilityError from a backend without hidden states."""
        self._sequences = [list(p) for p in prompts]
        logits, hidden = [], []
        for sequence in self._sequences:
            output = self._model.forward(sequence, num_last)
            if output.hidden is None:
                raise CapabilityError(f"the {self.info.backend} backend gives no hidden states: use another")
            # A backend may hand out its own buffers, which the next call overwrites.
            logits.append(output.logits.copy())
            hidden.append(output.hidden.copy())
        return np.stack(logits), np.stack(hidden)

    def step(self, tokens: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """As BatchModel.step."""
        logits, hidden = self.begin([[*s, t] for s, t in zip(self._sequences, tokens, strict=True)])
        return logits[:, 0], hidden[:, 0]

    def embeddings(self, tokens: Sequence[int]) -> FloatArray:
        """Input embeddings, [tokens, hidden]."""
        return np.stack([self._model.embedding(t) for t in tokens])


class BatchModel:
    """Logits and hidden states of a batch; each row is what its sequence alone would give, up to rounding.

    - - a b c      padding is masked and takes no position: "a" is at position 0 in every row
    d e f g h
    """

    def __init__(self, model: HFModel) -> None:
        self.info = model.info
        self.head_tokens = model.head_tokens
        self._module = model.module
        self._hidden: Tensor | None = None
        self._module.get_output_embeddings().register_forward_pre_hook(self._remember_hidden)
        known = inspect.signature(self._module.forward).parameters
        self._slices_logits = "logits_to_keep" in known
        self._takes_positions = "position_ids" in known
        self._mask = torch.zeros(0, 0, dtype=torch.long)  # [batch, seq], 0 on padding
        self._cache: Any = None
        self._law: OutputLaw | None = None

    def begin(self, prompts: Sequence[Sequence[int]], num_last: int = 1) -> tuple[FloatArray, FloatArray]:
        """Read sequences from their start; (logits [batch, num_last, width], hidden [batch, num_last, hidden])."""
        from transformers import DynamicCache  # noqa: PLC0415 - slow import

        longest = max(map(len, prompts))
        rows = [[0] * (longest - len(p)) + list(p) for p in prompts]
        shown = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
        self._mask = torch.tensor(shown, device=self._module.device)
        self._cache = DynamicCache()
        return self._forward(torch.tensor(rows, device=self._module.device), num_last)

    def step(self, tokens: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """Append one token to every sequence; (logits [batch, width], hidden [batch, hidden])."""
        new = torch.tensor(tokens, device=self._module.device)[:, None]  # [batch, 1]
        self._mask = torch.cat([self._mask, torch.ones_like(new)], dim=1)
        logits, hidden = self._forward(new, 1)
        return logits[:, 0], hidden[:, 0]

    def embeddings(self, tokens: Sequence[int]) -> FloatArray:
        """Input embeddings, [tokens, hidden]."""
        with torch.inference_mode():
            rows: FloatArray = self._module.get_input_embeddings().weight[list(tokens)].float().cpu().numpy()
            return rows

    def logits_of(self, hidden: FloatArray) -> FloatArray:
        """The output layer alone: logits [rows, width] of states [rows, hidden] that `begin` or `step` gave."""
        if self._law is None:
            self._law = output_law(self._module)
        with torch.inference_mode():
            states = torch.from_numpy(hidden).to(self._law.weight)
            logits: FloatArray = self._law.logits(states).float().cpu().numpy()
        return check_finite(self.info.name, logits)

    def _forward(self, tokens: Tensor, num_last: int) -> tuple[FloatArray, FloatArray]:
        options: dict[str, Any] = {"logits_to_keep": num_last} if self._slices_logits else {}
        if self._takes_positions:
            positions = (self._mask.cumsum(dim=1) - 1).clamp_min(0)  # [batch, seq]
            options["position_ids"] = positions[:, -tokens.shape[1] :]
        with torch.inference_mode():
            output = self._module(
                input_ids=tokens, attention_mask=self._mask, past_key_values=self._cache, use_cache=True, **options
            )
            self._cache = output.past_key_values
            logits: FloatArray = output.logits[:, -num_last:].float().cpu().numpy()
            assert self._hidden is not None
            hidden: FloatArray = self._hidden[:, -num_last:].float().cpu().numpy()
        check_finite(self.info.name, logits.reshape(-1, logits.shape[-1]))
        return np.asarray(logits), np.asarray(hidden)

    def _remember_hidden(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._hidden = args[0]
