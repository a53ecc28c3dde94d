"""Variants that gave wrong results on a device, in a JSON file of its own.

An entry of the list, a denial::

    variant  its name
    why      its failure, in a line
    shader   digest of the SPIR-V that was wrong

``pwconv verify --deny`` writes it; a context runs nothing that is on it. Every version of pwconv
shares the list: a denial holds until its variant passes. A list that cannot be read is an error,
since its denials are unknown.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pwconv import shaders
from pwconv.cache import (
    Checks,
    ForeignFileError,
    JsonFile,
    UnusableFileError,
    cache_folder,
    is_text,
    locked_folder,
)
from pwconv.errors import PwconvError
from pwconv.vk.physical_device import DeviceInfo


@dataclass(frozen=True)
class Denial:
    """Reason why a variant is denied.

    Attributes
    ----------
    why : str
        The failure, in a line.
    shader : str
        Digest of the SPIR-V that was wrong.
    current : bool
        True if this version of pwconv has the same SPIR-V; else the variant needs to be verified
        again.
    """

    why: str
    shader: str
    current: bool

    def __str__(self) -> str:
        return self.why if self.current else f"{self.why}; not verified since its shader changed"


def _is_line(value: Any) -> bool:
    # It ends up on terminals.
    return is_text(value) and bool(value.isprintable())


class DenyList(JsonFile[str, Denial]):
    """Variants that must not run on one device: denials by name."""

    title, name, format = "deny list", "denials", 2
    checks: ClassVar[Checks] = {"variant": _is_line, "why": _is_line, "shader": is_text}

    def __init__(self, info: DeviceInfo) -> None:
        file = cache_folder("denied", every_version=True) / f"{info.identity}.json"
        super().__init__(file, {"device": info.identity})
        self._device = info.index

    def read(self) -> dict[str, Denial]:
        """Return the denials by variant.

        A list that another user may have written is ignored, with a warning.

        Raises
        ------
        PwconvError
            The list is damaged.
        """
        try:
            return self._load()
        except ForeignFileError as error:
            warnings.warn(
                f"the deny list {self.file} is ignored, and nothing is denied: {error}. "
                f"{self._renewal}",
                RuntimeWarning,
                stacklevel=2,
            )
            return {}
        except UnusableFileError as error:
            raise PwconvError(
                f"the deny list {self.file} cannot be used: {error}. Which kernels gave wrong "
                f"results on this device is not known. {self._renewal}"
            ) from None

    def revise(
        self, verified: Iterable[str], failed: Mapping[str, str], *, anew: bool = False
    ) -> dict[str, Denial]:
        """Replace the denials of verified variants by those that failed; return the list.

        Parameters
        ----------
        verified : iterable of str
            Variants that were run.
        failed : Mapping
            Those of them that failed, and why.
        anew : bool
            Replace a list that cannot be read: everything was verified.

        Raises
        ------
        OSError
            The file cannot be written.
        PwconvError
            The list is damaged.
        """
        with locked_folder(self.file.parent):
            kept = {} if anew and self.examine()[1] else self.read()
            for name in verified:
                kept.pop(name, None)
            for name, why in failed.items():
                kept[name] = Denial(why, shaders.code_digest(name) or "", current=True)
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

    @property
    def _renewal(self) -> str:
        return (
            f"'pwconv verify --deny --device {self._device}' writes it anew, and 'pwconv verify "
            f"--allow-all --device {self._device}' removes it."
        )

    def _decode(self, entry: dict[str, Any]) -> tuple[str, Denial]:
        name, shader = entry["variant"], entry["shader"]
        # Another version may have variants that this one does not know.
        return name, Denial(entry["why"], shader, current=shader == shaders.code_digest(name))

    def _encode(self, key: str, value: Denial) -> dict[str, Any]:
        return {"variant": key, "why": value.why, "shader": value.shader}
