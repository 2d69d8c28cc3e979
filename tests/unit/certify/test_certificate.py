"""Certificates: what they grant, what they refuse, and that no damaged file ever passes for one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprinter.certify.certificate import Certificate, Claim, GridRow, Setting
from sprinter.certify.choose import choose, find_certificates
from sprinter.config import Config
from sprinter.errors import CertificateError


def setting() -> Setting:
    return Setting(
        target="a" * 64,
        target_backend="toy",
        target_weights="float64",
        draft="b" * 64,
        draft_backend="toy",
        draft_weights="float64",
        verifier="c" * 64,
        scorer="accept",
        method="sprinter",
        preset="default",
        max_draft=20,
        lookahead=1.0,
        sampling={"temperature": 0.7, "top_k": 0, "top_p": 0.9, "min_p": 0.0, "repetition_penalty": 1.0, "banned": []},
    )


def certificate() -> Certificate:
    rows = [
        GridRow(threshold, 200, calls, {"tv": risk, "atypical": risk / 4}, {"tv": risk + 0.01, "atypical": risk})
        for threshold, calls, risk in ((0.9, 0.7, 0.01), (0.8, 0.5, 0.03), (0.7, 0.4, 0.06))
    ]
    claims = [
        Claim("tv", 0.02, 0.9, [0.01, 0.4]),
        Claim("tv", 0.05, 0.8, [0.001, 0.02, 0.9]),
        Claim("atypical", 0.01, None, [0.3]),
        Claim("atypical", 0.02, 0.7, [0.001, 0.01, 0.04]),
    ]
    return Certificate(setting(), 0.95, "betting", 200, 64, "d" * 64, rows, claims, {"sprinter": "0.1.0"}, 8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.json"
    certificate().save(path)
    return path


def test_a_saved_certificate_is_read_back_unchanged(saved: Path) -> None:
    assert Certificate.load(saved) == certificate()
    assert [path.name for path in saved.parent.iterdir()] == ["certificate.json"]


def test_the_claim_says_over_what_it_holds() -> None:
    cert = certificate()
    assert cert.statement(cert.claims[1]) == (
        "Over the draw of the calibration prompts, with probability at least 0.95, mean total variation per token on "
        "prompts like these (cut after any number of new tokens from 8 to 64) is at most 0.05."
    )
    assert cert.statement(cert.claims[2]).startswith("No threshold could be certified")


@pytest.mark.parametrize(
    ("wanted", "threshold"),
    [
        ({"tv": 0.05}, 0.8),
        ({"tv": 0.5}, 0.8),
        ({"tv": 0.03}, 0.9),
        ({"atypical": 0.02}, 0.7),
        ({"atypical": 0.01}, math.inf),
        ({"tv": 0.05, "atypical": 0.02}, 0.8),
        ({"tv": 0.05, "atypical": 0.01}, math.inf),
    ],
)
def test_the_fastest_threshold_that_keeps_every_level_is_granted(wanted: dict[str, float], threshold: float) -> None:
    assert certificate().threshold_for(wanted) == threshold


def test_a_tighter_claim_than_certified_is_refused_naming_what_there_is() -> None:
    with pytest.raises(CertificateError, match=r"tv of at most 0.01 was asked for, the certificate claims 0.02, 0.05"):
        certificate().threshold_for({"tv": 0.01})
    with pytest.raises(CertificateError, match="excess of at most"):
        certificate().threshold_for({"excess": 0.1})
    with pytest.raises(CertificateError, match=r"confidence 0.99 was asked for, but the certificate has 0.95"):
        certificate().threshold_for({"tv": 0.05}, confidence=0.99)


def test_the_thresholds_certified_for_a_level_are_the_safe_end_of_the_grid() -> None:
    assert certificate().certified_thresholds({"tv": 0.05}) == [0.9, 0.8]
    assert certificate().certified_thresholds({"atypical": 0.01}) == []


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(setting()) if f.name != "arithmetic"])
def test_every_difference_of_setting_is_refused_by_name(field: str) -> None:
    value: Any = getattr(setting(), field)
    if isinstance(value, dict):
        other: Any = {**value, "temperature": 1.0}
    elif value is None:
        other = 8.0
    else:
        other = value + 1 if isinstance(value, int | float) else "e" * 64
    changed = dataclasses.replace(setting(), **{field: other})
    with pytest.raises(CertificateError, match=rf"another setting: {field} is ") as caught:
        certificate().require_match(changed)
    assert "\n" not in str(caught.value)


def test_a_certificate_older_than_the_survival_field_is_read_and_speaks_of_the_scorer_s_own(tmp_path: Path) -> None:
    ahead = dataclasses.replace(setting(), method="lookahead", lookahead=0.3, scorer="typical")
    dataclasses.replace(certificate(), setting=ahead).save(tmp_path / "new.json")
    content = json.loads((tmp_path / "new.json").read_text())
    del content["format"], content["checksum"], content["shortest"], content["hashes"]
    for name in ("survival", "drafted", "prompts", "max_total_tv", "max_atypical_tokens", "arithmetic"):
        del content["setting"][name]
    for claim in content["claims"]:
        del claim["pilot_calls"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    (tmp_path / "old.json").write_text(json.dumps({"format": 1, "checksum": digest, **content}))
    old = Certificate.load(tmp_path / "old.json")
    assert old.is_old
    assert old.setting.survival == ""
    # Today a lookahead by 'typical' asks the accept output about survival: an old certificate knows nothing of that.
    with pytest.raises(CertificateError, match="survival is accept, certified"):
        choose([(tmp_path / "old.json", old)], ahead, {"tv": 0.05}, 0.95)
    new = dataclasses.replace(old, setting=dataclasses.replace(ahead, survival="accept"))
    # Asked with the default scorer, a certificate's own brings its survival with it.
    asked = dataclasses.replace(ahead, scorer="accept", lookahead=0.57)
    assert choose([(tmp_path / "new.json", new)], asked, {"tv": 0.05}, 0.95).threshold == 0.8


PASS = {"compiled pass": "1" * 64, "build options": "2" * 64}


def test_another_arithmetic_is_refused_naming_the_part_and_an_old_certificate_does_not_know() -> None:
    made = dataclasses.replace(certificate(), setting=dataclasses.replace(setting(), arithmetic=PASS))
    made.require_match(made.setting)
    for other, says in (
        (
            {**PASS, "build options": "3" * 64},
            "the arithmetic of build options is 333333333333, certified 222222222222",
        ),
        ({**PASS, "torch": "2.14"}, "the arithmetic of torch is 2.14, certified "),
        ({}, "the arithmetic of build options is , certified 222222222222; the arithmetic of compiled pass"),
    ):
        with pytest.raises(CertificateError, match=re.escape(says)):
            made.require_match(dataclasses.replace(setting(), arithmetic=other))
    certificate().require_match(made.setting)


def named(folder: Path, name: str, **changes: Any) -> None:
    """A certificate in a file of its own; `pilot_calls` and `infeasible` go to all of its claims."""
    pilot, infeasible = changes.pop("pilot_calls", None), changes.pop("infeasible", False)
    scorer = changes.pop("scorer", "accept")
    cert = dataclasses.replace(certificate(), setting=dataclasses.replace(setting(), scorer=scorer), **changes)
    claims = [dataclasses.replace(claim, pilot_calls=pilot) for claim in cert.claims]
    if infeasible:
        claims = [dataclasses.replace(claim, threshold=None) for claim in claims]
    dataclasses.replace(cert, claims=claims).save(folder / name)


def test_of_several_certificates_the_pilot_chooses_whatever_the_calibrations_found(tmp_path: Path) -> None:
    # The calibration of the second found fewer calls: choosing by that would be choosing by its luck.
    lucky = [dataclasses.replace(row, calls_per_token=row.calls_per_token / 2) for row in certificate().grid]
    named(tmp_path, "a.json", pilot_calls=0.4)
    named(tmp_path, "b.json", pilot_calls=0.5, scorer="typical", grid=lucky)
    found = find_certificates(tmp_path)
    chosen = choose(found, setting(), {"tv": 0.05}, 0.95)
    assert (chosen.path.name, chosen.confidence) == ("a.json", 0.95)
    assert "with probability at least 0.95" in chosen.statements[0]
    assert choose(found, setting(), {"tv": 0.05}, 0.95, given=["scorer"]).path.name == "a.json"


def test_a_second_certificate_speaks_only_where_the_wish_leaves_room_for_both(tmp_path: Path) -> None:
    named(tmp_path, "a.json", pilot_calls=0.4, infeasible=True)
    named(tmp_path, "b.json", pilot_calls=0.5, scorer="typical")
    found = find_certificates(tmp_path)
    # Whichever of the two is feasible would speak: that either is wrong has a chance of up to 0.1.
    assert math.isinf(choose(found, setting(), {"tv": 0.05}, 0.95).threshold)
    second = choose(found, setting(), {"tv": 0.05}, 0.9)
    assert (second.path.name, second.threshold, second.confidence) == ("b.json", 0.8, 0.9)
    assert "with probability at least 0.9," in second.statements[0]
    # The same holds where the first is feasible: what is stated must not depend on how it came out.
    named(tmp_path, "a.json", pilot_calls=0.4)
    assert choose(find_certificates(tmp_path), setting(), {"tv": 0.05}, 0.9).confidence == 0.9


def test_without_a_pilot_the_output_trained_for_the_loss_goes_first(tmp_path: Path) -> None:
    named(tmp_path, "a.json", scorer="typical")
    named(tmp_path, "b.json")
    found = find_certificates(tmp_path)
    assert choose(found, setting(), {"tv": 0.05}, 0.95).path.name == "b.json"
    assert choose(found, setting(), {"atypical": 0.02}, 0.95).path.name == "a.json"
    # An infeasible claim is granted by exact decoding only.
    assert math.isinf(choose(found, setting(), {"atypical": 0.01}, 0.95).threshold)


def test_a_chat_gets_no_claim_made_for_plain_prompts(tmp_path: Path) -> None:
    named(tmp_path, "a.json")
    asked = dataclasses.replace(setting(), prompts="chat")
    choice = choose(find_certificates(tmp_path), asked, {"tv": 0.05}, 0.95, num_tokens=64)
    assert (choice.threshold, choice.statements) == (0.8, ())
    assert choice.caveat is not None and "made for plain prompts" in choice.caveat and "about chats" in choice.caveat
    chats = dataclasses.replace(certificate(), setting=asked)
    chats.save(tmp_path / "b.json")
    covered = choose(find_certificates(tmp_path), asked, {"tv": 0.05}, 0.95, num_tokens=64)
    assert (covered.path.name, covered.caveat) == ("b.json", None)
    assert "on chats like these" in covered.statements[0]


def test_with_another_arithmetic_the_threshold_stays_and_nothing_is_promised(tmp_path: Path) -> None:
    made = dataclasses.replace(setting(), arithmetic=PASS)
    dataclasses.replace(certificate(), setting=made).save(tmp_path / "a.json")
    found = find_certificates(tmp_path)
    assert choose(found, made, {"tv": 0.05}, 0.95).caveat is None
    changed = dataclasses.replace(made, arithmetic={**PASS, "compiled pass": "9" * 64})
    choice = choose(found, changed, {"tv": 0.05}, 0.95)
    assert (choice.threshold, choice.statements) == (0.8, ())
    assert choice.caveat is not None
    assert "the arithmetic of compiled pass is 999999999999, certified 111111111111" in choice.caveat
    # Without a compiler another backend computes, which is another setting altogether.
    with pytest.raises(CertificateError, match="draft_backend is fast, certified toy"):
        choose(found, dataclasses.replace(changed, draft_backend="fast"), {"tv": 0.05}, 0.95)


def test_a_budget_is_the_certificate_s_to_set_and_the_user_s_own_must_be_the_certified_one(tmp_path: Path) -> None:
    held = dataclasses.replace(setting(), max_total_tv=16.0)
    dataclasses.replace(certificate(), setting=held).save(tmp_path / "a.json")
    found = find_certificates(tmp_path)
    choice = choose(found, setting(), {"tv": 0.05}, 0.95)
    assert choice.at(0.8, Config()).generation.max_total_tv == 16.0
    assert choice.at(math.inf, Config()).generation.max_total_tv is None
    with pytest.raises(CertificateError, match=r"max_total_tv is 8.0, certified 16.0"):
        choose(found, dataclasses.replace(setting(), max_total_tv=8.0), {"tv": 0.05}, 0.95)


def test_a_text_shorter_than_all_certified_ones_carries_a_caveat() -> None:
    assert certificate().caveat(0) is None
    assert [certificate().caveat(n) is None for n in (7, 8, 9, 63, 64, 65)] == [False, True, True, True, True, False]


def test_an_old_certificate_says_that_it_weighs_text_by_text(tmp_path: Path) -> None:
    old = dataclasses.replace(certificate(), shortest=0)
    assert "per token, text by text, on prompts like these (up to 64 new tokens each)" in old.statement(old.claims[1])


def test_a_longer_text_than_the_calibration_s_carries_a_caveat(tmp_path: Path) -> None:
    certificate().save(tmp_path / "c.json")
    found = find_certificates(tmp_path)
    assert choose(found, setting(), {"tv": 0.05}, 0.95, num_tokens=64).caveat is None
    longer = choose(found, setting(), {"tv": 0.05}, 0.95, num_tokens=65)
    assert longer.caveat is not None
    assert "at most 64 new tokens; up to 65 were asked for" in longer.caveat
    assert longer.told()["caveat"] == longer.caveat
    # Where nothing is certified the text is decoded exactly, which promises everything at any length.
    assert choose(found, setting(), {"atypical": 0.01}, 0.95, num_tokens=65).caveat is None


def test_a_certificate_long_enough_goes_before_one_that_a_pilot_expects_to_be_faster(tmp_path: Path) -> None:
    named(tmp_path, "long.json", max_new_tokens=128, pilot_calls=0.9)
    named(tmp_path, "short.json", pilot_calls=0.4)
    found = find_certificates(tmp_path)
    chosen = [choose(found, setting(), {"tv": 0.05}, 0.95, num_tokens=n).path.name for n in (64, 65, 129)]
    assert chosen == ["short.json", "long.json", "short.json"]


def test_the_refusal_names_the_certificate_that_came_closest(tmp_path: Path) -> None:
    certificate().save(tmp_path / "near.json")
    far = dataclasses.replace(setting(), target="f" * 64, method="lookahead", preset="paper")
    dataclasses.replace(certificate(), setting=far).save(tmp_path / "far.json")
    wanted = dataclasses.replace(setting(), draft_weights="int4")
    with pytest.raises(CertificateError, match=r"^near.json: .*draft_weights is int4, certified float64"):
        choose(find_certificates(tmp_path), wanted, {"tv": 0.05}, 0.95)


def test_without_the_compiled_pass_the_refusal_says_why_it_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPRINTER_NATIVE", "0")
    made = dataclasses.replace(setting(), target_backend="fast-compiled")
    dataclasses.replace(certificate(), setting=made).save(tmp_path / "a.json")
    asked = dataclasses.replace(setting(), target_backend="fast")
    with pytest.raises(
        CertificateError, match=r"certified fast-compiled.*\(the compiled pass is off: SPRINTER_NATIVE is 0\)"
    ):
        choose(find_certificates(tmp_path), asked, {"tv": 0.05}, 0.95)


def test_an_empty_folder_has_no_certificates(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="no certificates in"):
        find_certificates(tmp_path)
    with pytest.raises(CertificateError, match="cannot read"):
        find_certificates(tmp_path / "missing.json")


def refusal(path: Path) -> str:
    """The one line with which `path` is refused."""
    with pytest.raises(CertificateError) as caught:
        Certificate.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 400 + len(str(path))
    return message


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_truncated_or_altered_file_is_always_refused(data: st.DataObject, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "c.json"
    certificate().save(path)
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        # Cutting off only the last line end leaves the same certificate.
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        damaged = whole[:place] + data.draw(st.binary(max_size=4)) + whole[place + 1 :]
        path.write_bytes(damaged)
        try:
            same = json.loads(damaged) == json.loads(whole)
        except ValueError:
            same = False
        if same:  # a blank exchanged for a blank
            return
    refusal(path)


def paths_into(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    here = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return here + [place for key, inner in items for place in paths_into(inner, (*at, key))]


PLACES = [*paths_into(json.loads(json.dumps(dataclasses.asdict(certificate())))), ("format",), ("checksum",)]
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


@settings(deadline=None, max_examples=300)
@given(place=st.sampled_from(PLACES), value=STRANGE)
def test_any_value_exchanged_for_another_is_refused(place: tuple[Any, ...], value: Any, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "c.json"
    certificate().save(path)
    content = json.loads(path.read_text())
    *outer, last = place
    holder = content
    for key in outer:
        holder = holder[key]
    if holder[last] == value and type(holder[last]) is type(value):
        return
    holder[last] = value
    path.write_text(json.dumps(content))
    refusal(path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"confidence": 0.95', '"confidence": NaN', "NaN is not a number"),
        ('"confidence": 0.95', '"confidence": 1e999', "confidence is inf"),
        ('"confidence": 0.95', '"confidence": true', "confidence is True"),
        ('"confidence": 0.95', '"confidence": "0.95"', "confidence is '0.95'"),
        ('"confidence": 0.95', '"confidence": 0.99', "checksum"),
        ('"confidence": 0.95', '"confidence": 1.5', "confidence is not between"),
        ('"confidence": 0.95', '"confidence": 0.95, "confidence": 0.95', "a key is given twice"),
        ('"num_prompts": 200,\n "max', '"num_prompts": ' + "9" * 5000 + ',\n "max', "not valid JSON"),
        ('"num_prompts": 200,\n "max', '"num_prompts": 0,\n "max', "num_prompts is below 1"),
        ('"bound": "betting"', '"bound": "betting", "note": 1', "unknown key 'note'"),
        ('"bound": "betting",', "", "misses 'bound'"),
        ('"format": 2', '"format": true', "not a certificate of format 1 or 2"),
        ('"format": 2', '"format": 3', "not a certificate of format 1 or 2"),
        ('"format": 2', '"format": 1', "of format 1, but it does not say"),
        ('"threshold": 0.8,\n   "num', '"threshold": 0.95,\n   "num', "does not go from safe to fast"),
    ],
)
def test_each_kind_of_damage_is_named(saved: Path, old: str, new: str, says: str) -> None:
    text = saved.read_text()
    assert text.count(old) == 1
    saved.write_text(text.replace(old, new))
    assert says in refusal(saved)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}', b'"\\ud800"'])
def test_what_is_no_certificate_at_all_is_refused(saved: Path, content: bytes) -> None:
    saved.write_bytes(content)
    assert re.search(r"calibrate", refusal(saved))
