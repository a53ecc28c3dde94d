"""Report of a verification, as JSON and as a table.

The document, schema 1::

    schema    1
    date      ISO 8601, UTC
    device    name, type, driver, api_version
    versions  of pwconv, numpy and Python
    shaders   digest of the compiled shaders
    seconds   how long it took
    lost      the error that ended it before its time, or null
    variants  variant, family, axes, passed, cases (how many were run), failures
    skipped   variant → why it cannot be run on this device

    a failure case, kind, message (null but for an error), wrong (of how many elements), elements,
              position ([n, c, h, w] of the first), past_channels, value, expected, bound; a number
              that is not finite is a string, and all but case, kind and message are null for an
              error
"""

from __future__ import annotations

import datetime
import math
import platform
from collections import Counter
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from pwconv import shaders
from pwconv.verify.diagnosis import Failure
from pwconv.verify.run import Result, Verification
from pwconv.version import __version__
from pwconv.vk.physical_device import DeviceInfo

SCHEMA = 1

_NAMES_SHOWN = 4


def to_document(info: DeviceInfo, found: Verification) -> dict[str, Any]:
    """Return the JSON document of a verification."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "schema": SCHEMA,
        "date": now.isoformat(timespec="seconds"),
        "device": {name: getattr(info, name) for name in ("name", "type", "driver", "api_version")},
        "versions": {
            "pwconv": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "shaders": shaders.digest(),
        "seconds": found.seconds,
        "lost": found.lost or None,
        "variants": [_result(result) for result in found.results],
        "skipped": found.skipped,
    }


def make_table(found: Verification) -> Table:
    """Return a row for each family and choice of types and storages."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("family", "types"):
        table.add_column(name, no_wrap=True)
    for name in ("cases", "passed"):
        table.add_column(name, justify="right")
    table.add_column("failed")
    rows: dict[tuple[str, str], list[Result]] = {}
    for result in found.results:
        axes = dict(result.variant.axes)
        axes.pop("tile", None)
        rows.setdefault((result.variant.family, " ".join(axes.values())), []).append(result)
    for (family, types), results in rows.items():
        failed = [r.variant.axes.get("tile", "FAILED") for r in results if not r.passed]
        table.add_row(
            family,
            types,
            f"{sum(r.cases for r in results):,}",
            f"{len(results) - len(failed)} of {len(results)}",
            Text(" ".join(failed), style="red"),
        )
    return table


def describe(found: Verification) -> list[str]:
    """Return the failures, the skipped variants and why, and the totals, in lines."""
    lines = []
    for result in found.failed:
        lines.append(f"FAILED {result.variant.name}")
        lines.append(f"       {result.failures[0]}")
        if result.failures[1:]:
            by_kind: dict[str, list[str]] = {}
            for failure in result.failures[1:]:
                by_kind.setdefault(failure.kind, []).append(failure.case)
            others = (f"{kind} in {', '.join(cases)}" for kind, cases in by_kind.items())
            lines.append(f"       and {'; '.join(others)}")
    if found.lost:
        lines.append(f"lost   {found.lost}")
    for why, count in Counter(found.skipped.values()).items():
        names = [name for name, reason in found.skipped.items() if reason == why]
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if names[_NAMES_SHOWN:] else "")
        lines.append(f"not run {_variants(count)}: {why} ({shown})")
    cases = sum(result.cases for result in found.results)
    lines.append(
        f"{_variants(len(found.results))}, {cases:,} cases, {len(found.failed)} failed, "
        f"in {found.seconds:.0f} s"
    )
    return lines


def _variants(count: int) -> str:
    return f"{count} {'variant' if count == 1 else 'variants'}"


def _result(result: Result) -> dict[str, Any]:
    return {
        "variant": result.variant.name,
        "family": result.variant.family,
        "axes": dict(result.variant.axes),
        "passed": result.passed,
        "cases": result.cases,
        "failures": [_failure(failure) for failure in result.failures],
    }


def _failure(failure: Failure) -> dict[str, Any]:
    is_error = failure.kind == "error"
    numbers = {
        "wrong": failure.wrong,
        "elements": failure.elements,
        "position": list(failure.position),
        "past_channels": failure.past_channels,
        "value": _number(failure.value),
        "expected": _number(failure.expected),
        "bound": _number(failure.bound),
    }
    return {
        "case": failure.case,
        "kind": failure.kind,
        "message": failure.message or None,
        **(dict.fromkeys(numbers) if is_error else numbers),
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
