"""What was certified, for which pair and settings, as a file that cannot be edited or mistaken for another."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sprinter.certify.risks import RISKS
from sprinter.certify.typed import decode
from sprinter.errors import CertificateError

FORMAT = 2  # 1, read as well: of means over texts, at one length, without the arithmetic or its prompts' hashes
_ADVICE = "make a new one with `sprinter calibrate`"


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything a certificate depends on: change any of it and the certificate says nothing."""

    target: str  # fingerprint of the weights
    target_backend: str
    target_weights: str
    draft: str
    draft_backend: str
    draft_weights: str
    verifier: str  # fingerprint of its weights, "none" for a scorer without
    scorer: str
    method: str
    preset: str
    max_draft: int  # 0: no limit
    lookahead: float
    sampling: dict[str, float | int | list[int]]
    # Whose word a lookahead takes on survival where it is not the scorer's. Files older than this field lack it.
    survival: str = ""
    # Who drafts, where it is not the draft model alone, and the rule where it is not rejection.
    drafted: str = ""
    prompts: str = "plain"  # or "chat": put into the model's chat template
    # What every text is held to; None for no limit.
    max_total_tv: float | None = None
    max_atypical_tokens: float | None = None
    # By part: what computes, as far as a number of it could make another token come out; {} in old files.
    arithmetic: dict[str, str] = field(default_factory=dict)

    def mismatches(self, other: Setting) -> list[str]:
        """One phrase per field in which `other` differs."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "arithmetic"]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        if self.arithmetic:
            ours, theirs = self.arithmetic, other.arithmetic
            parts = sorted(ours.keys() | theirs.keys())
            pairs += [(f"the arithmetic of {part}", ours.get(part, ""), theirs.get(part, "")) for part in parts]
        return [
            f"{name} is {_short(theirs)}, certified {_short(ours)}" for name, ours, theirs in pairs if ours != theirs
        ]


@dataclass(frozen=True, slots=True)
class GridRow:
    """What one threshold did on the calibration prompts; losses on their natural scale."""

    threshold: float
    num_prompts: int
    calls_per_token: float  # target calls for each emitted token
    means: dict[str, float]
    uppers: dict[str, float]  # upper bounds at the certificate's confidence, each for this row alone


@dataclass(frozen=True, slots=True)
class Claim:
    """The fastest threshold certified for one level of one loss; None says that not even the safest was."""

    loss: str
    epsilon: float
    threshold: float | None
    pvalues: list[float]  # of the thresholds tried, from the safest on
    pilot_calls: float | None = None  # target calls per token that a pilot on other prompts expected of this level


@dataclass(frozen=True, slots=True)
class Certificate:
    """One calibration run: its setting, its grid from safest to fastest, and what follows for each claim."""

    setting: Setting
    confidence: float
    bound: str  # name of the p-value
    num_prompts: int
    max_new_tokens: int
    data: str  # fingerprint of the calibration prompts
    grid: list[GridRow]
    claims: list[Claim]
    made: dict[str, str]  # how: command, versions, device, time
    shortest: int = 0  # claims are about every text length from this one on; 0 in old files, about one length alone
    hashes: list[str] = field(default_factory=list)  # of the calibration prompts, see `prompt_hash`

    @property
    def is_old(self) -> bool:
        """Whether it was made before claims covered every length."""
        return self.shortest == 0

    def statement(self, claim: Claim, confidence: float | None = None) -> str:
        """The claim in plain words; `confidence` where it is less than the certificate's own."""
        if claim.threshold is None:
            return (
                f"No threshold could be certified for {RISKS[claim.loss].says} of at most {claim.epsilon:g} from "
                f"{self.num_prompts} prompts: exact decoding is used instead."
            )
        risk, kind = RISKS[claim.loss], "chats" if self.setting.prompts == "chat" else "prompts"
        if self.is_old or not risk.by_token:
            lengths = f"up to {self.max_new_tokens} new tokens each"
        elif self.shortest < self.max_new_tokens:
            lengths = f"cut after any number of new tokens from {self.shortest} to {self.max_new_tokens}"
        else:
            lengths = f"{self.max_new_tokens} new tokens each"
        by_text = ", text by text," if self.is_old and risk.by_token else ""
        return (
            f"Over the draw of the calibration prompts, with probability at least "
            f"{self.confidence if confidence is None else confidence:g}, "
            f"{risk.says}{by_text} on {kind} like these ({lengths}) is at most {claim.epsilon:g}."
        )

    def caveat(self, num_tokens: int) -> str | None:
        """Why nothing is promised about texts of up to `num_tokens` new tokens, in one line; None where it is."""
        if num_tokens > self.max_new_tokens:
            return (
                f"The certificate is about means over at most {self.max_new_tokens} new tokens; up to {num_tokens} "
                f"were asked for, and about the mean over a longer text it promises nothing: ask for -n "
                f"{self.max_new_tokens}, or for a limit that holds for every text (--max-total-tv)."
            )
        if self.is_old and 0 < num_tokens < self.max_new_tokens:
            return (
                f"The certificate is about texts of up to {self.max_new_tokens} new tokens and no shorter limit; "
                f"{num_tokens} were asked for, and texts may lose most at their beginning."
            )
        if 0 < num_tokens < self.shortest:
            return (
                f"The certificate is about means over at least {self.shortest} new tokens; {num_tokens} were asked "
                "for, and about fewer it promises nothing."
            )
        return None

    def require_match(self, setting: Setting) -> None:
        """Raise CertificateError naming every field in which `setting` is not the certified one."""
        if wrong := self.setting.mismatches(setting):
            raise CertificateError(f"the certificate is for another setting: {'; '.join(wrong)}; {_ADVICE}")

    def threshold_for(self, wanted: Mapping[str, float], confidence: float = 0.0) -> float:
        """The fastest threshold that keeps every wanted level at once; +inf (exact) where none was certified.

        All claims of one run are tested on the same grid in the same order, so the safest of their thresholds is what
        testing them jointly would have returned: it keeps all levels at once with the stated confidence.
        """
        if not wanted:
            raise CertificateError("no level was asked for: give a loss and the most it may be")
        if confidence > self.confidence:
            raise CertificateError(
                f"confidence {confidence:g} was asked for, but the certificate has {self.confidence:g}; {_ADVICE}"
            )
        thresholds = [self.claim_for(loss, epsilon).threshold for loss, epsilon in wanted.items()]
        return max(math.inf if threshold is None else threshold for threshold in thresholds)

    def claim_for(self, loss: str, epsilon: float) -> Claim:
        """The loosest claim about `loss` that is not looser than `epsilon`."""
        about = [claim for claim in self.claims if claim.loss == loss]
        fitting = [claim for claim in about if claim.epsilon <= epsilon]
        if not fitting:
            has = ", ".join(f"{c.epsilon:g}" for c in about) or "nothing"
            raise CertificateError(
                f"{loss} of at most {epsilon:g} was asked for, the certificate claims {has}; {_ADVICE}"
            )
        # An infeasible claim at a looser level says nothing against a tighter one that was certified.
        certified = [claim for claim in fitting if claim.threshold is not None]
        return max(certified or fitting, key=lambda claim: claim.epsilon)

    def certified_thresholds(self, wanted: Mapping[str, float]) -> list[float]:
        """The thresholds of the grid certified for `wanted`, safest first."""
        fastest = self.threshold_for(wanted)
        return [row.threshold for row in self.grid if row.threshold >= fastest]

    def save(self, path: Path) -> None:
        """Write the certificate as JSON, complete or not at all."""
        body = dataclasses.asdict(self)
        content = {"format": 1 if self.is_old else FORMAT, "checksum": _checksum(body), **body}
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            beside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Certificate:
        """The certificate in `path`; CertificateError, in one line, for anything that is not exactly one."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise CertificateError(f"cannot read certificate {path}: {reason}; {_ADVICE}") from None
        try:
            return cls.parse(text)
        except CertificateError as error:
            raise CertificateError(f"{path}: {error}; {_ADVICE}") from None

    @classmethod
    def parse(cls, text: str) -> Certificate:
        """The certificate whose JSON is `text`."""
        try:
            content = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split()) or "nested too deeply"
            raise CertificateError(f"not valid JSON ({reason[:100]})") from None
        if not isinstance(content, dict):
            raise CertificateError("not a certificate: the file holds no JSON object")
        # By type too, since true equals 1.
        if (version := content.pop("format", None)) not in (1, FORMAT) or type(version) is not int:
            raise CertificateError(f"not a certificate of format 1 or {FORMAT}")
        checksum = content.pop("checksum", None)
        certificate = decode(cls, content, "certificate")
        assert isinstance(certificate, cls)
        _check_consistent(certificate)
        if certificate.is_old != (version == 1):
            raise CertificateError(f"of format {version}, but it does not say what one of that format says")
        if checksum != _checksum(content):
            raise CertificateError("the checksum does not fit the content: the file was edited or damaged")
        return certificate


def prompt_hash(prompt: str) -> str:
    """What is kept of a prompt: 8 bytes of the SHA-256 of its text without blanks at its ends."""
    return hashlib.sha256(prompt.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _checksum(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
    is_fingerprint = len(text) >= 32 and all(c in "0123456789abcdef" for c in text)
    return text[:12] if is_fingerprint else text


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key is given twice")
    return keys


def _check_consistent(certificate: Certificate) -> None:
    """Raise CertificateError for numbers of the right type that no calibration could have written."""
    thresholds = [row.threshold for row in certificate.grid]
    rows_fit = all(
        row.num_prompts >= 1
        and row.calls_per_token >= 0
        and row.means.keys() == row.uppers.keys()
        and row.means.keys() <= RISKS.keys()
        for row in certificate.grid
    )
    claims_fit = all(
        claim.loss in RISKS
        and 0 < claim.epsilon < RISKS[claim.loss].high
        and all(0 <= p <= 1 for p in claim.pvalues)
        and len(claim.pvalues) <= len(thresholds)
        and (claim.threshold is None or claim.threshold in thresholds[: len(claim.pvalues)])
        for claim in certificate.claims
    )
    checks = {
        "confidence is not between 0 and 1": 0 < certificate.confidence < 1,
        "num_prompts is below 1": certificate.num_prompts >= 1,
        "max_new_tokens is below 1": certificate.max_new_tokens >= 1,
        "shortest is not a length of these texts": 0 <= certificate.shortest <= certificate.max_new_tokens,
        "the grid does not go from safe to fast": all(a > b for a, b in itertools.pairwise(thresholds)),
        "a row of the grid is impossible": rows_fit,
        "a claim is impossible or does not belong to the grid": claims_fit,
    }
    for problem, fine in checks.items():
        if not fine:
            raise CertificateError(problem)
