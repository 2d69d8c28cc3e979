"""The report: one HTML page that needs nothing else, results.json, a CSV of all runs, and PNG plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sprinter import registry
from sprinter.bench import journal
from sprinter.bench.bootstrap import FEWEST
from sprinter.bench.charts import Point, boxes, diagram, escape, scatter
from sprinter.bench.journal import Results
from sprinter.bench.judge import TRANSCRIPT, read_opinions
from sprinter.bench.samples import facts_line, origin_key, origin_style, sample_letters, sample_texts
from sprinter.bench.summary import MARGIN_REASON, summarise
from sprinter.bench.tables import (
    NOTHING,
    PAPER,
    excess_interval,
    flops,
    likelihood_change,
    number,
    paper_claim,
    percent,
    ratio,
    ratio_interval,
    records_csv,
    rouges,
)
from sprinter.rouge import MISSING

Summary = Mapping[str, Any]
Cell = Callable[[Summary], str]

_STYLE: Final = Path(__file__).parent / "assets" / "page.css"
_FAMILIES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("sprinter", "lookahead", "paper"), "ours"),
    **dict.fromkeys(("exact", "exact-best", "lossless"), "exact"),
    **dict.fromkeys(("target", "draft"), "plain"),
    **dict.fromkeys(("confidence", "bild"), "rival"),
}
_FAMILY_NAMES: Final = {
    "plain": "one model alone",
    "exact": "exact speculative decoding",
    "ours": "a verifier vouches",
    "rival": "other lossy rules",
    "peer": "other libraries",
}


def write_outputs(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Summarise a comparison's folder and write everything into it: (summary, names of the files).

    PNG plots are left out where matplotlib is not installed. Raises DataError.
    """
    results = journal.read(folder)
    summary = summarise(results, read_opinions(folder / TRANSCRIPT))
    journal.write_whole(folder / "results.json", json.dumps(summary, indent=1) + "\n")
    journal.write_whole(folder / "runs.csv", records_csv(results))
    journal.write_whole(folder / "report.html", page(summary, results))
    files = ["results.json", "runs.csv", "report.html"]
    try:
        from sprinter.bench.plots import write_plots  # noqa: PLC0415 - matplotlib is an extra
    except ImportError:
        return summary, files
    return summary, files + write_plots(summary, folder)


def family(method: str) -> str:
    """Which of the page's colours a method has."""
    kind = method.partition(":")[0]
    if kind in _FAMILIES or kind not in registry.names("methods"):
        return _FAMILIES.get(kind, "peer")
    return "exact" if registry.find("methods", kind).exact else "rival"


def page(summary: Summary, results: Results) -> str:
    """The whole page. Every text that comes from data or models is escaped; nothing on it can run or load."""
    sections = [
        _head(summary),
        _section("Speed and loss", _headline(summary), _HEADLINE_NOTE),
        _section("The frontier", _frontier(summary)),
        _section("Against exact speculative decoding", _against_exact(summary), _AGAINST_NOTE),
        _section("Latency", _latency(summary), _LATENCY_NOTE),
        _section("What it cost", _costs(summary), _COSTS_NOTE),
        _section("What the texts are worth", _quality(summary), _QUALITY_NOTE),
        _section("Is the verifier's word good?", _verifier(summary)),
        _section("Texts", _samples(results)),
        _section("Failures", _failures(summary)),
        _section("How it was made", _provenance(summary)),
    ]
    style = _STYLE.read_text(encoding="utf-8") + origin_style()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Sprinter: speed and loss</title>'
        f"<style>{style}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, body: str, note: str = "") -> str:
    if not body:
        return ""
    told = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{body}{told}</section>"


