"""What every test shares: one thread, no network, tiny saved models."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: the tests never ask a hub
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # tiny models: more threads only wait for each other

settings.register_profile("sprinter", deadline=None, print_blob=True)
settings.load_profile("sprinter")


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(draft folder, target folder): two small Llamas with one tokenizer."""
    from tests.support.tiny import save_model

    place = tmp_path_factory.mktemp("pair")
    return (
        save_model(place / "draft", "llama", seed=1, num_hidden_layers=1),
        save_model(place / "target", "llama", seed=2),
    )
