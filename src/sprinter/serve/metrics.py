"""What an operator watches, by Prometheus: vLLM's names of speculation under `sprinter:`, and what was lost."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sprinter.core.records import Generation
from sprinter.serve.contracts import Agreed

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """All counters of one server, in a registry of their own."""

    def __init__(self, load: Callable[[], tuple[int, int]]) -> None:
        """`load`: texts (running, waiting)."""
        own = self.registry = CollectorRegistry()
        running = Gauge("sprinter:num_requests_running", "Texts being written.", registry=own)
        running.set_function(lambda: load()[0])
        waiting = Gauge("sprinter:num_requests_waiting", "Texts that wait for room.", registry=own)
        waiting.set_function(lambda: load()[1])
        self.requests = Counter("sprinter:requests", "Requests by contract and end.", ["contract", "end"], registry=own)
        self.refused = Counter(
            "sprinter:certified_refused", "Certified requests that no certificate grants.", registry=own
        )
        self.prompt = Counter("sprinter:prompt_tokens", "Tokens of prompts.", registry=own)
        self.written = Counter("sprinter:generation_tokens", "Tokens written by origin.", ["origin"], registry=own)
        self.drafts = Counter("sprinter:spec_decode_num_drafts", "Target calls.", registry=own)
        self.drafted = Counter("sprinter:spec_decode_num_draft_tokens", "Steps of the draft.", registry=own)
        self.accepted = Counter(
            "sprinter:spec_decode_num_accepted_tokens",
            "Drafted tokens that stand, vouched for or tested.",
            registry=own,
        )
        self.first = Histogram(
            "sprinter:time_to_first_token_seconds",
            "From the request to its first token.",
            buckets=_SECONDS,
            registry=own,
        )
        self.between = Histogram(
            "sprinter:inter_token_latency_seconds", "Mean time between a text's tokens.", buckets=_SECONDS, registry=own
        )
        self.calls = Histogram(
            "sprinter:target_calls_per_token",
            "Target calls for each token of a text.",
            buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
            registry=own,
        )
        self.mean_tv = Gauge("sprinter:mean_tv", "Mean total variation of the last text.", ["contract"], registry=own)
        self.tv_upper = Gauge("sprinter:tv_upper", "Bound of it, at its confidence.", ["contract"], registry=own)
        self.trips = Counter("sprinter:guard_trips", "Times the guard acted or kept away from a promise.", registry=own)

    def took(self, agreed: Agreed, made: Generation, first_s: float | None, prompt_tokens: int) -> None:
        """Count a finished text."""
        self.requests.labels(agreed.contract, made.finish_reason).inc()
        self.prompt.inc(prompt_tokens)
        for token in made.tokens:
            self.written.labels(token.origin).inc()
        self.drafts.inc(made.counters.target_calls)
        self.drafted.inc(made.counters.draft_steps)
        self.accepted.inc(sum(token.origin in ("vouched", "tested") for token in made.tokens))
        if first_s is not None:
            self.first.observe(first_s)
        if made.num_tokens > 1:
            self.between.observe((made.seconds - (made.first_token_s or 0.0)) / (made.num_tokens - 1))
        if made.num_tokens:
            self.calls.observe(made.counters.target_calls / made.num_tokens)
        audit = made.audit
        if audit is not None and audit.mean_tv is not None and audit.tv_upper is not None:
            self.mean_tv.labels(agreed.contract).set(audit.mean_tv)
            self.tv_upper.labels(agreed.contract).set(audit.tv_upper)
        if agreed.note is not None:
            self.trips.inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
