"""Drafting with a smaller language model."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from sprinter.core.records import Counters, Proposal
from sprinter.core.sampling import Dice, Sampling
from sprinter.gates.echo import Echo
from sprinter.models.base import LanguageModel


class ModelDrafter:
    """Draws each token from a draft model's law under the sampling transform."""

    def __init__(self, model: LanguageModel, sampling: Sampling, vocab_size: int, echoes: bool = True) -> None:
        """`vocab_size`: ids both models know; logits of ids beyond it are padding and dropped.

        Without `echoes` proposals say that nothing of the text has stood before, for gates that do not ask.
        """
        self.model = model
        self._sampling = sampling
        self._vocab_size = vocab_size
        self._echo = Echo() if echoes else None

    def propose(self, tokens: Sequence[int], dice: Dice, counters: Counters) -> Proposal:
        started = perf_counter()
        output = self.model.forward(tokens, 1)
        counters.draft_s += perf_counter() - started
        counters.draft_steps += 1
        counters.draft_tokens += output.num_computed
        ids = self.model.head_tokens
        logits = output.logits[0] if ids is not None else output.logits[0, : self._vocab_size]  # [width]
        facts = output.facts if logits.shape[0] == output.logits.shape[1] else None
        law = self._sampling.law(logits, tokens, ids, None if facts is None else facts.best(0))
        token = dice.draw(law)
        embedding = self.model.embedding(token) if self.model.capabilities.embedding else None
        hidden = None if output.hidden is None else output.hidden[0]  # [hidden]
        echo = (0, 0) if self._echo is None else self._echo.look(tokens, token)
        return Proposal(token, law, logits, ids, hidden, embedding, echo)
