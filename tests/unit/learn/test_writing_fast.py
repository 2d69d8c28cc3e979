"""Many rows written at once in bfloat16: the short cuts compute what the plain way computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import PreTrainedModel

from sprinter.errors import ConfigError
from sprinter.learn import step_attention
from sprinter.learn.losses import judge
from sprinter.learn.precision import compute_dtype
from sprinter.learn.teacher import OutputLaw, Trace, output_law, read_text, write_text
from sprinter.learn.trainer import TrainConfig
from tests.unit.learn.tiny_models import save_model

PROMPTS = torch.arange(1, 25).reshape(4, 6)
NEW = 9


def load(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype).eval()


def written(model: PreTrainedModel, temperature: float = 1.0, judge_prompt: bool = False) -> Trace:
    heat, generator = torch.full((4,), temperature), torch.Generator().manual_seed(5)
    return write_text(model, output_law(model).to(torch.float32), PROMPTS, heat, NEW, (59,), generator, judge_prompt)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_own_step_attention_writes_what_transformers_attention_writes(
    tmp_path: Path, family: str, temperature: float
) -> None:
    save_model(tmp_path, family, seed=3)
    plain, own = load(tmp_path), load(tmp_path)
    assert step_attention.fits(own)
    step_attention.install(own)
    expected, found = written(plain, temperature), written(own, temperature)
    assert torch.equal(expected.tokens, found.tokens)
    assert torch.equal(expected.stop, found.stop)
    # Positions after a row's end hold whatever the batch computed there.
    for row, stop in enumerate(expected.stop.tolist()):
        torch.testing.assert_close(found.hidden[row, :stop], expected.hidden[row, :stop], rtol=0, atol=2e-2)
        torch.testing.assert_close(found.log_norm[row, :stop], expected.log_norm[row, :stop], rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "gpt_neo", "opt"])
def test_families_with_other_attention_are_left_alone(tmp_path: Path, family: str) -> None:
    assert not step_attention.fits(load(save_model(tmp_path, family, seed=3)))


def test_a_bfloat16_writer_is_judged_by_the_float32_law(tmp_path: Path) -> None:
    save_model(tmp_path, "llama", seed=3)
    exact, rough = load(tmp_path), load(tmp_path, torch.bfloat16)
    step_attention.install(rough)
    law = output_law(exact)
    trace = write_text(rough, law, PROMPTS, torch.zeros(4), NEW, (59,), torch.Generator())
    for row, (first, stop) in enumerate(zip(trace.first.tolist(), trace.stop.tolist(), strict=True)):
        logits = law.logits(trace.hidden[row, first:stop].float())
        # Stored states are the states the law was taken at, so each law sums to one.
        torch.testing.assert_close(trace.log_norm[row, first:stop], torch.logsumexp(logits, -1), rtol=0, atol=1e-2)


def test_prompts_are_judged_as_a_reading_judges_them(tmp_path: Path) -> None:
    model = load(save_model(tmp_path, "llama", seed=3))
    trace = written(model, judge_prompt=True)
    assert trace.first.tolist() == [0] * 4
    read = read_text(model, output_law(model), PROMPTS)
    last = PROMPTS.shape[1] - 1
    torch.testing.assert_close(trace.log_norm[:, :last], read.log_norm[:, :last], rtol=0, atol=2e-2)
    assert written(model).first.tolist() == [last] * 4


def test_a_gradient_brought_back_in_bfloat16_points_the_same_way() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, hidden = torch.randn(50, 32, generator=generator), torch.randn(20, 32, generator=generator)
    law = OutputLaw(weight)
    wanted = hidden + 0.3 * torch.randn(20, 32, generator=generator)
    norms = torch.logsumexp(law.logits(wanted), -1)
    exact = judge(law, law, hidden, wanted, norms, (1.0, 1.0))
    rough = judge(law, law, hidden, wanted, norms, (1.0, 1.0), law.to(torch.bfloat16))
    assert exact.grad is not None
    assert rough.grad is not None
    assert rough.grad.dtype == torch.float32
    assert (exact.kl, exact.overlap, exact.agree) == (rough.kl, rough.overlap, rough.agree)
    assert torch.cosine_similarity(exact.grad.flatten(), rough.grad.flatten(), dim=0) > 0.9999


def test_the_format_is_the_named_one_or_what_the_hardware_multiplies() -> None:
    cpu = torch.device("cpu")
    assert compute_dtype("float32", cpu) == torch.float32
    assert compute_dtype("bfloat16", cpu) == torch.bfloat16
    assert (compute_dtype("auto", cpu) == torch.bfloat16) == torch.cpu._is_avx512_bf16_supported()
    with pytest.raises(ConfigError, match="precision"):
        TrainConfig(precision="float8")
