"""sprinter generate as a user meets it: what goes where, and one line for every mistake."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sprinter.cli import show
from sprinter.cli.main import main
from sprinter.core.records import Token
from sprinter.door import is_obeyed
from tests.support.tiny import build_model, edit_json, save_model, save_tokenizer

ASK = ("--method", "exact", "-n", "8")


@dataclass
class Outcome:
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs the program in this process: arguments in, exit code and both streams out."""

    def run(*arguments: str, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sprinter", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def pair(tiny_pair: tuple[Path, Path]) -> tuple[str, ...]:
    draft, target = tiny_pair
    return ("--draft", str(draft), "--target", str(target))


def refused(outcome: Outcome, *words: str) -> None:
    """One line on stderr with these words, nothing on stdout, exit code 2."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("sprinter: ")
    assert outcome.err.count("\n") == 1 and outcome.err.endswith("\n"), outcome.err
    assert outcome.err[:-1].isprintable()
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "sprinter", *arguments], capture_output=True, timeout=120, check=False, **options
    )


def test_help_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; sys.argv = ['sprinter', '--help']\n"
        "from sprinter.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'scipy', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip().endswith("[]"), done.stdout[-200:]


def test_help_costs_less_than_a_second_of_computing() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert program("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time: the wall clock of a busy machine says nothing about the program.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize(
    "command", ["generate", "distill", "collect", "train", "frontier", "calibrate", "plan", "doctor", "bench"]
)
def test_every_command_explains_itself(cli: Cli, command: str) -> None:
    shown = cli(command, "--help")
    assert shown.code == 0
    assert cli(command, "-h") == shown
    assert "Usage: sprinter " + command in shown.out
    assert not re.search(r", ,| \.\s", shown.out), "brackets were taken for markup"


def test_without_arguments_the_help_is_shown(cli: Cli) -> None:
    shown = cli()
    assert (shown.code, shown.err) == (0, "")
    assert "generate" in shown.out


def test_stdout_is_the_text_and_stderr_the_statistics(cli: Cli, pair: tuple[str, ...]) -> None:
    made = json.loads(cli("generate", "the land", "--json", *ASK, *pair).out)
    plain = cli("generate", "the land", *ASK, *pair)
    assert plain.code == 0
    assert plain.out == made["text"] + "\n"
    assert "8 tokens in" in plain.err
    assert "target calls" in plain.err


def test_the_program_itself_keeps_stdout_to_the_text(pair: tuple[str, ...]) -> None:
    done = program("generate", *ASK, *pair, input=b"the land\n")
    again = program("generate", "the land", *ASK, *pair)
    assert done.returncode == again.returncode == 0, done.stderr
    assert done.stdout == again.stdout
    assert b"tokens/s" in done.stderr
    assert b"Warning" not in done.stderr


def test_json_has_the_promised_fields(cli: Cli, pair: tuple[str, ...]) -> None:
    shown = cli("generate", "in 🚀", "--json", "--method", "lookahead", "--scorer", "confidence", "-n", "12", *pair)
    made = json.loads(shown.out)
    assert shown.out.count("\n") == 1
    promised = {"prompt", "text", "method", "threshold", "num_tokens", "seconds", "tokens_per_s"}
    assert promised | {"target_calls", "draft_steps", "tokens"} <= set(made)
    assert (made["prompt"], made["method"], made["threshold"]) == ("in 🚀", "lookahead", 0.5)
    assert made["num_tokens"] == len(made["tokens"]) <= 12
    assert made["text"] == "".join(t["text"] for t in made["tokens"])
    for token in made["tokens"]:
        assert set(token) == {"id", "text", "origin", "score", "source"}
        assert token["origin"] in show.COLOURS
        assert token["score"] is None or 0 <= token["score"] <= 1


def test_json_of_a_method_without_threshold_is_still_json(cli: Cli, pair: tuple[str, ...]) -> None:
    shown = cli("generate", "in", "--json", "--method", "lossless", "--scorer", "margin", "-n", "3", *pair)
    assert json.loads(shown.out, parse_constant=pytest.fail)["threshold"] is None


def test_color_paints_by_origin_and_the_words_stay_the_same(cli: Cli, pair: tuple[str, ...]) -> None:
    plain, painted = (cli("generate", "the land", *ASK, *pair, *extra) for extra in ((), ("--color",)))
    assert painted.out.startswith(f"{show.DIM}the land{show.RESET}")
    bare = painted.out.removeprefix(f"{show.DIM}the land{show.RESET}")
    for code in {*show.COLOURS.values(), show.RESET}:
        bare = bare.replace(code, "")
    assert painted.out != bare
    assert bare == show.printable(plain.out)
    for origin in show.COLOURS:
        assert origin in painted.err


def test_every_draft_is_shown_as_a_tree_with_the_path_that_stood(cli: Cli, pair: tuple[str, ...]) -> None:
    ask = (*pair, "--method", "gsd", "--graph-floor", "0", "-n", "8", "--explain", "the cat")
    shown, told = cli("generate", *ask), json.loads(cli("generate", *ask, "--json").out)
    assert shown.code == 0
    rounds = told["rounds"]
    assert shown.out.count("call ") == len(rounds) == told["target_calls"]
    assert shown.out.count("fell:") == sum(node["fate"] is None for r in rounds for node in r["drafted"])
    ids = [
        n["token"] for r in rounds for n in (*(d for d in r["drafted"] if d["fate"]), *([r["own"]] if r["own"] else ()))
    ]
    assert ids == [token["id"] for token in told["tokens"]]


def test_control_characters_of_a_model_never_reach_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    writer = show.Writer(colour=False)
    for text in ("a\x1b]0;owned\x07", "\x9b31m", "\r", "\x7f", "\u202e", "b\n\tc"):
        writer.write(Token(1, text, "target", None))
    out = capsys.readouterr().out
    assert all(c.isprintable() or c in "\n\t" for c in out)
    assert out.startswith("a\\x1b]0;owned\\x07\\x9b31m")
    assert out.endswith("b\n\tc")


def test_a_terminal_shows_every_language_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    writer = show.Writer(colour=True)
    text = "\u3000中文\xa0» क्‍ष نمی‌خواهم 👩‍💻"  # wide and unbreakable spaces, joiners, non-joiners
    writer.write(Token(1, text, "target", None))
    assert text in capsys.readouterr().out


def test_json_shows_nothing_a_terminal_would_obey_and_loses_nothing(
    cli: Cli, pair: tuple[str, ...], tmp_path: Path
) -> None:
    prompt = "the \x9b31m \u202e \x7f \u2066 länd\u3000"
    shown = cli("generate", "--json", *ASK, *pair, "--", prompt).out
    (tmp_path / "prompts.txt").write_text(prompt + "\n")
    assert cli("generate", "--file", tmp_path / "prompts.txt", "--out", tmp_path / "out.jsonl", *ASK, *pair).code == 0
    for line in (shown, (tmp_path / "out.jsonl").read_text()):
        assert not [c for c in line.strip() if is_obeyed(c)]
        assert "länd\u3000" in line
        assert json.loads(line)["prompt"] == prompt


def test_an_empty_prompt_is_refused(cli: Cli, pair: tuple[str, ...]) -> None:
    refused(cli("generate", "", *ASK, *pair), "prompt is empty")
    refused(cli("generate", *ASK, *pair, stdin=b"\n"), "prompt is empty")


@pytest.mark.parametrize("prompt", [" ", "\n", "🚀", "a\nb", "\udcff", "-5", "<s>"])
def test_any_prompt_is_accepted(cli: Cli, pair: tuple[str, ...], prompt: str) -> None:
    assert cli("generate", *ASK, *pair, "--", prompt).code == 0


def test_stdin_is_the_prompt_without_its_last_line_break(cli: Cli, pair: tuple[str, ...]) -> None:
    made = json.loads(cli("generate", "--json", *ASK, *pair, stdin="the\nländ\r\n".encode()).out)
    assert made["prompt"] == "the\nländ"


def test_stdin_that_is_not_text_is_refused_with_the_place(cli: Cli, pair: tuple[str, ...]) -> None:
    refused(cli("generate", *ASK, *pair, stdin=b"abc\xff"), "not UTF-8", "byte 3")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--temperature", "-1"), ("temperature",)),
        (("--temperature", "nan"), ("temperature",)),
        (("--temperature", "hot"), ("temperature", "generate --help")),
        (("--top-p", "0"), ("top_p",)),
        (("--top-k", "-3"), ("top_k",)),
        (("--seed", "-1"), ("seed",)),
        (("--seed", "1.5"), ("seed",)),
        (("-n", "0"), ("max_new_tokens",)),
        (("--stop", ""), ("stop string is empty",)),
        (("--threshold", "0.5"), ("threshold", "sprinter")),
        (("--method", "best"), ("method", "lookahead")),
        (("--backend", "cloud"), ("backend",)),
        (("--weights", "int3"), ("weights",)),
        (("--device", "abacus"), ("abacus",)),
        (("--device", "cuda:99"), ("cuda:99",)),
        (("--audit", "open"), ("audit",)),
        (("--tempreature", "1"), ("--tempreature",)),
        (("--verifier",), ("--verifier",)),
        (("--config", "/nowhere/a.toml"), ("/nowhere/a.toml",)),
        (("--chat", "--config", "/"), ("/",)),
        (("--draft", "/nowhere/draft"), ("no draft model at /nowhere/draft",)),
        (("--target", "./nowhere"), ("no target model at ./nowhere",)),
        (("--target", "some/model"), ("some/model",)),
        (("--target", "a\x1b[2J/\nb"), ("no target model",)),
        (("--target", ""), ("target",)),
        (("--method", "sprinter"), ("verifier", "--scorer confidence")),
        (("--method", "sprinter", "--verifier", "/nowhere/v"), ("no verifier at /nowhere/v",)),
        (("--method", "sprinter", "--verifier", "none"), ("needs a verifier",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_line(
    cli: Cli, pair: tuple[str, ...], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(cli("generate", "the", *ASK, *pair, *arguments), *words)


def test_an_unknown_command_is_one_line(cli: Cli) -> None:
    refused(cli("generte", "the"), "generte", "sprinter --help")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[decoding]\ntreshold = 0.5\n", ("unknown key 'treshold'",)),
        (b"[decode]\n", ("unknown table [decode]",)),
        (b"seed = 1\n", ("'seed' stands outside a table",)),
        (b"[generation\n", ("not valid TOML",)),
        (b"\xff", ("not valid TOML",)),
        (b"[generation]\nseed = 'one'\n", ("seed must be int",)),
        (b"[generation]\ntemperature = true\n", ("temperature must be float",)),
        (b"[generation]\nstop = 'x'\n", ("stop must be a list",)),
    ],
)
def test_a_wrong_settings_file_is_named(
    cli: Cli, pair: tuple[str, ...], tmp_path: Path, content: bytes, words: tuple[str, ...]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(content)
    refused(cli("generate", "the", *ASK, *pair, "--config", str(file)), str(file), *words)


def test_a_prompt_beyond_the_context_is_refused(cli: Cli, pair: tuple[str, ...]) -> None:
    refused(cli("generate", "x" * 500, *ASK, *pair), "500 tokens", "shorten the prompt")


def test_a_huge_seed_works(cli: Cli, pair: tuple[str, ...]) -> None:
    assert cli("generate", "the", *ASK, *pair, "--seed", str(10**40), "-t", "1").code == 0


def damage_truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def damage_garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 4096)


def damage_empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def damage_kind(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c.update(model_type="unheard-of", architectures=["UnheardOf"]))


def damage_shape(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c.update(intermediate_size=64))


def damage_missing_tensor(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c.update(num_hidden_layers=5))


def damage_nan(folder: Path) -> None:
    model = build_model("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    model.save_pretrained(str(folder))


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_garbage,
        damage_empty,
        damage_config,
        damage_kind,
        damage_shape,
        damage_missing_tensor,
        damage_nan,
    ],
)
@pytest.mark.parametrize("backend", ["auto", "hf"])
@pytest.mark.parametrize("part", ["target", "draft"])
def test_a_damaged_model_is_named(
    cli: Cli, tiny_pair: tuple[Path, Path], tmp_path: Path, damage: Callable[[Path], None], backend: str, part: str
) -> None:
    if damage is damage_shape and backend == "auto":
        backend = "hf"  # the fast backend reads this size from the tensors themselves
    folders = dict(zip(("draft", "target"), tiny_pair, strict=True))
    broken = tmp_path / "broken"
    shutil.copytree(tiny_pair[1], broken)
    damage(broken)
    folders[part] = broken
    arguments = [a for name, folder in folders.items() for a in (f"--{name}", str(folder))]
    refused(cli("generate", "the", *ASK, *arguments, "--backend", backend), "broken")


class Planted:
    """Leaves a mark when unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.mark,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_a_pickle_is_never_loaded(cli: Cli, tmp_path: Path, name: str) -> None:
    folder, mark = save_model(tmp_path / "model"), tmp_path / "executed"
    (folder / "model.safetensors").unlink()
    torch.save({"a": Planted(str(mark))}, folder / name)
    for backend in ("auto", "hf"):
        arguments = ("--target", str(folder), "--draft", str(folder), "--backend", backend)
        refused(cli("generate", "the", *ASK, *arguments), str(folder))
    assert not mark.exists()


def test_a_planted_pickle_beside_good_weights_is_ignored(cli: Cli, tmp_path: Path) -> None:
    folder, mark = save_model(tmp_path / "model"), tmp_path / "executed"
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        torch.save({"a": Planted(str(mark))}, folder / name)
    for backend in ("auto", "hf"):
        arguments = ("--target", str(folder), "--draft", str(folder), "--backend", backend)
        assert cli("generate", "the", *ASK, *arguments).code == 0
    assert not mark.exists()


def test_code_that_comes_with_a_model_never_runs(cli: Cli, tmp_path: Path) -> None:
    folder, mark = save_model(tmp_path / "model"), tmp_path / "executed"
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(mark)!r})\nclass C: pass\n")
    auto = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C", "AutoTokenizer": "evil.C"}
    edit_json(folder / "config.json", lambda c: c.update(auto_map=auto, model_type="evil"))
    refused(cli("generate", "the", *ASK, "--target", str(folder), "--draft", str(folder)), str(folder))
    assert not mark.exists()


