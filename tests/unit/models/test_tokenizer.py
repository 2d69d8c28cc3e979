"""Prompts to ids, end-of-text ids, chat templates, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sprinter.errors import BackendError, ConfigError
from sprinter.models.tokenizer import Tokenizer, load_tokenizer
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
