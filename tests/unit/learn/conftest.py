"""A tiny pair of models and prompts for it, shared by the tests of training."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tiny_models import WORDS, save_model

from sprinter.build import Pair
from sprinter.config import ModelConfig


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return save_model(folder / "target", "llama", 1), save_model(folder / "draft", "llama", 2)


@pytest.fixture(scope="session")
def tiny_pair(tiny_folders: tuple[Path, Path]) -> Pair:
    target, draft = tiny_folders
    return Pair(ModelConfig(target=str(target), draft=str(draft), verifier="none", backend="hf"))


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    rng = random.Random(0)
    rows = [{"title": f"t{n}", "prompt": " ".join(rng.choices(WORDS, k=rng.randint(2, 12)))} for n in range(40)]
    file.write_text("\n".join(json.dumps(r) for r in rows))
    return file
