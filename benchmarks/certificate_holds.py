"""Does a certificate hold on prompts it has never seen? Decodes them at every certified threshold and compares.

    python benchmarks/certificate_holds.py --certificate FILE --data texts.jsonl --bucket 8 --bucket 9 --prompts 300

One JSON line per claim: the level, the bound at calibration, and the mean loss found here with its standard error.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from sprinter.api import Sprinter
from sprinter.build import Pair
from sprinter.certify.certificate import Certificate
from sprinter.certify.choose import setting_of
from sprinter.certify.risks import losses_of, risk_named
from sprinter.config import Config, make_config
from sprinter.learn.corpus import read_entries
from sprinter.learn.splits import prompt_of, select


def settings_of(certificate: Certificate, models: dict[str, str]) -> Config:
    """The settings a certificate was made with."""
    own = certificate.setting
    sampling = {name: own.sampling[name] for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    ahead = {"lookahead": own.lookahead} if own.method == "lookahead" else {}
    flags = {"method": own.method, "preset": own.preset, "scorer": own.scorer, "max_draft": own.max_draft, **ahead}
    computed = {"backend": own.target_backend.removesuffix("-compiled"), "weights": own.target_weights}
    written = {"max_new_tokens": certificate.max_new_tokens, "audit": "close"}
    return make_config(None, {**models, **computed, **flags, **sampling, **written})


def measured(sprinter: Sprinter, config: Config, threshold: float, prompts: list[str]) -> dict[str, np.ndarray]:
    """Losses of every prompt at one threshold, on their natural scale."""
    rows = []
    for place, prompt in enumerate(prompts):
        # Other seeds than any calibration's, whose first is 0.
        generation = dataclasses.replace(config.generation, seed=7_000_000 + place)
        decoding = dataclasses.replace(config.decoding, threshold=threshold)
        own = dataclasses.replace(config, decoding=decoding, generation=generation)
        rows.append(losses_of(sprinter.start(prompt, own).generation))
    return {name: np.array([risk_named(name).value(row[name]) for row in rows]) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bucket", type=int, action="append", required=True, help="buckets not used to calibrate")
    parser.add_argument("--prompts", type=int, default=300)
    for part in ("target", "draft", "verifier"):
        parser.add_argument(f"--{part}", default="default")
    options = parser.parse_args()
    certificate = Certificate.load(options.certificate)
    models = {part: getattr(options, part) for part in ("target", "draft", "verifier")}
    config = settings_of(certificate, models)
    sprinter = Sprinter(Pair(config.models))
    certificate.require_match(setting_of(sprinter.pair, config.decoding, config.generation.sampling))
    entries = select(read_entries([options.data]), options.bucket, lambda entry: entry.title)
    order = np.random.default_rng(1).permutation(len(entries))[: options.prompts]
    prompts = [prompt_of(entries[place].text)[0] for place in order]
    found: dict[float, dict[str, np.ndarray]] = {}
    for claim in certificate.claims:
        if claim.threshold is None:
            print(json.dumps({"loss": claim.loss, "epsilon": claim.epsilon, "threshold": None}))
            continue
        if claim.threshold not in found:
            found[claim.threshold] = measured(sprinter, config, claim.threshold, prompts)
        losses = found[claim.threshold][claim.loss]
        row = next(row for row in certificate.grid if row.threshold == claim.threshold)
        result = {
            "loss": claim.loss,
            "epsilon": claim.epsilon,
            "threshold": claim.threshold,
            "calibrated_mean": row.means[claim.loss],
            "calibrated_upper": row.uppers[claim.loss],
            "held_out_prompts": len(losses),
            "held_out_mean": float(losses.mean()),
            "held_out_standard_error": float(losses.std(ddof=1) / np.sqrt(len(losses))),
            "holds": bool(losses.mean() <= claim.epsilon),
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
