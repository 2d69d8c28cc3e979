"""Exact acceptance: the output follows the target's law, whatever was drafted."""

from __future__ import annotations

from collections.abc import Sequence

from sprinter.core.records import Draft, Law, Verdict
from sprinter.core.sampling import Dice, acceptance, residual


class ExactRule:
    """Rejection sampling of every drafted token. Leviathan et al. 2211.17192; Chen et al. 2302.01318."""

    def judge(self, draft: Draft, target_laws: Sequence[Law], dice: Dice) -> Verdict:
        rejection = first_rejection(draft, target_laws, range(len(draft)), dice)
        return rejection or Verdict(len(draft), dice.draw(target_laws[len(draft)]), "bonus")


def first_rejection(draft: Draft, target_laws: Sequence[Law], places: Sequence[int], dice: Dice) -> Verdict | None:
    """Test the drafted tokens at `places` in order; the verdict of the first failure, None if all pass."""
    for place in places:
        draft_law = draft.proposals[place].law
        # A fresh uniform per token: sharing one ties acceptances together and biases the text.
        if not dice.accept(acceptance(draft.tokens[place], target_laws[place], draft_law)):
            return Verdict(place, dice.draw(residual(target_laws[place], draft_law)), "resampled")
    return None
