"""A model with blocks left out against the same model whose blocks were made to add nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sprinter.core.rows import Model, Part
from sprinter.errors import ConfigError
from sprinter.models.fast.model import FastModel
from sprinter.models.hf import HFModel
from sprinter.native import library as native
from tests.parity.test_fast_vs_hf import CASES, TOKENS, TOLERANCE, save_reference
from tests.support.passes import filled, read
from tests.support.tiny import FAMILIES, build_model

SETS = [(), (2,), (3,), (2, 5), (2, 3, 4, 5)]  # blocks of the second and third of four layers


def silenced(model: torch.nn.Module, left_out: tuple[int, ...]) -> torch.nn.Module:
    """`model` with the last matrix of these blocks zero, so that they add nothing to the residual stream."""
    with torch.no_grad():
        for block in left_out:
            layer = model.get_decoder().layers[block // 2]  # type: ignore[operator]
            last = layer.mlp.down_proj if block % 2 else layer.self_attn.o_proj
            for parameter in last.parameters():
                parameter.zero_()
    return model


@pytest.mark.parametrize("left_out", SETS, ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3"])
def test_leaving_out_a_block_is_having_it_add_nothing(family: str, left_out: tuple[int, ...]) -> None:
    changes = {"num_hidden_layers": 4}
    if family == "gemma3":
        changes["layer_types"] = ["sliding_attention", "full_attention"] * 2  # type: ignore[assignment]
    whole = HFModel(build_model(family, **changes), family, "f")
    view = whole.without(left_out)
    expected = HFModel(silenced(build_model(family, **changes), left_out), family, "f")
    tokens, parents = [5, 9, 7, 30, 8], [-1, 0, 0, 2, -1]
    for model in (view, whole):
        before = read(whole, TOKENS, 3)
        assert np.abs(read(view, TOKENS, 3).logits - read(expected, TOKENS, 3).logits).max() < TOLERANCE
        assert np.array_equal(read(whole, TOKENS, 3).logits, before.logits), model.info.name
    if view.gives.trees:
        trees = [
            m.forward([Part(filled(m, TOKENS[:9]), tokens, 5, parents), Part(m.open(), TOKENS, 2)])
            for m in (view, expected)
        ]
        for found, wanted in zip(*trees, strict=True):
            assert np.abs(found.logits - wanted.logits).max() < TOLERANCE


@pytest.mark.parametrize("case", [case for case in CASES if case != "long"])
@pytest.mark.parametrize("left_out", SETS[1:], ids=str)
def test_the_fast_backend_leaves_out_what_transformers_leaves_out(
    case: str, left_out: tuple[int, ...], tmp_path: Path
) -> None:
    reference = silenced(save_reference(tmp_path, case, num_hidden_layers=4), left_out)
    with torch.no_grad():
        logits = reference(torch.tensor([TOKENS])).logits[0].numpy()
    view = FastModel.load(tmp_path, "float32").without(left_out)
    assert np.abs(read(view, TOKENS, len(TOKENS)).logits - logits).max() < TOLERANCE


@pytest.mark.skipif(native.library() is None, reason="no C++ compiler or no AVX2 here")
@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("left_out", SETS, ids=str)
def test_the_compiled_pass_leaves_out_blocks(weights: str, left_out: tuple[int, ...], tmp_path: Path) -> None:
    quiet = tmp_path / "quiet"
    silenced(save_reference(tmp_path, "llama", num_hidden_layers=4), left_out).save_pretrained(quiet)
    whole, expected = (FastModel.load(folder, weights, cache=tmp_path) for folder in (tmp_path, quiet))
    view = whole.without(left_out)
    before = read(whole, TOKENS, 1)
    assert view.compiled
    # Zeros in four bits are not quite zeros.
    assert np.abs(read(view, TOKENS, 4).logits - read(expected, TOKENS, 4).logits).max() < 1e-5
    tree = Part(filled(view, TOKENS[:9]), [5, 9, 7, 30], 4, [-1, 0, 0, 2])
    (views,) = view.forward([tree])
    path = read(view, [5, 7, 30], 1, filled(view, TOKENS[:9]))
    assert np.array_equal(views.logits[3], path.logits[0])
    assert np.array_equal(read(whole, TOKENS, 1).logits, before.logits)


def test_a_view_counts_what_it_computes_and_keeps_its_caches_apart(tmp_path: Path) -> None:
    save_reference(tmp_path, "llama", num_hidden_layers=4)
    models: list[Model] = [FastModel.load(tmp_path, "float32"), HFModel.load(tmp_path, "float32")]
    sizes = []
    for model in models:
        view = model.without([2, 3])
        sizes.append(model.info.num_parameters - view.info.num_parameters)
        assert view.info.bytes_per_step < model.info.bytes_per_step
        assert view.info.fingerprint != model.info.fingerprint
        assert view.without([4]).info.name != view.info.name
        for one, other in ((model, view), (view, model)):
            with pytest.raises(Exception, match="cache"):
                read(one, TOKENS, 1, other.open())
    attention, mlp = 64 * (64 + 2 * 32) + 64 * 64, 3 * 64 * 96
    assert sizes[0] == attention + mlp
    assert sizes[1] == sizes[0]


@pytest.mark.parametrize("block", [-1, 0, 1, 6, 7, 99])
def test_the_first_and_the_last_layer_stay(block: int, tmp_path: Path) -> None:
    save_reference(tmp_path, "llama", num_hidden_layers=4)
    for model in (FastModel.load(tmp_path, "float32"), HFModel.load(tmp_path, "float32")):
        with pytest.raises(ConfigError, match="blocks 2 to 5 can be"):
            model.without([block])


def test_an_architecture_with_other_layers_gives_no_blocks() -> None:
    model = HFModel(build_model("gpt2"), "gpt2", "f")
    assert "gpt2" in FAMILIES
    assert not model.gives.blocks
    with pytest.raises(ConfigError, match="other layers"):
        model.without([2])
