"""Files kept between runs: private, whole or not there, and locked against other processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from pwconv import cache
from support import inside
from support.command_line import run


def test_a_file_and_its_folder_are_private(tmp_path):
    file = tmp_path / "a" / "b" / "cache.bin"
    for data in (b"first", b"second"):
        cache.replace_file(file, data)
        assert file.read_bytes() == data
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert list(file.parent.iterdir()) == [file]


def test_a_failed_write_leaves_no_litter_and_the_old_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    file = tmp_path / "cache.bin"
    cache.replace_file(file, b"old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        cache.replace_file(file, b"new")
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("umask", [0, 0o777, 0o027])
def test_files_and_folders_are_private_whatever_the_umask(tmp_path, umask):
    file = tmp_path / "a" / "b" / "c" / "cache.bin"
    old = os.umask(umask)
    try:
        cache.replace_file(file, b"data")
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for folder in file.parents[:3]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    file.parent.chmod(0o777)
    cache.replace_file(file, b"more")
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


KILLED = """
import os, signal, sys
from pathlib import Path
from pwconv import cache
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cache.replace_file(Path(sys.argv[1]), b"half")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_what_a_killed_process_leaves_is_removed_by_the_next_write(tmp_path):
    file, other = tmp_path / "cache.bin", tmp_path / "other.bin"
    done = subprocess.run([sys.executable, "-c", KILLED, other], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    # Those of a process that goes on, and of one on another host, which may.
    alive = tmp_path / f"cache.bin.{inside.host()}-{os.getppid()}-x.tmp"
    elsewhere, old = tmp_path / "cache.bin.0-1-x.tmp", tmp_path / "cache.bin.0-2-x.tmp"
    for kept in (alive, elsewhere, old):
        kept.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.replace_file(file, b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([file, alive, elsewhere])


def test_what_is_read_takes_the_memory_that_it_needs(tmp_path):
    """The most that a file may have says nothing of what it has."""
    file = tmp_path / "cache.bin"
    file.write_bytes(b"x" * 88)
    tracemalloc.start()
    try:
        assert cache.read_private(file, 256 << 20) == b"x" * 88
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert cache.read_private(file, 88) == b"x" * 88
    with pytest.raises(cache.UnusableFileError, match="it has 88 bytes; at most 87 are read"):
        cache.read_private(file, 87)


def test_no_file_and_no_memory(tmp_path, monkeypatch):
    assert cache.read_private(tmp_path / "none", 10) is None
    assert cache.read_private(tmp_path / "none" / "none", 10) is None
    assert cache.read_private(tmp_path / ("long" * 100), 10) is None
    file = tmp_path / "file"
    file.write_bytes(b"data")
    assert cache.read_private(file / "none", 10) is None

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(cache.UnusableFileError, match="no memory is left"):
        cache.read_private(file, 10)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have other rights there")
def test_what_others_may_have_written_is_not_read(tmp_path):
    folder = tmp_path / "folder"
    file = folder / "cache.bin"
    whole = b"data"
    cache.replace_file(file, whole)
    for changed, mode in ((file, 0o602), (file, 0o620), (folder, 0o777), (folder, 0o720)):
        before = stat.S_IMODE(changed.stat().st_mode)
        changed.chmod(mode)
        with pytest.raises(cache.ForeignFileError, match="can be written by others"):
            cache.read_private(file, 10)
        with pytest.warns(RuntimeWarning, match="the pipeline cache .* is ignored"):
            assert cache.read_pipelines(file) == b""
        changed.chmod(before)
    folder.chmod(0o755)  # to be seen is not to be written
    assert cache.read_private(file, 10) == whole


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away"
)
def test_what_another_user_owns_is_not_read_nor_written(tmp_path):
    file = tmp_path / "folder" / "cache.bin"
    cache.replace_file(file, b"data")
    os.chown(file, 12345, -1)
    with pytest.raises(cache.ForeignFileError, match=r"it belongs to another user \(12345\)"):
        cache.read_private(file, 10)
    cache.replace_file(file, b"mine")
    assert cache.read_private(file, 10) == b"mine"
    os.chown(file.parent, 12345, -1)
    with pytest.raises(cache.ForeignFileError, match="its folder belongs to another user"):
        cache.read_private(file, 10)
    with pytest.raises(PermissionError, match="belongs to another user"):
        cache.replace_file(file, b"mine")


def test_what_cannot_be_reached(home, monkeypatch):
    """A home that is not ours to enter has no files; a folder of pwconv's that is not, has."""
    file = cache.cache_root() / "denied" / "list.json"

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    assert cache.read_private(file, 10) is None
    cache.cache_root().mkdir()
    with pytest.raises(cache.ForeignFileError, match="it cannot be reached: Permission denied"):
        cache.read_private(file, 10)


def test_there_is_no_home(monkeypatch):
    def unknown(*_, **__):
        raise RuntimeError("could not determine the home directory")

    for found in (unknown, lambda *_, **__: Path("~/.cache/pwconv")):
        monkeypatch.setattr(cache, "user_cache_path", found)
        file = cache.cache_folder("pipelines") / "card.bin"
        assert file.is_absolute()
        assert cache.read_private(file, 10) is None
        with pytest.raises(OSError, match="directory"):
            cache.replace_file(file, b"")
        assert "set HOME or XDG_CACHE_HOME" in cache.cache_problem()


@pytest.mark.parametrize("home", ["a file", "a long name", "/proc"])
def test_a_home_that_is_of_no_use_is_done_without(device, tmp_path, home):
    if home == "a file":
        home = str(tmp_path / "file")
        Path(home).write_text("")
    elif home == "a long name":
        home = "/" + "x" * 300
    result = run("info", HOME=home, XDG_CACHE_HOME="")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "cache: nothing is kept between runs: [Errno" in result.stdout
    assert f"{home}/.cache" in result.stdout
    assert f"denied {device.info.index}: nothing" in result.stdout


def add_one(file: Path) -> None:
    for _ in range(20):
        with cache.locked_folder(file.parent):
            cache.replace_file(file, str(int(file.read_text()) + 1).encode())


def test_the_lock_keeps_processes_apart(tmp_path):
    pytest.importorskip("fcntl")
    file = tmp_path / "count"
    file.write_text("0")
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(add_one, [file] * 4)
    assert file.read_text() == "80"


def test_a_lock_that_is_never_let_go_is_not_waited_for(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr(*inside.slots.lock_seconds, 0.05)
    start = time.monotonic()
    with cache.locked_folder(tmp_path):
        entered = threading.Event()

        def enter() -> None:
            with cache.locked_folder(tmp_path):
                entered.set()

        threading.Thread(target=enter).start()
        assert entered.wait(10)
    assert time.monotonic() - start >= 0.05
    assert not list(tmp_path.iterdir())
