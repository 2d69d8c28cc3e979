"""SPRINTER's correction: only what nobody vouched for is tested."""

from __future__ import annotations

from collections.abc import Sequence

from sprinter.core.records import Draft, Law, Verdict
from sprinter.core.sampling import Dice
from sprinter.rules.exact import first_rejection


class VouchedRule:
    """Test, in order, exactly the tokens the verifier has not vouched for; cut at the first failure.

    If all pass, a bonus token is drawn. A draft with nothing to test only catches the target up (its cache, the
    audit): the round ends without a token of the target's own. arXiv:2502.04557, Algorithm 1.
    """

    def judge(self, draft: Draft, target_laws: Sequence[Law], dice: Dice) -> Verdict:
        if len(draft) and draft.all_vouched:
            return Verdict(len(draft), None, None)
        doubtful = [place for place, vouched in enumerate(draft.vouched) if not vouched]
        rejection = first_rejection(draft, target_laws, doubtful, dice)
        return rejection or Verdict(len(draft), dice.draw(target_laws[len(draft)]), "bonus")
