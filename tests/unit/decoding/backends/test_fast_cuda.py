"""The CUDA runner: what its graph will capture, checked on the CPU; the graph itself where there is a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sprinter.decoding.backends.checkpoint import open_checkpoint
from sprinter.decoding.backends.fast import FastModel
from sprinter.decoding.backends.fast_config import architecture
from sprinter.decoding.backends.fast_cuda import CudaRunner
from sprinter.decoding.backends.fast_weights import prepare, quantised_parts
from sprinter.errors import ConfigError
from tests.unit.decoding.backends.test_fast import CONFIG, TOKENS, write_model


class Source:
    def __init__(self, folder: Path) -> None:
        self.checkpoint = open_checkpoint(folder)
        self.names = frozenset(self.checkpoint.names)
        self.read = self.checkpoint.tensor


def test_the_static_step_equals_the_ordinary_pass_also_after_a_rollback(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", {**CONFIG, "max_position_embeddings": 64})
    source, arch = Source(folder), architecture(CONFIG)
    embed = source.read("model.embed_tokens.weight")
    runner = CudaRunner(arch, prepare(source, arch, embed, "float32", quantised_parts), embed, "cpu")
    ordinary = FastModel.load(folder, "float32")
    with torch.inference_mode():
        runner.run(TOKENS[:8], 0, 1)
        for sequence in ([*TOKENS[:8], 5], [*TOKENS[:8], 5, 6], [*TOKENS[:8], 5, 6, 7], [*TOKENS[:8], 9]):
            runner._token.fill_(sequence[-1])
            runner._position.fill_(len(sequence) - 1)
            logits, hidden = runner.step()
            expected = ordinary.forward(sequence, 1)
            assert np.abs(logits.numpy() - expected.logits).max() < 1e-5
            assert expected.hidden is not None
            assert np.abs(hidden.numpy() - expected.hidden).max() < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_cuda_without_a_gpu_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torch finds none"):
        FastModel.load(write_model(tmp_path / "model"), "bfloat16", device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_replayed_steps_equal_the_cpu_also_when_the_cache_grows(tmp_path: Path, weights: str) -> None:
    folder = write_model(tmp_path / "model", {**CONFIG, "max_position_embeddings": 1024})
    gpu, cpu = FastModel.load(folder, weights, device="cuda"), FastModel.load(folder, "float32")
    tokens = np.random.default_rng(0).integers(0, 96, 300).tolist()
    tolerance = 1e-3 if weights == "float32" else 0.1
    gpu.forward(tokens[:250], 1)
    for end in [*range(251, 270), 255, 300]:
        found, expected = gpu.forward(tokens[:end], 1).logits, cpu.forward(tokens[:end], 1).logits
        assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
