"""A drafter that computes a chunk of tokens ahead of the gate and serves them one by one."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from sprinter.core.records import Counters, Proposal
from sprinter.core.sampling import Dice
from sprinter.drafters.chunk import Chunk, ChunkProgram, Request
from sprinter.models.base import not_finite
from sprinter.models.fast.model import FastModel


class ChunkDrafter:
    """Serves a chunk's tokens while they are what is asked for; what the gate stops before is dropped.

        asked   a b c        a b c x      a b c x y            a b c x r
        chunk   -> x y z     serves y     gate stops: z is     -> launched anew
                serves x                  never looked at

    Results are those of one token at a time. A dropped token has influenced nothing: the gate saw only those before it,
    and the uniform it was drawn with is still the next one of the caller's `Dice`, since a chunk peeks and only serving
    uses up. `Counters.draft_steps` counts steps that ran, dropped ones included.
    """

    def __init__(self, program: ChunkProgram) -> None:
        self.program = program
        self._chunk: Chunk | None = None
        self._text: list[int] = []  # what the chunk's next token continues
        self._uniforms: list[float] = []  # that the chunk's tokens were drawn with; empty for a greedy one
        self._served = 0
        self._since_target = 0
        self._previous_score = 1.0

    @property
    def model(self) -> FastModel:
        return self.program.model

    def begin_round(self) -> None:
        """See `PerRound.begin_round`."""
        self._since_target, self._previous_score = 0, 1.0
        if self.program.reads_round:
            self._chunk = None

    def propose(self, tokens: Sequence[int], dice: Dice, counters: Counters) -> Proposal:
        """See `Drafter.propose`."""
        tokens = tokens if isinstance(tokens, list) else list(tokens)
        if self._chunk is None or not self._continues(self._chunk, tokens, dice):
            self._chunk = self._launch(tokens, dice, counters)
        proposal = self._chunk.proposals[self._served]
        if proposal is None:
            self._chunk = None
            raise not_finite(self.model.info.name)
        if self._uniforms:
            dice.uniform()
        self._served += 1
        self._text.append(proposal.token)
        self._since_target += 1
        self._previous_score = 1.0 if proposal.score is None else proposal.score
        return proposal

    def _continues(self, chunk: Chunk, tokens: list[int], dice: Dice) -> bool:
        """Whether the chunk's next token is what a step after `tokens` with the next uniform would draw."""
        if self._served == len(chunk.proposals) or tokens != self._text:
            return False
        return not self._uniforms or dice.peek(1)[0] == self._uniforms[self._served]

    def _launch(self, tokens: list[int], dice: Dice, counters: Counters) -> Chunk:
        started = perf_counter()
        self._uniforms = dice.peek(self.program.num_uniforms)
        self._text, self._served = list(tokens), 0
        chunk = self.program.launch(Request(tokens, self._uniforms, self._since_target, self._previous_score))
        counters.draft_s += perf_counter() - started
        counters.draft_steps += self.program.length
        counters.draft_tokens += chunk.num_computed
        return chunk
