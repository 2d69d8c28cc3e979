"""What a round costs in seconds and in FLOPs, and so what an emitted token costs under every method.

The target's forward is a measured function of its width, the number of tokens it holds, not a constant: on a small
processor it grows. A round of n drafted tokens runs the target on n + 1 tokens, the n pending ones and the last emitted
one, whose law of the next token is needed too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sprinter.errors import ConfigError, DataError
from sprinter.theory.closed_forms import RoundLaw, exact_round

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WidthCost:
    """Seconds of one target forward by width: measured points, straight lines between and beyond them.

    >>> WidthCost((1, 9), (0.25, 0.75))(5)
    0.5
    """

    widths: tuple[int, ...]  # tokens, ascending
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.seconds):
            raise DataError("a cost by width needs at least one width, and one time for each")
        if any(b <= a for a, b in zip((0, *self.widths), self.widths, strict=False)):
            raise DataError(f"widths must ascend from at least 1, got {self.widths}")
        if not all(0.0 < s < float("inf") for s in self.seconds):
            raise DataError(f"every time must be above 0 seconds, got {self.seconds}")

    def __call__(self, width: float) -> float:
        """Seconds of a forward over `width` tokens."""
        return float(self.at(np.array([width]))[0])

    def at(self, widths: ArrayLike) -> Array:
        """Seconds for each of `widths`; beyond the last point the last segment goes on, never falling."""
        asked = np.asarray(widths, np.float64)
        inside = np.interp(asked, self.widths, self.seconds)
        if len(self.widths) == 1:
            return inside
        rise = (self.seconds[-1] - self.seconds[-2]) / (self.widths[-1] - self.widths[-2])
        return inside + max(0.0, rise) * np.maximum(0.0, asked - self.widths[-1])


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a draft step, of the verifier's word on a token, of the target by width, and of what else there is."""

    draft_s: float
    verifier_s: float
    target_s: WidthCost
    token_s: float = 0.0  # an emitted token's law and its audit, under every method
    target_prompt_s: float = 0.0  # reading a prompt, beyond the call or step that does it
    draft_prompt_s: float = 0.0

    def __post_init__(self) -> None:
        times = (self.draft_s, self.verifier_s, self.token_s, self.target_prompt_s, self.draft_prompt_s)
        if not all(seconds >= 0.0 for seconds in times):
            raise DataError(f"times cannot be negative, but one of {times} is")

    @property
    def alone_s(self) -> float:
        """Seconds of a token that the target writes alone, the prompt's reading left out."""
        return self.target_s(1) + self.token_s

    @property
    def ratio(self) -> float:
        """c = draft step / target forward of one token."""
        return self.draft_s / self.target_s(1)


def round_seconds(round_law: RoundLaw, costs: Costs, with_verifier: bool) -> float:
    """E[n] (c_d + c_v) + E[c_t(n + 1)], the expectation over the law of n: c_t need not be linear."""
    step_s = costs.draft_s + (costs.verifier_s if with_verifier else 0.0)
    if len(round_law.length_probs) == 0:
        return costs.target_s(1)
    widths = np.arange(2, len(round_law.length_probs) + 2)  # n + 1
    return round_law.drafted * step_s + float(round_law.length_probs @ costs.target_s.at(widths))


def seconds_per_token(round_law: RoundLaw, costs: Costs, with_verifier: bool) -> float:
    """E[seconds of a round] / E[tokens of a round] + c_e: the renewal-reward theorem (docs/theory.md, section 4).

    Assumes independent rounds, and that a step costs the same at every length of the text: the attention's growth with
    the context is left out, as is the reading of the prompt.
    """
    return round_seconds(round_law, costs, with_verifier) / round_law.tokens + costs.token_s


def exact_seconds_per_token(alpha: float, length: int, costs: Costs) -> float:
    """(g c_d + c_t(g + 1)) (1 - alpha) / (1 - alpha^(g+1)) + c_e; g = 0 is the target alone.

    Source: Leviathan et al. 2211.17192, theorem 3.8, with the target's cost a function of its width and c_e the cost
    of an emitted token. alpha = 1 is the limit (g c_d + c_t(g + 1)) / (g + 1) + c_e.
    """
    drafted_s = length * costs.draft_s + costs.target_s(length + 1)
    if alpha == 1.0:
        return drafted_s / (length + 1) + costs.token_s
    return drafted_s * (1.0 - alpha) / (1.0 - alpha ** (length + 1)) + costs.token_s


def best_draft_length(alpha: float, costs: Costs, longest: int = 32, shortest: int = 1) -> int:
    """The g in shortest .. longest with the least `exact_seconds_per_token`, by trying each; ties go to the shorter."""
    if not 0 <= shortest <= longest:
        raise ConfigError(f"draft lengths {shortest} .. {longest} hold no length to choose")
    return min(range(shortest, longest + 1), key=lambda length: exact_seconds_per_token(alpha, length, costs))


@dataclass(frozen=True, slots=True)
class FlopCosts:
    """FLOPs of one token's pass through each part."""

    draft: float
    verifier: float
    target: float


def token_flops(num_parameters: int, num_layers: int, hidden_size: int, context_tokens: float) -> float:
    """2 P + 4 layers hidden context: a multiply and an add per parameter, and q.k and the weighted sum of values.

    Source: Kaplan et al. 2001.08361, section 2.1 (2 N + 2 layers context hidden for q.k alone; the values double it).
    `num_parameters` leaves out embedding lookups. With grouped-query attention the term is the same: each query head
    reads its own product.
    """
    return 2.0 * num_parameters + 4.0 * num_layers * hidden_size * context_tokens


def flops_per_token(round_law: RoundLaw, flops: FlopCosts, with_verifier: bool) -> float:
    """(E[n] (F_d + F_v) + (E[n] + 1) F_t) / E[tokens]: all that runs, the target on every pending token."""
    step = flops.draft + (flops.verifier if with_verifier else 0.0)
    return (round_law.drafted * step + (round_law.drafted + 1.0) * flops.target) / round_law.tokens


def paper_flops_per_token(round_law: RoundLaw, flops: FlopCosts, with_verifier: bool) -> float:
    """(E[n] (F_d + F_v) + E[tested] F_t) / E[tokens]: the paper's count, the target charged for tested tokens only.

    Not what runs: the vouched tokens pass through the target too, since its cache needs them. For the target alone it
    is F_t, for exact decoding g F_t per call; compare 2502.04557's FLOP figures with this one and no other.
    """
    step = flops.draft + (flops.verifier if with_verifier else 0.0)
    charged = round_law.tested if len(round_law.length_probs) else 1.0
    return (round_law.drafted * step + charged * flops.target) / round_law.tokens


def best_exact_round(alpha: float, costs: Costs, longest: int = 32) -> tuple[int, RoundLaw]:
    """The best draft length of at least 1 and its round."""
    length = best_draft_length(alpha, costs, longest)
    return length, exact_round(alpha, length)
