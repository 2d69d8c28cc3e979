"""Where the compiled library comes from: the wheel it was built into, or, in a source tree, this machine's compiler.

A wheel is never compiled for on a user's machine. A source tree changes, so there the library is compiled into the
cache folder, named after its source; what lies there is loaded only if it is ours, nobody else can write it, and its
bytes are those that the compiler wrote.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

from sprinter.door import one_line
from sprinter.writing import clear_old, whole, whole_folder, write_text

SHIPPED: Final = "libsprinter_native.so"  # beside this module in a wheel
_NO_VNNI: Final = "-DSPRINTER_AVX2_ONLY"  # for a compiler or assembler that does not know the newer instructions
_COMPILE_SECONDS: Final = 300
_HERE: Final = Path(__file__).parent
_FLAGS: Final = "flags.txt"  # read by CMakeLists.txt too
_NOT_BUILT: Final = "not_built.txt"  # why a wheel has no library, where it was to have one
_log: Final = logging.getLogger("sprinter")


def sources() -> list[Path]:
    """The C++ files, the one to compile first; none in a wheel."""
    return [*_HERE.glob("native.cpp"), *sorted(_HERE.glob("native_*.h"))]


def obstacle() -> str | None:
    """Why this machine cannot run the compiled library, in words; None where it can."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        described = ""
    flags = next((line.split() for line in described.splitlines() if line.startswith("flags")), [])
    if not sys.platform.startswith("linux"):
        return f"it is made for Linux, this is {sys.platform}"
    missing = [name for name in ("avx2", "fma", "f16c") if name not in flags]
    return f"this processor lacks {', '.join(missing)}" if missing else None


def library_file(folder: Path) -> Path:
    """The library, compiled into `folder` first if need be; OSError or SubprocessError saying why it cannot be had."""
    found = sources()
    shipped = _HERE / SHIPPED
    if not found:
        if not shipped.is_file():
            raise OSError(_why_none())
        return shipped
    recipe = [source.read_bytes() for source in (*found, _HERE / _FLAGS)]
    path = folder / f"sprinter-{hashlib.sha256(b''.join(recipe)).hexdigest()[:20]}.so"
    _take(folder)
    if not _is_sound(path):
        _compile(found[0], path)
    return path


def _why_none() -> str:
    try:
        return one_line((_HERE / _NOT_BUILT).read_text(encoding="utf-8"))
    except OSError:
        return "this wheel was built without it: install the wheel for Linux on x86-64"


def _take(folder: Path) -> None:
    """Make `folder` one that only we can write; if others could until now, nothing in it is kept."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        _require_ours(folder)
    except OSError:
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            raise
        folder.chmod(0o700)
        for library in folder.glob("sprinter-*"):
            library.unlink()


def _is_sound(path: Path) -> bool:
    """Whether the file is a library that was compiled here, byte for byte, and only its owner can change it."""
    try:
        _require_ours(path)
        content = path.read_bytes()
        noted = path.with_suffix(".sha256").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False
    return noted.strip() == hashlib.sha256(content).hexdigest()


def _require_ours(path: Path) -> None:
    """OSError unless `path` belongs to this user and no other may write it: a loaded library can do all we can."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"others than you may write {path}: set its mode to 700, or SPRINTER_CACHE to another folder")


def _compile(source: Path, path: Path) -> None:
    compiler = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)
    if compiler is None:
        raise OSError("there is no C++ compiler: install g++ or clang++")
    _log.warning("sprinter: compiling its fast pass with %s, once for this source tree", compiler)
    clear_old(path.parent)
    with whole_folder(path) as beside:
        built = beside / path.name
        command = [compiler, *(_HERE / _FLAGS).read_text(encoding="ascii").split(), str(source), "-o", str(built)]
        try:
            _run(command)
        except subprocess.CalledProcessError:
            _run([*command, _NO_VNNI])
        content = built.read_bytes()
        with whole(path, 0o600) as placed:
            placed.write_bytes(content)
        write_text(path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest() + "\n")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_COMPILE_SECONDS)


def reason(error: Exception) -> str:
    """What went wrong, in one short line."""
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        said = error.stderr.decode("utf-8", "replace") if isinstance(error.stderr, bytes) else str(error.stderr)
        worst = next((line for line in said.splitlines() if "error" in line), said)
        return f"the compiler failed: {one_line(worst)[:200]}"
    return one_line(str(error))[:200] or type(error).__name__
