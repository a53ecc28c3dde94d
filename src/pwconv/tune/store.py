"""Winners of tuning on a device: a JSON file of its own, and points of heuristics.toml."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any, ClassVar

from pwconv import shaders
from pwconv.cache import Checks, JsonFile, cache_folder, is_text, locked_folder
from pwconv.dtypes import as_dtype
from pwconv.heuristics import WORKGROUP
from pwconv.heuristics_file import to_text
from pwconv.ops.convolution import Problem
from pwconv.ops.window import POINTWISE, Geometry
from pwconv.version import __version__
from pwconv.vk.commands import Size3
from pwconv.vk.physical_device import DeviceInfo


@dataclass(frozen=True)
class Key:
    """Key of a winner: the problem, and the storage of the weight."""

    problem: Problem
    weight_storage: str


@dataclass(frozen=True)
class Winner:
    """The variant to use: the fastest, or the default where none was faster beyond noise.

    ``workgroup`` is the preferred shape, where the variant leaves it open; ``default_…`` are of the
    default that it was measured against.
    """

    variant: str
    workgroup: Size3
    seconds: float
    default_variant: str
    default_workgroup: Size3
    default_seconds: float


def _numbers(count: int, allowed: Container[int]) -> Callable[[Any], bool]:
    """Return a check for a list of so many integers, each an allowed one."""
    return lambda value: (
        type(value) is list
        and len(value) == count
        and all(type(number) is int and number in allowed for number in value)
    )


def _is_seconds(value: Any) -> bool:
    return type(value) is float and 0 < value < float("inf")


_SIZES = range(1, 2**31)
_WORKGROUP = _numbers(3, [2**n for n in range(11)])


class Store(JsonFile[Key, Winner]):
    """The winners of one device, by problem and weight storage."""

    title, name, format = "tuning file", "winners", 3
    checks: ClassVar[Checks] = {
        "storage": ("texture3d", "buffer").__contains__,
        "x_shape": _numbers(4, _SIZES),
        "out_channels": lambda value: _numbers(1, _SIZES)([value]),
        "dtype": ("float32", "float16").__contains__,
        "accumulate": ("float32", "float16").__contains__,
        "stride": _numbers(2, _SIZES),
        "padding": _numbers(4, range(2**31)),
        "weight_storage": ("texture2d", "buffer").__contains__,
        "variant": is_text,
        "workgroup": _WORKGROUP,
        "seconds": _is_seconds,
        "default_variant": is_text,
        "default_workgroup": _WORKGROUP,
        "default_seconds": _is_seconds,
    }

    def __init__(self, info: DeviceInfo) -> None:
        super().__init__(
            cache_folder("tuning") / f"{info.identity}.json",
            {"device": info.identity, "pwconv": __version__, "shaders": shaders.digest()},
        )

    def add(self, winners: Mapping[Key, Winner]) -> dict[Key, Winner]:
        """Write winners beside those that the file has; return all of them.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        with locked_folder(self.file.parent):
            kept = {key: value for key, value in self.read().items() if key not in winners}
            merged = dict([*kept.items(), *winners.items()][-self.most :])
            self._write(merged)
        return merged

    def _decode(self, entry: dict[str, Any]) -> tuple[Key, Winner]:
        # JSON has no tuples.
        given: dict[str, Any] = {k: tuple(v) if type(v) is list else v for k, v in entry.items()}
        sides = given["padding"]
        geometry = Geometry(given["stride"], sides[:2], end=sides[2:])
        out_shape = geometry.output_shape(given["x_shape"], given["out_channels"])
        types = as_dtype(given["dtype"]), as_dtype(given["accumulate"])
        problem = Problem(given["storage"], given["x_shape"], out_shape, *types, geometry)
        winner = {field.name: given[field.name] for field in fields(Winner)}
        return Key(problem, given["weight_storage"]), Winner(**winner)

    def _encode(self, key: Key, value: Winner) -> dict[str, Any]:
        problem = key.problem
        return {
            "storage": problem.storage,
            "x_shape": problem.x_shape,
            "out_channels": problem.out_shape[1],
            "dtype": problem.dtype.name,
            "accumulate": problem.accumulate.name,
            "stride": problem.geometry.stride,
            "padding": problem.geometry.sides,
            "weight_storage": key.weight_storage,
            **asdict(value),
        }


def export(info: DeviceInfo, winners: Mapping[Key, Winner], day: date) -> str:
    """Return the winners on pointwise problems as TOML to append to heuristics.toml.

    Those of strides and padding are left out: points are of inputs that lie as they are read.
    """
    name, driver = _printable(info.name), _printable(info.driver)
    points: list[dict[str, Any]] = []
    for key, winner in winners.items():
        if key.problem.geometry != POINTWISE:
            continue
        m, n, batches = key.problem.outputs
        point = {
            **info.key._asdict(),
            "matrices": list(info.key.matrices),
            "dtype": key.problem.dtype.name,
            "storage": key.problem.storage,
            "m": m * batches,
            "n": n,
            "k": key.problem.products,
            **asdict(winner),
            "workgroup": list(winner.workgroup),
            "device": name,
            "driver": driver,
            "date": day,
        }
        del point["default_workgroup"]
        if winner.workgroup == WORKGROUP:
            del point["workgroup"]
        points.append(point)
    head = f"# {name}, {driver}; pwconv {__version__}, {day}\n"
    return f"{head}\n{to_text('conv2d_pw', points)}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text) or "?"
