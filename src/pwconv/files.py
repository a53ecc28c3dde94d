"""Files kept between runs: where they are, private to the user, and replaced in one step."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from platformdirs import user_cache_path

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

_LOCK_SECONDS = 2.0
_LOCK_POLL_SECONDS = 0.01


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of cache file of this version of pwconv; it need not exist."""
    return user_cache_path("pwconv", appauthor=False) / metadata.version("pwconv") / kind


def replace_file(file: Path, data: bytes) -> None:
    """Write a file that only the user can read, in a folder that only the user can enter.

    The file is replaced in one step: of two processes that write at once, one wins and none reads
    half.

    Raises
    ------
    OSError
        It cannot be written; nothing is left behind.
    """
    make_folder(file.parent)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Make a folder that only the user can enter, unless it exists.

    Raises
    ------
    OSError
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes that do the same out of an existing folder.

    A process that was stopped while it held the lock is not waited for without end, and a file
    system without locks has none: what is guarded must do no harm unguarded.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_POLL_SECONDS)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)
