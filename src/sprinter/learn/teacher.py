"""The target as a teacher: its final hidden states, its law, and text written by itself.

A target forward is the dearest part of distillation. Its final hidden state is stored once per token (float16); the
law over any part of the vocabulary is then one matrix product, so the tokens can be used for many epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sprinter.errors import BackendError, CapabilityError
from sprinter.learn import step_attention


@dataclass(frozen=True)
class OutputLaw:
    """logits(h) = cap * tanh(scale * (W h + b) / cap): the output layer of a causal LM, also on chosen rows of W."""

    weight: Tensor  # [vocab, hidden]
    bias: Tensor | None = None  # [vocab]
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocab] of final hidden states [..., hidden], before any sampling transform."""
        out = torch.nn.functional.linear(hidden, self.weight, self.bias)  # [..., vocab]
        if self.scale != 1.0:
            out = out * self.scale
        return out if self.softcap is None else self.softcap * torch.tanh(out / self.softcap)

    def pull_back(self, grad: Tensor, logits: Tensor) -> Tensor:
        """Gradient [..., hidden] of a loss, from its gradient at these logits [..., vocab]; overwrites `grad`."""
        if self.softcap is not None:
            grad = grad.mul_(1.0 - (logits / self.softcap).square())  # d(c tanh(u/c))/du
        return (grad * self.scale if self.scale != 1.0 else grad).to(self.weight.dtype) @ self.weight

    def to(self, dtype: torch.dtype) -> OutputLaw:
        """The same layer in another number format."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return OutputLaw(self.weight.to(dtype), bias, self.scale, self.softcap)

    def rows(self, token_ids: Tensor) -> OutputLaw:
        """The same layer for `token_ids` [n] only."""
        bias = None if self.bias is None else self.bias[token_ids]
        return OutputLaw(self.weight[token_ids].contiguous(), bias, self.scale, self.softcap)


def final_hidden(model: Any, **inputs: Any) -> Any:
    """Output of the model's body; its `last_hidden_state` [batch, seq, hidden] is what the output layer reads."""
    return model.base_model(return_dict=True, **inputs)


def output_law(model: Any) -> OutputLaw:
    """The output layer of a transformers causal LM; CapabilityError if it is not linear plus scale plus soft cap."""
    layer = model.get_output_embeddings()
    if layer is None or not hasattr(layer, "weight"):
        raise CapabilityError(f"{type(model).__name__} has no linear output layer: sprinter cannot distill it")
    config = model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    bias = getattr(layer, "bias", None)
    law = OutputLaw(
        layer.weight.detach(),
        None if bias is None else bias.detach(),
        scale,
        getattr(config, "final_logit_softcapping", None),
    )
    probe = torch.arange(3, device=law.weight.device)[None] % law.weight.shape[0]  # [1, 3]
    with torch.no_grad():
        expected = model(input_ids=probe, use_cache=False).logits.float()
        found = law.logits(final_hidden(model, input_ids=probe, use_cache=False).last_hidden_state).float()
    if not torch.isfinite(expected).all():
        raise BackendError(f"{type(model).__name__} computes NaN or infinite logits: its weights are damaged")
    if (expected - found).abs().max() > 1e-2 * (1.0 + expected.abs().max()):
        raise CapabilityError(f"{type(model).__name__} has an output layer sprinter cannot rebuild: no distillation")
    return law


def log_normalizer(law: OutputLaw, hidden: Tensor, chunk: int = 512) -> Tensor:
    """log sum_x exp logit(x) over the whole vocabulary, [n] float32, of hidden states [n, hidden]."""
    parts = [torch.logsumexp(law.logits(part).float(), dim=-1) for part in torch.split(hidden, chunk)]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


@dataclass(frozen=True)
class Trace:
    """Equally long rows of tokens with what the target computed on them."""

    tokens: Tensor  # [rows, seq] int32
    hidden: Tensor  # [rows, seq, hidden] float16; position i predicts token i + 1
    log_norm: Tensor  # [rows, seq] float32; 0 outside the judged positions
    first: Tensor  # [rows] int32, first judged position
    stop: Tensor  # [rows] int32, one past the last judged position


