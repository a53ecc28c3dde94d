"""Export of a device's verdicts, as points of heuristics.toml."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from pwconv.heuristics import WORKGROUP
from pwconv.heuristics_file import to_text
from pwconv.kernels.conv2d_pw import Geometry
from pwconv.tuning.store import Key, Verdict
from pwconv.version import __version__
from pwconv.vk.physical_device import DeviceInfo


def export(info: DeviceInfo, verdicts: Mapping[Key, Verdict], day: date) -> str:
    """Return the verdicts on pointwise problems as TOML to append to heuristics.toml.

    Those of strides and padding are left out: points are of inputs that lie as they are read.
    """
    origin = {"device": _printable(info.name), "driver": _printable(info.driver), "date": day}
    device = {**info.key._asdict(), "matrices": list(info.key.matrices)}
    points = [
        {**device, **_point(key, verdict), **origin}
        for key, verdict in verdicts.items()
        if key.problem.geometry == Geometry()
    ]
    head = f"# {origin['device']}, {origin['driver']}; pwconv {__version__}, {day}\n"
    return f"{head}\n{to_text('conv2d_pw', points)}"


def _point(key: Key, verdict: Verdict) -> dict[str, Any]:
    m, n, batches = key.problem.outputs
    open_shape = {} if verdict.workgroup == WORKGROUP else {"workgroup": list(verdict.workgroup)}
    return {
        "dtype": key.problem.dtype.name,
        "storage": key.problem.storage,
        "m": m * batches,
        "n": n,
        "k": key.problem.products,
        "variant": verdict.variant,
        **open_shape,
        "seconds": verdict.seconds,
        "default_variant": verdict.default_variant,
        "default_seconds": verdict.default_seconds,
    }


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text) or "?"
