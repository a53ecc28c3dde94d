"""Files kept between runs: private to the user, replaced in one step, read without trust."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import reprlib
import stat
import time
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from platformdirs import user_cache_path

from pwconv.version import __version__

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)
_K = TypeVar("_K")
_V = TypeVar("_V")
Checks = Mapping[str, Callable[[Any], bool]]

MOST_BYTES = 4 << 20  # of a JSON file
MOST_TEXT = 100  # characters of a text in it
_MOST_PIPELINE_BYTES = 256 << 20
_PIPELINES_MAGIC = b"pwconv pipeline cache 1\n"
_SHOWN = reprlib.Repr()  # values of any size and depth, in short
_SHOWN.maxstring = MOST_TEXT

_LOCK_SECONDS = 2.0
_LOCK_POLL_SECONDS = 0.01
# A process on another host cannot be looked for: what it left is stale when it is a day old.
_STALE_SECONDS = 86_400
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# Folder of a user without a home: it cannot exist.
_NOWHERE = Path(os.devnull, "pwconv")


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
        require_folder(root)
    except OSError as error:
        return str(error)
    return None


def require_folder(folder: Path) -> None:
    """Raise OSError unless files can be written to a folder, which is made if need be."""
    make_folder(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written")


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
    if _is_foreign(found):
        raise PermissionError(f"{folder} belongs to another user ({found.st_uid})")
    if found.st_mode & _OTHERS_WRITE:
        folder.chmod(0o700)


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
        if not os.access(cache_root(), os.F_OK):
            return None  # the home is not the user's to enter
        raise ForeignFileError(f"it cannot be reached: {error.strerror}") from None
    except (OSError, ValueError):
        return None
    # Reading a pipe or a device file may never end, or never begin.
    if not stat.S_ISREG(found.st_mode):
        raise UnusableFileError("it is no regular file")
    for what, status in (("it", found), ("its folder", folder)):
        if _is_foreign(status):
            raise ForeignFileError(f"{what} belongs to another user ({status.st_uid})")
        if os.name == "posix" and status.st_mode & _OTHERS_WRITE:
            raise ForeignFileError(f"{what} can be written by others (chmod go-w)")
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


def replace_file(file: Path, data: bytes) -> None:
    """Write a file atomically; only the user can read it and enter its folder.

    The file is replaced in one step, and is whole after a loss of power too: of two processes that
    write at once, one wins and none reads half. What a process that was killed has left of an
    earlier write is removed.

    Raises
    ------
    OSError
        It cannot be written; nothing is left behind.
    """
    make_folder(file.parent)
    _remove_stale(file.parent)
    writer = f"{_host()}-{os.getpid()}-{os.urandom(8).hex()}"
    temporary = file.with_name(f"{file.name}.{writer}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o600)  # whatever the umask has taken
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes that do the same out of a folder, which is made if need be.

    A process that was stopped while it held the lock is not waited for without end, and a file
    system without locks has none: what is guarded must do no harm unguarded.
    """
    make_folder(folder)
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


@contextlib.contextmanager
def ignoring(title: str, file: Path) -> Iterator[None]:
    """Go on without a file that must not be used; where it is another user's, with a warning."""
    try:
        yield
    except ForeignFileError as error:
        warnings.warn(f"the {title} {file} is ignored: {error}", RuntimeWarning, stacklevel=4)
    except UnusableFileError as error:
        _log.info("the %s %s is ignored: %s", title, file, error)


def read_pipelines(file: Path) -> bytes:
    """Return the data that :func:`write_pipelines` wrote; nothing where the digest does not match.

    Drivers trust pipeline cache data, so the file begins with its digest.
    """
    start = len(_seal(b""))
    with ignoring("pipeline cache", file):
        contents = read_private(file, _MOST_PIPELINE_BYTES)
        if contents is not None:
            data = contents[start:]
            if contents[:start] != _seal(data):
                raise UnusableFileError("it is damaged")
            return data
    return b""


