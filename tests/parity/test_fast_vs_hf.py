"""The fast backend against transformers' own forward pass, float32, tiny random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sprinter.models.fast.model import FastModel
from tests.support.passes import filled, read

transformers = pytest.importorskip("transformers")

VOCAB = 160
TOKENS = [3, 141, 59, 26, 53, 58, 97, 93, 23, 84, 62, 64, 33, 83, 27, 95, 2, 88, 41, 97]
TOLERANCE = 1e-4  # float32 with sums in another order; logits of these models are of order one
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3-rope": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-linear-rope": ("Llama", {"rope_parameters": LINEAR}),
    "llama-no-gqa": ("Llama", {"num_key_value_heads": 4}),
    "mistral": ("Mistral", {"sliding_window": 64}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
}


def save_reference(folder: Path, case: str, **other: Any) -> Any:
    """A seeded random transformers model, saved to `folder`; biases and norms random too."""
    family, changes = CASES[case]
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **changes, **other})
    torch.manual_seed(7)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("case", CASES)
def test_float32_logits_and_hidden_states_equal_transformers(case: str, tmp_path: Path) -> None:
    reference = save_reference(tmp_path, case)
    with torch.no_grad():
        out = reference.model(torch.tensor([TOKENS]))[0]
        logits = reference.lm_head(out)[0].numpy()
    fast = FastModel.load(tmp_path, "float32")
    whole = read(fast, TOKENS, len(TOKENS))
    assert np.abs(whole.logits - logits).max() < TOLERANCE
    assert whole.hidden is not None
    assert np.abs(whole.hidden - out[0].numpy()).max() < TOLERANCE
    cache = fast.open()
    rows = [read(fast, [token], 1, cache).logits[0] for token in TOKENS]
    assert np.abs(np.stack(rows) - logits).max() < TOLERANCE
    assert np.array_equal(fast.embedding(7), reference.model.embed_tokens.weight[7].detach().numpy())


@pytest.mark.parametrize("case", ["llama", "qwen3"])
def test_greedy_text_equals_transformers(case: str, tmp_path: Path) -> None:
    reference = save_reference(tmp_path, case)
    prompt = torch.tensor([TOKENS[:5]])
    expected = reference.generate(prompt, max_new_tokens=40, do_sample=False, pad_token_id=0, eos_token_id=None)
    fast, tokens = FastModel.load(tmp_path, "float32"), TOKENS[:5]
    cache = fast.open()
    while len(tokens) < 45:
        tokens.append(read(fast, tokens[cache.length :], 1, cache).facts.best(0))
    assert tokens == expected[0].tolist()


def test_positions_beyond_the_first_cache_capacity_equal_transformers(tmp_path: Path) -> None:
    CASES["long"] = ("Llama", {"max_position_embeddings": 700})
    reference = save_reference(tmp_path, "long")
    tokens = np.random.default_rng(0).integers(0, VOCAB, 690).tolist()
    with torch.no_grad():
        logits = reference(torch.tensor([tokens])).logits[0].numpy()
    fast = FastModel.load(tmp_path, "float32")
    cache = filled(fast, tokens[:100])  # the cache then grows twice while keeping these positions
    assert np.abs(read(fast, tokens[100:], 300, cache).logits - logits[-300:]).max() < TOLERANCE
