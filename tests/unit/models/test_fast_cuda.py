"""The CUDA runner: what its graph will capture, checked on the CPU; the graph itself where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sprinter.errors import ConfigError
from sprinter.models.checkpoint import open_checkpoint
from sprinter.models.fast import cuda as fast_cuda
from sprinter.models.fast import torch_runner as fast_runner
from sprinter.models.fast.config import architecture
from sprinter.models.fast.cuda import CudaRunner
from sprinter.models.fast.model import FastModel
from sprinter.models.fast.weights import prepare, quantised_parts
from tests.support.recorded import recorded
from tests.unit.models.test_fast import CONFIG, TOKENS, write_model


class Source:
    def __init__(self, folder: Path) -> None:
        self.checkpoint = open_checkpoint(folder)
        self.names = frozenset(self.checkpoint.names)
        self.read = self.checkpoint.tensor


def cuda_runner(folder: Path) -> CudaRunner:
    """A runner for graphs, on the CPU: there it runs what a graph would hold."""
    source, arch = Source(folder), architecture(CONFIG)
    embed = source.read("model.embed_tokens.weight")
    return CudaRunner(arch, prepare(source, arch, embed, "float32", quantised_parts), embed, "cpu")


def test_passes_of_any_width_equal_the_ordinary_ones_also_after_a_rollback(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", CONFIG)
    runner, ordinary = cuda_runner(folder), FastModel.load(folder, "float32")
    runner.run(TOKENS[:8], 0, 1)
    ordinary.forward(TOKENS[:8], 1)
    for start, new in ((8, [5]), (9, [6, 7, 8]), (12, [1]), (9, [9, 9]), (11, [4] * 33), (11, [2, 3]), (60, [7, 8, 9])):
        context = [*ordinary._cached, *[3] * 60][:start]
        if start == 60:
            runner.run(context[13:], 13, 1)  # no room for a graph's four rows behind this
        logits, hidden, _ = runner.run(new, start, len(new))
        expected = ordinary.forward([*context, *new], len(new))
        assert logits.shape == expected.logits.shape
        assert np.abs(logits - expected.logits).max() < 1e-4
        assert expected.hidden is not None
        assert np.abs(hidden - expected.hidden).max() < 1e-4


def test_a_graph_is_captured_once_per_width_and_again_when_the_cache_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures: list[int] = []

    def counting(work: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
        captures.append(1)
        return recorded(work, device)

    monkeypatch.setattr(fast_cuda, "capture", counting)
    monkeypatch.setattr(fast_runner, "_FIRST_CAPACITY", 16)
    folder = write_model(tmp_path / "model", CONFIG)
    runner, ordinary = cuda_runner(folder), FastModel.load(folder, "float32")
    runner.run(TOKENS[:8], 0, 1)  # the graph of 8 rows
    for end, captured in ((9, 2), (10, 2), (9, 2), (11, 2)):
        logits, *_ = runner.run([TOKENS[end - 1]], end - 1, 1)
        assert np.abs(logits - ordinary.forward(TOKENS[:end], 1).logits).max() < 1e-5
        assert len(captures) == captured
    runner.run([1, 2, 3, 4, 5], 11, 1)  # eight rows from 11 on need more than 16 positions
    assert len(captures) == 3


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
    for end, rows in [*((end, 1) for end in range(251, 270)), (255, 1), (258, 4), (300, 33)]:
        found, expected = gpu.forward(tokens[:end], rows).logits, cpu.forward(tokens[:end], rows).logits
        assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
