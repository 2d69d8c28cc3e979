"""How many tokens pass before the guard notices that a stream loses more than was promised.

    python benchmarks/guard_delay.py simulate
    python benchmarks/guard_delay.py serve --certificate FILE --max-tv 0.05 --data drifted.jsonl

`simulate` draws losses that are 0 for most tokens and uniform on [0, 1] for the rest (a vouched token either is fine or
is wrong to some degree), after a past at 0.85 epsilon. `serve` decodes texts of `--data` by the certificate with the
audit closed, one request after the other, and feeds the guard with them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sprinter.certify.guard import Guard
from sprinter.certify.watch import GuardReport, Watch

REQUEST_TOKENS = 64
PAST_REQUESTS = 200
STREAMS = 50
GIVE_UP = 100_000


def losses(rng: np.random.Generator, mean: float) -> list[float]:
    """One simulated request."""
    return list((rng.random(REQUEST_TOKENS) < 2 * mean) * rng.random(REQUEST_TOKENS))


def simulated_delay(epsilon: float, factor: float, seed: int, folder: Path) -> tuple[float, str]:
    """Tokens until the guard trips after the mean jumps to `factor` epsilon; inf if it never does."""
    rng = np.random.default_rng([seed, int(1000 * factor)])
    guard = Guard(folder / f"{epsilon}-{factor}-{seed}.db", Watch("tv", epsilon, thresholds=(0.5,), action="exact"))
    for _ in range(PAST_REQUESTS):
        guard.record(losses(rng, 0.85 * epsilon), 0.5)
    if guard.trips():
        return 0.0, "false alarm"
    for served in range(REQUEST_TOKENS, GIVE_UP + 1, REQUEST_TOKENS):
        report = guard.record(losses(rng, factor * epsilon), 0.5)
        if report.trip is not None:
            return served, "alarm"
    return float("inf"), "never"


def simulate() -> list[dict[str, Any]]:
    """Delays for several promises and sizes of drift."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for epsilon in (0.02, 0.05):
            for factor in (1.2, 1.5, 2.0, 3.0, 5.0):
                done = [simulated_delay(epsilon, factor, seed, Path(folder)) for seed in range(STREAMS)]
                delays = np.array([delay for delay, _ in done])
                rows.append(
                    {
                        "epsilon": epsilon,
                        "mean_over_epsilon": factor,
                        "median_tokens": float(np.median(delays)),
                        "p90_tokens": float(np.quantile(delays, 0.9)),
                        "false_alarms": sum(how == "false alarm" for _, how in done),
                    }
                )
    return rows


def serve(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Decode real texts by a certificate until the guard trips or the texts end."""
    from sprinter.api import Sprinter  # noqa: PLC0415
    from sprinter.certify.choose import Wish, find_certificates  # noqa: PLC0415
    from sprinter.config import make_config  # noqa: PLC0415
    from sprinter.learn.corpus import read_entries  # noqa: PLC0415
    from sprinter.learn.splits import prompt_of  # noqa: PLC0415

    ((_, certificate),) = find_certificates(options.certificate)
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    sampling = {name: certificate.setting.sampling[name] for name in names}
    written = {"audit": "close", "max_new_tokens": certificate.max_new_tokens}
    config = make_config(None, {"method": certificate.setting.method, **written, **sampling})
    sprinter = Sprinter.from_pretrained()
    wish = Wish(options.max_tv, options.max_atypical, confidence=0.0, certificate=options.certificate)
    decided, choice = sprinter.certified(config, wish)
    (loss,) = wish.levels
    report: GuardReport | None = None
    with tempfile.TemporaryDirectory() as folder:
        guard = Guard(Path(folder) / "guard.db", choice.watch(loss, "warn"))
        for number, entry in enumerate(read_entries([options.data])[: options.requests]):
            own = dataclasses.replace(decided.generation, seed=number)
            stream = sprinter.start(prompt_of(entry.text)[0], dataclasses.replace(decided, generation=own))
            _ = stream.generation
            audit = stream.audit
            report = guard.record(
                audit.tv_losses if loss == "tv" else [float(a) for a in audit.atypical], choice.threshold
            )
            if report.trip is not None:
                break
        guard.close()
    assert report is not None
    return [{"loss": loss, "epsilon": wish.levels[loss], "data": options.data.name, **dataclasses.asdict(report)}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("simulate")
    serving = commands.add_parser("serve")
    serving.add_argument("--certificate", type=Path, required=True)
    serving.add_argument("--data", type=Path, required=True)
    serving.add_argument("--requests", type=int, default=200)
    level = serving.add_mutually_exclusive_group(required=True)
    level.add_argument("--max-tv", type=float)
    level.add_argument("--max-atypical", type=float)
    options = parser.parse_args()
    for row in simulate() if options.command == "simulate" else serve(options):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
