"""SPRINTER's correction: only what nobody vouched for is tested."""

from __future__ import annotations

from typing import Self

from sprinter.core.protocols import Kit
from sprinter.core.reading import Reading
from sprinter.core.rows import Needs
from sprinter.core.settings import PartSettings
from sprinter.core.text import Text
from sprinter.core.tree import Verdict
from sprinter.rules.exact import first_rejection, own_token


class VouchedRule:
    """Test, in order, exactly the tokens the verifier has not vouched for; cut at the first failure.

    If all pass, a bonus token is drawn. A draft with nothing to test only catches the target up (its cache, the
    audit): the round ends without a token of the target's own. arXiv:2502.04557, Algorithm 1.
    """

    needs = Needs(full_laws=True)
    exact = False
    lossy_tests = False
    Settings = PartSettings

    @classmethod
    def build(cls, settings: PartSettings, kit: Kit) -> Self:
        """See `protocols.Kit`."""
        return cls()

    def judge(self, text: Text, reading: Reading) -> Verdict:
        """See `Rule.judge`."""
        tree = text.tree
        if len(tree) and tree.all_vouched:
            return Verdict(range(len(tree)))
        rejection = first_rejection(text, reading, [node for node, vouched in enumerate(tree.vouched) if not vouched])
        return rejection or own_token(text, reading, len(tree))