def _head(summary: Summary) -> str:
    asked, models = summary["asked"], summary["models"]
    sampling = asked["sampling"]
    heat = "greedy" if sampling["temperature"] == 0 else f"temperature {sampling['temperature']:g}"
    names = " with ".join(
        f"{m['name']} ({m['backend']}, {m['weights']}, {m['num_parameters'] / 1e6:.0f}M)" for m in models.values()
    )
    where = summary["record"].get("processor") or summary["record"].get("platform", "")
    partial = ""
    if summary["runs"] < summary["runs_planned"]:
        partial = f" Unfinished: {summary['runs']} of {summary['runs_planned']} runs."
    return (
        f"<h1>How fast, and at what loss</h1><p class='sub'>{escape(names)}<br>{summary['prompts']} prompts from "
        f"{escape(Path(str(asked['data'])).name)}, {asked['max_new_tokens']} new tokens, {heat}; "
        f"{escape(asked['models']['device'])}: {escape(where)}.{partial}</p>"
        f"<p class='lead'>{escape(_lead(summary))}</p>"
    )


def _lead(summary: Summary) -> str:
    """The result in a sentence, with the winner's measured loss."""
    found = summary["headline"]
    text = str(found["text"])
    if found["decided"]:
        best = summary["methods"][found["method"]]
        if best["against"].get("exact") and not found["method"].startswith("exact"):
            told = ratio_interval(best, "exact")
            text += f" and {ratio(best, 'exact')} that of exact speculative decoding ({told} by itself)"
        text += f", at a measured mean total variation of {percent(best['delta'])}."
    return text


def table(summary: Summary, columns: Mapping[str, Cell]) -> str:
    """One row per method. Cells hold HTML made here from numbers; names are escaped."""
    head = "".join(f"<th>{title}</th>" for title in ("method", *columns))
    rows = []
    for name, method in summary["methods"].items():
        cells = "".join(f"<td>{cell(method)}</td>" for cell in columns.values())
        rows.append(f"<tr><td>{_named(name)}</td>{cells}</tr>")
    return _table(head, rows)


def _table(head: str, rows: Sequence[str]) -> str:
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _dot(kind: str) -> str:
    return f'<span class="dot {kind}"></span>'


def _named(name: str) -> str:
    """A method in a table: its dot, its name, and what settings follow it on a line of their own."""
    kind, colon, rest = name.partition(":")
    value, _, settings = rest.partition("+")
    head = kind + colon + value
    below = f"<small>{escape(settings.replace('+', ', '))}</small>" if settings else ""
    return f"{_dot(family(name))}{escape(head)}{below}"


def _with_interval(method: Summary, baseline: str, key: str = "speedup") -> str:
    return f"{ratio(method, baseline, key)}<small>{ratio_interval(method, baseline, key)}</small>"


def _excess(method: Summary) -> str:
    return f"{percent(method['excess_atypical'])}<small>{excess_interval(method)}</small>"


def _verdict(method: Summary, metric: str) -> str:
    found = method["verdicts"].get(metric)
    return NOTHING if found is None else f"{found['verdict']}"


_HEADLINE_NOTE: Final = (
    "Small figures are paired 95% intervals over prompts by the studentised bootstrap; those of the sentence above "
    "hold for all methods together. Delta: mean total variation of a token's law "
    "from the target's, by an audit that misses no token. Atypical: share of tokens with p below min(0.09, 0.3 "
    "exp(-H)), less the target's own chance of one at the same positions. Log-likelihood: of the texts under the "
    "target, against its own texts."
)


def _headline(summary: Summary) -> str:
    margin = summary["margins"]["log_likelihood"]
    columns: dict[str, Cell] = {
        "tokens/s": lambda m: number(m["tokens_per_s"], 1),
        "speed-up<br>over target": lambda m: _with_interval(m, "target"),
        "speed-up over<br>best exact": lambda m: _with_interval(m, "exact"),
        "delta": lambda m: percent(m["delta"]),
        "atypical, beyond<br>the target's own": _excess,
        "log-likelihood<br>nats per token": lambda m: number(likelihood_change(m), 3),
        f"loses less than<br>{margin:g} nats": lambda m: _verdict(m, "log_likelihood"),
    }
    if "hf-assisted" in summary["baselines"]:
        columns["over transformers'<br>assisted"] = lambda m: _with_interval(m, "hf-assisted")
    if any(method["failures"] for method in summary["methods"].values()):
        columns["failed"] = lambda m: str(m["failures"])
    return table(summary, columns)


