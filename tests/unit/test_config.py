"""Settings: flag over file over default, and nothing ignored in silence."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sprinter.config import PARTS, Config, DecodingConfig, GenerationConfig, ModelConfig, make_config
from sprinter.errors import ConfigError


def settings_file(folder: Path, text: str) -> Path:
    file = folder / "settings.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = settings_file(tmp_path, "[generation]\nseed = 5\ntop_k = 7\n[decoding]\nmethod = 'exact'\n")
    config = make_config(file, {"seed": 9, "top_k": None})
    assert (config.generation.seed, config.generation.top_k, config.decoding.method) == (9, 7, "exact")
    assert config.generation.max_new_tokens == GenerationConfig().max_new_tokens


def test_a_flag_of_zero_is_given_and_not_missing(tmp_path: Path) -> None:
    file = settings_file(tmp_path, "[generation]\ntemperature = 0.7\nseed = 3\n")
    config = make_config(file, {"temperature": 0.0, "seed": 0})
    assert (config.generation.temperature, config.generation.seed) == (0.0, 0)


def test_no_settings_are_the_defaults() -> None:
    assert make_config(None, {}) == Config()


def test_every_setting_has_a_help_text_and_a_name_of_its_own() -> None:
    named = [f.name for part in PARTS.values() for f in fields(part)]
    assert len(named) == len(set(named))
    assert all(f.metadata["help"].endswith(".") for part in PARTS.values() for f in fields(part))


def test_whole_numbers_are_taken_for_decimals_and_not_the_other_way() -> None:
    assert make_config(None, {"temperature": 1}).generation.temperature == 1.0
    for value in (1.5, 1.0, "1", True, [1]):
        with pytest.raises(ConfigError, match="seed must be int"):
            make_config(None, {"seed": value})


@pytest.mark.parametrize(
    ("part", "settings", "word"),
    [
        (ModelConfig, {"backend": "gpu"}, "backend"),
        (ModelConfig, {"weights": "int2"}, "weights"),
        (ModelConfig, {"device": "tpu"}, "device"),
        (ModelConfig, {"device": "cpu "}, "device"),
        (DecodingConfig, {"method": "fast"}, "method"),
        (DecodingConfig, {"scorer": "oracle"}, "scorer"),
        (DecodingConfig, {"threshold": float("nan")}, "threshold"),
        (DecodingConfig, {"method": "lookahead", "lookahead": 1.5}, "lookahead"),
        (DecodingConfig, {"method": "lookahead", "lookahead": float("nan")}, "lookahead"),
        (DecodingConfig, {"max_draft": -1}, "max_draft"),
        (DecodingConfig, {"method": "exact", "draft_length": 0}, "draft_length"),
        (DecodingConfig, {"draft_chunk": 0}, "draft_chunk"),
        (DecodingConfig, {"draft_chunk": 65}, "draft_chunk"),
        (DecodingConfig, {"budget": 101.0}, "budget"),
        (DecodingConfig, {"budget": float("nan")}, "budget"),
        (DecodingConfig, {"budget": 1.0, "threshold": 0.5}, "budget"),
        (GenerationConfig, {"max_new_tokens": 0}, "max_new_tokens"),
        (GenerationConfig, {"seed": -1}, "seed"),
        (GenerationConfig, {"stop": ("",)}, "stop"),
        (GenerationConfig, {"audit": "never"}, "audit"),
        (GenerationConfig, {"top_p": 0.0}, "top_p"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(part: type, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        part(**settings)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("target", {"threshold": 0.5}),
        ("target", {"draft_chunk": 4}),
        ("draft", {"max_draft": 3}),
        ("exact", {"threshold": 0.5}),
        ("exact", {"lookahead": 0.5}),
        ("lossless", {"threshold": 0.5}),
        ("lossless", {"draft_length": 4}),
        ("sprinter", {"lookahead": 0.5}),
        ("sprinter", {"draft_length": 4}),
        ("lookahead", {"preset": "paper"}),
        ("lookahead", {"budget": 3.0}),
    ],
)
def test_a_setting_its_method_would_ignore_is_refused(method: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DecodingConfig(method=method, **settings)  # type: ignore[arg-type]


def test_no_draft_cap_is_asked_for_with_zero() -> None:
    assert DecodingConfig(max_draft=0).draft_cap is None
    assert DecodingConfig(max_draft=3).draft_cap == 3
    assert DecodingConfig().draft_cap == 20


@pytest.mark.parametrize("method", ["target", "draft", "exact"])
def test_methods_without_a_scorer_need_no_verifier(method: Any) -> None:
    assert not DecodingConfig(method=method).uses_verifier


def test_an_unknown_key_names_the_file_and_what_is_known(tmp_path: Path) -> None:
    file = settings_file(tmp_path, "[models]\ntraget = 'x'\n")
    with pytest.raises(ConfigError, match=r"settings\.toml: unknown key 'traget'; known are target, draft"):
        make_config(file, {})
