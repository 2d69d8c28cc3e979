"""The parts of a way of decoding: who drafts, who lets draft, who judges, who looks on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sprinter.core.rows import Model, Needs
from sprinter.core.text import Text
from sprinter.core.tree import Proposal, Verdict

if TYPE_CHECKING:
    from sprinter.core.reading import Reading


class Drafter(Protocol):
    """Proposes tokens cheaply; a token's law must be the one it was really drawn from."""

    @property
    def needs(self) -> Needs:
        """Of the draft model."""

    @property
    def target_needs(self) -> Needs:
        """Of the target."""

    @property
    def by_model(self) -> bool:
        """Whether it runs the pair's draft model."""

    @property
    def gives_laws(self) -> bool:
        """Whether a drafted token comes with the logits of a model, for a gate to read."""

    @property
    def at_once(self) -> bool:
        """Whether it drafts as far as it likes at a time, so that no gate can fix a draft's length."""

    def grow(self, texts: Sequence[Text]) -> None:
        """Add nodes to the tree of each text; what gets none is due for the target. Chance: `text.chance`, by place."""

    def learn(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """What the target just said of the text; may do nothing. Called before the text settles."""


class Gate(Protocol):
    """Before the target is asked: scores and vouches for what is new, and says when to stop drafting."""

    @property
    def needs(self) -> Needs:
        """Of the draft model."""

    @property
    def vouches(self) -> bool:
        """Whether it may vouch for a token: with a gate that never does, an exact rule's text is the target's own."""

    def judge(self, text: Text) -> bool:
        """Judge the new nodes of the text (there may be none); whether to draft on.

        A vouched token is final without the target's test unless an earlier token of the draft falls.
        """


class Scorer(Protocol):
    """Estimates, from the draft alone, the chance that the target would accept a drafted token."""

    @property
    def needs(self) -> Needs: ...

    def score(self, text: Text, proposal: Proposal) -> float:
        """f(x, s) in [0, 1] for the first node of the text's tree that has not been judged, `proposal`."""


class Rule(Protocol):
    """After the target was asked: what stands and what replaces the rest."""

    @property
    def needs(self) -> Needs:
        """Of the target."""

    @property
    def exact(self) -> bool:
        """Whether the output law is the target's own whatever was drafted, where nobody was vouched for."""

    @property
    def lossy_tests(self) -> bool:
        """Whether a token may pass its test more easily than exact acceptance allows.

        Then what vouched tokens cost is not all, and the audit cannot tell the total variation.
        """

    def judge(self, text: Text, reading: Reading) -> Verdict:
        """What stands of the text's tree by the target's reading of it."""


class Observer(Protocol):
    """Looks on at one text; changes nothing."""

    @property
    def keeps_drafts(self) -> bool:
        """Whether `text.tree.proposals` must hold what the drafter knew of every node: much memory for long drafts."""

    def saw(self, text: Text, verdict: Verdict, reading: Reading) -> None:
        """One target call, before the text settles."""


class Clock(Protocol):
    """Hears when a stage begins and ends: "draft", "verify" or "target"."""

    def began(self, stage: str) -> None: ...

    def ended(self, stage: str, texts: Sequence[Text]) -> None: ...


@dataclass(frozen=True, eq=False, slots=True)
class Recipe:
    """One way of decoding: changing the gate or the rule changes the method, the loop stays."""

    gate: Gate
    rule: Rule
    drafter: Drafter | None = None  # None: nothing is drafted, the target writes alone
    name: str = ""

    @property
    def exact(self) -> bool:
        """Whether every text has the target's law."""
        return self.rule.exact and not self.gate.vouches

    @property
    def runs_draft(self) -> bool:
        """Whether the pair's draft model computes something."""
        return self.drafter is not None and self.drafter.by_model


class Kit(Protocol):
    """What a part is built from. A part is a class with its `Settings` and `build(settings, kit)`."""

    @property
    def target(self) -> Model: ...

    @property
    def draft(self) -> Model: ...

    def cut(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text alone, without special tokens, and the characters (first, behind) each covers."""

    def scorer(self, name: str) -> tuple[Scorer, float]:
        """An untrained scorer, or the pair's verifier by one of its outputs, with its own threshold."""
