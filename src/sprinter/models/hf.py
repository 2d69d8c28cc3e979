"""Any causal language model of transformers; owns its key-value cache."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sprinter.core.records import FloatArray, IntArray
from sprinter.errors import BackendError
from sprinter.models.base import (
    Capabilities,
    ModelInfo,
    ModelOutput,
    check_finite,
    check_request,
    common_prefix,
)
from sprinter.models.checkpoint import Checkpoint, load_torch_draft, open_checkpoint

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HFModel:
    """A transformers model behind the protocol, one sequence at a time.

    The hidden state is read where the output head reads it, so it fits every architecture.
    """

    capabilities = Capabilities(full_probs=True, hidden=True, embedding=True)

    def __init__(self, model: Any, name: str, fingerprint: str, head_tokens: Tensor | None = None) -> None:
        """`model`: a PreTrainedModel in eval mode; `head_tokens` [width] restricts its head to these ids."""
        self._model = model
        self.head_tokens: IntArray | None = None
        if head_tokens is not None:
            self.head_tokens = head_tokens.cpu().numpy().astype(np.int64)
            _restrict_head(model, head_tokens)
        self._hidden: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._remember_hidden)
        self._slices_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._cached: list[int] = []
        self._cache: Any = None
        self.info = _describe(model, name, fingerprint, self.head_tokens is not None)

    @classmethod
    def load(cls, path: Path, weights: str = "float32", device: str = "cpu", target: Path | None = None) -> HFModel:
        """Open a model folder, a shared draft of `target`, or a GGUF file. Raises BackendError.

        `weights`: one of `DTYPES`. Never loads a pickle and never runs code that comes with a model.
        """
        if weights not in DTYPES:
            raise BackendError(f"the hf backend has no {weights} weights: choose one of {', '.join(DTYPES)}")
        checkpoint = open_checkpoint(path)
        dtype = DTYPES[weights]
        head_tokens: Tensor | None = None
        if checkpoint.draft is not None:
            if target is None:
                raise BackendError(f"{path} borrows its embedding from its target: name the target with --target")
            model, head_tokens = load_torch_draft(path, target, dtype)
        else:
            model = _load_plain(checkpoint, dtype)
        return cls(model.eval().to(device), path.name, checkpoint.fingerprint, head_tokens)

    @property
    def module(self) -> Any:
        """The transformers model, its head restricted to `head_tokens`: for training code that runs batches."""
        return self._model

    def forward(self, tokens: Sequence[int], num_last: int) -> ModelOutput:
        check_request(self.info, tokens, num_last)
        keep = min(common_prefix(self._cached, list(tokens)), len(tokens) - num_last)
        self._roll_back(keep)
        new = torch.tensor([tokens[keep:]], device=self._model.device)  # [1, new]
        options = {"logits_to_keep": num_last} if self._slices_logits else {}
        with torch.inference_mode():
            output = self._model(input_ids=new, past_key_values=self._cache, use_cache=True, **options)
            logits = output.logits[0, -num_last:].float().cpu().numpy()  # [num_last, width]
            assert self._hidden is not None
            hidden = self._hidden[0, -num_last:].float().cpu().numpy()  # [num_last, hidden]
        self._cache = output.past_key_values
        self._cached = list(tokens)
        check_finite(self.info.name, logits)
        return ModelOutput(logits, hidden, len(tokens) - keep)

    def embedding(self, token: int) -> FloatArray:
        with torch.inference_mode():
            row: FloatArray = self._model.get_input_embeddings().weight[token].float().cpu().numpy()
            return row

    def _roll_back(self, keep: int) -> None:
        """Shorten the cache to its first `keep` tokens."""
        from transformers import DynamicCache  # noqa: PLC0415

        surplus = len(self._cached) - keep
        if keep == 0 or self._cache is None:
            # Made without a config every layer keeps all tokens; layers that forget behind a sliding window
            # could not be rolled back. The model's own mask still applies the window.
            self._cache = DynamicCache()
            self._cached = []
        elif surplus > 0:
            # crop() takes the number of tokens to drop as a negative number.
            self._cache.crop(-surplus)
            del self._cached[keep:]

    def _remember_hidden(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._hidden = args[0]


def _load_plain(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = checkpoint.path
    # Without the refusal transformers would ask on stdin whether to run code that came with the model.
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False, "output_loading_info": True}
    try:
        if checkpoint.is_gguf:
            model, found = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, **options)
        else:
            model, found = AutoModelForCausalLM.from_pretrained(
                str(path), use_safetensors=True, local_files_only=True, **options
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackendError(f"cannot load {path} as a causal language model: {reason}") from error
    # transformers fills what is missing with random numbers and goes on.
    lost = sorted(found["missing_keys"])
    if lost:
        raise BackendError(f"{path} lacks {len(lost)} tensors of its config.json, {lost[0]} first: copy it again")
    return model


def _restrict_head(model: Any, head_tokens: Tensor) -> None:
    """Replace the output layer by its rows `head_tokens` [width]."""
    full = model.get_output_embeddings()
    with torch.inference_mode():
        head = nn.Linear(full.in_features, len(head_tokens), bias=full.bias is not None, dtype=full.weight.dtype)
        head.weight.copy_(full.weight[head_tokens])
        if full.bias is not None:
            head.bias.copy_(full.bias[head_tokens])
    # Assigned in place of the old module, the new one is no longer tied to the embedding table.
    model.set_output_embeddings(head)


def _describe(model: Any, name: str, fingerprint: str, restricted: bool) -> ModelInfo:
    config = model.config.get_text_config()
    head, lookup = model.get_output_embeddings(), model.get_input_embeddings()
    total = sum(p.numel() for p in model.parameters())
    # parameters() names a tied table once; it multiplies as the head though not as the lookup.
    tied = head.weight is lookup.weight
    multiplied = total if tied else total - lookup.weight.numel()
    context_length = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20
    return ModelInfo(
        name=name,
        vocab_size=lookup.weight.shape[0] if restricted else head.weight.shape[0],
        context_length=int(context_length),
        hidden_size=int(config.hidden_size),
        num_layers=int(config.num_hidden_layers),
        num_parameters=multiplied,
        bytes_per_step=multiplied * head.weight.element_size(),
        fingerprint=fingerprint,
        backend="hf",
        weights=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
    )
