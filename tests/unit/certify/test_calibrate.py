"""Calibration: the fixed sequence, one run for all aims, and going on after an interruption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from sprinter.certify.calibrate import Plan, Progress, calibrate, fixed_sequence, last_rejected
from sprinter.certify.journal import Measurement, Measurements
from sprinter.certify.risks import SHORT, Aim
from sprinter.certify.sample import Sample
from sprinter.errors import ConfigError, DataError
from sprinter.journal import Journal

RISKS = {0.9: 0.01, 0.8: 0.03, 0.7: 0.07, 0.6: 0.2}
AIMS = (Aim("tv", 0.05), Aim("tv", 0.1), Aim("atypical", 0.05))


def sample(values: Sequence[float], loss: str = "tv") -> Sample:
    """Texts of one token."""
    return Sample.of(loss, [Measurement({loss: [value]}, 1, 1) for value in values], SHORT)


def plan(**changes: object) -> Plan:
    values = {"thresholds": (0.9, 0.8, 0.7, 0.6), "aims": AIMS, "num_prompts": 300, "min_prompts": 300}
    return Plan(**(values | changes))  # type: ignore[arg-type]


class Decoder:
    """Losses with a known mean, the same for a (threshold, prompt) however often it is asked."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.calls: list[tuple[float, int]] = []
        self._fail_after = fail_after

    def __call__(self, threshold: float, prompts: Sequence[int]) -> Iterator[tuple[int, Measurement]]:
        for prompt in reversed(prompts):  # texts in company end in any order
            if len(self.calls) == self._fail_after:
                raise KeyboardInterrupt
            self.calls.append((threshold, prompt))
            rng = np.random.default_rng([int(threshold * 100), prompt])
            risk = RISKS[threshold]
            yield prompt, Measurement({"tv": [rng.beta(10 * risk, 10 * (1 - risk))], "atypical": [risk / 2]}, 64, 20)


@pytest.mark.parametrize(
    ("pvalues", "last"),
    [([0.01, 0.04, 0.06, 0.001], 1), ([0.06, 0.001], None), ([], None), ([0.05, 0.05], 1), ([0.01], 0)],
)
def test_the_sequence_stops_at_the_first_it_cannot_reject(pvalues: list[float], last: int | None) -> None:
    assert last_rejected(pvalues, 0.05) == last


def test_one_run_serves_every_aim(tmp_path: Path) -> None:
    decoder = Decoder()
    with Measurements(tmp_path / "j.jsonl", {}) as journal:
        grid, claims = calibrate(plan(), decoder, journal)
    assert [claim.threshold for claim in claims] == [0.8, 0.7, 0.7]
    assert [len(claim.pvalues) for claim in claims] == [3, 4, 4]
    assert [row.threshold for row in grid] == [0.9, 0.8, 0.7, 0.6]
    assert all(row.calls_per_token == pytest.approx(20 / 64) for row in grid)
    # Each prompt once per threshold; what only leads to a certified threshold, and the hopeless last, take fewer.
    counts = [row.num_prompts for row in grid]
    assert len(set(decoder.calls)) == len(decoder.calls) == sum(counts)
    assert counts[1:3] == [300, 300]
    assert max(counts[0], counts[3]) < 200
    assert all(row.means["tv"] <= row.uppers["tv"] for row in grid)


@pytest.mark.parametrize("min_prompts", [1, 150, 300])
def test_every_certified_threshold_has_the_fewest_prompts_asked_for_and_the_claims_do_not_depend_on_them(
    tmp_path: Path, min_prompts: int
) -> None:
    with Measurements(tmp_path / "j.jsonl", {}) as journal:
        grid, claims = calibrate(plan(min_prompts=min_prompts), Decoder(), journal)
    assert [claim.threshold for claim in claims] == [0.8, 0.7, 0.7]
    assert min(row.num_prompts for row in grid if row.threshold in (0.8, 0.7)) >= min_prompts


def test_a_level_clearly_out_of_reach_ends_its_threshold_though_it_is_not_lost_for_sure(tmp_path: Path) -> None:
    with Measurements(tmp_path / "j.jsonl", {}) as journal:
        grid, claims = calibrate(plan(thresholds=(0.7,), aims=(Aim("tv", 0.05),)), Decoder(), journal)
    assert claims[0].threshold is None
    # Had all further prompts lost nothing, the level would have been proven after all.
    done = grid[0].num_prompts
    losses = [measured.losses["tv"][0] for _, measured in Decoder()(0.7, range(done))][::-1]
    assert plan().pvalue(AIMS[0], sample([*losses, *[0.0] * (300 - done)])) <= 0.05
    assert done < 150


def test_the_grid_is_not_measured_beyond_the_last_failure(tmp_path: Path) -> None:
    decoder = Decoder()
    with Measurements(tmp_path / "j.jsonl", {}) as journal:
        grid, claims = calibrate(plan(aims=(Aim("tv", 0.03),)), decoder, journal)
    assert [row.threshold for row in grid] == [0.9, 0.8]
    assert claims[0].threshold == 0.9


def test_a_level_no_number_of_clean_prompts_could_prove_is_infeasible_at_once(tmp_path: Path) -> None:
    # (1 - 0.01)^100 = 0.37: a hundred prompts without any loss leave 1% well possible.
    decoder = Decoder()
    small = plan(aims=(Aim("tv", 0.01),), num_prompts=100, min_prompts=100)
    assert small.prompts_needed(small.aims[0]) > 290
    with Measurements(tmp_path / "j.jsonl", {}) as journal:
        grid, claims = calibrate(small, decoder, journal)
    assert (grid, claims[0].threshold, decoder.calls) == ([], None, [])


