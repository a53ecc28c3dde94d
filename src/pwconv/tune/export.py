"""Export of a device's winners, as points of heuristics.toml."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from pwconv.heuristics import WORKGROUP
from pwconv.heuristics_file import to_text
from pwconv.ops.window import POINTWISE
from pwconv.tune.store import Key, Winner
from pwconv.version import __version__
from pwconv.vk.physical_device import DeviceInfo


def export(info: DeviceInfo, winners: Mapping[Key, Winner], day: date) -> str:
    """Return the winners on pointwise problems as TOML to append to heuristics.toml.

    Those of strides and padding are left out: points are of inputs that lie as they are read.
    """
    origin = {"device": _printable(info.name), "driver": _printable(info.driver), "date": day}
    device = {**info.key._asdict(), "matrices": list(info.key.matrices)}
    points = [
        {**device, **_point(key, winner), **origin}
        for key, winner in winners.items()
        if key.problem.geometry == POINTWISE
    ]
    head = f"# {origin['device']}, {origin['driver']}; pwconv {__version__}, {day}\n"
    return f"{head}\n{to_text('conv2d_pw', points)}"


def _point(key: Key, winner: Winner) -> dict[str, Any]:
    m, n, batches = key.problem.outputs
    open_shape = {} if winner.workgroup == WORKGROUP else {"workgroup": list(winner.workgroup)}
    return {
        "dtype": key.problem.dtype.name,
        "storage": key.problem.storage,
        "m": m * batches,
        "n": n,
        "k": key.problem.products,
        "variant": winner.variant,
        **open_shape,
        "seconds": winner.seconds,
        "default_variant": winner.default_variant,
        "default_seconds": winner.default_seconds,
    }


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text) or "?"
