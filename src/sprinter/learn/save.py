"""A fitted head to a verifier folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save as tensors_to_bytes

from sprinter.errors import DataError
from sprinter.gates.verifier import RECORD_FILE, WEIGHTS_FILE
from sprinter.gates.verifier_file import VERIFIER_FORMAT
from sprinter.learn.fit import Fitted, describe_fit
from sprinter.learn.rows import Rows
from sprinter.learn.trained import FILE as TRAINED_FILE
from sprinter.learn.trained import note_trained
from sprinter.provenance import stamp


def save_verifier(folder: Path, fitted: Fitted, rows: Rows, made: Mapping[str, Any] | None = None) -> None:
    """Write verifier.safetensors and verifier.json; `made` is added to the record. DataError when the disk is full."""
    record = {**stamp(describe_fit(fitted.settings), fitted.settings.seed), **(made or {})}
    tensors: dict[str, Any] = {}
    for number, (weight, bias) in enumerate(fitted.layers):
        tensors |= {f"{number}.weight": weight, f"{number}.bias": bias}
    data = tensors_to_bytes(tensors, metadata={"format": "np", "commit": str(record["commit"])})
    described = {
        "format": VERIFIER_FORMAT,
        "features": list(fitted.settings.features),
        "outputs": list(fitted.settings.outputs),
        "num_layers": len(fitted.layers),
        "draft_fingerprint": rows.draft_fingerprint,
        "target_fingerprint": rows.target_fingerprint,
        "transforms": [dict(t) for t in rows.transforms],
        "default_threshold": fitted.default_threshold,
        "weights_sha256": hashlib.sha256(data).hexdigest(),
        "calibration": fitted.calibration,
        "metrics": fitted.metrics,
        "record": record,
    }
    beside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        (beside / WEIGHTS_FILE).write_bytes(data)
        note_trained(beside, rows.titles)
        (beside / RECORD_FILE).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        beside.chmod(0o755)
        _put(beside, folder)
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error.strerror}): free some space or choose another --out") from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def _put(beside: Path, folder: Path) -> None:
    """Rename a finished folder into place, or its files into a folder that holds other things too."""
    if not folder.exists():
        os.rename(beside, folder)  # noqa: PTH104 - os.rename never overwrites a non-empty folder
        return
    # The record goes last: a reader between the two sees weights that do not match, never a wrong verifier.
    for name in (TRAINED_FILE, WEIGHTS_FILE, RECORD_FILE):
        (beside / name).replace(folder / name)
