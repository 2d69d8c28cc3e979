"""The code in README and docs runs as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run_blocks(document: str) -> dict[str, object]:
    blocks = BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))
    assert blocks, f"{document} has no python block"
    names: dict[str, object] = {"__name__": __name__}
    for block in blocks:
        exec(compile(block, document, "exec"), names)
    return names


def test_the_example_of_a_new_gate_writes_twelve_tokens() -> None:
    text = run_blocks("docs/extending.md")["text"]
    assert len(text.out) == 12  # type: ignore[attr-defined]


def test_the_drafter_of_another_package_is_installed_and_found(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    document = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    (code,) = (block for block in BLOCK.findall(document) if block.startswith("# sprinter_again.py"))
    (project,) = re.findall(r"^```toml\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    package, site = tmp_path / "sprinter-again", tmp_path / "site"
    package.mkdir()
    (package / "sprinter_again.py").write_text(code)
    (package / "pyproject.toml").write_text(project)
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    done = run_module("pip", *install, str(package))
    assert done.returncode == 0, done.stderr
    draft, target = map(str, tiny_pair)
    ask = ("generate", "one two one two", "-m", "again", "-n", "8", "--draft", draft, "--target", target, "--json")
    made = run_module("sprinter", *ask, "--option", "distance=2", path=site)
    assert made.returncode == 0, made.stderr
    plain = run_module("sprinter", *ask[:3], "target", *ask[4:])
    assert json.loads(made.stdout)["text"] == json.loads(plain.stdout)["text"]
    assert json.loads(made.stdout)["draft_steps"] > 0
    for option, word in (("distance=0", "at least 1"), ("colour=1", "no option 'colour'")):
        refused = run_module("sprinter", *ask, "--option", option, path=site)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert word in refused.stderr
    assert "method is 'again', but must be one of" in run_module("sprinter", *ask).stderr


def run_module(name: str, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    places = [str(path)] if path else []
    own = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*places, *([own] if own else [])])}
    command = [sys.executable, "-m", name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


@pytest.mark.pair
def test_the_readme_example_writes_with_the_default_pair(capsys: pytest.CaptureFixture[str]) -> None:
    done = run_blocks("README.md")["done"]
    assert done.num_tokens == 40 and done.audit is not None  # type: ignore[attr-defined]
    assert capsys.readouterr().out.strip()


@pytest.mark.pair
def test_the_batch_example_writes_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    texts = run_blocks("docs/batch.md")["texts"]
    assert [text.num_tokens > 0 for text in texts] == [True] * 3  # type: ignore[attr-defined]
    assert capsys.readouterr().out.startswith("[")


@pytest.mark.parametrize("document", sorted(p.relative_to(ROOT) for p in [*ROOT.glob("docs/*.md"), ROOT / "README.md"]))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert ((ROOT / document).parent / link).exists(), f"{document} links to {link}"
