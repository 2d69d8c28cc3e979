"""From records to numbers: speed, cost and loss of every method, paired intervals, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from sprinter.bench.bootstrap import Array, Interval, non_inferiority, paired_mean, paired_ratio, speedup
from sprinter.bench.headline import headline
from sprinter.bench.journal import Record, Results
from sprinter.bench.judge import Opinion, tally
from sprinter.bench.latency import latency_summary
from sprinter.bench.quality import diversity
from sprinter.errors import DataError
from sprinter.learn.metrics import measures, reliability
from sprinter.rouge import has_rouge, overlap

BASELINES: Final = ("target", "exact", "hf-assisted")
# What a method may lose against the target alone and still count as not inferior.
MARGINS: Final[Mapping[str, float]] = {"log_likelihood": 0.1, "rouge_reference": 0.01}
MARGIN_REASON: Final = (
    "The margins lie between what rounding alone does and what the draft alone loses: on the default pair, greedy, "
    "other programs on the same weights come out at most 0.07 nats and 0.009 ROUGE-L lower by their intervals, the "
    "draft at least 0.13 and 0.018 by its means"
)


def summarise(results: Results, opinions: Sequence[Opinion] = (), seed: int = 0) -> dict[str, Any]:
    """The account of a comparison, as JSON types. `opinions`: a judge's, if there was one.

    Loss and overlap are means over prompts of each prompt's value, costs are pooled over tokens; overlap is left out
    where rouge-score is not installed. Raises DataError if nothing has been measured.
    """
    if not results.records:
        raise DataError("nothing has been measured yet: run sprinter bench to its end, or resume it")
    enriched = {name: _with_text_scores(results, name) for name in results.methods}
    baselines = {kind: name for kind in BASELINES if (name := _first(results.methods, kind)) is not None}
    methods = {}
    for told in results.run["methods"]:
        name = told["name"]
        rng = np.random.default_rng(seed)
        summary = method_summary(list(enriched[name].values()), rng)
        summary["failures"] = len(results.failures(name))
        summary["errors"] = sorted({record["error"] for record in results.failures(name)})
        summary["facts"] = told["facts"]
        summary["against"] = {kind: _against(enriched[name], enriched[other], rng) for kind, other in baselines.items()}
        summary["verdicts"] = _verdicts(enriched[name], enriched.get(baselines.get("target", ""), {}), rng)
        own = [opinion for opinion in opinions if opinion.method == name]
        summary["judge"] = dict(tally(own)) if own else None
        methods[name] = summary
    return {
        "format": 1,
        "methods": methods,
        "headline": headline(enriched, seed),
        "baselines": baselines,
        "margins": dict(MARGINS),
        "margin_reason": MARGIN_REASON,
        "has_rouge": has_rouge(),
        "prompts": len(results.run["prompts"]),
        "runs": len(results.records),
        "runs_planned": len(results.run["prompts"]) * len(results.methods),
        "asked": results.run["asked"],
        "models": results.run["models"],
        "record": results.run["record"],
    }


def _first(names: Sequence[str], kind: str) -> str | None:
    """The method a baseline stands for: the best exact one where it was looked for, else the first named."""
    if kind == "exact":
        best = next((name for name in names if name.startswith("exact-best:")), None)
        return best or next((name for name in names if name.startswith("exact:")), None)
    return kind if kind in names else None


def _with_text_scores(results: Results, method: str) -> dict[str, Record]:
    """Finished records by prompt with overlap and diversity added."""
    references = {prompt["id"]: prompt["reference"] for prompt in results.run["prompts"]}
    by_target = results.of("target")
    scored = has_rouge()
    enriched = {}
    for prompt, record in results.of(method).items():
        reference = references.get(prompt, "")
        other = by_target.get(prompt)
        enriched[prompt] = {
            **record,
            "reference_overlap": overlap(record["text"], reference) if scored and reference else {},
            "target_overlap": overlap(record["text"], other["text"]) if scored and other else {},
            **diversity(record["ids"]),
        }
    return enriched


def method_summary(rows: Sequence[Record], rng: np.random.Generator) -> dict[str, Any]:
    """One method over its finished runs; values are None where nothing is known."""
    tokens = sum(len(row["ids"]) for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    counters = {key: sum(row["counters"][key] for row in rows) for key in rows[0]["counters"]} if rows else {}
    runs = [length for row in rows for length in row["runs"]]
    per_token = {
        "flops_per_token": sum(row["flops"]["target"] + row["flops"]["draft"] for row in rows),
        "paper_flops_per_token": sum(row["flops"]["paper"] for row in rows),
        "target_calls_per_token": counters.get("target_calls", 0),
        "drafted_per_token": counters.get("draft_steps", 0),
    }
    forwards = counters.get("target_s", 0.0) + counters.get("draft_s", 0.0)
    return {
        "runs": len(rows),
        "tokens": tokens,
        **latency_summary(rows),
        **{key: value / tokens if tokens else None for key, value in per_token.items()},
        "run_length": float(np.mean(runs)) if runs else None,
        "outside_forwards": 1 - forwards / seconds if seconds else None,
        "gate_share": counters["gate_s"] / seconds if seconds else None,
        "peak_mib": _largest(rows, "peak_mib"),
        "rise_mib": _largest(rows, "rise_mib"),
        **{key: _mean(rows, key) for key in ("delta", "atypical", "own_atypical", "mismatch", "log_likelihood")},
        **{key: _mean(rows, key) for key in ("distinct1", "distinct2", "repeat4")},
        **_excess(rows, rng),
        "rouge_reference": _overlaps(rows, "reference_overlap"),
        "rouge_target": _overlaps(rows, "target_overlap"),
        "origins": _origins(rows),
        "reliability": _reliability(rows),
        "quartiles_ms": _quartiles(rows),
    }


def _mean(rows: Sequence[Record], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return float(np.mean(values)) if values else None


def _largest(rows: Sequence[Record], key: str) -> float | None:
    return max((row[key] for row in rows if row[key] is not None), default=None)


def _excess(rows: Sequence[Record], rng: np.random.Generator) -> dict[str, Any]:
    """Atypical tokens beyond the target's own rate at the same positions, with a 95% interval over prompts.

    Above temperature 0 the target writes atypical tokens too, and chance alone moves either rate: the interval says by
    how much.
    """
    if not rows:
        return {"excess_atypical": None, "excess_interval": None}
    found = paired_mean(np.array([row["atypical"] - row["own_atypical"] for row in rows]), rng)
    return {"excess_atypical": found.value, "excess_interval": [found.told()["low"], found.told()["high"]]}


def _overlaps(rows: Sequence[Record], key: str) -> dict[str, float]:
    names = {name for row in rows for name in row[key]}
    return {name: float(np.mean([row[key][name] for row in rows if name in row[key]])) for name in sorted(names)}


def _origins(rows: Sequence[Record]) -> dict[str, float]:
    """Share of tokens by the letter of where they came from; empty for a method that does not tell."""
    letters = "".join(row["origins"] for row in rows)
    return {letter: letters.count(letter) / len(letters) for letter in sorted(set(letters))}


def _reliability(rows: Sequence[Record]) -> dict[str, Any] | None:
    """How the scores of the tokens the target passed over compare with its chance of accepting them."""
    judged = np.array([pair for row in rows for pair in row["judged"]], float)
    if len(judged) < 20:
        return None
    score, label = np.clip(judged[:, 0], 0, 1), judged[:, 1]
    mean_score, mean_label, count = reliability(score, label, bins=10)
    quality = {
        key: None if np.isnan(value) else value for key, value in measures(score, label).items() if key != "rows"
    }
    return {
        "score": mean_score.tolist(),
        "accept": mean_label.tolist(),
        "rows": count.tolist(),
        "rows_total": len(judged),
        **quality,
    }


def _quartiles(rows: Sequence[Record]) -> list[float] | None:
    """Latency per token of each run at 5, 25, 50, 75 and 95%, ms."""
    if not rows:
        return None
    values = [1000 * row["seconds"] / len(row["ids"]) for row in rows]
    return [float(value) for value in np.percentile(values, [5, 25, 50, 75, 95])]


def _against(own: Mapping[str, Record], other: Mapping[str, Record], rng: np.random.Generator) -> dict[str, Any] | None:
    """Ratios to a baseline over the prompts both finished; None without any."""
    shared = [prompt for prompt in own if prompt in other]
    if not shared:
        return None

    def column(rows: Mapping[str, Record], key: str) -> Array:
        if key == "tokens":
            return np.array([len(rows[p]["ids"]) for p in shared], float)
        if key == "seconds":
            return np.array([rows[p]["seconds"] for p in shared], float)
        flops = [rows[p]["flops"] for p in shared]
        return np.array([f["paper"] if key == "paper" else f["target"] + f["draft"] for f in flops], float)

    tokens, other_tokens = column(own, "tokens"), column(other, "tokens")
    ratios = {
        "speedup": speedup(column(own, "seconds"), tokens, column(other, "seconds"), other_tokens, rng),
        # A ratio of FLOPs per token has the form of a ratio of speeds.
        "fewer_flops": speedup(column(own, "flops"), tokens, column(other, "flops"), other_tokens, rng),
        "fewer_paper_flops": speedup(column(own, "paper"), tokens, column(other, "paper"), other_tokens, rng),
    }
    return {"prompts": len(shared), **{key: value.told() for key, value in ratios.items()}}


def _verdicts(
    own: Mapping[str, Record], target: Mapping[str, Record], rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """Non-inferiority to the target alone by each metric of MARGINS, on the prompts both finished."""
    found: dict[str, dict[str, Any]] = {}
    for metric, margin in MARGINS.items():
        pairs = [(_metric(own[p], metric), _metric(target[p], metric)) for p in own if p in target]
        differences = np.array([a - b for a, b in pairs if a is not None and b is not None])
        if len(differences) < 2:
            continue
        verdict, interval = non_inferiority(differences, margin, rng)
        found[metric] = {"verdict": verdict, "margin": margin, "difference": interval.told()}
    return found


def _metric(record: Record, metric: str) -> float | None:
    value = record["reference_overlap"].get("rougeL") if metric == "rouge_reference" else record[metric]
    return None if value is None else float(value)


def compare(first: Results, second: Results, seed: int = 0) -> dict[str, Any]:
    """Two comparisons side by side: for each method of both, how the second's speed and loss relate to the first's.

    Paired over the prompts of both; DataError if they share no method or no prompt. `differs` names the settings that
    are not the same, so that nobody takes a change of machine for a change of method.
    """
    shared = [name for name in first.methods if name in second.methods]
    if not shared:
        raise DataError("the two comparisons share no method")
    rng = np.random.default_rng(seed)
    methods: dict[str, Any] = {}
    for name in shared:
        ours, theirs = first.of(name), second.of(name)
        prompts = [prompt for prompt in ours if prompt in theirs]
        if prompts:
            methods[name] = _side_by_side([ours[p] for p in prompts], [theirs[p] for p in prompts], rng)
    if not methods:
        raise DataError("the two comparisons share no prompt that both finished")
    asked = (first.run["asked"], second.run["asked"])
    record = (first.run["record"], second.run["record"])
    differs = sorted(key for key in asked[0] if asked[0][key] != asked[1].get(key))
    differs += [
        key for key in ("commit", "packages", "processor", "python") if record[0].get(key) != record[1].get(key)
    ]
    return {"methods": methods, "differs": differs}


def _side_by_side(first: Sequence[Record], second: Sequence[Record], rng: np.random.Generator) -> dict[str, Any]:
    def speed_of(rows: Sequence[Record]) -> tuple[Array, Array]:
        return np.array([r["seconds"] for r in rows]), np.array([len(r["ids"]) for r in rows], float)

    ratio: Interval = speedup(*speed_of(second), *speed_of(first), rng)
    changes: dict[str, Any] = {}
    for key in ("delta", "atypical", "log_likelihood"):
        pairs = [(a[key], b[key]) for a, b in zip(first, second, strict=True) if None not in (a[key], b[key])]
        if pairs:
            changes[key] = paired_mean(np.array([b - a for a, b in pairs]), rng).told()
    seconds, tokens = speed_of(first)
    others, other_tokens = speed_of(second)
    return {
        "prompts": len(first),
        "first_tokens_per_s": paired_ratio(tokens, seconds, rng).value,
        "second_tokens_per_s": paired_ratio(other_tokens, others, rng).value,
        "speed_ratio": ratio.told(),
        "same_output": sum(a["ids"] == b["ids"] for a, b in zip(first, second, strict=True)) / len(first),
        "changes": changes,
    }
