"""Prompts to ids, end-of-text ids, chat templates, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sprinter.errors import BackendError, ConfigError
from sprinter.models.tokenizer import Tokenizer, load_tokenizer, require_same
from tests.support.tiny import edit_json, save_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer(tmp_path)
    return tmp_path


def with_template(folder: Path, template: str) -> Tokenizer:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit_json(folder / "tokenizer_config.json", lambda c: c.update(chat_template=template))
    return load_tokenizer(folder)


def test_an_empty_prompt_is_the_beginning_token(folder: Path) -> None:
    assert load_tokenizer(folder).encode("") == [0]


def test_an_empty_prompt_without_a_beginning_token_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, bos=False)
    with pytest.raises(ConfigError, match="empty and this tokenizer has no beginning token"):
        load_tokenizer(tmp_path).encode("")


@pytest.mark.parametrize("text", [" ", "\n", "🚀", "a\x00b", "\ud83d", "x" * 3000, "e\u0301"])
def test_any_text_has_ids_that_decode_to_it(folder: Path, text: str) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode(text)
    assert ids
    assert tokenizer.decode(ids) == text.encode("utf-8", "replace").decode()


def test_the_ids_are_those_of_transformers(folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(folder))
    for text in ("the land and</s> then", "in 🚀", "<s>"):
        assert load_tokenizer(folder).encode(text) == theirs(text)["input_ids"]


def test_end_of_text_ids_are_gathered_from_every_file_that_names_some(folder: Path) -> None:
    assert load_tokenizer(folder).eos_ids == {1}
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 9]}))
    assert load_tokenizer(folder).eos_ids == {1, 7, 9}


def test_a_chat_prompt_is_rendered_like_transformers_renders_it(folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(folder))
    message = [{"role": "user", "content": "the 🚀\nland"}]
    wanted = theirs.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode_chat("the 🚀\nland") == theirs(wanted, add_special_tokens=False)["input_ids"]


def test_a_template_may_use_what_transformers_offers(folder: Path) -> None:
    template = "{% for m in messages %}{{ m | tojson }}{% break %}{% endfor %}{{ strftime_now('%%') }}"
    tokenizer = with_template(folder, template)
    assert tokenizer.decode(tokenizer.encode_chat("<é>")) == '{"role": "user", "content": "<é>"}%'


def test_chat_without_a_template_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="no chat template"):
        load_tokenizer(folder).encode_chat("hello")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('echo owned').read() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('users may not speak') }}",
        "{% for m in %}",
        "{{ 1 / 0 }}",
        "{{ messages[5]['content'] + 1 }}",
        "{% for x in range(10 ** 9) %}{% endfor %}",
        "{{ undefined_function() }}",
        "{{ {}['x'] + 1 }}",
        "{{ 'a' + 1 }}",
    ],
)
def test_a_hostile_or_broken_chat_template_ends_in_one_clear_error(folder: Path, template: str) -> None:
    with pytest.raises(BackendError, match="chat template fails") as caught:
        with_template(folder, template).encode_chat("hello")
    assert "\n" not in str(caught.value)
    assert "owned" not in str(caught.value)


def test_a_chat_template_that_renders_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(BackendError, match="chat template"):
        with_template(folder, "").encode_chat("hello")


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {"type": "Unheard"}}', ""])
def test_a_damaged_tokenizer_file_is_named(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(BackendError, match=r"tokenizer\.json is damaged"):
        load_tokenizer(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]"])
def test_a_damaged_settings_file_is_named(folder: Path, content: bytes) -> None:
    (folder / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(BackendError, match=r"tokenizer_config\.json"):
        load_tokenizer(folder)


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BackendError, match="no usable tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_truncation_and_padding_stored_in_the_file_do_not_touch_a_prompt(folder: Path) -> None:
    text = "the land and the sea and the sky"
    wanted = load_tokenizer(folder).encode(text)
    assert len(wanted) > 6
    stored = load_tokenizer(folder).fast
    stored.enable_truncation(6)
    stored.enable_padding(length=64)
    stored.save(str(folder / "tokenizer.json"))
    assert load_tokenizer(folder).encode(text) == wanted


def test_end_ids_are_found_without_a_tokenizer_json_and_in_the_map_of_special_tokens(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", lambda c: (c.pop("eos_token"), c.pop("added_tokens_decoder", None)))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "</s>", "lstrip": False}}))
    assert load_tokenizer(folder).eos_ids == {1}
    (folder / "config.json").write_text(json.dumps({"text_config": {"eos_token_id": 5}}))
    assert load_tokenizer(folder).eos_ids == {1, 5}


BOMBS: list[tuple[str, object]] = [
    (
        "normalizer",
        {
            "type": "Sequence",
            "normalizers": [REPLACE := {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}] * 9,
        },
    ),
    ("normalizer", {"type": "Prepend", "prepend": "a" * (1 << 20)}),
    ("decoder", {"type": "Sequence", "decoders": [REPLACE] * 9}),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(?:(a|a)*)*b"}, "behavior": "Isolated", "invert": False}),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "x" * 20000}, "behavior": "Isolated", "invert": False}),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 5000}),
    ("added_tokens", [{"id": (1 << 32) - 1, "content": "x", "special": True}]),
    ("added_tokens", [{"id": -1, "content": "x", "special": True}]),
    ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}),
    ("model", {"type": "Unigram", "vocab": []}),
    ("model", [1]),
]


@pytest.mark.parametrize(("part", "content"), BOMBS, ids=[f"{p} {n}" for n, (p, _) in enumerate(BOMBS)])
def test_a_tokenizer_that_would_hang_or_swell_is_refused_in_one_line(folder: Path, part: str, content: object) -> None:
    edit_json(folder / "tokenizer.json", lambda c: c.update({part: content}))
    with pytest.raises(BackendError, match=r"tokenizer\.json is damaged") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "pattern",
    [
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r" ?[^(\s|[.,!?…。，、।۔،])]+",  # noqa: RUF001
    ],
)
def test_the_patterns_of_known_tokenizers_are_read(folder: Path, pattern: str) -> None:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    change = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}}
    edit_json(folder / "tokenizer.json", lambda c: c.update(change))
    assert load_tokenizer(folder).encode("the land")


def test_pre_tokenizers_written_differently_that_cut_alike_are_the_same(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_tokenizer(other)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    edit_json(
        other / "tokenizer.json", lambda c: c.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [level]})
    )
    require_same(load_tokenizer(other), load_tokenizer(folder))
    digits = {"type": "Digits", "individual_digits": True}
    split = {"type": "Split", "pattern": {"String": "a"}, "behavior": "Isolated", "invert": False}
    for part in (digits, split):
        change = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [part, level]}}
        edit_json(other / "tokenizer.json", lambda c, change=change: c.update(change))
    with pytest.raises(ConfigError, match="would cut a text apart"):
        require_same(load_tokenizer(other), load_tokenizer(folder))
