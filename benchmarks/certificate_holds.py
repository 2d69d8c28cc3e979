"""Does a certificate hold on prompts it has never seen? Decodes them at every certified threshold and compares.

    python benchmarks/certificate_holds.py --certificate FILE --data texts.jsonl --bucket 8 --bucket 9 --prompts 300

One JSON line per claim: the level, the bound at calibration, and the mean loss found here with its standard error, over
all tokens alike. Texts of another kind (--others: speeches, chats) are measured too, with a word that says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np

from sprinter.api import Sprinter
from sprinter.build import Pair
from sprinter.certify.asked import Asked, setting_of
from sprinter.certify.certificate import Certificate, prompt_hash
from sprinter.certify.journal import Measurement
from sprinter.certify.risks import Frame, losses_of
from sprinter.certify.sample import Sample
from sprinter.config import Config, DecodingConfig, make_config
from sprinter.learn.corpus import read_entries
from sprinter.learn.splits import prompt_of, select
from sprinter.streams import Stream

_COMPANY = 10


def settings_of(certificate: Certificate, models: dict[str, str]) -> Config:
    """The settings a certificate was made with."""
    own = certificate.setting
    sampling = {name: own.sampling[name] for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    ahead = {"lookahead": own.lookahead} if own.method == "lookahead" else {}
    flags = {"method": own.method, "preset": own.preset, "scorer": own.scorer, "max_draft": own.max_draft, **ahead}
    computed = {"backend": own.target_backend.removesuffix("-compiled"), "weights": own.target_weights}
    limits = {name: getattr(own, name) for name in ("max_total_tv", "max_atypical_tokens")}
    limits = {name: value if name == "max_total_tv" else int(value) for name, value in limits.items() if value}
    written = {"max_new_tokens": certificate.max_new_tokens, "audit": "close"}
    return make_config(None, {**models, **computed, **flags, **sampling, **written, **limits})


def measured(
    sprinter: Sprinter, config: Config, threshold: float, prompts: list[str], chat: bool, repeats: bool
) -> list[Measurement]:
    """Losses of every prompt at one threshold."""
    streams: dict[int, Stream] = {}

    def begin(place: int, decoding: DecodingConfig, seed: int) -> Stream:
        own = dataclasses.replace(config.generation, seed=seed)
        made = sprinter.start(prompts[place], dataclasses.replace(config, decoding=decoding, generation=own), chat)
        return streams.setdefault(seed, made)

    decoding = dataclasses.replace(config.decoding, threshold=threshold)
    # Other seeds than any calibration's, whose first is 0.
    begun = [partial(begin, place, decoding, 7_000_000 + place) for place in range(len(prompts))]
    rows: dict[int, Measurement] = {}
    for place, made in sprinter.in_company(begun, _COMPANY):
        own = None
        if repeats:
            alone = begin(place, DecodingConfig(method="target"), 9_000_000 + place).generation
            own = [token.id for token in alone.tokens]
        losses = losses_of(made, streams.pop(7_000_000 + place).audit, None, own)
        rows[place] = Measurement(losses, made.num_tokens, made.counters.target_calls)
    return [rows[place] for place in range(len(prompts))]


def found(sample: Sample) -> tuple[float, float]:
    """The mean over all tokens and its standard error over prompts."""
    sums, tokens = sample.sums[:, -1], sample.tokens[:, -1]
    mean = sums.sum() / tokens.sum()
    return float(mean), float(np.std(sums - mean * tokens, ddof=1) / np.sqrt(len(sums)) / tokens.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bucket", type=int, action="append", help="buckets not used to calibrate")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--others", action="store_true", help="texts of another kind than the certificate is about")
    parser.add_argument("--free", action="store_true", help="without the limits that the certificate holds texts to")
    parser.add_argument("--claims", help="only these losses, comma separated")
    parser.add_argument("--chat", action="store_true", help="put the texts into the chat template")
    for part in ("target", "draft", "verifier"):
        parser.add_argument(f"--{part}", default="default")
    options = parser.parse_args()
    certificate = Certificate.load(options.certificate)
    config = settings_of(certificate, {part: getattr(options, part) for part in ("target", "draft", "verifier")})
    chat = options.chat or certificate.setting.prompts == "chat"
    sprinter, written = Sprinter(Pair(config.models)), config.generation
    asked = Asked(written.sampling, 0, written.budget, certificate.setting.prompts == "chat")
    certificate.require_match(setting_of(sprinter.pair, config.decoding, asked))
    if options.free:
        written = dataclasses.replace(written, max_total_tv=None, max_atypical_tokens=None)
        config = dataclasses.replace(config, generation=written)
    entries = read_entries([options.data])
    if options.bucket:
        entries = select(entries, options.bucket, lambda entry: entry.title)
    order = np.random.default_rng(1).permutation(len(entries))[: options.prompts]
    prompts = [entries[place].text if chat else prompt_of(entries[place].text)[0] for place in order]
    seen = set(certificate.hashes)
    prompts = [prompt for prompt in prompts if prompt_hash(prompt) not in seen]
    frame = Frame.of(certificate.max_new_tokens, written.sampling, written.budget, max(1, certificate.shortest))
    by_threshold: dict[float, list[Measurement]] = {}
    for claim in certificate.claims:
        if options.claims and claim.loss not in options.claims.split(","):
            continue
        if claim.threshold is None:
            print(json.dumps({"loss": claim.loss, "epsilon": claim.epsilon, "threshold": None}))
            continue
        if claim.threshold not in by_threshold:
            repeats = any(other.loss == "repeated" for other in certificate.claims) and not options.claims
            by_threshold[claim.threshold] = measured(sprinter, config, claim.threshold, prompts, chat, repeats)
        rows = by_threshold[claim.threshold]
        sample = Sample.of(claim.loss, rows, frame)
        row = next(row for row in certificate.grid if row.threshold == claim.threshold)
        mean, error = found(sample)
        result = {
            "loss": claim.loss,
            "epsilon": claim.epsilon,
            "threshold": claim.threshold,
            "calibrated_mean": row.means[claim.loss],
            "calibrated_upper": row.uppers[claim.loss],
            "held_out_prompts": len(sample),
            "held_out_mean": mean,
            "held_out_standard_error": error,
            "held_out_worst_length": sample.worst_mean,
            "calls_per_token": sum(r.target_calls for r in rows) / sum(r.num_tokens for r in rows),
            "holds": mean <= claim.epsilon,
            "most_atypical_tokens": max(sum(row.losses["atypical"]) for row in rows),
            **({"note": "made for other prompts"} if options.others or options.chat else {}),
            **({"limits": "none"} if options.free else {}),
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
