"""What was measured on a device, in a file of its own (see :mod:`pwconv.device_file`).

An entry of the list, a verdict::

    storage, x_shape, out_channels, dtype, accumulate, stride, padding, weight_storage
        the problem
    variant, workgroup, seconds
        what is to be used
    default_variant, default_workgroup, default_seconds
        what would be used without it
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pwconv.device_file import (
    MOST_NAME,
    DeviceFile,
    UnusableFileError,
    as_kind,
    as_name,
    one_of,
)
from pwconv.dispatch import Size3
from pwconv.dtypes import FLOAT16, FLOAT32, DType
from pwconv.files import cache_folder
from pwconv.kernels.conv2d_pw import Geometry, Problem
from pwconv.vk.physical_device import DeviceInfo

_log = logging.getLogger(__name__)

_FORMAT = 1
_MOST_VERDICTS = 4096  # of which each takes less than 512 bytes
_MOST_WORKGROUP = 1024
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Key:
    """What a verdict is about: the problem, and how the weight is stored."""

    problem: Problem
    weight_storage: str


@dataclass(frozen=True)
class Verdict:
    """What to use; the default itself where nothing was faster by more than the noise.

    Attributes
    ----------
    variant : str
    workgroup : tuple of int
        Preferred shape, where the variant leaves it open.
    seconds : float
    default_variant, default_workgroup, default_seconds
        Of the default that it was measured against.
    """

    variant: str
    workgroup: Size3
    seconds: float
    default_variant: str
    default_workgroup: Size3
    default_seconds: float


class Store:
    """The verdicts of one device.

    Parameters
    ----------
    info : DeviceInfo

    Attributes
    ----------
    file : Path
    """

    def __init__(self, info: DeviceInfo) -> None:
        self._entries = DeviceFile(
            cache_folder("tuning"), info, _FORMAT, "verdicts", _MOST_VERDICTS
        )
        self.file = self._entries.path

    def read(self) -> dict[Key, Verdict]:
        """Return the verdicts, oldest first; none of a file that is not what it should be."""
        verdicts, problem = self.examine()
        if problem:
            _log.info("the tuning file %s is ignored: %s", self.file, problem)
        return verdicts

    def examine(self) -> tuple[dict[Key, Verdict], str | None]:
        """Return the verdicts, and what is wrong with a file that is ignored."""
        try:
            return dict(map(_verdict, self._entries.read())), None
        except UnusableFileError as error:
            return {}, str(error)

    def add(self, verdicts: Mapping[Key, Verdict]) -> dict[Key, Verdict]:
        """Write verdicts beside those that the file has; return all of them.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        with self._entries.locked():
            merged = self.read()
            for key, verdict in verdicts.items():
                merged.pop(key, None)
                merged[key] = verdict
            for key in list(merged)[:-_MOST_VERDICTS]:
                del merged[key]
            self._entries.write([_entry(key, verdict) for key, verdict in merged.items()])
        return merged


def _entry(key: Key, verdict: Verdict) -> dict[str, Any]:
    problem = key.problem
    return {
        "storage": problem.storage,
        "x_shape": problem.x_shape,
        "out_channels": problem.out_shape[1],
        "dtype": problem.dtype.name,
        "accumulate": problem.accumulate.name,
        "stride": problem.geometry.stride,
        "padding": problem.geometry.padding,
        "weight_storage": key.weight_storage,
        "variant": verdict.variant,
        "workgroup": verdict.workgroup,
        "seconds": verdict.seconds,
        "default_variant": verdict.default_variant,
        "default_workgroup": verdict.default_workgroup,
        "default_seconds": verdict.default_seconds,
    }


def _verdict(entry: dict[str, Any]) -> tuple[Key, Verdict]:
    x_shape = _ints(entry, "x_shape", 4, 1)
    geometry = Geometry(
        (_ints(entry, "stride", 2, 1)),
        (_ints(entry, "padding", 2, 0)),
    )
    out_channels = _whole(entry.get("out_channels"), "out_channels", 1, _LARGEST)
    problem = Problem(
        one_of(entry, "storage", ("texture3d", "buffer")),
        x_shape,
        geometry.output_shape(x_shape, out_channels),
        _dtype(entry, "dtype"),
        _dtype(entry, "accumulate"),
        geometry,
    )
    key = Key(problem, one_of(entry, "weight_storage", ("texture2d", "buffer")))
    verdict = Verdict(
        as_name(entry, "variant"),
        _workgroup(entry, "workgroup"),
        _seconds(entry, "seconds"),
        as_name(entry, "default_variant"),
        _workgroup(entry, "default_workgroup"),
        _seconds(entry, "default_seconds"),
    )
    return key, verdict


def _whole(value: Any, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise UnusableFileError(f"{name} holds {str(value)[:MOST_NAME]!r}")
    return value


def _ints(entry: dict[str, Any], name: str, count: int, least: int, most: int = _LARGEST) -> Any:
    values = as_kind(entry.get(name), list)
    if len(values) != count:
        raise UnusableFileError(f"{name} has {len(values)} numbers; it should have {count}")
    return tuple(_whole(value, name, least, most) for value in values)


def _workgroup(entry: dict[str, Any], name: str) -> Size3:
    size: Size3 = _ints(entry, name, 3, 1, _MOST_WORKGROUP)
    if any(length & (length - 1) for length in size):
        raise UnusableFileError(f"{name} is {size}; it should be of powers of two")
    return size


def _dtype(entry: dict[str, Any], name: str) -> DType:
    return FLOAT16 if one_of(entry, name, ("float32", "float16")) == "float16" else FLOAT32


def _seconds(entry: dict[str, Any], name: str) -> float:
    value: float = as_kind(entry.get(name), float)
    if not (math.isfinite(value) and value > 0):
        raise UnusableFileError(f"{name} is {value}")
    return value
