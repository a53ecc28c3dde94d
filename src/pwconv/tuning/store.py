"""What was measured on a device, in a file of its own.

The file is JSON: a header that says what it is of, and a list of verdicts::

    format    1
    pwconv    the version
    shaders   digest of the compiled shaders
    device    identity of the device and its driver
    verdicts  storage, x_shape, out_channels, dtype, accumulate, stride, padding, weight_storage:
              the problem; variant, workgroup, seconds: what is to be used; default_variant,
              default_workgroup, default_seconds: what would be used without it

A file that differs from what is expected anywhere is ignored as a whole: it is only a cache.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NoReturn

from pwconv import shaders
from pwconv.dispatch import Size3
from pwconv.dtypes import FLOAT16, FLOAT32, DType
from pwconv.files import cache_folder, locked_folder, make_folder, replace_file
from pwconv.kernels.conv2d_pw import Geometry, Problem
from pwconv.vk.physical_device import DeviceInfo

_log = logging.getLogger(__name__)

_FORMAT = 1
_MOST_BYTES = 4 << 20
_MOST_VERDICTS = 4096  # of which each takes less than 512 bytes
_MOST_NAME = 100
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
        self._header = {
            "format": _FORMAT,
            "pwconv": metadata.version("pwconv"),
            "shaders": shaders.digest(),
            "device": info.identity,
        }
        self.file = cache_folder("tuning") / f"{info.identity}.json"

    def read(self) -> dict[Key, Verdict]:
        """Return the verdicts, oldest first; none of a file that is not what it should be."""
        verdicts, problem = self.examine()
        if problem:
            _log.info("the tuning file %s is ignored: %s", self.file, problem)
        return verdicts

    def examine(self) -> tuple[dict[Key, Verdict], str | None]:
        """Return the verdicts, and what is wrong with a file that is ignored."""
        try:
            # What is no regular file may never end, or never begin.
            if not self.file.is_file():
                return {}, None
            with self.file.open("rb") as stream:
                data = stream.read(_MOST_BYTES + 1)
        except OSError as error:
            return {}, str(error)
        try:
            return _parse(data, self._header), None
        except _UnusableError as error:
            return {}, str(error)

    def add(self, verdicts: Mapping[Key, Verdict]) -> dict[Key, Verdict]:
        """Write verdicts beside those that the file has; return all of them.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        make_folder(self.file.parent)
        with locked_folder(self.file.parent):
            merged = self.read()
            for key, verdict in verdicts.items():
                merged.pop(key, None)
                merged[key] = verdict
            for key in list(merged)[:-_MOST_VERDICTS]:
                del merged[key]
            entries = [_entry(key, verdict) for key, verdict in merged.items()]
            document = {**self._header, "verdicts": entries}
            replace_file(self.file, json.dumps(document).encode())
        return merged


class _UnusableError(ValueError):
    """What is wrong with a file."""


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


def _parse(data: bytes, header: Mapping[str, object]) -> dict[Key, Verdict]:
    if len(data) > _MOST_BYTES:
        raise _UnusableError(f"it has more than {_MOST_BYTES:,} bytes")
    try:
        document = json.loads(data.decode(), parse_int=_int, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise _UnusableError(f"it is no JSON: {error}") from None
    document = _as(document, dict)
    for name, expected in header.items():
        if document.get(name) != expected:
            found = repr(document.get(name))[:_MOST_NAME]
            raise _UnusableError(f"its {name} is {found}, not {expected!r}")
    entries = _as(document.get("verdicts"), list)
    if len(entries) > _MOST_VERDICTS:
        raise _UnusableError(f"it has {len(entries):,} verdicts; {_MOST_VERDICTS:,} are kept")
    return dict(_verdict(_as(entry, dict)) for entry in entries)


def _verdict(entry: dict[str, Any]) -> tuple[Key, Verdict]:
    x_shape = _ints(entry, "x_shape", 4, 1)
    geometry = Geometry(
        (_ints(entry, "stride", 2, 1)),
        (_ints(entry, "padding", 2, 0)),
    )
    out_channels = _whole(entry.get("out_channels"), "out_channels", 1, _LARGEST)
    problem = Problem(
        _one_of(entry, "storage", ("texture3d", "buffer")),
        x_shape,
        geometry.output_shape(x_shape, out_channels),
        _dtype(entry, "dtype"),
        _dtype(entry, "accumulate"),
        geometry,
    )
    key = Key(problem, _one_of(entry, "weight_storage", ("texture2d", "buffer")))
    verdict = Verdict(
        _name(entry, "variant"),
        _workgroup(entry, "workgroup"),
        _seconds(entry, "seconds"),
        _name(entry, "default_variant"),
        _workgroup(entry, "default_workgroup"),
        _seconds(entry, "default_seconds"),
    )
    return key, verdict


def _int(text: str) -> int:
    # Turning many digits into a number takes time with their square.
    if len(text) > 20:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _as(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise _UnusableError(f"a {type(value).__name__} stands where a {kind.__name__} should")
    return value


def _whole(value: Any, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _UnusableError(f"{name} holds {str(value)[:_MOST_NAME]!r}")
    return value


def _ints(entry: dict[str, Any], name: str, count: int, least: int, most: int = _LARGEST) -> Any:
    values = _as(entry.get(name), list)
    if len(values) != count:
        raise _UnusableError(f"{name} has {len(values)} numbers; it should have {count}")
    return tuple(_whole(value, name, least, most) for value in values)


def _workgroup(entry: dict[str, Any], name: str) -> Size3:
    size: Size3 = _ints(entry, name, 3, 1, _MOST_WORKGROUP)
    if any(length & (length - 1) for length in size):
        raise _UnusableError(f"{name} is {size}; it should be of powers of two")
    return size


def _one_of(entry: dict[str, Any], name: str, choices: tuple[str, ...]) -> str:
    value = entry.get(name)
    for choice in choices:
        if value == choice:
            return choice
    raise _UnusableError(f"{name} is {str(value)[:_MOST_NAME]!r}")


def _dtype(entry: dict[str, Any], name: str) -> DType:
    return FLOAT16 if _one_of(entry, name, ("float32", "float16")) == "float16" else FLOAT32


def _name(entry: dict[str, Any], name: str) -> str:
    value: str = _as(entry.get(name), str)
    if len(value) > _MOST_NAME:
        raise _UnusableError(f"{name} has {len(value)} characters")
    return value


def _seconds(entry: dict[str, Any], name: str) -> float:
    value: float = _as(entry.get(name), float)
    if not (math.isfinite(value) and value > 0):
        raise _UnusableError(f"{name} is {value}")
    return value