def write_pipelines(file: Path, data: bytes) -> None:
    """Write the data of a VkPipelineCache; log a failure."""
    try:
        replace_file(file, _seal(data) + data)
    except OSError as error:
        _log.info("the pipeline cache %s was not written: %s", file, error)


class JsonFile(ABC, Generic[_K, _V]):
    """Values by key, each pair an entry of a list in a JSON file, behind a header.

    A file that differs from what is expected anywhere is not used at all.

    Parameters
    ----------
    file : Path
    header : Mapping
        Other fields that the file must have, besides its ``format``.

    Attributes
    ----------
    title : str
        Name of the file in messages.
    name : str
        Name of the list in the file.
    format : int
        Version of what an entry holds.
    checks : Mapping
        Fields of an entry: a predicate on the value, by name.
    most : int
        Entries that the file may have.
    """

    title: ClassVar[str]
    name: ClassVar[str]
    format: ClassVar[int]
    checks: ClassVar[Checks]
    most = 4096

    def __init__(self, file: Path, header: Mapping[str, str]) -> None:
        self.file = file
        self._header = {"format": self.format, **header}

    def read(self) -> dict[_K, _V]:
        """Return the entries, oldest first; none where the file is damaged."""
        with ignoring(self.title, self.file):
            return self._load()
        return {}

    def examine(self) -> tuple[dict[_K, _V], str | None]:
        """Return the entries, and the reason where the file is not used."""
        try:
            return self._load(), None
        except UnusableFileError as error:
            return {}, str(error)

    def require_writable(self) -> None:
        """Raise OSError unless the file can be written."""
        require_folder(self.file.parent)

    @abstractmethod
    def _decode(self, entry: dict[str, Any]) -> tuple[_K, _V]:
        """Return the key and the value of an entry, whose fields were checked."""

    @abstractmethod
    def _encode(self, key: _K, value: _V) -> dict[str, Any]:
        """Return the entry that says so."""

    def _load(self) -> dict[_K, _V]:
        data = read_private(self.file, MOST_BYTES)
        if data is None:
            return {}
        try:
            # Many digits take time with their square; twenty are more than any field may have.
            document = json.loads(data.decode(), parse_int=lambda digits: int(digits[:20]))
        except (ValueError, RecursionError) as error:
            raise UnusableFileError(f"it is no JSON: {error}") from None
        if type(document) is not dict:
            raise UnusableFileError(f"it holds {_SHOWN.repr(document)}, no object")
        for name, expected in self._header.items():
            if document.get(name) != expected:
                found = _SHOWN.repr(document.get(name))
                raise UnusableFileError(f"its {name} is {found}, not {expected!r}")
        entries = document.get(self.name)
        if type(entries) is not list or len(entries) > self.most:
            raise UnusableFileError(f"its {self.name} are no list of at most {self.most:,}")
        for entry in entries:
            if type(entry) is not dict:
                raise UnusableFileError(f"its {self.name} hold {_SHOWN.repr(entry)}")
            for name, allows in self.checks.items():
                if not allows(entry.get(name)):
                    found = _SHOWN.repr(entry.get(name))
                    raise UnusableFileError(f"{name} is {found} in its {self.name}")
        return dict(map(self._decode, entries))

    def _write(self, known: Mapping[_K, _V]) -> None:
        entries = [self._encode(key, value) for key, value in known.items()]
        replace_file(self.file, json.dumps({**self._header, self.name: entries}).encode())


def is_text(value: Any) -> bool:
    """Return whether a value is a short text."""
    return type(value) is str and len(value) <= MOST_TEXT


def _seal(data: bytes) -> bytes:
    return _PIPELINES_MAGIC + hashlib.sha256(data).digest()


def _is_foreign(found: os.stat_result) -> bool:
    """Return whether a file belongs to neither the user nor root."""
    # Without it, on Windows, a user's folders are the user's.
    return hasattr(os, "geteuid") and found.st_uid not in (0, os.geteuid())


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
    try:
        if os.name == "posix":  # elsewhere signal 0 would end it
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"
