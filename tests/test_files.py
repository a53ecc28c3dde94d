"""Files kept between runs: private, whole or not there, and locked against other processes."""

from __future__ import annotations

import multiprocessing
import stat
import threading
import time
from pathlib import Path

import pytest

from pwconv import files


def test_a_file_and_its_folder_are_private(tmp_path):
    file = tmp_path / "a" / "b" / "cache.bin"
    for data in (b"first", b"second"):
        files.replace_file(file, data)
        assert file.read_bytes() == data
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert list(file.parent.iterdir()) == [file]


def test_a_failed_write_leaves_no_litter_and_the_old_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    file = tmp_path / "cache.bin"
    files.replace_file(file, b"old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.replace_file(file, b"new")
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"old"


def add_one(file: Path) -> None:
    for _ in range(20):
        with files.locked_folder(file.parent):
            files.replace_file(file, str(int(file.read_text()) + 1).encode())


def test_the_lock_keeps_processes_apart(tmp_path):
    pytest.importorskip("fcntl")
    file = tmp_path / "count"
    file.write_text("0")
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(add_one, [file] * 4)
    assert file.read_text() == "80"


def test_a_lock_that_is_never_let_go_is_not_waited_for(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.05)
    start = time.monotonic()
    with files.locked_folder(tmp_path):
        entered = threading.Event()

        def enter() -> None:
            with files.locked_folder(tmp_path):
                entered.set()

        threading.Thread(target=enter).start()
        assert entered.wait(10)
    assert time.monotonic() - start >= 0.05
    assert not list(tmp_path.iterdir())
