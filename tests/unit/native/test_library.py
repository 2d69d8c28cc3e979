"""Which library is loaded: one compiled here, whole, that nobody else could have put there; else none, and why."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sprinter.models.fast.model import FastModel
from sprinter.native import compiling
from sprinter.native import library as native
from tests.support.passes import read
from tests.unit.models.test_fast import TOKENS, VOCAB, write_model
from tests.unit.models.test_native import VNNI, multiply


@pytest.fixture
def compiled() -> Path:
    """The library of this machine; skips where there is none."""
    if native.library() is None:
        pytest.skip("no C++ compiler or no AVX2 here")
    return Path(native.standing().removeprefix("on: "))


@pytest.fixture
def cache(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a machine that can run the library."""
    monkeypatch.setenv("SPRINTER_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def built(compiled: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[list[str]]]:
    """A library in the cache, and the commands that compile from now on; no compiler really runs."""
    commands: list[list[str]] = []

    def compile_(command: list[str]) -> None:
        commands.append(command)
        shutil.copy(compiled, command[-1])

    monkeypatch.setattr(compiling, "_run", compile_)
    path = compiling.library_file(cache / "native")
    assert len(commands) == 1
    return path, commands


def found(path: Path) -> bool:
    return compiling.library_file(path.parent) == path


def test_a_library_compiled_before_is_loaded_again(built: tuple[Path, list[list[str]]]) -> None:
    path, commands = built
    assert found(path) and len(commands) == 1
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["planted", "cut", "empty", "no note", "open to others", "a link"])
def test_a_library_that_is_not_what_was_compiled_here_is_compiled_anew(
    built: tuple[Path, list[list[str]]], damage: str
) -> None:
    path, commands = built
    whole = path.read_bytes()
    if damage == "planted":
        path.write_bytes(whole + b"evil")
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no note":
        path.with_suffix(".sha256").unlink()
    elif damage == "open to others":
        path.chmod(0o777)
    else:
        elsewhere = path.parent.parent / "elsewhere.so"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
    assert found(path) and len(commands) == 2
    assert path.read_bytes() == whole and not path.is_symlink()
    assert path.stat().st_mode & 0o077 == 0


def test_nothing_is_kept_of_a_folder_that_others_could_write(built: tuple[Path, list[list[str]]]) -> None:
    path, commands = built
    evil = path.read_bytes() + b"evil"
    path.write_bytes(evil)
    path.with_suffix(".sha256").write_text(hashlib.sha256(evil).hexdigest())
    path.parent.chmod(0o777)
    assert found(path) and len(commands) == 2
    assert path.read_bytes() != evil
    assert path.parent.stat().st_mode & 0o077 == 0


def test_a_folder_of_another_user_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "native").mkdir(mode=0o700)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert native.library() is None
    assert "others than you may write" in native.standing()


def test_work_folders_of_killed_compilations_are_removed_after_a_day(built: tuple[Path, list[list[str]]]) -> None:
    path, _ = built
    old, new = (path.parent / f".sprinter-{name}.so.0" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    path.unlink()
    assert found(path)
    assert not old.exists() and new.exists()


def test_a_compiler_without_the_newer_instructions_builds_for_avx2(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = compiling._run

    def old_compiler(command: list[str]) -> None:
        if "-DSPRINTER_AVX2_ONLY" not in command:
            raise subprocess.CalledProcessError(1, command)
        run(command)

    x, weight = torch.randn(9, 64), torch.randn(40, 64)
    with monkeypatch.context() as other:
        other.delenv("SPRINTER_CACHE")
        best = multiply(weight, x, "int4")
    monkeypatch.setattr(compiling, "_run", old_compiler)
    assert native.library() is not None
    assert not native.library().sprinter_use_level(VNNI)
    assert torch.equal(multiply(weight, x, "int4"), best)


def test_without_a_compiler_torch_computes_and_the_reason_is_told_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with caplog.at_level(logging.WARNING, "sprinter"):
        model = FastModel.load(write_model(cache / "model"), "int4", cache=cache)
        assert native.library() is None
    assert not model.compiled
    assert read(model, TOKENS).logits.shape == (1, VOCAB)
    assert [r.message for r in caplog.records] == [
        "sprinter: decoding without its compiled pass, slower: there is no C++ compiler: install g++ or clang++"
    ]


def test_a_compiler_that_fails_is_no_error_and_its_reason_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str]) -> None:
        raise subprocess.CalledProcessError(1, command, stderr=b"native.cpp:1: error: no such thing\nmore")

    monkeypatch.setattr(compiling, "_run", fail)
    assert native.library() is None
    assert native.standing() == "off: the compiler failed: native.cpp:1: error: no such thing"
    assert list((cache / "native").glob("*")) == []


def test_a_library_that_cannot_be_loaded_is_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "x.so").write_bytes(b"\x7fELF damaged")
    monkeypatch.setattr(compiling, "library_file", lambda folder: cache / "x.so")
    assert native.library() is None
    assert native.standing().startswith("off: ")


def test_a_machine_that_cannot_run_it_is_told_why(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "obstacle", lambda: "this processor lacks avx2")
    assert native.library() is None
    assert native.standing() == "off: this processor lacks avx2"


def test_a_wheel_without_the_library_compiles_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "sources", list)
    monkeypatch.setattr(compiling, "_run", lambda command: pytest.fail("compiled"))
    assert native.library() is None
    assert "this wheel was built without it" in native.standing()
