"""Files of our own, written whole or not at all: beside under a fresh name, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_OLD_S: Final = 24 * 3600.0  # a work file untouched for so long has lost its process
_MARK: Final = ".sprinter-"


@contextmanager
def whole(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A fresh file beside `path` to write to; at the end of the block it takes the place of `path`.

    Its name cannot be guessed and it is made here, so no symbolic link that waits under the name is followed. Its mode
    is `mode` under the umask. If the block raises, `path` stays as it was and nothing stays beside.
    """
    beside = path.with_name(f"{_MARK}{path.name}.{secrets.token_hex(6)}")
    os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    mode = beside.stat().st_mode & mode
    try:
        yield beside
        beside.chmod(mode)  # libraries that write tensors choose one of their own
        _flush(beside)
        beside.replace(path)
        _flush(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write `text` to `path` as UTF-8, whole or not at all; OSError where that cannot be."""
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8", errors=errors)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A fresh folder beside `path` to fill; the caller renames it. Removed at the end if it is still there.

    What a killed process has left beside is removed too once it is a day old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_old(path.parent)
    beside = path.with_name(f"{_MARK}{path.name}.{secrets.token_hex(6)}")
    beside.mkdir()
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def clear_old(folder: Path) -> None:
    """Remove work files and folders in `folder` that killed processes have left there a day ago or more."""
    with suppress(OSError):
        for entry in folder.iterdir():
            if not entry.name.startswith(_MARK) or entry.is_symlink():
                continue
            with suppress(OSError):
                if time.time() - entry.lstat().st_mtime < _OLD_S:
                    continue
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the system put a file or folder on the disk, where it can: a rename may outlive the power, the bytes not."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
