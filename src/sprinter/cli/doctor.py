"""sprinter doctor: is everything here?"""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

EXIT_INCOMPLETE = 1


def doctor(as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """Print versions, device, threads, and whether the default pair is complete.

    Ends with exit code 1 if a part of the default pair is missing or damaged.
    """
    from sprinter.cache import cache_dir
    from sprinter.provenance import stamp
    from sprinter.zoo import default_pair

    report: dict[str, Any] = {"versions": _versions(stamp()), "machine": _machine(stamp())}
    report["cache"] = str(cache_dir())
    report["default pair"] = {
        "target": _state(default_pair.default_target, _target_id),
        "draft": _state(default_pair.default_draft, _target_id),
        "verifier": _state(default_pair.default_verifier, _verifier_id),
    }
    complete = all(state.startswith("ok") for state in report["default pair"].values())
    report["complete"] = complete
    typer.echo(json_module.dumps(report, indent=2) if as_json else _readable(report))
    if not complete:
        raise typer.Exit(EXIT_INCOMPLETE)


def _versions(made: dict[str, Any]) -> dict[str, str]:
    versions = {"sprinter": made["sprinter"], "python": made["python"]}
    return versions | {name: version or "not installed" for name, version in made["packages"].items()}


def _machine(made: dict[str, Any]) -> dict[str, str]:
    import torch

    from sprinter.native.digest import build_digest, source_digest
    from sprinter.native.library import standing

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device; the CPU computes"
    return {
        "platform": made["platform"],
        "processor": made["processor"],
        "accelerator": device,
        "compiled pass": standing(),
        "arithmetic": f"sources {source_digest()[:12]}, build options {build_digest()[:12]}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
    }


def _state(find: Callable[[], Path], identify: Callable[[Path], str]) -> str:
    from sprinter.errors import SprinterError

    try:
        path = find()
        return f"ok {identify(path)} at {path}"
    except SprinterError as error:
        return f"MISSING: {error}"


def _target_id(path: Path) -> str:
    from sprinter.models.checkpoint import open_checkpoint

    return open_checkpoint(path).fingerprint[:12]


def _verifier_id(path: Path) -> str:
    from sprinter.gates.verifier import load_verifier, require_pair
    from sprinter.models.checkpoint import open_checkpoint
    from sprinter.zoo import default_pair

    verifier = load_verifier(path)
    draft, target = (open_checkpoint(find()) for find in (default_pair.default_draft, default_pair.default_target))
    require_pair(verifier, draft.fingerprint, target.fingerprint, path)
    return verifier.fingerprint[:12]


def _readable(report: dict[str, Any]) -> str:
    lines: list[str] = []
    for title, content in report.items():
        if isinstance(content, dict):
            lines.append(f"{title}:")
            lines += [f"  {key:<15}{value}" for key, value in content.items()]
    lines.append(f"cache: {report['cache']}")
    lines.append("everything is here" if report["complete"] else "something is missing: see above")
    return "\n".join(lines)
