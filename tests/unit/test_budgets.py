"""How long a function and a file may be, how many parameters it may take: what fits on a screen can be read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sprinter

SOURCE = Path(sprinter.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
FUNCTION_LINES, PARAMETERS, FILE_LINES = 60, 8, 400


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_files_and_functions_keep_to_their_size(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            command = file.parent.name == "cli"  # a command's options are its parameters, one line each
            start = own[0].lineno if command else node.lineno
            assert (node.end_lineno or start) - start < FUNCTION_LINES, node.name
            count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
            assert command or count <= PARAMETERS + 1, node.name  # self is no choice
