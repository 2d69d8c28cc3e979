"""Several draft steps in one launch: token, law, features and score stay on the device; the host reads once at the end.

    step 1           step 2           ...   step k
    token -> logits -> drawn token -> logits -> ... -> drawn token
                   \\-> score            \\-> score       \\-> score      -> one copy to the host

Every shape is fixed, and positions are counted on the device, so a CUDA graph can hold all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from sprinter.core.records import FloatArray, Law, Proposal
from sprinter.core.sampling import Sampling
from sprinter.gates.echo import LONGEST
from sprinter.gates.static import NOTHING, Drawn, StaticVerifier, echo_at
from sprinter.gates.verifier import Verifier
from sprinter.models.base import common_prefix
from sprinter.models.fast.capture import Download, capture, upload
from sprinter.models.fast.model import FastModel
from sprinter.models.fast.torch_runner import TorchRunner

_NUMBERS: Final = ("token", "score", "echo_same", "echo_other", "finite")
_HEADER: Final = 2 * len(_NUMBERS)  # columns the numbers take: each is a float64 in two float32 places
_STATE: Final = 3  # inputs besides the uniforms: position, since_target, previous_score

Fetch = Callable[[Tensor], FloatArray]  # device tensor -> a float32 copy on the host


@dataclass(frozen=True, slots=True)
class Request:
    """What a chunk starts from."""

    tokens: list[int]  # the text so far
    uniforms: Sequence[float] = ()  # one per step; none for a greedy draft
    since_target: int = 0  # drafted tokens behind the last target call
    previous_score: float = 1.0  # the score of the last of them


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens drafted in one launch, as they came to the host."""

    proposals: list[Proposal | None]  # None where the logits were not finite
    num_computed: int  # tokens the draft model computed


def fits(sampling: Sampling) -> bool:
    """Whether a chunk can draw under this transform: greedy, or temperature alone."""
    if sampling.repetition_penalty != 1 or sampling.banned:
        return False
    return sampling.greedy or (sampling.top_k == 0 and sampling.top_p == 1 and sampling.min_p == 0)