def draw(logits: Tensor, temperatures: Tensor, generator: torch.Generator) -> Tensor:
    """One token [rows] per row of logits [rows, vocab]; temperature 0 means argmax."""
    greedy = logits.argmax(dim=-1)  # [rows]
    scaled = logits / temperatures.clamp_min(1e-4)[:, None]  # [rows, vocab]
    # Inverse CDF: one uniform per row. torch.multinomial draws one number per vocabulary entry and takes 3x as long.
    cumulative = torch.softmax(scaled, dim=-1).cumsum_(dim=-1)  # [rows, vocab]
    uniform = torch.rand(len(logits), 1, generator=generator).to(logits.device) * cumulative[:, -1:]  # [rows, 1]
    drawn = torch.searchsorted(cumulative, uniform).squeeze(1).clamp_max(logits.shape[-1] - 1)  # [rows]
    return torch.where(temperatures > 0, drawn, greedy)


@torch.inference_mode()
def write_text(
    model: Any,
    law: OutputLaw,
    prompts: Tensor,
    temperatures: Tensor,
    num_new: int,
    end_ids: Sequence[int],
    generator: torch.Generator,
    judge_prompt: bool = False,
) -> Trace:
    """The target continues `prompts` [rows, prompt] by up to `num_new` tokens; every generated position is judged.

    With `judge_prompt` the prompt's positions are judged too: the target has read them anyway. Rows have equal prompt
    lengths, so no padding and no mask is needed and every transformers model works alike.
    """
    rows, num_prompt = prompts.shape
    ends = torch.tensor(list(end_ids), dtype=torch.long, device=prompts.device)
    tokens, states, norms = prompts.long(), [], []
    stop = torch.full((rows,), num_prompt + num_new - 1, dtype=torch.int32)
    own_steps = model.config._attn_implementation == step_attention.NAME
    cache = step_attention.roomy_cache(model, num_prompt + num_new) if own_steps else None
    step = tokens
    for position in range(num_prompt - 1, num_prompt + num_new - 1):
        out = final_hidden(model, input_ids=step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        states.append(out.last_hidden_state.to("cpu", torch.float16))
        logits = law.logits(out.last_hidden_state[:, -1].to(law.weight.dtype)).float()  # [rows, vocab]
        if not torch.isfinite(logits).all():
            raise BackendError(f"{type(model).__name__} computes NaN or infinite logits: its weights are damaged")
        norms.append(torch.logsumexp(logits, dim=-1).cpu())  # [rows]
        step = draw(logits, temperatures, generator)[:, None]  # [rows, 1]
        tokens = torch.cat([tokens, step], dim=1)  # [rows, position + 2]
        ended = torch.isin(step[:, 0], ends).cpu() & (stop == num_prompt + num_new - 1)
        stop[ended] = position + 1
        if bool((stop < num_prompt + num_new - 1).all()):
            break
    hidden = torch.cat(states, dim=1)  # [rows, seq, hidden]
    seq = hidden.shape[1]
    log_norm = torch.zeros(rows, seq)
    log_norm[:, num_prompt - 1 :] = torch.stack(norms, dim=1)
    if judge_prompt and num_prompt > 1:
        read = hidden[:, : num_prompt - 1].to(law.weight.device, law.weight.dtype)  # [rows, prompt - 1, hidden]
        log_norm[:, : num_prompt - 1] = log_normalizer(law, read.flatten(0, 1)).reshape(rows, -1).cpu()
    first = torch.full((rows,), 0 if judge_prompt else num_prompt - 1, dtype=torch.int32)
    return Trace(tokens[:, :seq].to("cpu", torch.int32), hidden, log_norm, first, stop.clamp_max(seq))


@torch.inference_mode()
def read_text(model: Any, law: OutputLaw, tokens: Tensor) -> Trace:
    """The target reads given rows of tokens [rows, seq]; every position is judged."""
    rows, seq = tokens.shape
    states = final_hidden(model, input_ids=tokens.long(), use_cache=False).last_hidden_state  # [rows, seq, hidden]
    if not torch.isfinite(states).all():
        raise BackendError(f"{type(model).__name__} computes NaN or infinite states: its weights are damaged")
    log_norm = log_normalizer(law, states.to(law.weight.dtype).flatten(0, 1)).reshape(rows, seq)  # [rows, seq]
    first, stop = torch.zeros(rows, dtype=torch.int32), torch.full((rows,), seq, dtype=torch.int32)
    return Trace(tokens.to("cpu", torch.int32), states.to("cpu", torch.float16), log_norm.cpu(), first, stop)