def test_another_tokenizer_is_one_line(cli: Cli, tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_pair[0], tmp_path / "draft")
    save_tokenizer(tmp_path / "draft", [("o", "n")])
    refused(
        cli("generate", "the", *ASK, "--draft", str(tmp_path / "draft"), "--target", str(tiny_pair[1])),
        "tokenizers differ at id",
    )


def test_an_interrupt_ends_without_a_traceback(
    cli: Cli, pair: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sprinter.cli.show.Writer.write", interrupt)
    ended = cli("generate", "the", *ASK, *pair)
    assert ended.code == 130
    assert ended.err.endswith("sprinter: interrupted\n")
    assert "Traceback" not in ended.err


def test_a_reader_that_goes_away_is_no_error(pair: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "sprinter", "generate", "the", *ASK, *pair],
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(write)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_a_full_disk_behind_stdout_is_one_line(pair: tuple[str, ...]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with full.open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "sprinter", "generate", "the", *ASK, *pair],
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"No space left" in done.stderr


def test_copied_tokens_say_where_they_stand(cli: Cli, pair: tuple[str, ...], tmp_path: Path) -> None:
    ask = ("generate", "the land", "-n", "60", "--repetition-penalty", "1.3", *pair)
    plain = json.loads(cli(*ask, "--json", "-m", "target").out)
    file = tmp_path / "notes.jsonl"
    # Such a model's text may hold bytes that are no text, which no file has.
    words = plain["text"].replace("\ufffd", " ")
    file.write_text(json.dumps({"text": "nothing"}) + "\n" + json.dumps({"text": words}), encoding="utf-8")
    copying = ("-m", "llma", "--reference", str(file), "--copy-match", "1")
    made = json.loads(cli(*ask, "--json", *copying).out)
    assert [t["id"] for t in made["tokens"]] == [t["id"] for t in plain["tokens"]]
    sources = [t["source"] for t in made["tokens"] if t["source"]]
    assert made["references"] == ["notes.jsonl:1", "notes.jsonl:2"]
    assert sources and all(source.startswith("reference 2, characters ") for source in sources)
    assert made["target_calls"] < plain["target_calls"]
    shown = cli(*ask, "--color", *copying)
    assert "copied from notes.jsonl:2, characters" in shown.err
    assert show.UNDERLINE in shown.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read"),
        (b"", "is empty"),
        (b"   \n", "is empty"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"text\x00more", "is no text"),
        (b"x" * 9_000_000, "at most 8388608"),
    ],
    ids=["missing", "empty", "blank", "binary", "null", "enormous"],
)
def test_a_reference_that_cannot_be_copied_from_is_one_line(
    cli: Cli, pair: tuple[str, ...], tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "reference.txt"
    if content is not None:
        file.write_bytes(content)
    refused(cli("generate", "the", "-m", "llma", "--reference", str(file), *pair), words)


def test_references_need_a_method_that_copies_and_such_a_method_references(cli: Cli, pair: tuple[str, ...]) -> None:
    refused(cli("generate", "the", "-m", "llma", *pair), "nothing to copy from")
    refused(cli("generate", "the", "-m", "exact", "--reference", "-", *pair), "references does nothing")
    assert cli("generate", "the the the", "-m", "llma", "--reference", "-", "-n", "5", *pair).code == 0


def test_a_budget_is_kept_and_shown(cli: Cli, pair: tuple[str, ...]) -> None:
    vouching = ("--method", "draft", "-n", "40", *pair, "--max-total-tv", "3", "--max-atypical-tokens", "2")
    shown = cli("generate", "a b c", *vouching)
    assert shown.code == 0
    assert "budget of this text: total variation to the target at most 3; used" in shown.err
    assert "atypical tokens on the verifier's word at most 2; used" in shown.err
    audit = json.loads(cli("generate", "a b c", *vouching, "--audit", "close", "--json").out)["audit"]
    assert audit["budget"] == {"max_total_tv": 3.0, "max_atypical_tokens": 2.0}
    assert audit["total_tv"] <= 3
    assert audit["vouched_atypical"] <= 2
    free = json.loads(cli("generate", "a b c", *vouching[:-4], "--audit", "close", "--json").out)["audit"]
    assert free["budget"] == {"max_total_tv": None, "max_atypical_tokens": None}
    assert free["total_tv"] > 3
    refused(cli("generate", "a b c", "--method", "bild", *pair, "--max-total-tv", "3"), "every loss to be known")
