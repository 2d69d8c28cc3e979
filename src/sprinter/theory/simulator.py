"""Monte Carlo of the loop on (a, f) rows: an independent check of the closed forms, and of what they assume.

Rows are indexed by the position of the text they belong to: after a cut or a bonus at position t the next draft
starts with row t + 1. Where rows are independent this is exactly the engine; where they are not, it assumes that the
difficulty of a place belongs to the place and not to the words chosen before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sprinter.core.tree import MOST_HELD
from sprinter.errors import ConfigError, DataError
from sprinter.theory.setting import Setting
from sprinter.theory.token_law import TokenLaw

Array = NDArray[np.float64]
_DRAFTED, _TOKENS, _TESTED, _LOSS = range(4)


@dataclass(frozen=True, slots=True)
class Rows:
    """Successive positions' acceptance chance and verifier score, with what a gate may use beside them."""

    accept: Array  # [positions]
    score: Array  # [positions]
    survivor: Array | None = None  # [positions], predicted acceptance where that is not the score
    cost: Array | None = None  # [positions], of vouching; 1 - accept, the total variation's share, unless given

    def __post_init__(self) -> None:
        if len(self.accept) != len(self.score) or len(self.accept) == 0:
            raise DataError("rows need one accept and one score per position, and at least one position")
        if self.cost is not None and len(self.cost) != len(self.accept):
            raise DataError(f"rows need one cost per position, but {len(self.accept)} positions have {len(self.cost)}")
        if len(self.survival) != len(self.score):
            raise DataError("rows need one predicted chance of acceptance per position, or none at all")
        for name, values in (("accept", self.accept), ("score", self.score), ("survivor", self.survival)):
            if not ((values >= 0.0) & (values <= 1.0)).all():
                raise DataError(f"{name} holds a value outside [0, 1]: chances are wanted, not logits or percentages")

    @property
    def loss(self) -> Array:
        """What vouching for each position costs, [positions]."""
        return 1.0 - self.accept if self.cost is None else self.cost

    @property
    def survival(self) -> Array:
        """What an unvouched token's chance to pass is taken for, [positions]."""
        return self.score if self.survivor is None else self.survivor


def independent_rows(law: TokenLaw, count: int, rng: np.random.Generator) -> Rows:
    """Fresh draws from `law`: what every closed form assumes."""
    picked = rng.choice(len(law.weights), count, p=law.weights)
    return Rows(law.accept[picked], law.score[picked])


def sticky_rows(law: TokenLaw, stay: float, count: int, rng: np.random.Generator) -> Rows:
    """A Markov chain: each row repeats the one before with chance `stay`, else is a fresh draw.

    Every single row still follows `law`, so alpha, kappa, rho and delta stay what they were, and any gap to the closed
    forms is dependence alone; `stay` is the correlation of neighbours, 1 / (1 - stay) the mean length of a stretch.
    """
    if not 0.0 <= stay < 1.0:
        raise ConfigError(f"stay is {stay}, but a chance to repeat lies in [0, 1)")
    fresh = rng.random(count) >= stay
    fresh[0] = True
    picked = rng.choice(len(law.weights), int(fresh.sum()), p=law.weights)[np.cumsum(fresh) - 1]
    return Rows(law.accept[picked], law.score[picked])


