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

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pwconv.device_file import MOST_NAME, DeviceFile, as_kind, as_name, one_of
from pwconv.dtypes import FLOAT16, FLOAT32, DType
from pwconv.files import UnusableFileError
from pwconv.kernels.conv2d_pw import Geometry, Problem
from pwconv.vk.commands import Size3

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


class Store(DeviceFile[Key, Verdict]):
    """The verdicts of one device, by what they are about."""

    title, folder, name = "tuning file", "tuning", "verdicts"
    version, most = 1, 4096  # each takes less than 512 bytes

    def add(self, verdicts: Mapping[Key, Verdict]) -> dict[Key, Verdict]:
        """Write verdicts beside those that the file has; return all of them.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        with self._locked():
            merged = self.read()
            for key, verdict in verdicts.items():
                merged.pop(key, None)
                merged[key] = verdict
            for key in list(merged)[: -self.most]:
                del merged[key]
            self._write(merged)
        return merged

    def _from_entry(self, entry: dict[str, Any]) -> tuple[Key, Verdict]:
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
        verdict = Verdict(
            as_name(entry, "variant"),
            _workgroup(entry, "workgroup"),
            _seconds(entry, "seconds"),
            as_name(entry, "default_variant"),
            _workgroup(entry, "default_workgroup"),
            _seconds(entry, "default_seconds"),
        )
        return Key(problem, one_of(entry, "weight_storage", ("texture2d", "buffer"))), verdict

    def _to_entry(self, key: Key, value: Verdict) -> dict[str, Any]:
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
            "variant": value.variant,
            "workgroup": value.workgroup,
            "seconds": value.seconds,
            "default_variant": value.default_variant,
            "default_workgroup": value.default_workgroup,
            "default_seconds": value.default_seconds,
        }


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
