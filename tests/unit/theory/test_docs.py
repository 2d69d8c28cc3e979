"""docs/theory.md names functions and tests that exist."""

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "theory.md").read_text()


def test_every_test_named_on_the_theory_page_exists():
    sources = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    files = {file.name for file in (ROOT / "tests").rglob("*.py")}
    named = set(re.findall(r"`(test_[a-z_0-9]+)`", PAGE))
    assert len(named) > 8
    assert [name for name in named if f"def {name}(" not in sources] == []
    assert set(re.findall(r"(test_[a-z_0-9]+\.py)", PAGE)) <= files


def test_every_function_named_on_the_theory_page_exists():
    modules = ("one_step", "closed_forms", "costs", "break_even", "simulator", "replay", "planner")
    named = re.findall(rf"`({'|'.join(modules)})\.([a-z_]+)`", PAGE)
    assert len(named) > 8
    for module, name in named:
        assert callable(getattr(importlib.import_module(f"sprinter.theory.{module}"), name))
