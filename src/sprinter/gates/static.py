"""The verifier where the draft model is: features, echo and network in operations of fixed shapes.

`features.py` and `echo.py` say what the numbers mean; this computes the same from tensors, waits for nothing, and can
be captured in a graph. Scalars here are tensors of one entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sprinter.core.records import FloatArray
from sprinter.gates.echo import LONGEST
from sprinter.gates.features import FLOOR, SCALARS
from sprinter.gates.verifier import Verifier

NOTHING: Final = -1  # stands for a token before the text's first
_NEVER: Final = -2  # equals no token, not even NOTHING


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token drafted on the device, and what the draft model knew when it drew it."""

    place: Tensor  # int64 [1], the token's entry of the logits
    prob: Tensor  # [1], under the law it was drawn from
    logits: Tensor  # float32 [width]
    hidden: Tensor  # float32 [hidden]
    embedding: Tensor  # float32 [hidden], of the token
    echo: Tensor  # float64 [2]: same, other
    since_target: Tensor  # float64 [1], drafted tokens before it since the last target call
    previous_score: Tensor  # float64 [1]


def echo_at(text: Tensor, position: Tensor, token: Tensor, window: int) -> Tensor:
    """`Echo.look` for `token` int64 [1] behind the text's token at `position` int64 [1]: float64 [2], same and other.

    `text` is int64 [LONGEST + window + 1 or more]: LONGEST times NOTHING, then the tokens by position; `position` is
    below `window`. What stands behind `position` is not looked at.
    """
    back = torch.arange(LONGEST, device=text.device)  # [order], 0 for the ending's last token
    ending = text[position + LONGEST - back].masked_fill(position < back, _NEVER)  # [order]
    # Row `order`: the text `order` places before each position.
    before = text[1 : LONGEST + window].unfold(0, window, 1).flip(0)  # [order, window]
    lengths = (before == ending[:, None]).to(torch.int64).cumprod(0).sum(0)  # [window], of the ending that ends there
    lengths = lengths * (torch.arange(window, device=text.device) < position)
    follows = text[LONGEST + 1 : LONGEST + 1 + window] == token  # [window]
    return torch.stack([(lengths * follows).max(), (lengths * ~follows).max()]).double()


def _log_q(drawn: Drawn) -> Tensor:
    return drawn.prob.double().clamp_min(1e-30).log().clamp_min(FLOOR)


def _of_logits(drawn: Drawn) -> dict[str, Tensor]:
    """log_q_raw, entropy, margin and rank of the token, float64 [1] each."""
    logits = drawn.logits
    own, peak = logits[drawn.place], logits.max()
    shifted = logits - peak
    weights = shifted.exp()
    total = weights.sum().double()
    moment = (weights * shifted.clamp_min(-100)).sum().double()  # a banned token's -inf would make 0 * -inf
    second = logits.scatter(0, logits.argmax(keepdim=True), -torch.inf).max()
    return {
        "log_q_raw": ((own - peak).double() - total.log()).clamp_min(FLOOR),
        "entropy": (total.log() - moment / total).view(1),
        "margin": ((1 - (second - peak).double().exp()) / total).view(1),
        "rank": (logits > own).sum().double().log1p().view(1),
    }


class StaticVerifier:
    """A `Verifier`'s score of one drafted token, on `device`."""

    def __init__(self, verifier: Verifier, device: torch.device) -> None:
        def there(values: FloatArray, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(np.asarray(values), dtype=dtype, device=device)

        layers, (weight, bias), curve = verifier.head()
        self.features = verifier.record.features
        self._layers = [(there(w), there(b)) for w, b in layers]
        self._weight = there(weight)[None]  # [1, in]
        self._bias = bias
        self._curve: tuple[Tensor, Tensor, Tensor] | None = None
        if curve is not None:
            knots, values = curve
            with np.errstate(divide="ignore", invalid="ignore"):
                # Behind the last knot the curve is flat. Of two equal knots only the later one's slope is used.
                slopes = np.nan_to_num(np.append(np.diff(values) / np.diff(knots), 0.0), posinf=0.0, neginf=0.0)
            self._curve = (there(knots, torch.float64), there(values, torch.float64), there(slopes, torch.float64))

    @property
    def reads_round(self) -> bool:
        """Whether a score depends on what was drafted before in the round, beyond the text itself."""
        return bool({"since_target", "previous_score"} & set(self.features))

    @property
    def reads_echo(self) -> bool:
        return bool({"echo_same", "echo_other"} & set(self.features))

    def score(self, drawn: Drawn) -> Tensor:
        """See `Verifier.score`: float64 [1]."""
        x = self._inputs(drawn)
        for weight, bias in self._layers:
            x = F.relu(F.linear(x, weight, bias))
        score = torch.sigmoid(F.linear(x, self._weight).double() + self._bias)
        if self._curve is None:
            return score
        knots, values, slopes = self._curve
        score = torch.maximum(score, knots[:1])
        # np.interp's own formula, so that a flat piece gives its very value: thresholds are compared with it.
        piece = torch.searchsorted(knots, score, right=True) - 1
        return slopes[piece] * (score - knots[piece]) + values[piece]

    def _inputs(self, drawn: Drawn) -> Tensor:
        """The features in the verifier's order, float32 [inputs]."""
        known: dict[str, Callable[[], Tensor]] = {
            "hidden": lambda: drawn.hidden,
            "embedding": lambda: drawn.embedding,
            "log_q": lambda: _log_q(drawn),
            "since_target": drawn.since_target.log1p,
            "previous_score": lambda: drawn.previous_score,
            "echo_same": lambda: drawn.echo[:1],
            "echo_other": lambda: drawn.echo[1:],
        }
        strangers = [n for n in self.features if n in SCALARS and n not in known]
        of_logits = _of_logits(drawn) if strangers else {}
        parts = [of_logits[n] if n in of_logits else known[n]() for n in self.features]
        return torch.cat([part.float() for part in parts])