def _frontier(summary: Summary) -> str:
    parts = []
    axes = (("excess_atypical", "atypical tokens beyond the target's own"), ("delta", "mean total variation, delta"))
    for key, title in axes:
        points = [
            Point(name, m[key], found["value"], found["low"], found["high"], family(name))
            for name, m in summary["methods"].items()
            # The draft alone is so much faster and worse that all others would share a corner.
            if name != "draft" and m[key] is not None and m["against"].get("target")
            for found in [m["against"]["target"]["speedup"]]
        ]
        if points:
            parts.append(f"<figure>{scatter(points, title, 'speed-up over the target alone')}</figure>")
    shown = {family(name) for name in summary["methods"]}
    key_line = "".join(f"<i>{_dot(kind)}{text}</i>" for kind, text in _FAMILY_NAMES.items() if kind in shown)
    aside = '<p class="note">The draft alone is left out here; its row in the table says where it stands.</p>'
    aside = aside if "draft" in summary["methods"] else ""
    return f'<p class="key">{key_line}</p>{"".join(parts)}{aside}' if parts else ""


_AGAINST_NOTE: Final = (
    "The paper's count charges SPRINTER's target for tested tokens only and leaves the prompt out; all FLOPs "
    "counts every token each model computed, the prompt included. What the paper states is quoted from "
    "arXiv:2502.04557 for SPRINTER against speculative decoding, measured on other models and machines."
)


def _against_exact(summary: Summary) -> str:
    baseline = summary["baselines"].get("exact")
    if baseline is None:
        return ""
    titles = (
        *("method", "speed-up", "the paper's<br>speed-up"),
        *("fewer FLOPs,<br>all", "fewer FLOPs,<br>paper's count", "the paper's<br>FLOPs"),
        *("delta", "atypical, beyond<br>the target's own", "the paper's<br>loss"),
    )
    rows = []
    for name, method in summary["methods"].items():
        if not method["against"].get("exact") or name == baseline:
            continue
        speed, every, counted = (
            _with_interval(method, "exact", key) for key in ("speedup", "fewer_flops", "fewer_paper_flops")
        )
        claimed = {key: f'<span class="cited">{paper_claim(name, key)}</span>' for key in PAPER}
        cells = [speed, claimed["speedup"], every, counted, claimed["flops"]]
        cells += [percent(method["delta"]), _excess(method), claimed["loss"]]
        rows.append(f"<tr><td>{_named(name)}</td>{''.join(f'<td>{c}</td>' for c in cells)}</tr>")
    return f"<p>Baseline: {escape(baseline)}.</p>" + _table("".join(f"<th>{title}</th>" for title in titles), rows)


_LATENCY_NOTE: Final = "Boxes: middle half of the prompts, whiskers 5% to 95%, the figure is the median."


def _latency(summary: Summary) -> str:
    rows = [(n, m["quartiles_ms"], family(n)) for n, m in summary["methods"].items() if m["quartiles_ms"]]
    if not rows:
        return ""
    columns: dict[str, Cell] = {
        "median ms<br>per token": lambda m: number(m["ms_per_token_median"], 1),
        "90% of prompts<br>below": lambda m: number(m["ms_per_token_p90"], 1),
        "first token<br>median ms": lambda m: number(m["ttft_ms_median"], 1),
        "gap between tokens<br>90% below, ms": lambda m: number(m["gap_ms_p90"], 1),
    }
    return f"<figure>{boxes(rows, 'milliseconds per token of a prompt')}</figure>{table(summary, columns)}"


_COSTS_NOTE: Final = (
    "Run: drafted tokens per target call. Outside forwards: share of the wall time in neither model's forward "
    "pass, the verifier among it. Memory: rise of the process's peak over the start of a run; every method's "
    "models are loaded all the time."
)


