"""The loop: draft until the gate stops, ask the target once, keep what the rule lets stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from sprinter.core.records import Counters, Draft, Emitted, FinishReason, FloatArray, RowFacts, Verdict
from sprinter.core.sampling import Dice, LazyLaws, Sampling
from sprinter.drafters.base import Drafter, PerRound
from sprinter.errors import ConfigError
from sprinter.gates.base import Gate, PerSequence
from sprinter.models.base import LanguageModel
from sprinter.observers.audit import Audit
from sprinter.rules.base import AcceptanceRule


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a sequence: ids both models know, tokens both can read, ids that end it."""

    vocab_size: int
    context_length: int
    eos_ids: frozenset[int] = frozenset()


class Engine:
    """One way of decoding: a target, a drafter, a gate and a rule under one sampling transform.

    Changing the gate or the rule changes the method; the loop stays. One sequence at a time.
    """

    def __init__(
        self,
        target: LanguageModel,
        drafter: Drafter,
        gate: Gate,
        rule: AcceptanceRule,
        sampling: Sampling,
        limits: Limits,
    ) -> None:
        self.target = target
        self.drafter = drafter
        self.gate = gate
        self.rule = rule
        self.sampling = sampling
        self.limits = limits

    def start(self, prompt: Sequence[int], max_new_tokens: int, dice: Dice, audit: Audit) -> Run:
        """Begin a sequence; iterate the result for its tokens. Raises ConfigError for an impossible request."""
        if not prompt:
            raise ConfigError("the prompt has no tokens: decoding needs at least one to start from")
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}, but must be at least 1")
        if max(prompt) >= self.limits.vocab_size:
            raise ConfigError(
                f"the prompt has token {max(prompt)}, but the model knows only ids below {self.limits.vocab_size}: "
                "the model and its tokenizer do not belong together"
            )
        window = self.limits.context_length
        if len(prompt) >= window:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens, but the models read at most {window} and need room for "
                "one more: shorten the prompt"
            )
        if isinstance(self.gate, PerSequence):
            self.gate.begin()
        return Run(self, list(prompt), min(len(prompt) + max_new_tokens, window), dice, audit)


class Run:
    """One sequence on its way through the engine: an iterator over tokens the moment each is final."""

    def __init__(self, engine: Engine, tokens: list[int], limit: int, dice: Dice, audit: Audit) -> None:
        self.engine = engine
        self.tokens = tokens  # the prompt, what is final, and what is pending
        self.limit = limit  # len(tokens) never exceeds it
        self.dice = dice
        self.audit = audit
        self.counters = Counters()
        self.finish_reason: FinishReason | None = None
        # Asked once: to look for a protocol's methods in every round takes microseconds.
        self._per_round = engine.drafter if isinstance(engine.drafter, PerRound) else None
        self._draft = Draft()
        self._unseen = 0  # drafted tokens that are final though no target call has passed over them

    def __iter__(self) -> Iterator[Emitted]:
        while self.finish_reason is None:
            for emitted in self._round():
                yield emitted
                if emitted.id in self.engine.limits.eos_ids:
                    self.finish_reason = "eos"
                    return
            if len(self.tokens) >= self.limit:
                self.finish_reason = "length"

    def _round(self) -> Iterator[Emitted]:
        """Draft until the gate stops, ask the target once, keep what the rule lets stand."""
        draft = self._draft = Draft()
        context = len(self.tokens)
        if self._per_round is not None:
            self._per_round.begin_round()
        for place in self._drafted(draft):
            yield Emitted(draft.tokens[place], "vouched", draft.scores[place])
        released = self._unseen
        if len(draft) and draft.all_vouched and (len(self.tokens) >= self.limit or self._ended(draft)):
            return
        verdict = self._ask_target(draft)
        self._unseen = 0
        del self.tokens[context + verdict.num_kept :]
        for place in range(released, verdict.num_kept):
            yield Emitted(draft.tokens[place], "vouched" if draft.vouched[place] else "tested", draft.scores[place])
        if verdict.next_token is not None and verdict.next_origin is not None:
            self.tokens.append(verdict.next_token)
            yield Emitted(verdict.next_token, verdict.next_origin if len(draft) else "target", None)

    def _drafted(self, draft: Draft) -> Iterator[int]:
        """Draft and judge token by token; hands out the place of each that is final at once."""
        gate, counters = self.engine.gate, self.counters
        while len(self.tokens) < self.limit and not self._ended(draft) and gate.keep_drafting(draft):
            draft.append(self.engine.drafter.propose(self.tokens, self.dice, counters))
            self.tokens.append(draft.tokens[-1])
            started = perf_counter()
            draft.settle(*gate.vouch(draft))
            counters.gate_s += perf_counter() - started
            counters.gate_steps += 1
            # A token behind an untested one may still fall with it, so it is not final yet.
            if draft.all_vouched:
                self._unseen += 1
                yield len(draft) - 1

    def _ended(self, draft: Draft) -> bool:
        return bool(draft.tokens) and draft.tokens[-1] in self.engine.limits.eos_ids

    def _ask_target(self, draft: Draft) -> Verdict:
        logits, facts = self._target_logits(len(draft) + 1)
        laws = LazyLaws(self.engine.sampling, logits, self.tokens, facts=facts)
        verdict = self.engine.rule.judge(draft, laws, self.dice)
        kept = len(self.tokens) - len(draft) + verdict.num_kept
        if kept >= self.limit or (verdict.num_kept == len(draft) and self._ended(draft)):
            # Nothing may follow, so the next token must not count as audited either: it would water the losses down.
            verdict = Verdict(verdict.num_kept, None, None)
        self.audit.observe(draft, verdict, laws, logits, facts)
        return verdict

    def _target_logits(self, rows: int) -> tuple[FloatArray, RowFacts | None]:
        """The target's logits after each of the last `rows` tokens, [rows, vocab], and what is known of them."""
        started = perf_counter()
        output = self.engine.target.forward(self.tokens, rows)
        self.counters.target_s += perf_counter() - started
        self.counters.target_calls += 1
        self.counters.target_tokens += output.num_computed
        logits = output.logits[:, : self.engine.limits.vocab_size]
        return logits, output.facts if logits.shape == output.logits.shape else None

    def close_audit(self) -> None:
        """One more target call over final tokens it has not passed over, so that the audit misses none."""
        draft, unseen = self._draft, self._unseen
        if unseen == 0:
            return
        # A stop string ends a run inside a draft: what was drafted beyond the last final token never stood.
        del self.tokens[len(self.tokens) - len(draft) + unseen :]
        for kept in (draft.tokens, draft.proposals, draft.scores, draft.vouched):
            del kept[unseen:]
        logits, facts = self._target_logits(unseen + 1)
        laws = LazyLaws(self.engine.sampling, logits, self.tokens, facts=facts)
        self.audit.observe(draft, Verdict(unseen, None, None), laws, logits, facts)
        self._unseen = 0