def recorded_rows(traces: Sequence[Rows], count: int, rng: np.random.Generator) -> Rows:
    """Recorded prompts drawn with replacement and laid end to end: dependence within a prompt as it was recorded."""
    if not traces:
        raise DataError("there is no recorded prompt to draw from")
    picked: list[Rows] = []
    while sum(len(rows.accept) for rows in picked) < count:
        picked += [traces[i] for i in rng.integers(len(traces), size=max(1, count // 64))]
    columns = ([getattr(rows, name) for rows in picked] for name in ("accept", "score", "survival", "loss"))
    return Rows(*(np.concatenate(column)[:count] for column in columns))


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of `length` tokens, each held to a total loss of `budget`: docs/theory.md, section 10."""

    length: int
    budget: float


def simulate(rows: Rows, setting: Setting, rng: np.random.Generator, texts: Texts | None = None) -> Array:
    """[num_rounds, 4] of drafted, tokens, tested, loss: rounds one after the other until the rows run out.

    With `texts` they belong to texts laid end to end, each with its budget.
    """
    # Plain floats: the loop below is per token.
    accept, score, cost, survival = (column.tolist() for column in (rows.accept, rows.score, rows.loss, rows.survival))
    passes = (rng.random(len(accept)) < rows.accept).tolist()  # one coin per position; only a tested token looks at it
    rounds: list[tuple[int, int, int, float]] = []
    start, begun, spent = 0, 0, 0.0
    while start + setting.cap < len(accept):
        if texts is not None and start - begun >= texts.length:
            begun, spent = start, 0.0
        left = math.inf if texts is None else math.floor(texts.budget - spent)
        length, doubtful = draft_run(score, survival, start, setting, left)
        failed = next((place for place in doubtful if not passes[place]), None)
        end = start + length if failed is None else failed  # first position that no kept drafted token fills
        unseen = set(doubtful)
        loss = sum(cost[place] for place in range(start, end) if place not in unseen)
        has_own = bool(doubtful)  # a draft with nothing to test ends without a token of the target's
        spent += loss
        rounds.append((length, end - start + has_own, len(doubtful), loss))
        start = end + has_own
    if not rounds:
        raise DataError(f"{len(accept)} rows hold no round of up to {setting.cap} tokens")
    return np.array(rounds, np.float64)  # [num_rounds, 4]


def draft_run(
    score: Sequence[float], survival: Sequence[float], start: int, setting: Setting, left: float = math.inf
) -> tuple[int, list[int]]:
    """(n, positions left unvouched) of the run that starts at row `start`: the gate's whole behaviour.

    `left`: how many may be vouched for; those beyond are held for a test and raise no doubt.
    """
    alive, held = 1.0, 0
    tested: list[int] = []
    for drafted in range(1, setting.cap + 1):
        place = start + drafted - 1
        if score[place] < setting.threshold or (setting.test_last and drafted == setting.cap):
            tested.append(place)
            alive *= survival[place]
        elif drafted - len(tested) > left:
            tested.append(place)
            held += 1
        if held == MOST_HELD or (len(tested) > held and alive <= setting.lookahead):
            return drafted, tested
    return setting.cap, tested


@dataclass(frozen=True, slots=True)
class Estimate:
    """A simulated ratio and its standard error."""

    value: float
    standard_error: float

    def deviation(self, expected: float) -> float:
        """(value - expected) in standard errors; 0 where both agree and nothing varies."""
        gap = self.value - expected
        return 0.0 if abs(gap) < 1e-12 else gap / max(self.standard_error, 1e-300)


def ratio_estimate(numerator: Array, denominator: Array, batches: int = 60) -> Estimate:
    """sum x / sum y over rounds, its error from `batches` batch means, which allow for neighbours' dependence.

    Delta method: Var(X / Y) ~ Var(mean(x - (X / Y) y)) / mean(y)^2, over batches of rounds.
    """
    size = len(numerator) // batches
    if size == 0:
        raise DataError(f"{len(numerator)} rounds are too few for {batches} batches")
    used = size * batches
    above = numerator[:used].reshape(batches, size).mean(axis=1)  # [batches]
    below = denominator[:used].reshape(batches, size).mean(axis=1)
    value = float(above.sum() / below.sum())
    spread = float(np.std(above - value * below, ddof=1)) / np.sqrt(batches)
    return Estimate(value, float(spread / below.mean()))


@dataclass(frozen=True, slots=True)
class Simulated:
    """Means over the simulated rounds, each with its standard error."""

    drafted: Estimate  # per round
    tokens: Estimate  # per round
    tested: Estimate  # per round
    calls_per_token: Estimate
    drafted_per_token: Estimate
    loss_per_token: Estimate


def summarise(rounds: Array) -> Simulated:
    """Means and ratios of what `simulate` returned."""
    ones = np.ones(len(rounds))
    tokens = rounds[:, _TOKENS]
    return Simulated(
        drafted=ratio_estimate(rounds[:, _DRAFTED], ones),
        tokens=ratio_estimate(tokens, ones),
        tested=ratio_estimate(rounds[:, _TESTED], ones),
        calls_per_token=ratio_estimate(ones, tokens),
        drafted_per_token=ratio_estimate(rounds[:, _DRAFTED], tokens),
        loss_per_token=ratio_estimate(rounds[:, _LOSS], tokens),
    )
