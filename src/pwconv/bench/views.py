"""A report seen by contender: what the table and the plot both ask of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pwconv.bench.report import Report, Result, Run

OURS = "pwconv"


def dtypes(report: Report) -> list[str]:
    """Return the types that were measured, in order."""
    return list(dict.fromkeys(run.dtype for result in report.results for run in result.runs))


def contenders(report: Report, dtype: str) -> list[str]:
    """Return who ran at a type, ours first."""
    names = dict.fromkeys(
        label(run) for result in report.results for run in result.runs if run.dtype == dtype
    )
    return sorted(names, key=lambda name: not name.startswith(OURS))


def label(run: Run) -> str:
    """Return a contender's name, with the storage of ours."""
    return f"{run.contender} {run.storage}" if run.storage else run.contender


def kinds(report: Report) -> list[list[Result]]:
    """Return the results that are summed up together, in order."""
    found: dict[str, list[Result]] = {}
    for result in report.results:
        found.setdefault(result.subject.kind, []).append(result)
    return list(found.values())


def find_run(result: Result, name: str, dtype: str) -> Run | None:
    """Return a contender's run at a type."""
    return next((r for r in result.runs if r.dtype == dtype and label(r) == name), None)


def ratios(results: Sequence[Result], ours: str, others: Sequence[str], dtype: str) -> list[float]:
    """Return our time over that of the best of others, at each result where there are both."""
    found = []
    for result in results:
        run = find_run(result, ours, dtype)
        against = [find_run(result, name, dtype) for name in others]
        times = [other.sample.median for other in against if other and other.sample]
        if run and run.sample and times:
            found.append(run.sample.median / min(times))
    return found


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of at least one number."""
    return math.exp(sum(map(math.log, values)) / len(values))
