"""Looks on at decoding and labels what was drafted: the rows a verifier learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sprinter.core.chance import DRAFT, OWN, Chance
from sprinter.core.reading import Reading
from sprinter.core.rows import FloatArray, Needs
from sprinter.core.sampling import Sampling
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Verdict
from sprinter.gates.echo import Echo
from sprinter.gates.features import scalars
from sprinter.learn.labels import Labels, TargetView, label


@dataclass(frozen=True, slots=True)
class Judged:
    """One drafted token with what a verifier may see of it and what the target says of it."""

    proposal: Proposal
    scalars: FloatArray  # [len(SCALARS)]
    labels: Labels


@dataclass(frozen=True, slots=True)
class Context:
    """A position reached, with the tokens judged there, one per transform."""

    step: int  # tokens after the prompt
    judged: list[Judged]


class Labeller:
    """Labels every drafted token of a text up to the first that falls.

    At each context a token is judged for every sampling transform: the drafted one for the text's own, and one drawn
    from the draft's same logits for each of `others`.
    """

    keeps_drafts = True

    def __init__(self, others: Sequence[Sampling], seed: int, goes_on: bool = False) -> None:
        """`goes_on`: a draft that stands whole is gone on with after the call, as by `ExactRule(bonus=False)`."""
        self.contexts: list[Context] = []
        self._others, self._goes_on = others, goes_on
        self._chances = [Chance(seed + 1 + number) for number in range(len(others))]
        self._since = 0  # drafted tokens that stand since the draft began, before this call

    def saw(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """See `Observer.saw`."""
        tree, fell = text.tree, verdict.origin == "resampled"
        proposals = tree.proposals
        assert proposals is not None and tree.parents is None, "the engine keeps what an observer asks for"
        for node in range(min(len(verdict.path) + fell, len(tree))):
            self._judge(text, node, proposals[node], reading)
        self._since = self._since + len(verdict.path) if self._goes_on and not fell else 0

    def _judge(self, text: Text, node: int, proposal: Proposal, reading: Reading) -> None:
        place, tree, echo = text.settled + node, text.tree, text.note(self, Echo)
        before = text.tokens[:place]
        previous = tree.scores[node - 1] if node else 1.0
        view = TargetView.of(reading, node)
        context = Context(place - text.num_prompt, [])
        for sampling, own in zip((text.sampling, *self._others), self._drawn(text, node, proposal), strict=True):
            heard = echo.look(text.tokens, place, own.token)
            numbers = scalars(own, self._since + node, previous, heard)
            context.judged.append(Judged(own, numbers, label(own, numbers, view, sampling, before)))
        self.contexts.append(context)

    def _drawn(self, text: Text, node: int, proposal: Proposal) -> list[Proposal]:
        """The drafted token, and one drawn under each other transform where the same logits stood."""
        found, logits = [proposal], proposal.logits
        assert logits is not None and proposal.facts is not None, "needs are compared before any model runs"
        for sampling, chance in zip(self._others, self._chances, strict=True):
            before = text.tokens[: text.settled + node]
            law = sampling.law(logits, before, proposal.ids, int(proposal.facts[0]))
            token = chance.draw(law, text.round, node, DRAFT)
            found.append(Proposal(token, law, logits, proposal.facts, proposal.ids, proposal.hidden, proposal.embed))
        return found


class HardRule:
    """Keeps a drafted token where q(x) <= p(x) by plain softmax, else the target writes: SPRINTER's own labels.

    The contexts of the paper's code (arXiv:2502.04557, section 4), which goes on by the label and never by chance.
    """

    needs = Needs(full_laws=True)
    exact = False
    lossy_tests = True

    def judge(self, text: Text, reading: Reading) -> Verdict:
        """See `Rule.judge`; for drafts of one token."""
        assert text.tree.proposals is not None, "it is for texts that a Labeller looks on"
        proposal = text.tree.proposals[0]
        view = TargetView.of(reading, 0)
        if label(proposal, scalars(proposal, 0, 1.0, (0, 0)), view, text.sampling, text.tokens[:-1]).accept_hard:
            return Verdict((0,))
        return Verdict((), text.chance.draw(reading.law(0), text.round, 0, OWN), "resampled")
