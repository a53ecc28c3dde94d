"""A whole run: ceilings, every graph by every contender in turns, the host."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Protocol

import numpy as np

from pwconv.bench.cases import Case
from pwconv.bench.graphs import Pwconv, count_work
from pwconv.bench.host import measure_host
from pwconv.bench.report import Report, Result, Run
from pwconv.device import Device
from pwconv.timing.ceilings import measure_ceilings, roofline
from pwconv.timing.clocks import SPIN_SECONDS, Clocks
from pwconv.timing.stopwatch import Stopwatch
from pwconv.version import __version__


@dataclass(frozen=True)
class Job:
    """Graphs to measure, and the types and storages to measure them in.

    Attributes
    ----------
    workload : str
        Its name, or the shapes given.
    cases : sequence of Case
    dtypes, storages : sequence of str
    host : bool
        Measure the host's cost too, of the last case.
    """

    workload: str
    cases: Sequence[Case]
    dtypes: Sequence[str]
    storages: Sequence[str]
    host: bool = True


class Contender(Protocol):
    """A way to run graphs on the device."""

    def measure(self, case: Case, dtype: str) -> list[Run]:
        """Time a graph in each of the contender's ways; a failure is a run without a sample."""

    def close(self) -> None:
        """Free the contender's device memory."""


def run(
    device: Device,
    job: Job,
    progress: Callable[[str, float], None],
    open_others: Callable[[Clocks, Report], Sequence[Contender]] = lambda *_: (),
) -> Report:
    """Measure a job.

    Parameters
    ----------
    device : Device
    job : Job
    progress : callable
        Called with the next task's name, and the share that is done.
    open_others : callable
        Returns the peers that run each graph in turns with pwconv, and adds their versions.
    """
    stopwatch = Stopwatch(device._context)
    report = _empty_report(device, job, stopwatch.method)
    report.notes += [stopwatch.note] if stopwatch.note else []
    progress("raising the clocks", 0.0)
    clocks = Clocks(device._context, stopwatch)
    if clocks.is_cpu:
        report.notes.append("a CPU's clocks cannot be held: their drift is recorded, no more")
    progress("ceilings", 0.0)
    report.ceilings += measure_ceilings(device._context, clocks)
    with ExitStack() as stack:
        contenders = [
            stack.enter_context(closing(each))
            for each in (Pwconv(device, clocks, job.storages), *open_others(clocks, report))
        ]
        for position, case in enumerate(job.cases):
            progress(case.name, position / len(job.cases))
            work = {dtype: count_work(device, case, dtype) for dtype in job.dtypes}
            result = Result(
                case.name,
                case.kind,
                case.count,
                flop=work[job.dtypes[0]][0],
                least_bytes={dtype: moved for dtype, (_, moved) in work.items()},
                roofline={d: roofline(*work[d], d, report.ceilings) for d in job.dtypes},
                runs=[
                    each
                    for dtype in job.dtypes
                    for contender in contenders
                    for each in contender.measure(case, dtype)
                ],
            )
            report.graphs.append(result)
        if job.host:
            progress("host", 1.0)
            report.host = measure_host(device, clocks, job.cases[-1], report.graphs[-1])
    return report


def _empty_report(device: Device, job: Job, method: str) -> Report:
    info = device.info
    spin = "" if info.type == "cpu" else f"; the queue spins for {SPIN_SECONDS} s before each"
    return Report(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        method=f"{method}{spin}; inputs and outputs rotate over working_set bytes",
        workload=job.workload,
        device={
            "name": info.name,
            "type": info.type,
            "driver": info.driver,
            "api_version": info.api_version,
        },
        versions={
            "pwconv": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )
