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

import math
from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from pwconv import shaders
from pwconv.documents import origin
from pwconv.terminal import counted, make_table
from pwconv.verify.diagnosis import Failure
from pwconv.verify.run import Result, Verification
from pwconv.vk.physical_device import DeviceInfo

SCHEMA = 1

_NAMES_SHOWN = 4


def to_document(info: DeviceInfo, found: Verification) -> dict[str, Any]:
    """Return the JSON document of a verification."""
    return {
        "schema": SCHEMA,
        **origin(info),
        "shaders": shaders.digest(),
        "seconds": found.seconds,
        "lost": found.lost or None,
        "variants": [_result(result) for result in found.results],
        "skipped": found.skipped,
    }


def results_table(found: Verification) -> Table:
    """Return a row for each family and choice of types and storages."""
    table = make_table(None, "family", "types", ">cases", ">passed", "failed")
    rows: dict[tuple[str, str], list[Result]] = {}
    for result in found.results:
        types = " ".join(each for axis, each in result.variant.axes.items() if axis != "tile")
        rows.setdefault((result.variant.family, types), []).append(result)
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
        lines.append(f"not run {counted(count, 'variant')}: {why} ({shown})")
    cases = sum(result.cases for result in found.results)
    lines.append(
        f"{counted(len(found.results), 'variant')}, {cases:,} cases, {len(found.failed)} failed, "
        f"in {found.seconds:.0f} s"
    )
    return lines


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
    entry = {name: _plain(value) for name, value in asdict(failure).items()}
    if failure.kind == "error":
        return dict.fromkeys(entry) | {key: entry[key] for key in ("case", "kind", "message")}
    return entry


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
