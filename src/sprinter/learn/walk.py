"""Prompts continued in a batch, every drafted token labelled: which contexts are visited is the policy's choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sprinter.core.records import Draft, FloatArray, Law, Proposal
from sprinter.core.sampling import Dice, Sampling, residual
from sprinter.gates.echo import Echo
from sprinter.gates.features import scalars
from sprinter.gates.threshold import ThresholdGate
from sprinter.gates.verifier import Verifier
from sprinter.learn.batched import Batch, BatchModel
from sprinter.learn.labels import Labels, TargetView, label
from sprinter.learn.texts import Text

Policy = Literal["draft", "exact", "sprinter", "paper"]


@dataclass(frozen=True)
class Route:
    """How contexts are visited and what is judged at each.

    draft      go on with the draft's token, whatever the target thinks
    exact      go on as exact speculative decoding does, whose contexts are the target's own
    sprinter   go on as SPRINTER would with `gate`, bonus tokens included: what it meets in use
    paper      after a token labelled q <= p the draft's, after any other the target's (the paper's code)
    """

    policy: Policy
    num_tokens: int  # contexts per prompt, at most
    transforms: tuple[Sampling, ...]  # one token is drawn and judged under each; the first goes on
    vocab_size: int  # ids both models know
    eos_ids: frozenset[int] = frozenset()
    verifier: Verifier | None = None
    threshold: float = 0.5


@dataclass(slots=True)
class Context:
    """A position reached, with the tokens drafted there, one per transform."""

    step: int  # tokens after the prompt
    hidden: FloatArray  # [hidden]
    proposals: list[Proposal]
    scalars: list[FloatArray]  # of each proposal, [len(SCALARS)]
    labels: list[Labels] = field(default_factory=list)


class Walk:
    """One prompt on its way."""

    def __init__(self, prompt: Sequence[int], route: Route, dice: Dice) -> None:
        self.tokens = list(prompt)
        self.contexts: list[Context] = []
        self.ended = False
        self._num_prompt = len(prompt)
        self._route = route
        self._dice = dice
        self._draft = Draft()
        self._echo = Echo()
        self._owes_bonus = False
        self._gate = None if route.verifier is None else ThresholdGate(route.verifier, route.threshold)

    def draft_on(self, logits: FloatArray, hidden: FloatArray, model: Batch) -> Context:
        """Draw a token under every transform at the present context; `logits` [width], `hidden` [hidden]."""
        ids = model.head_tokens
        if ids is None:
            logits = logits[: self._route.vocab_size]
        proposals, numbers = [], []
        for sampling in self._route.transforms:
            law = sampling.law(logits, self.tokens, ids)
            token = self._dice.draw(law)
            embedding = model.embeddings([token])[0] if self._gate else None
            proposals.append(Proposal(token, law, logits, ids, hidden, embedding, self._echo.look(self.tokens, token)))
        before = self._draft
        for proposal in proposals:
            drafted = Draft([*before.tokens, proposal.token], [*before.proposals, proposal], before.scores)
            numbers.append(scalars(drafted))
        context = Context(len(self.tokens) - self._num_prompt, hidden, proposals, numbers)
        self.contexts.append(context)
        return context

    def judge(self, context: Context, logits: FloatArray) -> TargetView:
        """Label the tokens drafted at `context` by the target's `logits` [vocab] there."""
        view = TargetView.of(logits[: self._route.vocab_size])
        before = self.tokens[: self._num_prompt + context.step]
        for proposal, numbers, sampling in zip(context.proposals, context.scalars, self._route.transforms, strict=True):
            context.labels.append(label(proposal, numbers, view, sampling, before))
        return view

    def go_on(self, token: int) -> None:
        """Append a token to the text."""
        self.tokens.append(token)
        self.ended = self.ended or token in self._route.eos_ids

    def keep_draft(self, context: Context) -> None:
        """Go on with the drafted token."""
        self._draft.append(context.proposals[0])
        self._draft.settle(None, True)
        self.go_on(context.proposals[0].token)

    def follow(self, context: Context, token: int) -> None:
        """Go on with the target's own `token`; a drafted token that exact decoding rejects ends the draft."""
        if self._dice.accept(context.labels[0].accept):
            self._draft.append(context.proposals[0])
            self._draft.settle(None, True)
        else:
            self._draft = Draft()
        self.go_on(token)

    def advance(self, logits: FloatArray, hidden: FloatArray, target_logits: FloatArray, model: Batch) -> None:
        """One token further with both models' logits at the present context."""
        if self._owes_bonus:
            self._owes_bonus = False
            self._draft = Draft()
            self.go_on(self._dice.draw(self._target_law(target_logits[: self._route.vocab_size])))
            return
        context = self.draft_on(logits, hidden, model)
        view = self.judge(context, target_logits)
        if self._route.policy == "paper":
            self._follow_paper(context, view)
        elif self._gate is not None and not self._vouched(context, self._gate):
            self._test(context, view)

    def _follow_paper(self, context: Context, view: TargetView) -> None:
        if context.labels[0].accept_hard:
            self.keep_draft(context)
        else:
            self._draft = Draft()
            self.go_on(self._dice.draw(self._target_law(view.logits)))

    def _vouched(self, context: Context, gate: ThresholdGate) -> bool:
        """Ask the gate; go on with the token if it vouches, else leave it pending at the draft's end."""
        self._draft.append(context.proposals[0])
        self._draft.settle(*gate.vouch(self._draft))
        if not self._draft.vouched[-1]:
            return False
        self.go_on(context.proposals[0].token)
        if not gate.keep_drafting(self._draft):
            self._draft = Draft()  # a full draft of vouched tokens: the call tests none and draws none
        return True

    def _test(self, context: Context, view: TargetView) -> None:
        """Exact acceptance of the drafted token; Leviathan et al. 2023, Algorithm 1, arXiv:2211.17192."""
        proposal = context.proposals[0]
        if self._dice.accept(context.labels[0].accept):
            self._owes_bonus = True
            self.go_on(proposal.token)
        else:
            self._draft = Draft()
            self.go_on(self._dice.draw(residual(self._target_law(view.logits), proposal.law)))

    def _target_law(self, logits: FloatArray) -> Law:
        return self._route.transforms[0].law(logits, self.tokens)


def walk_batch(
    draft: Batch, target: Batch, prompts: Sequence[Sequence[int]], route: Route, dice: Sequence[Dice]
) -> list[Walk]:
    """Continue prompts (token ids) side by side; `dice` holds one generator per prompt, so batching changes nothing."""
    walks = [Walk(prompt, route, own) for prompt, own in zip(prompts, dice, strict=True)]
    if route.policy == "draft":
        _walk_alone(draft, target, walks, route.num_tokens)
    else:
        _walk_together(draft, target, walks, route.num_tokens)
    return walks


def follow_texts(
    draft: Batch,
    target: BatchModel,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Text],
    route: Route,
    dice: Sequence[Dice],
) -> list[Walk]:
    """Judge what the draft would have drafted at every place of texts that the target wrote: policy exact."""
    walks = [Walk(prompt, route, own) for prompt, own in zip(prompts, dice, strict=True)]
    longest = max(len(t.tokens) for t in texts)
    # Filled up on the right, where nothing that counts can see it.
    read = [
        [*prompt, *text.tokens[:-1], *text.tokens[-1:] * (longest - len(text.tokens))]
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    logits, hidden = draft.begin(read, num_last=longest)  # [batch, longest, width], [batch, longest, hidden]
    for row, (walk, text) in enumerate(zip(walks, texts, strict=True)):
        target_logits = target.logits_of(text.hidden)  # [tokens, vocab]
        for place, token in enumerate(text.tokens):
            context = walk.draft_on(logits[row, place], hidden[row, place], draft)
            walk.judge(context, target_logits[place])
            walk.follow(context, token)
    return walks


def _walk_together(draft: Batch, target: Batch, walks: list[Walk], num_tokens: int) -> None:
    prompts = [w.tokens for w in walks]
    logits, hidden = (part[:, 0] for part in draft.begin(prompts))  # [batch, width], [batch, hidden]
    target_logits = target.begin(prompts)[0][:, 0]  # [batch, vocab]
    for step in range(num_tokens):
        for row, walk in enumerate(walks):
            if not walk.ended:
                walk.advance(logits[row], hidden[row], target_logits[row], draft)
        if step == num_tokens - 1 or all(w.ended for w in walks):
            return
        # An ended row repeats its last token so that the batch keeps its shape; nothing of it is recorded.
        newest = [w.tokens[-1] for w in walks]
        logits, hidden = draft.step(newest)
        target_logits = target.step(newest)[0]


def _walk_alone(draft: Batch, target: Batch, walks: list[Walk], num_tokens: int) -> None:
    """The draft writes all by itself, then ONE target pass reads everything."""
    logits, hidden = (part[:, 0] for part in draft.begin([w.tokens for w in walks]))
    for step in range(num_tokens):
        for row, walk in enumerate(walks):
            if not walk.ended:
                walk.keep_draft(walk.draft_on(logits[row], hidden[row], draft))
        if step == num_tokens - 1 or all(w.ended for w in walks):
            break
        logits, hidden = draft.step([w.tokens[-1] for w in walks])
    longest = max(len(w.contexts) for w in walks)
    # The last token is judged from the position before it, so the target need not read it. A row that ended early is
    # filled up on the right, where nothing that counts can see it.
    read = [w.tokens[:-1] + [w.tokens[-1]] * (longest - len(w.contexts)) for w in walks]
    target_logits, _ = target.begin(read, num_last=longest)  # [batch, longest, vocab]
    for row, walk in enumerate(walks):
        for place, context in enumerate(walk.contexts):
            walk.judge(context, target_logits[row, place])