class ChunkProgram:
    """`length` draft steps of one model under one sampling transform, with the verifier's scores if one is given.

    A proposal's `embedding` is None, its `logits` are empty unless asked for, its `echo` is (0, 0) unless the verifier
    reads it: what only the verifier needs stays on the device.
    """

    def __init__(
        self,
        model: FastModel,
        sampling: Sampling,
        vocab_size: int,
        length: int,
        verifier: Verifier | None = None,
        logits: bool = False,
        fetch: Fetch | None = None,
    ) -> None:
        """`logits`: copy them to the host too, for a scorer that reads them there. `fetch` defaults to `Download`.

        The model must have static steps (`FastModel.stepper`), and `fits(sampling)` must hold.
        """
        assert model.stepper is not None and fits(sampling), "build.py asks before it builds"
        self.length = length
        self.model = model
        self._stepper: TorchRunner = model.stepper
        self._device = self._stepper.device
        self._sampling = sampling
        self._head_tokens = model.head_tokens
        self._ids = None if self._head_tokens is None else torch.tensor(self._head_tokens, device=self._device)
        self._width = vocab_size if self._head_tokens is None else len(self._head_tokens)
        self._verifier = None if verifier is None else StaticVerifier(verifier, self._device)
        self._last = model.info.context_length - 1  # the last position there is
        hidden, law = model.info.hidden_size, 0 if sampling.greedy else self._width
        self._columns = np.cumsum([0, _HEADER, hidden, law, self._width if logits else 0]).tolist()
        self._fetch = Download() if fetch is None else fetch
        self._known: list[int] = []  # tokens that stand in `_text`
        with torch.inference_mode():
            self._inputs = torch.zeros(_STATE + length, dtype=torch.float64, device=self._device)
            # By position, behind room for the echo to look back into and with one place for the last step's token.
            size = LONGEST + self._last + 2
            self._text = torch.full((size,), NOTHING, dtype=torch.int64, device=self._device)
            self._out = torch.zeros(length, self._columns[-1], device=self._device)
        self._replay: Callable[[], None] | None = None
        self._captured_at = 0  # the cache's capacity then

    @property
    def num_uniforms(self) -> int:
        """Uniforms one launch takes."""
        return 0 if self._sampling.greedy else self.length

    @property
    def reads_round(self) -> bool:
        """Whether scores depend on where the round began, so that a chunk must not outlive its round."""
        return self._verifier is not None and self._verifier.reads_round

    def launch(self, request: Request) -> Chunk:
        """Draft `length` tokens behind `request.tokens`, fewer where the context window ends.

        Waits for the device once. Raises ConfigError and BackendError as `FastModel.forward` does, except for logits
        that are not finite: those stand in the chunk.
        """
        tokens = request.tokens
        room = self._last + 2 - len(tokens)  # steps until the window is full
        computed = self.model.catch_up(tokens)
        with torch.inference_mode():
            self._stepper.reserve(min(len(tokens) - 1 + self.length, self._last + 1))
            self._send(request)
            self._run()
            rows = self._fetch(self._out)  # [length, columns]
        proposals = [self._proposal(row) for row in rows[:room]]
        self._take_note(tokens, proposals)
        return Chunk(proposals, computed + self.length)

    def _send(self, request: Request) -> None:
        """What is new of the text, and the inputs, to the device."""
        start = common_prefix(self._known, request.tokens)
        end = len(request.tokens)
        if start < end:
            new = upload(request.tokens[start:], torch.int64, self._device)
            self._text[LONGEST + start : LONGEST + end].copy_(new)
        uniforms = [*request.uniforms] or [0.0] * self.length
        state = [float(end - 1), float(request.since_target), request.previous_score]
        self._inputs.copy_(upload([*state, *uniforms], torch.float64, self._device))

    def _run(self) -> None:
        """Replay the steps; capture them first if that has not been done for the cache as it is now."""
        if self._replay is None or self._captured_at != self._stepper.capacity:
            self._replay, self._captured_at = capture(self.steps, self._device), self._stepper.capacity
        self._replay()

    def steps(self) -> None:
        """All steps, from the inputs to the output rows: static shapes, no host synchronisation, repeatable."""
        position = self._inputs[:1].long()  # [1]
        previous = self._inputs[2:3]
        for step in range(self.length):
            logits, hidden = self._stepper.step_at(self._text[position + LONGEST], position)
            row = logits[0, : self._width]
            place, prob, probs = self._draw(row, self._inputs[_STATE + step])
            token = place if self._ids is None else self._ids[place]
            echo = self._echo(position, token)
            score = previous
            if self._verifier is not None:
                embedding, since = self._stepper.embedding(token)[0], self._inputs[1:2] + step
                drawn = Drawn(place, prob, row, hidden[0], embedding, echo, since, previous)
                score = previous = self._verifier.score(drawn)
            numbers = torch.cat([token.double(), score, echo, row.max().isfinite().double().view(1)])
            parts = (numbers.view(torch.float32), hidden[0], probs, row)
            for part, start, end in zip(parts, self._columns, self._columns[1:], strict=False):
                if end > start:
                    self._out[step, start:end].copy_(part)
            self._text[position + LONGEST + 1] = token
            # Steps beyond the window compute what nobody will read, but they must not write outside of it.
            position = (position + 1).clamp_max(self._last)

    def _draw(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(place [1], its probability [1], law [width]) of one draw: `Sampling.law` and `Dice.draw` in tensors."""
        if self._sampling.greedy:
            return logits.argmax(0, keepdim=True), torch.ones_like(logits[:1]), logits
        weights = ((logits - logits.max()) / self._sampling.temperature).exp()
        probs = (weights.double() / weights.sum(dtype=torch.float64)).float()  # [width]
        mass = probs.double().cumsum(0)
        place = torch.searchsorted(mass, uniform * mass[-1:], right=True)
        # Rounding can push the product up to the total; the last place with weight is then meant.
        place = torch.minimum(place, torch.searchsorted(mass, mass[-1:]))
        return place, probs[place], probs

    def _echo(self, position: Tensor, token: Tensor) -> Tensor:
        """float64 [2]; zeros where the verifier does not read them."""
        if self._verifier is None or not self._verifier.reads_echo:
            return torch.zeros(2, dtype=torch.float64, device=self._device)
        return echo_at(self._text, position, token, self._stepper.capacity)

    def _proposal(self, row: FloatArray) -> Proposal | None:
        """What one row of the output says, [columns]."""
        token, score, same, other, finite = row[:_HEADER].view(np.float64).tolist()
        if not finite:
            return None
        hidden, law, logits = (row[a:b] for a, b in zip(self._columns[1:], self._columns[2:], strict=False))
        if self._sampling.greedy:
            drawn_from = Law(np.ones(1, np.float32), np.array([int(token)], np.int64))
        else:
            drawn_from = Law(law, self._head_tokens)
        return Proposal(
            token=int(token),
            law=drawn_from,
            logits=logits,
            ids=self._head_tokens,
            hidden=hidden,
            embedding=None,
            echo=(int(same), int(other)),
            score=None if self._verifier is None else score,
        )

    def _take_note(self, tokens: list[int], proposals: Sequence[Proposal | None]) -> None:
        """What cache and text hold now.

        Steps beyond the window have spoilt its last position, but only a text's last token can stand there, and that is
        always computed anew.
        """
        drafted = [proposal.token for proposal in proposals if proposal is not None]
        # Behind numbers that are not finite nothing may be built upon.
        whole = len(drafted) == len(proposals)
        self._known = [*tokens, *drafted] if whole else list(tokens)
        self.model.stepped([*tokens, *drafted[:-1]] if whole else tokens[:-1])