def test_even_the_safest_threshold_may_fail() -> None:
    claims = fixed_sequence(plan(aims=(Aim("tv", 0.05),)), lambda threshold, aims: {"tv": sample([0.06] * 300)})
    assert claims[0].threshold is None
    assert len(claims[0].pvalues) == 1


def test_hoeffding_bentkus_always_takes_the_whole_sample(tmp_path: Path) -> None:
    with Measurements(tmp_path / "j.jsonl", {}) as journal:
        grid, _ = calibrate(plan(num_prompts=60, min_prompts=20, bound="hoeffding-bentkus"), Decoder(), journal)
    assert {row.num_prompts for row in grid} == {60}


def test_progress_shows_the_current_bound(tmp_path: Path) -> None:
    shown: list[Progress] = []
    with Measurements(tmp_path / "j.jsonl", {}) as journal:
        calibrate(plan(thresholds=(0.8,)), Decoder(), journal, shown.append)
    assert [now.prompts_done for now in shown] == list(range(10, 301, 10))
    uppers = [now.uppers[Aim("tv", 0.05)] for now in shown]
    assert max(np.diff(uppers)) < 1e-6
    assert 0.03 < uppers[-1] < 0.05


def test_an_interrupted_calibration_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    with Measurements(tmp_path / "whole.jsonl", {"seed": 1}) as journal:
        expected = calibrate(plan(), Decoder(), journal)
    for stop in (67, 350):
        with Measurements(tmp_path / "cut.jsonl", {"seed": 1}) as journal, pytest.raises(KeyboardInterrupt):
            calibrate(plan(), Decoder(fail_after=stop), journal)
    resumed = Decoder()
    with Measurements(tmp_path / "cut.jsonl", {"seed": 1}) as journal:
        assert len(journal) == 67 + 350
        assert calibrate(plan(), resumed, journal) == expected
    assert min(resumed.calls) > (0.0, 0)
    assert len(resumed.calls) == sum(row.num_prompts for row in expected[0]) - 67 - 350


def test_a_torn_last_line_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Measurements(path, {"seed": 1}) as journal:
        for prompt in range(3):
            journal.put(0.9, prompt, Measurement({"tv": [0.1]}, 64, 20))
    whole = path.read_text()
    path.write_text(whole[:-9])
    with Measurements(path, {"seed": 1}) as journal:
        assert len(journal) == 2
        journal.put(0.9, 2, Measurement({"tv": [0.1]}, 64, 20))
    assert path.read_text() == whole


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Measurements(path, {"seed": 1}).close()
    whole = path.read_text()
    path.write_text(whole[:9])
    Measurements(path, {"seed": 1}).close()
    assert path.read_text() == whole


@pytest.mark.parametrize("content", ["my precious notes", '{"text": "a prompt"}\n{"text": "without a last line end"}'])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"notes\.jsonl"):
        Measurements(path, {"seed": 1})
    assert path.read_text() == content


ROW = {"threshold": 0.9, "prompt": 0, "losses": {"tv": [0.1]}, "num_tokens": 1, "target_calls": 1}


@pytest.mark.parametrize("change", [{"threshold": "x"}, {"prompt": None}, {"losses": {"tv": ["low"]}}, {"losses": []}])
def test_a_row_of_another_kind_is_named_by_line(tmp_path: Path, change: dict[str, object]) -> None:
    with Journal(tmp_path / "j.jsonl", {}, "calibration") as journal:
        journal.add({**ROW, **change})
    with pytest.raises(DataError, match=r"j\.jsonl, line 2, is not what it should be"):
        Measurements(tmp_path / "j.jsonl", {})


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_flipped_bit_inside_a_journal_is_named_by_line(tmp_path: Path, place: float) -> None:
    path = tmp_path / "j.jsonl"
    with Measurements(path, {}) as journal:
        for prompt in range(3):
            journal.put(0.9, prompt, Measurement({"tv": [0.1]}, 64, 20))
    lines = path.read_bytes().splitlines(keepends=True)
    at = int(len(lines[2]) * place)
    lines[2] = lines[2][:at] + bytes([lines[2][at] ^ 1]) + lines[2][at + 1 :]
    path.write_bytes(b"".join(lines))
    with pytest.raises(DataError, match=r"j\.jsonl, line 3,"):
        Measurements(path, {})


def test_a_journal_of_another_run_is_refused_naming_what_differs(tmp_path: Path) -> None:
    Measurements(tmp_path / "j.jsonl", {"seed": 1, "method": "sprinter"}).close()
    with pytest.raises(DataError, match=r"another calibration \(method, seed differ\)"):
        Measurements(tmp_path / "j.jsonl", {"seed": 2, "method": "lookahead"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"thresholds": (0.5, 0.9)}, "safe to fast"),
        ({"thresholds": ()}, "safe to fast"),
        ({"thresholds": (float("inf"), 0.5)}, "not a finite number"),
        ({"thresholds": (float("nan"),)}, "not a finite number"),
        ({"aims": ()}, "nothing to certify"),
        ({"aims": (Aim("tv", 0.1), Aim("tv", 0.1))}, "same level twice"),
        ({"min_prompts": 301}, "min_prompts is 301"),
        ({"alpha": 0.0}, "confidence is 1"),
        ({"bound": "normal"}, "unknown p-value"),
    ],
)
def test_an_impossible_plan_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plan(**change)


def test_an_unknown_loss_or_level_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown loss 'bleu'"):
        Aim("bleu", 0.1)
    with pytest.raises(ConfigError, match=r"level of tv is 1.5"):
        Aim("tv", 1.5)
