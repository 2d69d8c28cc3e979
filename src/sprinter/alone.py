"""One process at a time: what is being written is held, and the system lets go of it however the process ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sprinter.errors import DataError

if sys.platform != "win32":
    import fcntl


def hold(descriptor: int, path: Path) -> None:
    """Hold an open file or folder until `descriptor` is closed; DataError if another process holds it.

    The lock is the kernel's, so a killed process leaves none behind. Where there are no such locks (Windows, some
    network file systems) nothing is held.
    """
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(
            f"{path} is being written by another process: wait until it has ended, or end it, then give the same "
            "command again (it goes on where that one stopped), or name another place"
        ) from None
    except OSError:
        return


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if it is missing, for the block.

    Raises DataError if another process holds it or it cannot be made.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY) if sys.platform != "win32" else -1
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error.strerror}): free some space or name another folder") from None
    try:
        hold(descriptor, folder)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        if made:
            with suppress(OSError):  # what failed before its first file leaves no empty folder
                folder.rmdir()
