"""Files kept between runs: where they are, private to the user, and replaced in one step."""

from __future__ import annotations

import contextlib
import os
import platform
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_cache_path

from pwconv.version import __version__

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

_LOCK_SECONDS = 2.0
_LOCK_POLL_SECONDS = 0.01
# Where there is no home: nothing can exist there, or be made.
_NOWHERE = Path(os.devnull, "pwconv")
# A process on another host cannot be looked for: what it left is stale when it is a day old.
_STALE_SECONDS = 86_400
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnusableFileError(Exception):
    """Raised for a file that must not be used; the message says why, as in "it is too large"."""


class ForeignFileError(UnusableFileError):
    """Raised for a file that someone else may have written."""


def cache_root() -> Path:
    """Return the folder of everything that pwconv keeps; it need not exist, or be possible."""
    try:
        root = user_cache_path("pwconv", appauthor=False)
    except RuntimeError:  # HOME is not set, and the system does not know the user
        return _NOWHERE
    return root if root.is_absolute() else _NOWHERE


def cache_folder(kind: str, *, every_version: bool = False) -> Path:
    """Return the folder of a kind of file, of this version of pwconv or of all; it need not exist.

    Where it cannot exist, reading finds nothing and writing raises OSError.
    """
    return cache_root() / kind if every_version else cache_root() / __version__ / kind


def cache_problem() -> str | None:
    """Return why nothing can be kept between runs, or None. The folder is made if need be."""
    root = cache_root()
    if root == _NOWHERE:
        return "there is no home folder: set HOME or XDG_CACHE_HOME to an absolute path"
    try:
        make_folder(root)
    except OSError as error:
        return str(error)
    return None if os.access(root, os.W_OK | os.X_OK) else f"{root} cannot be written"


def read_private(file: Path, most: int) -> bytes | None:
    """Return the contents of a file that only the user can have written; None where there is none.

    Parameters
    ----------
    file : Path
    most : int
        Bytes that it may have.

    Raises
    ------
    ForeignFileError
        Someone else owns the file or its folder, or may write to them.
    UnusableFileError
        It is no regular file, too large, or cannot be read.
    """
    try:
        found, folder = file.stat(), file.parent.stat()
    except PermissionError as error:
        if not _exists(cache_root()):
            return None  # the home is not the user's to enter
        raise ForeignFileError(f"it cannot be reached: {error.strerror}") from None
    except (OSError, ValueError):
        return None
    # What is no regular file may never end, or never begin.
    if not stat.S_ISREG(found.st_mode):
        raise UnusableFileError("it is no regular file")
    distrust = _distrust(found, "it") or _distrust(folder, "its folder")
    if distrust:
        raise ForeignFileError(distrust)
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > most:
                raise UnusableFileError(f"it has {size:,} bytes; at most {most:,} are read")
            return stream.read(size)
    except FileNotFoundError:  # removed meanwhile
        return None
    except (OSError, MemoryError) as error:
        raise UnusableFileError(f"it cannot be read: {str(error) or 'no memory is left'}") from None


def replace_file(file: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file that only the user can read, in a folder that only the user can enter.

    The file is replaced in one step: of two processes that write at once, one wins and none reads
    half. What a process that was killed has left of an earlier write is removed.

    Parameters
    ----------
    file : Path
    data : bytes
    durable : bool
        Whether the file is to be whole after a loss of power too.

    Raises
    ------
    OSError
        It cannot be written; nothing is left behind.
    """
    make_folder(file.parent)
    _remove_stale(file.parent)
    descriptor, name = tempfile.mkstemp(
        dir=file.parent, prefix=f"{file.name}.{_host()}-{os.getpid()}-", suffix=".tmp"
    )
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(descriptor)
        temporary.chmod(0o600)  # whatever the umask has taken
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, that only the user can enter, whatever the umask.

    One that exists is closed to others' writing.

    Raises
    ------
    OSError
        It cannot be made, or is another user's.
    """
    try:
        found = folder.stat()
    except FileNotFoundError:
        if not folder.parent.exists():
            make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
        return
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{folder} is no folder")
    if hasattr(os, "geteuid"):
        if found.st_uid not in (0, os.geteuid()):
            raise PermissionError(f"{folder} belongs to another user ({found.st_uid})")
        if found.st_mode & _OTHERS_WRITE:
            folder.chmod(0o700)


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


def _distrust(found: os.stat_result, what: str) -> str | None:
    """Return why others may have written what was found, or None; root may write anything."""
    if not hasattr(os, "geteuid"):  # Windows, where a user's folders are the user's
        return None
    if found.st_uid not in (0, os.geteuid()):
        return f"{what} belongs to another user ({found.st_uid})"
    if found.st_mode & _OTHERS_WRITE:
        return f"{what} can be written by others (chmod go-w)"
    return None


def _remove_stale(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote."""
    for file in folder.glob("*.tmp"):
        host, _, rest = file.name.removesuffix(".tmp").rpartition(".")[2].partition("-")
        process = rest.partition("-")[0]
        with contextlib.suppress(OSError):
            old = time.time() - file.stat().st_mtime > _STALE_SECONDS
            if old or (host == _host() and process.isdecimal() and not _runs(int(process))):
                file.unlink()


def _runs(process: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 would end it there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True
