"""What is known of one device, in a JSON file of its own that nobody has to trust.

The file is a header that says what it is of, and a list of entries::

    format    version of what an entry holds
    device    identity of the device and its driver
    pwconv    the version                             } unless the file is of
    shaders   digest of the compiled shaders          } every version
    …         the entries, under a name of their own

A file that differs from what is expected anywhere is not used at all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, NoReturn, TypeVar

from pwconv import shaders
from pwconv.files import (
    ForeignFileError,
    UnusableFileError,
    cache_folder,
    locked_folder,
    make_folder,
    read_private,
    replace_file,
)
from pwconv.version import __version__
from pwconv.vk.physical_device import DeviceInfo

_log = logging.getLogger(__name__)
_K = TypeVar("_K")
_V = TypeVar("_V")

MOST_BYTES = 4 << 20
MOST_NAME = 100


class DeviceFile(ABC, Generic[_K, _V]):
    """What is known of one device: values by key, each pair of them an entry of its file.

    Parameters
    ----------
    info : DeviceInfo

    Attributes
    ----------
    file : Path
    """

    title: str
    """What the file is called in messages."""
    folder: str
    """Where it lies, within the user's cache folder."""
    version: int
    """Of the entries' format."""
    name: str
    """What the list of entries is called."""
    most: int
    """Entries that the file may have."""
    every_version = False
    """Whether every version of pwconv shares the file."""

    def __init__(self, info: DeviceInfo) -> None:
        folder = cache_folder(self.folder, every_version=self.every_version)
        self.file = folder / f"{info.identity}.json"
        self._header: dict[str, Any] = {"format": self.version, "device": info.identity}
        if not self.every_version:
            self._header |= {"pwconv": __version__, "shaders": shaders.digest()}

    def read(self) -> dict[_K, _V]:
        """Return what is known, oldest first; nothing of a file that is not what it should be."""
        try:
            return self._load()
        except ForeignFileError as error:
            warnings.warn(
                f"the {self.title} {self.file} is ignored: {error}", RuntimeWarning, stacklevel=2
            )
        except UnusableFileError as error:
            _log.info("the %s %s is ignored: %s", self.title, self.file, error)
        return {}

    def examine(self) -> tuple[dict[_K, _V], str | None]:
        """Return what is known, and what is wrong with a file that is not used."""
        try:
            return self._load(), None
        except UnusableFileError as error:
            return {}, str(error)

    def require_writable(self) -> None:
        """Raise unless the file can be written.

        Raises
        ------
        OSError
        """
        make_folder(self.file.parent)
        if not os.access(self.file.parent, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.file.parent} cannot be written")

    @abstractmethod
    def _from_entry(self, entry: dict[str, Any]) -> tuple[_K, _V]:
        """Return what an entry says, of which nothing is known yet.

        Raises
        ------
        UnusableFileError
        """

    @abstractmethod
    def _to_entry(self, key: _K, value: _V) -> dict[str, Any]:
        """Return the entry that says so."""

    def _load(self) -> dict[_K, _V]:
        """Return what is known.

        Raises
        ------
        UnusableFileError
        """
        data = read_private(self.file, MOST_BYTES)
        return {} if data is None else dict(map(self._from_entry, self._entries(data)))

    def _write(self, known: Mapping[_K, _V]) -> None:
        entries = [self._to_entry(key, value) for key, value in known.items()]
        document = json.dumps({**self._header, self.name: entries})
        replace_file(self.file, document.encode(), durable=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from writing between a read and a write."""
        make_folder(self.file.parent)
        with locked_folder(self.file.parent):
            yield

    def _entries(self, data: bytes) -> list[dict[str, Any]]:
        try:
            document = json.loads(data.decode(), parse_int=_int, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise UnusableFileError(f"it is no JSON: {error}") from None
        document = as_kind(document, dict)
        for name, expected in self._header.items():
            if document.get(name) != expected:
                found = repr(document.get(name))[:MOST_NAME]
                raise UnusableFileError(f"its {name} is {found}, not {expected!r}")
        entries = as_kind(document.get(self.name), list)
        if len(entries) > self.most:
            raise UnusableFileError(f"it has {len(entries):,} {self.name}; {self.most:,} are kept")
        return [as_kind(entry, dict) for entry in entries]


def as_kind(value: Any, kind: type) -> Any:
    """Return a value that is exactly of a type.

    Raises
    ------
    UnusableFileError
    """
    if type(value) is not kind:
        raise UnusableFileError(f"a {type(value).__name__} stands where a {kind.__name__} should")
    return value


def as_name(entry: Mapping[str, Any], name: str) -> str:
    """Return an entry's short text.

    Raises
    ------
    UnusableFileError
    """
    value: str = as_kind(entry.get(name), str)
    if len(value) > MOST_NAME:
        raise UnusableFileError(f"{name} has {len(value)} characters")
    return value


def one_of(entry: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    """Return an entry's text, which is one of a few.

    Raises
    ------
    UnusableFileError
    """
    value = entry.get(name)
    for choice in choices:
        if value == choice:
            return choice
    raise UnusableFileError(f"{name} is {str(value)[:MOST_NAME]!r}")


def _int(text: str) -> int:
    # Turning many digits into a number takes time with their square.
    if len(text) > 20:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
