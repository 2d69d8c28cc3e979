"""`sprinter calibrate` writes a certificate, goes on where it stopped, and `sprinter generate` decodes by it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from sprinter import Sprinter, rouge
from sprinter.alone import hold
from sprinter.build import settle
from sprinter.certify.certificate import Certificate
from sprinter.certify.choose import Wish
from sprinter.certify.guard import Guard
from sprinter.cli.main import main
from sprinter.config import DecodingConfig, make_config
from sprinter.errors import CertificateWarning, ConfigError
from sprinter.learn.trained import note_trained

WORDS = [f"w{n}" for n in range(47)]
GRID = "1.01,0.9,0.5,0.05"
transformers.utils.logging.disable_progress_bar()


def save(folder: Path, seed: int, noise: float) -> Path:
    """A tiny Llama of one seed, its weights moved by `noise`."""
    config = transformers.LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.4)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=noise)
    model.save_pretrained(str(folder))
    words = Tokenizer(models.WordLevel({"</s>": 0, **{w: i + 1 for i, w in enumerate(WORDS)}}, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pair and prompts."""
    folder = tmp_path_factory.mktemp("calibrate")
    save(folder / "target", seed=1, noise=0.0)
    save(folder / "draft", seed=1, noise=0.1)
    rows = [
        {"title": str(n), "text": " ".join(WORDS[(n + (3 + n // 47) * k) % 47] for k in range(20))} for n in range(60)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def command(*arguments: object) -> tuple[object, str, str]:
        """(exit code, stdout, stderr); 0 where the program ends without one."""
        pair = ["--target", str(place / "target"), "--draft", str(place / "draft"), "--scorer", "confidence"]
        monkeypatch.setattr(sys, "argv", ["sprinter", *map(str, arguments), *pair, "--backend", "hf"])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def calibrate(place: Path, out: str, *more: object) -> list[object]:
    data = ["--data", place / "prompts.jsonl", "--out", place / out, "--prompts", 40, "--min-prompts", 30, "-n", 8]
    return ["calibrate", *data, "--grid", GRID, *more]


LEVELS = ["--max-tv", 0.15, "--max-tv", 0.6, "--max-atypical", 0.3, "--max", "rouge=0.9", "--reference", "target"]


def test_a_certificate_is_made_and_kept(place: Path, run) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run(*calibrate(place, "c.json", *LEVELS))
    assert (code, "written to" in err) == (0, True), err
    certificate = Certificate.load(place / "c.json")
    assert out.count("\n") == len(certificate.claims) == 4
    by_level = {(claim.loss, claim.epsilon): claim for claim in certificate.claims}
    # A threshold above every score vouches for nobody, so the safest one of this grid loses nothing.
    assert certificate.grid[0].means["tv"] == 0.0
    assert certificate.grid[0].means["rouge"] == 0.0
    assert by_level["tv", 0.15].threshold is not None
    assert by_level["tv", 0.6].threshold is not None
    assert by_level["tv", 0.6].threshold <= by_level["tv", 0.15].threshold
    certified = {claim.threshold for claim in certificate.claims}
    assert all(row.num_prompts >= 30 for row in certificate.grid if row.threshold in certified)

    # The same command again finds everything in its journal: nothing is decoded, the certificate is the same.
    kept = [(place / name).read_bytes() for name in ("c.journal.jsonl", "c.json")]
    code, again, err = run(*calibrate(place, "c.json", *LEVELS))
    assert (code, again) == (0, out)
    assert "nothing to do" in err and "written to" not in err
    assert [(place / name).read_bytes() for name in ("c.journal.jsonl", "c.json")] == kept
    # A lost certificate is made again out of the journal alone.
    (place / "c.json").unlink()
    code, again, err = run(*calibrate(place, "c.json", *LEVELS))
    assert (code, again, "written to" in err) == (0, out, True)
    assert (place / "c.journal.jsonl").read_bytes() == kept[0]
    assert Certificate.load(place / "c.json").claims == certificate.claims


def test_a_text_is_written_by_certificate_and_a_wrong_wish_refused(place: Path, run) -> None:  # type: ignore[no-untyped-def]
    assert run(*calibrate(place, "c.json", *LEVELS))[0] == 0
    claims = Certificate.load(place / "c.json").claims
    (threshold,) = (claim.threshold for claim in claims if (claim.loss, claim.epsilon) == ("tv", 0.15))
    by = ["generate", "w1 w2 w3", "--json", "-n", 8, "--certificate", place / "c.json"]
    code, out, err = run(*by, "--max-tv", 0.2)
    assert code == 0, err
    told = json.loads(out)
    assert told["threshold"] == threshold
    assert told["certificate"]["levels"] == {"tv": 0.2}
    assert "with probability at least 0.95" in err
    assert told["certificate"]["max_new_tokens"] == 8
    assert (told["certificate"]["caveat"], "promises nothing" in err) == (None, False)

    # More tokens than the calibration texts had: said in one line, in the account, and as a warning in Python.
    code, out, err = run(*by, "--max-tv", 0.2, "-n", 9)
    (line,) = [line for line in err.splitlines() if "promises nothing" in line]
    assert "at most 8 new tokens; up to 9 were asked for" in line
    assert json.loads(out)["certificate"]["caveat"] == line
    writer = Sprinter.from_pretrained(place / "target", place / "draft", backend="hf")
    asked = {"scorer": "confidence", "max_tv": 0.2, "certificate": place / "c.json"}
    with pytest.warns(CertificateWarning, match="up to 9 were asked for") as warned:
        longer = writer.generate("w1 w2 w3", max_new_tokens=9, **asked)
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        within = writer.generate("w1 w2 w3", max_new_tokens=8, **asked)
    assert longer.threshold == within.threshold == threshold
    assert [token.id for token in within.tokens] == [token["id"] for token in told["tokens"]]

    for options, says in (
        (["--max-tv", 0.01], "tv of at most 0.01 was asked for"),
        (["--max-tv", 0.2, "-t", 0.7], "sampling is"),
        (["--max-tv", 0.2, "--method", "lookahead"], "method is lookahead, certified sprinter"),
        (["--max-tv", 0.2, "--max-draft", 3], "max_draft is 3, certified 20"),
        (["--max-tv", 0.2, "--method", "exact"], "nothing to certify"),
        (["--max-tv", 0.2, "--threshold", 0.3], "threshold contradicts"),
        (["--max-tv", 0.2, "--budget", 3], "budget contradicts"),
        (["--max-tv", 0.2, "--max-atypical", 0.01], "atypical of at most 0.01 was asked for"),
        (["--max-tv", 0.2, "--confidence", 0.99], "confidence 0.99 was asked for"),
        ([], "does nothing alone"),
    ):
        code, out, err = run(*by, *options)
        assert (code, out) == (2, ""), (options, out)
        assert says in err
        assert err.count("\n") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few kilobytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_on_a_full_disk_a_calibration_ends_in_one_line_and_goes_on_later(place: Path, run, small_disk: Path) -> None:  # type: ignore[no-untyped-def]
    assert run(*calibrate(place, "c.json", *LEVELS))[0] == 0
    there = calibrate(place, str(small_disk / "c.json"), *LEVELS)
    code, out, err = run(*there)
    (line,) = [line for line in err.splitlines() if line.startswith("sprinter: ")]
    assert (code, out, err.splitlines()[-1]) == (2, "", line)
    assert "c.journal.jsonl: No space left on device" in line and "the same command again" in line
    measured = (small_disk / "c.journal.jsonl").read_bytes().count(b"\n") - 1
    assert measured > 10
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    code, _, err = run(*there)
    assert code == 0, err
    made = [Certificate.load(folder / "c.json") for folder in (place, small_disk)]
    assert made[0].grid == made[1].grid and made[0].claims == made[1].claims
    assert "nothing to do" in run(*there)[2]
    # Room for the journal, none for the certificate.
    (small_disk / "c.json").unlink()
    filler = (small_disk / "filler").open("wb", buffering=0)
    with filler, suppress(OSError):
        while filler.write(bytes(512)):
            pass
    code, _, err = run(*there)
    assert (code, "No space left on device" in err.splitlines()[-1]) == (2, True), err
    assert not list(small_disk.glob("c.json*"))


def test_a_killed_calibration_goes_on_and_ends_the_same(place: Path, run) -> None:  # type: ignore[no-untyped-def]
    assert run(*calibrate(place, "c.json", *LEVELS))[0] == 0
    pair = ["--target", place / "target", "--draft", place / "draft", "--scorer", "confidence", "--backend", "hf"]
    command = [sys.executable, "-m", "sprinter", *calibrate(place, "killed.json", *LEVELS), *pair]
    journal = place / "killed.journal.jsonl"
    with subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 20):
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    before = journal.read_bytes()
    code, _, err = run(*calibrate(place, "killed.json", *LEVELS))
    assert code == 0, err
    kept = before[: before.rfind(b"\n") + 1]
    assert journal.read_bytes().startswith(kept) and kept.count(b"\n") > 20
    assert Certificate.load(place / "killed.json").grid == Certificate.load(place / "c.json").grid


def test_a_lookahead_certificate_binds_the_bound_and_cap_of_the_cost_model(place: Path, run) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run(*calibrate(place, "ahead.json", "--max-tv", 0.6, "--method", "lookahead"))
    assert code == 0, err
    setting = Certificate.load(place / "ahead.json").setting
    pair = Sprinter.from_pretrained(place / "target", place / "draft", backend="hf").pair
    settled = settle(pair, DecodingConfig(method="lookahead", scorer="confidence"))
    assert (setting.lookahead, setting.max_draft) == (settled.lookahead, settled.max_draft)
    by = ["generate", "w1 w2 w3", "--json", "-n", 8, "--method", "lookahead"]
    by_certificate = [*by, "--certificate", place / "ahead.json", "--max-tv", 0.6]
    told = json.loads(run(*by_certificate)[1])
    assert (told["lookahead"], told["max_draft"]) == (setting.lookahead, setting.max_draft)
    # Without a certificate the same; the user's own word goes before, and no certificate was made for it.
    assert json.loads(run(*by)[1])["lookahead"] == setting.lookahead
    own = json.loads(run(*by, "--lookahead", 0.05, "--max-draft", 3)[1])
    assert (own["lookahead"], own["max_draft"]) == (0.05, 3)
    assert (
        "drafted past doubts while the chance that all survive exceeds 0.05, at most 3"
        in run(*[part for part in by if part != "--json"], "--lookahead", 0.05, "--max-draft", 3)[2]
    )
    code, _, err = run(*by_certificate, "--lookahead", 0.05)
    assert (code, "lookahead is 0.05, certified" in err) == (2, True), err


@pytest.mark.parametrize(
    ("way", "other", "says"),
    [
        (["--drafter", "graph", "--graph-width", 2], ["--drafter", "hub"], "drafted is"),
        (["--method", "llma+sprinter"], [], "method is sprinter, certified llma+sprinter"),
    ],
)
def test_whoever_drafts_is_certified_with_the_settings_it_drafts_by(  # type: ignore[no-untyped-def]
    place: Path, run, way: list[object], other: list[object], says: str
) -> None:
    copies = "llma+sprinter" in way
    more = ["--copy-from", "-"] if copies else []
    code, _, err = run(*calibrate(place, f"{way[1]}.json", "--max-tv", 0.4, *way, *more))
    assert code == 0, err
    certificate = Certificate.load(place / f"{way[1]}.json")
    assert certificate.claims[0].threshold is not None
    assert certificate.setting.drafted.startswith("either by exact: " if copies else "graph by exact: ")
    by = ["generate", "w1 w2 w3 w1 w2", "--json", "-n", 8, "--certificate", place / f"{way[1]}.json", "--max-tv", 0.4]
    code, out, err = run(*by, *way, *(["--reference", "-"] if copies else []))
    assert (code, json.loads(out)["threshold"]) == (0, certificate.claims[0].threshold), err
    code, out, err = run(*by, *other)
    assert (code, out, says in err) == (2, "", True), err


def test_a_journal_in_use_is_one_line(place: Path, run) -> None:  # type: ignore[no-untyped-def]
    assert run(*calibrate(place, "busy.json", *LEVELS))[0] == 0
    (place / "busy.json").unlink()
    with (place / "busy.journal.jsonl").open("rb") as file:
        hold(file.fileno(), place / "busy.journal.jsonl")
        code, out, err = run(*calibrate(place, "busy.json", *LEVELS))
    assert (code, out) == (2, "")
    assert err.startswith("sprinter: ") and err.count("\n") == 1 and "another process: wait until" in err, err
    assert run(*calibrate(place, "busy.json", *LEVELS))[0] == 0


def test_a_guard_steps_back_along_the_certificate_s_own_thresholds(place: Path, run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert run(*calibrate(place, "c.json", *LEVELS))[0] == 0
    writer = Sprinter.from_pretrained(place / "target", place / "draft", backend="hf")
    asked = make_config(None, {"scorer": "confidence", "max_new_tokens": 8, "audit": "close"})
    config, choice = writer.certified(asked, Wish(max_tv=0.6, certificate=place / "c.json"))
    watch = choice.watch("tv")
    assert (watch.epsilon, watch.thresholds[-1]) == (0.6, choice.threshold)
    assert len(watch.thresholds) > 1 and watch.thresholds[0] == 1.01
    guard = Guard(tmp_path / "guard.db", watch)
    for expected in reversed(watch.thresholds):
        stream = writer.start("w1 w2 w3", choice.at(guard.threshold, config))
        assert stream.generation.threshold == expected
        assert guard.record(stream.audit.tv_losses, guard.threshold).trip is None
        # Requests that lose all there is to lose.
        while guard.record([1.0] * 8, expected).standing != "exceeded":
            assert guard.look().requests < 200
    assert writer.start("w1 w2 w3", choice.at(guard.threshold, config)).generation.method == "exact"
    with pytest.raises(ConfigError, match="no level of 'atypical' to watch: the certificate granted tv"):
        choice.watch("atypical")


def test_a_pilot_on_other_prompts_chooses_the_grid(place: Path, run) -> None:  # type: ignore[no-untyped-def]
    rows = [{"title": f"o{n}", "text": " ".join(WORDS[(n + 7 * k) % 47] for k in range(20))} for n in range(45)]
    (place / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    level = ["--max-tv", 0.5]
    code, _, err = run(*calibrate(place, "pilot.json", *level, "--confidence", 0.5, "--data", place / "other.jsonl"))
    assert code == 0, err
    given = [option for option in calibrate(place, "by-pilot.json", *level) if option not in ("--grid", GRID)]
    code, _, err = run(*given, "--pilot", place / "pilot.json")
    assert code == 0, err
    certificate, pilot = (Certificate.load(place / name) for name in ("by-pilot.json", "pilot.json"))
    assert certificate.made["grid"].endswith(pilot.data)
    assert certificate.claims[0].threshold is not None
    tried = {row.threshold for row in certificate.grid}
    assert len(tried - {row.threshold for row in pilot.grid}) > 0
    for wrong, says in (
        ([*given, "--pilot", place / "pilot.json", "--data", place / "other.jsonl"], "own prompts"),
        ([*given, "--pilot", place / "pilot.json", "--temperature", 1], "another setting: sampling"),
        ([*calibrate(place, "x.json", *level), "--pilot", place / "pilot.json"], "--grid and --pilot"),
        ([*given, "--pilot", place / "prompts.jsonl"], "not valid JSON"),
    ):
        code, out, err = run(*wrong)
        assert (code, out, says in err, err.count("\n")) == (2, "", True, 1), err


def test_rouge_without_its_package_is_refused_before_anything_is_decoded(
    place: Path, run, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(rouge, "find_spec", lambda name: None)
    code, out, err = run(*calibrate(place, "rouge.json", "--max", "rouge=0.9"))
    assert (code, out) == (2, "") and "pip install 'sprinter-decoding[bench]'" in err
    assert not (place / "rouge.journal.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "nothing to certify"),
        (["--max-tv", 2], "level of tv is 2"),
        (["--max-tv", 0.1, "-n", 0], "max_new_tokens is 0"),
        (["--max", "rouge"], "is not a loss and a level"),
        (["--max", "bleu=0.3"], "unknown loss 'bleu'"),
        (["--max-tv", 0.1, "--grid", "0.1,0.9"], "from safe to fast"),
        (["--max-tv", 0.1, "--grid", "a,b"], "not a list of numbers"),
        (["--max-tv", 0.1, "--prompts", 400], "has 60 usable texts, but --prompts is 400"),
        (["--max-tv", 0.1, "--confidence", 1.0], "confidence is 1"),
        (["--max-tv", 0.1, "--bound", "normal"], "unknown p-value"),
        (["--max-tv", 0.1, "--reference", "nobody"], "reference is 'nobody'"),
        (["--max-tv", 0.1, "--method", "exact"], "nothing to certify"),
        (["--max-tv", 0.1, "--journal", "prompts.jsonl"], "journal"),
    ],
)
def test_a_wrong_request_ends_in_one_line(place: Path, run, options: list[object], says: str) -> None:  # type: ignore[no-untyped-def]
    at = [place / option if option == "prompts.jsonl" else option for option in options]
    code, out, err = run(*calibrate(place, "wrong.json", *at))
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert not (place / "wrong.json").exists()


def test_texts_that_trained_the_draft_and_equal_ones_are_left_out_with_a_count(place: Path, run) -> None:  # type: ignore[no-untyped-def]
    rows = [json.loads(line) for line in (place / "prompts.jsonl").read_text().splitlines()]
    doubled = place / "doubled.jsonl"
    doubled.write_text("".join(json.dumps({**row, "title": f"copy {row['title']}"}) + "\n" for row in rows + rows[:7]))
    note_trained(place / "draft", [f"copy {n}" for n in range(15)])
    try:
        few = ["--data", doubled, "--prompts", 45, "--max-tv", 0.9]
        code, _, err = run(*calibrate(place, "t.json", *few, "--grid", "1.01"))
        assert code == 0, err
        assert "22 of 67 texts trained the draft: they are left out" in err
        assert len(set(Certificate.load(place / "t.json").hashes)) == 45
        code, out, err = run(*calibrate(place, "u.json", *few, "--prompts", 50))
        assert (code, out, "has 45 usable texts (22 of 67 texts trained the draft" in err) == (2, "", True), err
    finally:
        (place / "draft" / "trained_on.bin").unlink()
    code, _, err = run(*calibrate(place, "v.json", *few, "--grid", "1.01"))
    assert code == 0, err
    assert "7 of 67 prompts are there already, word for word" in err
    assert "nobody noted what trained the draft" in err


def test_a_calibration_says_how_long_it_takes_and_which_claims_bring_no_speed(place: Path, run) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run(*calibrate(place, "slow.json", "--max-tv", 0.5, "--grid", "1.01,1.005", "--max-draft", 1))
    assert code == 0, err
    assert "2 thresholds of up to 40 prompts of 8 tokens" in err
    assert " at least and " in err
    calls = Certificate.load(place / "slow.json").grid[-1].calls_per_token
    assert ("NO SPEED-UP" in out) == (calls >= 0.97)


def test_a_budget_is_certified_with_the_levels_and_kept_by_every_text(place: Path, run) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run(*calibrate(place, "held.json", "--max-tv", 0.2, "--max-total-tv", 3, "--shortest", 4))
    assert code == 0, err
    certificate = Certificate.load(place / "held.json")
    assert (certificate.setting.max_total_tv, certificate.shortest) == (3.0, 4)
    by = ["generate", "w1 w2 w3", "--json", "--certificate", place / "held.json", "--max-tv", 0.2]
    told = json.loads(run(*by, "--audit", "close")[1])
    # A length nobody named is the certificate's, and so is the limit.
    assert (told["num_tokens"] <= 8, told["audit"]["budget"]["max_total_tv"]) == (True, 3.0)
    assert told["certificate"]["caveat"] is None
    assert "cut after any number of new tokens from 4 to 8" in told["certificate"]["statements"][0]
    for more, says in ((["-n", 3], "about fewer it promises nothing"), (["--max-total-tv", 2], "max_total_tv is 2.0")):
        assert says in run(*[part for part in by if part != "--json"], *more)[2]
