"""A whole run: ceilings, every graph by every contender in turns, the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from pwconv.bench.cases import Case
from pwconv.bench.graphs import count_work, time_graphs
from pwconv.bench.host import measure_host
from pwconv.bench.report import Report, Result, Run
from pwconv.device import Device
from pwconv.documents import origin
from pwconv.timing.ceilings import measure_ceilings, roofline
from pwconv.timing.clocks import SPIN_SECONDS, Clocks
from pwconv.timing.stopwatch import Stopwatch

# Times a graph at a type, in each way to run it; a failure is a run without a sample.
Contender = Callable[[Case, str], list[Run]]


def run(
    device: Device,
    workload: str,
    cases: Sequence[Case],
    dtypes: Sequence[str],
    storages: Sequence[str],
    progress: Callable[[str, float], None],
    *,
    host: bool = True,
    others: Callable[[Clocks, Report], Sequence[Contender]] = lambda *_: (),
) -> Report:
    """Measure graphs.

    Parameters
    ----------
    device : Device
    workload : str
        Its name, or the shapes given.
    cases : sequence of Case
    dtypes, storages : sequence of str
    progress : callable
        Called with the next task's name, and the share that is done.
    host : bool
        Measure the host's cost too, of the last case.
    others : callable
        Returns who runs each graph in turns with pwconv, and adds their versions.
    """
    stopwatch = Stopwatch(device._context)
    spins = (
        "" if device.info.type == "cpu" else f"; the queue spins for {SPIN_SECONDS} s before each"
    )
    report = Report(
        **origin(device.info),
        method=f"{stopwatch.method}{spins}; inputs and outputs rotate over working_set bytes",
        workload=workload,
        notes=[stopwatch.note] if stopwatch.note else [],
    )
    progress("raising the clocks", 0.0)
    clocks = Clocks(device._context, stopwatch)
    if clocks.is_cpu:
        report.notes.append("a CPU's clocks cannot be held: their drift is recorded, no more")
    progress("ceilings", 0.0)
    report.ceilings += measure_ceilings(device._context, clocks)
    contenders: list[Contender] = [partial(time_graphs, device, clocks, storages)]
    contenders += others(clocks, report)
    for position, case in enumerate(cases):
        progress(case.name, position / len(cases))
        work = {dtype: count_work(device, case, dtype) for dtype in dtypes}
        result = Result(
            case.name,
            case.kind,
            case.count,
            flop=work[dtypes[0]][0],
            least_bytes={dtype: moved for dtype, (_, moved) in work.items()},
            roofline={d: roofline(*work[d], d, report.ceilings) for d in dtypes},
            runs=[
                each for dtype in dtypes for contend in contenders for each in contend(case, dtype)
            ],
        )
        report.graphs.append(result)
    if host:
        progress("host", 1.0)
        report.host = measure_host(device, clocks, cases[-1], report.graphs[-1])
    return report
