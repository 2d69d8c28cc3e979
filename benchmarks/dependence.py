"""How far the closed forms are off where neighbouring tokens depend on each other.

    python benchmarks/dependence.py

Prints a Markdown table of target calls and loss per token: closed form against a simulation in which each (a, f)
row repeats the one before with chance `stay`. Every single row keeps its law, so the gap is dependence alone. The law
is the planner's binormal verifier with alpha 0.7 and AUC 0.85. Takes about 10 seconds.
"""

from __future__ import annotations

import argparse

import numpy as np

from sprinter.theory.closed_forms import RoundLaw, exact_round, lookahead_round, lossless_round, sprinter_round
from sprinter.theory.setting import Setting
from sprinter.theory.simulator import Estimate, simulate, sticky_rows, summarise
from sprinter.theory.token_law import TokenLaw, binormal_law

FINE_BINS = 4000


def methods(law: TokenLaw) -> dict[str, tuple[Setting, RoundLaw]]:
    """A setting of each method and its closed form."""
    return {
        "exact, 5 drafted": (Setting.exact(5), exact_round(law.alpha, 5)),
        "lossless, h 0.35": (Setting.lossless(0.35), lossless_round(law, 0.35, 20, FINE_BINS)),
        "sprinter, threshold 0.5": (Setting(0.5, 1.0, 20), sprinter_round(law.split(0.5), 20)),
        "lookahead, threshold 0.7, h 0.35": (Setting(0.7, 0.35, 20), lookahead_round(law, 0.7, 0.35, 20, FINE_BINS)),
    }


def gap(found: Estimate, expected: float) -> str:
    """Relative gap with its standard error, in per cent of the closed form."""
    if expected == 0.0:
        return "0"
    return f"{100 * (found.value / expected - 1):+.1f} ± {100 * found.standard_error / expected:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="tokens simulated for each cell")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    law = binormal_law(0.7, 0.85)
    print(
        "| method | stay | calls per token, closed form | simulated against it | loss, simulated against closed form |"
    )
    print("|---|---|---|---|---|")
    for name, (setting, expected) in methods(law).items():
        for stay in (0.0, 0.2, 0.4, 0.6):
            rng = np.random.default_rng(arguments.seed)
            found = summarise(simulate(sticky_rows(law, stay, arguments.rows, rng), setting, rng))
            calls = gap(found.calls_per_token, expected.calls_per_token)
            loss = gap(found.loss_per_token, expected.loss_per_token)
            print(f"| {name} | {stay} | {expected.calls_per_token:.3f} | {calls} | {loss} |")


if __name__ == "__main__":
    main()
