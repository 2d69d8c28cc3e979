"""The code in README and docs runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run_blocks(document: str) -> dict[str, object]:
    blocks = BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))
    assert blocks, f"{document} has no python block"
    names: dict[str, object] = {"__name__": "documents"}
    for block in blocks:
        exec(compile(block, document, "exec"), names)
    return names


def test_the_example_of_a_new_gate_writes_twelve_tokens() -> None:
    run = run_blocks("docs/extending.md")["run"]
    assert len(run.tokens) == 1 + 12  # type: ignore[attr-defined]


@pytest.mark.pair
def test_the_readme_example_writes_with_the_default_pair(capsys: pytest.CaptureFixture[str]) -> None:
    done = run_blocks("README.md")["done"]
    assert done.num_tokens == 40 and done.audit is not None  # type: ignore[attr-defined]
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("document", sorted(p.relative_to(ROOT) for p in [*ROOT.glob("docs/*.md"), ROOT / "README.md"]))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert ((ROOT / document).parent / link).exists(), f"{document} links to {link}"
