"""Variants that gave wrong results on a device, in a file of its own (see device_file.py).

An entry of the list, a denial::

    variant  its name
    why      what was wrong, in a line

``pwconv verify --deny`` writes it; a dispatcher runs nothing that is on it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pwconv import shaders
from pwconv.device_file import DeviceFile, UnusableFileError, as_name, one_of
from pwconv.files import cache_folder
from pwconv.vk.physical_device import DeviceInfo

_log = logging.getLogger(__name__)

_FORMAT = 1
_MOST_DENIALS = 4096


class DenyList:
    """What must not be run on one device.

    Parameters
    ----------
    info : DeviceInfo

    Attributes
    ----------
    file : Path
    """

    def __init__(self, info: DeviceInfo) -> None:
        folder = cache_folder("denied")
        self._entries = DeviceFile(folder, info, _FORMAT, "denials", _MOST_DENIALS)
        self.file = self._entries.path

    def read(self) -> dict[str, str]:
        """Return why, by variant; nothing of a file that is not what it should be."""
        denials, problem = self.examine()
        if problem:
            _log.info("the deny list %s is ignored: %s", self.file, problem)
        return denials

    def examine(self) -> tuple[dict[str, str], str | None]:
        """Return why, by variant, and what is wrong with a file that is ignored."""
        try:
            return dict(map(_denial, self._entries.read())), None
        except UnusableFileError as error:
            return {}, str(error)

    def revise(self, verified: Iterable[str], failed: Mapping[str, str]) -> dict[str, str]:
        """Keep what was not verified now, and add what failed; return the list.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        with self._entries.locked():
            kept = self.read()
            for name in verified:
                kept.pop(name, None)
            kept.update(failed)
            entries = [{"variant": name, "why": why} for name, why in kept.items()]
            self._entries.write(entries)
        return kept

    def clear(self) -> None:
        """Allow everything.

        Raises
        ------
        OSError
            The file cannot be removed.
        """
        self.file.unlink(missing_ok=True)


def _denial(entry: dict[str, Any]) -> tuple[str, str]:
    why = as_name(entry, "why")
    # It ends up on terminals.
    if not why.isprintable():
        raise UnusableFileError(f"why is {why!r}")
    return one_of(entry, "variant", shaders.names()), why