def _costs(summary: Summary) -> str:
    columns: dict[str, Cell] = {
        "target calls<br>per token": lambda m: number(m["target_calls_per_token"], 3),
        "drafted<br>per token": lambda m: number(m["drafted_per_token"], 2),
        "run": lambda m: number(m["run_length"], 1),
        "GFLOP per token<br>all": lambda m: flops(m["flops_per_token"]),
        "GFLOP per token<br>paper's count": lambda m: flops(m["paper_flops_per_token"]),
        "outside<br>forwards": lambda m: percent(m["outside_forwards"]),
        "verifier": lambda m: percent(m["gate_share"]),
        "memory<br>MiB": lambda m: number(m["rise_mib"], 1),
    }
    return table(summary, columns)


_QUALITY_NOTE: Final = (
    "ROUGE-1, 2 and L, F1. Distinct-2: unlike pairs of tokens; repeated: 4-grams that have come before in the text. "
    "Verdicts compare with the target's own texts at the stated margin: the 95% interval must lie above minus the "
    f"margin, on {FEWEST} prompts or more. {MARGIN_REASON}."
)


def _quality(summary: Summary) -> str:
    margin = summary["margins"]["rouge_reference"]
    columns: dict[str, Cell] = {
        "ROUGE-1 / 2 / L to<br>the target's text": lambda m: rouges(m["rouge_target"]),
        "ROUGE-1 / 2 / L to<br>the source": lambda m: rouges(m["rouge_reference"]),
        f"loses less than<br>{margin:g} ROUGE-L": lambda m: _verdict(m, "rouge_reference"),
        "atypical": lambda m: percent(m["atypical"]),
        "not the target's<br>first choice": lambda m: percent(m["mismatch"]),
        "distinct-2": lambda m: number(m["distinct2"], 3),
        "repeated": lambda m: percent(m["repeat4"]),
    }
    if any(method["judge"] for method in summary["methods"].values()):
        columns["judge: win,<br>tie, lose"] = _judged
    missing = "" if summary["has_rouge"] else f'<p class="note">{escape(MISSING)}.</p>'
    return missing + table(summary, columns)


def _judged(method: Summary) -> str:
    found = method["judge"]
    return NOTHING if not found else f"{found['win']}, {found['tie']}, {found['lose']}"


def _verifier(summary: Summary) -> str:
    figures = []
    for name, method in summary["methods"].items():
        found = method["reliability"]
        # A score of typicality predicts something else than acceptance.
        if found is None or method["facts"].get("decoding", {}).get("scorer") == "typical":
            continue
        drawn = diagram(found["score"], found["accept"], found["rows"], f"reliability of {name}")
        told = f"AUC {number(found['auc'])}, calibration error {number(found['ece'], 3)}, {found['rows_total']} tokens"
        figures.append(f"<figure><h3>{escape(name)}</h3>{drawn}<figcaption>{told}</figcaption></figure>")
    if not figures:
        return ""
    intro = "How often the target would accept a drafted token, by its score. On the dashed line scores are chances."
    return f'<p class="note">{intro}</p><div class="row">{"".join(figures)}</div>'


def _samples(results: Results) -> str:
    texts = sample_texts(results)
    return origin_key(sorted(sample_letters(results))) + texts if texts else ""


def _failures(summary: Summary) -> str:
    items = [
        f"<li>{escape(name)}, {method['failures']} prompts: {escape('; '.join(method['errors'][:3]))}</li>"
        for name, method in summary["methods"].items()
        if method["failures"]
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _provenance(summary: Summary) -> str:
    ran = "".join(
        f"<li><b>{escape(name)}</b>: {escape(facts_line(method['facts']))}</li>"
        for name, method in summary["methods"].items()
    )
    told = {"record": summary["record"], "models": summary["models"]}
    facts = {name: method["facts"] for name, method in summary["methods"].items()}
    return (
        "<p>All methods ran on each prompt before the next, in an order drawn anew for each prompt, ours in one "
        "process, every other library in one of its own. Caches were emptied before every run, ids counted and timed "
        "by one counter outside the methods, and the "
        "target read every output afterwards, outside the clock.</p>"
        f"<ul class='note'>{ran}</ul><details><summary>Versions, machine, settings</summary>"
        f"<pre>{escape(json.dumps(told, indent=1))}</pre></details><details><summary>Methods</summary>"
        f"<pre>{escape(json.dumps(facts, indent=1))}</pre></details>"
    )
