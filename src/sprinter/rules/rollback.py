"""Big Little Decoder's correction: keep drafted tokens the target finds likely enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sprinter.core.records import Draft, Law, Verdict
from sprinter.core.sampling import Dice, Sampling
from sprinter.errors import ConfigError
from sprinter.gates.fallback import is_doubted


class RollbackRule:
    """Cut at the first drafted token with -log p(x) > `rollback`; the target writes the token that caused the call.

    Kim et al. 2023, arXiv:2302.07863, section 3.3, with the cross entropy to the draft's token as the distance. The
    laws it judges are the target's at temperature 1, whatever the text is sampled with: the engine must be given
    `Sampling(1.0)`, this rule the sampling transform of the text.
    """

    def __init__(self, fallback: float, rollback: float, sampling: Sampling) -> None:
        if not rollback > 0:
            raise ConfigError(f"the rollback threshold is {rollback}, but must be above 0 nats")
        if sampling.repetition_penalty != 1:
            raise ConfigError("this rule knows no repetition penalty: leave it at 1")
        self.fallback = fallback
        self.least_prob = math.exp(-rollback)
        self.sampling = sampling

    def judge(self, draft: Draft, target_laws: Sequence[Law], dice: Dice) -> Verdict:
        doubted = is_doubted(draft, self.fallback)
        kept = len(draft) - doubted
        for place, token in enumerate(draft.tokens[:kept]):
            if target_laws[place].prob(token) < self.least_prob:
                return Verdict(place, self._write(target_laws[place], dice), "resampled")
        return Verdict(kept, self._write(target_laws[kept], dice), "resampled" if doubted else "bonus")

    def _write(self, law: Law, dice: Dice) -> int:
        """The target's own token under the sampling transform. `law` is at temperature 1 over all ids."""
        logits = np.log(np.maximum(law.probs, np.finfo(law.probs.dtype).tiny))  # [vocab]
        return dice.draw(self.sampling.law(logits, (), law.ids))
