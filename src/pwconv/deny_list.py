"""Variants that gave wrong results on a device, in a file of its own (see device_file.py).

An entry of the list, a denial::

    variant  its name
    why      what was wrong, in a line

``pwconv verify --deny`` writes it; a dispatcher runs nothing that is on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pwconv import shaders
from pwconv.device_file import DeviceFile, UnusableFileError, as_name, one_of


class DenyList(DeviceFile[str, str]):
    """What must not be run on one device, and why, by variant."""

    title, folder, name = "deny list", "denied", "denials"
    version, most = 1, 4096

    def revise(self, verified: Iterable[str], failed: Mapping[str, str]) -> dict[str, str]:
        """Keep what was not verified now, and add what failed; return the list.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        with self._locked():
            kept = self.read()
            for name in verified:
                kept.pop(name, None)
            kept.update(failed)
            self._write(kept)
        return kept

    def clear(self) -> None:
        """Allow everything.

        Raises
        ------
        OSError
            The file cannot be removed.
        """
        self.file.unlink(missing_ok=True)

    def _from_entry(self, entry: dict[str, Any]) -> tuple[str, str]:
        why = as_name(entry, "why")
        # It ends up on terminals.
        if not why.isprintable():
            raise UnusableFileError(f"why is {why!r}")
        return one_of(entry, "variant", shaders.names()), why

    def _to_entry(self, key: str, value: str) -> dict[str, Any]:
        return {"variant": key, "why": value}
