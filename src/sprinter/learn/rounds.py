"""Dataset aggregation: train, let the gate decode, learn from where it led, train on everything.

A lossy decoder visits contexts that exact decoding never does, and a verifier judges best where it was trained. Ross,
Gordon & Bagnell 2011, A reduction of imitation learning to no-regret online learning, arXiv:1011.0686.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sprinter.build import Pair
from sprinter.gates.verifier import load_verifier, require_pair
from sprinter.learn.collect import CollectSettings, collect
from sprinter.learn.fit import FitSettings, Fitted, fit
from sprinter.learn.prompts import Prompt
from sprinter.learn.rows import load_rows
from sprinter.learn.save import save_verifier

Progress = Callable[[int, int], None]


def train_rounds(
    pair: Pair,
    prompts: Sequence[Prompt],
    data: Sequence[Path],
    out: Path,
    fit_settings: FitSettings,
    collect_settings: CollectSettings,
    rounds: int,
    on_round: Callable[[str], Progress] = lambda what: lambda done, total: None,
) -> Fitted:
    """Train on `data`; then `rounds` - 1 times collect with the gate just trained and train on the union.

    `out` holds the latest verifier and, under `rounds/`, the rows each gate collected; started again after an
    interruption, finished rows are not collected again. `on_round(what)` gives the progress function of each part.
    """
    folders = list(data)
    fitted = _train(folders, out, fit_settings, on_round("epochs, round 1"))
    for number in range(2, rounds + 1):
        verifier = load_verifier(out, fit_settings.outputs[0])
        require_pair(verifier, pair.draft.info.fingerprint, pair.target.info.fingerprint, out)
        folder = out / "rounds" / f"{number}"
        # A seed of its own: the same draws on the same prompts would mostly repeat the rows of the round before.
        own = replace(collect_settings, policy="sprinter", seed=collect_settings.seed + number)
        collect(pair, prompts, folder, own, verifier, on_round(f"prompts, round {number}"))
        folders.append(folder)
        fitted = _train(folders, out, fit_settings, on_round(f"epochs, round {number}"))
    return fitted


def _train(folders: Sequence[Path], out: Path, settings: FitSettings, on_epoch: Progress) -> Fitted:
    rows = load_rows(folders)
    fitted = fit(rows, settings, on_epoch)
    save_verifier(out, fitted, rows, {"collections": [f.name for f in folders]})
    return fitted
