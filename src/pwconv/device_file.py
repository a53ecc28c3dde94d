"""What is known of one device, in a JSON file of its own that nobody has to trust.

The file is a header that says what it is of, and a list of entries::

    format    version of what an entry holds
    pwconv    the version
    shaders   digest of the compiled shaders
    device    identity of the device and its driver
    …         the entries, under a name of their own

A file that differs from what is expected anywhere is ignored as a whole: it is only a cache.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from pwconv import shaders
from pwconv.files import locked_folder, make_folder, replace_file
from pwconv.vk.physical_device import DeviceInfo

MOST_BYTES = 4 << 20
MOST_NAME = 100


class UnusableFileError(ValueError):
    """What is wrong with a file."""


class DeviceFile:
    """A list of entries of one device.

    Parameters
    ----------
    folder : Path
        It need not exist.
    info : DeviceInfo
    version : int
        Of the entries' format.
    name : str
        What the list is called.
    most : int
        Entries that the file may have.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, folder: Path, info: DeviceInfo, version: int, name: str, most: int) -> None:
        self.path = folder / f"{info.identity}.json"
        self._name = name
        self._most = most
        self._header = {
            "format": version,
            "pwconv": metadata.version("pwconv"),
            "shaders": shaders.digest(),
            "device": info.identity,
        }

    def read(self) -> list[dict[str, Any]]:
        """Return the entries; none where there is no file.

        Raises
        ------
        UnusableFileError
            The file is not what it should be; nothing is known of what an entry holds.
        """
        try:
            # What is no regular file may never end, or never begin.
            if not self.path.is_file():
                return []
            with self.path.open("rb") as stream:
                data = stream.read(MOST_BYTES + 1)
        except OSError as error:
            raise UnusableFileError(str(error)) from None
        return self._parse(data)

    def write(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Replace the file.

        Raises
        ------
        OSError
            It cannot be written.
        """
        document = {**self._header, self._name: entries}
        replace_file(self.path, json.dumps(document).encode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing between a read and a write.

        Raises
        ------
        OSError
            The folder cannot be made.
        """
        make_folder(self.path.parent)
        with locked_folder(self.path.parent):
            yield

    def _parse(self, data: bytes) -> list[dict[str, Any]]:
        if len(data) > MOST_BYTES:
            raise UnusableFileError(f"it has more than {MOST_BYTES:,} bytes")
        try:
            document = json.loads(data.decode(), parse_int=_int, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise UnusableFileError(f"it is no JSON: {error}") from None
        document = as_kind(document, dict)
        for name, expected in self._header.items():
            if document.get(name) != expected:
                found = repr(document.get(name))[:MOST_NAME]
                raise UnusableFileError(f"its {name} is {found}, not {expected!r}")
        entries = as_kind(document.get(self._name), list)
        if len(entries) > self._most:
            raise UnusableFileError(
                f"it has {len(entries):,} {self._name}; {self._most:,} are kept"
            )
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
