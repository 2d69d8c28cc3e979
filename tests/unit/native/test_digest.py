"""The digest of the compiled pass: of what computes, in wheels and source trees alike."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sprinter.native import digest
from sprinter.native.compiling import sources
from sprinter.native.digest import build_digest, digest_of, source_digest


def test_comments_and_blanks_are_no_arithmetic_and_everything_else_is() -> None:
    code = ["float f(float x) { return x * 2; } // twice\n", "int g;\n"]
    assert digest_of(code) == digest_of(["float f(float x)  {\n\treturn x * 2; } // more\n", "int g; // it\n"])
    assert digest_of(code) != digest_of([code[0].replace("2", "3"), code[1]])
    assert digest_of(code) != digest_of(code[::-1])
    assert len({source_digest(), build_digest(), "none"}) == 3


def test_a_wheel_has_the_digests_of_the_sources_it_was_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cmake, tree = shutil.which("cmake"), Path(__file__).parents[3]
    if cmake is None or not sources():
        pytest.skip("cmake and the sources are needed")
    text = (tree / "CMakeLists.txt").read_text()
    script = text[
        text.index("function(digest_of") : text.index('install(FILES "${CMAKE_CURRENT_BINARY_DIR}/digest.txt')
    ]
    head = f'set(package "{sources()[0].parent}")\nset(CMAKE_CURRENT_BINARY_DIR "{tmp_path}")\n'
    (tmp_path / "digest.cmake").write_text(head + script)
    subprocess.run([cmake, "-P", tmp_path / "digest.cmake"], check=True, capture_output=True)
    ours = source_digest(), build_digest()
    monkeypatch.setattr(digest, "_HERE", tmp_path)
    monkeypatch.setattr(digest, "sources", list)
    for each in (source_digest, build_digest):
        each.cache_clear()
    assert (source_digest(), build_digest()) == ours
    (tmp_path / "digest.txt").unlink()
    for each in (source_digest, build_digest):
        each.cache_clear()
    assert (source_digest(), build_digest()) == ("none", "none")
    for each in (source_digest, build_digest):
        each.cache_clear()
