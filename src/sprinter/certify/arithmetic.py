"""What computes a pair's numbers, part by part, as far as it could make another token come out."""

from __future__ import annotations

from importlib.metadata import version

from sprinter.core.rows import ModelInfo
from sprinter.models.fast.weights import LAYOUT
from sprinter.native.digest import build_digest, source_digest


def arithmetic_of(target: ModelInfo, draft: ModelInfo | None) -> dict[str, str]:
    """Digests and versions by part. Who computes with the compiled pass depends on its sources and build options, not
    on the processor: it gives the same bits on every one that can run it.

    Number formats, the verifier with its calibration and the method's settings are parts of a `Setting` by themselves.
    """
    parts: dict[str, str] = {}
    for info in (target, draft):
        if info is None:
            continue
        if info.backend == "fast-compiled":
            parts |= {"compiled pass": source_digest(), "build options": build_digest(), "weight layout": LAYOUT}
        elif info.backend in ("fast", "hf"):
            parts["torch"] = version("torch")
            if info.backend == "hf":
                parts["transformers"] = version("transformers")
    return parts
