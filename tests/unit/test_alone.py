"""Two processes never write one journal or work folder, and a killed one leaves nothing locked."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sprinter.alone import alone
from sprinter.errors import DataError
from sprinter.journal import Journal

HOLD_FOLDER = "from sprinter.alone import alone\nwith alone(Path(sys.argv[1])):"
HOLD_JOURNAL = "from sprinter.journal import Journal\nwith Journal(Path(sys.argv[1]), {'data': 'x'}):"
WAIT = "\n    print('held', flush=True)\n    sys.stdin.read()"


@pytest.fixture
def holder(request: pytest.FixtureRequest, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Another process that holds a place under `tmp_path`, and the place."""
    place = tmp_path / "place"
    code = f"import sys\nfrom pathlib import Path\n{request.param}{WAIT}"
    command = [sys.executable, "-c", code, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process, place
        process.kill()


@pytest.mark.parametrize("holder", [HOLD_FOLDER], indirect=True)
def test_a_held_folder_is_refused_until_its_holder_is_killed(holder) -> None:  # type: ignore[no-untyped-def]
    process, place = holder
    with pytest.raises(DataError, match=r"place is being written by another process: wait until"), alone(place):
        pass
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with alone(place):
        pass


@pytest.mark.parametrize("holder", [HOLD_JOURNAL], indirect=True)
def test_a_held_journal_is_refused_unchanged_and_goes_on_after_its_holder_is_killed(holder) -> None:  # type: ignore[no-untyped-def]
    process, place = holder
    before = place.read_bytes()
    with pytest.raises(DataError, match="another process"):
        Journal(place, {"data": "x"})
    assert place.read_bytes() == before
    process.kill()
    process.wait()
    with Journal(place, {"data": "x"}) as journal:
        journal.add({"prompt": 0})
    assert place.read_bytes().startswith(before)


def test_a_block_that_fails_before_its_first_file_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "new"):
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "kept"):
        (tmp_path / "kept" / "file").touch()
        raise ZeroDivisionError
    assert (tmp_path / "kept" / "file").exists()


def test_a_place_that_is_no_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"), alone(tmp_path / "file"):
        pass
