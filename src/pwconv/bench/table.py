"""A report as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from pwconv.bench.report import LayerResult, Report, Run
from pwconv.bench.samples import Sample

OURS = "pwconv"


def print_report(report: Report, console: Console) -> None:
    """Print everything that the report holds, layers first."""
    for dtype in dtypes(report):
        console.print(_layers(report, dtype))
        for line in _summaries(report, dtype):
            console.print(line, highlight=False)
        console.print()
    console.print(_ceilings(report))
    if report.host:
        console.print(_host(report))
    for name, outcome in report.peers.items():
        console.print(f"peer   {name}: {outcome}", highlight=False, markup=False)
    for note in report.notes:
        console.print(f"note   {note}", highlight=False, markup=False)
    console.print(
        "time   median, with half the distance of the quartiles; roof: the least that the ceilings "
        "allow, by memory or arithmetic\n"
        f"method {report.method}",
        highlight=False,
        markup=False,
    )


def dtypes(report: Report) -> list[str]:
    """Return the types that were measured, in order."""
    return list(dict.fromkeys(run.dtype for result in report.layers for run in result.runs))


def contenders(report: Report, dtype: str) -> list[str]:
    """Return who ran at a type, ours by storage first."""
    names = dict.fromkeys(
        label(run) for result in report.layers for run in result.runs if run.dtype == dtype
    )
    return sorted(names, key=lambda name: not name.startswith(OURS))


def label(run: Run) -> str:
    """Return a contender's name, with the storage of ours."""
    return f"{run.contender} {run.storage}" if run.storage else run.contender


def find_run(result: LayerResult, name: str, dtype: str) -> Run | None:
    """Return a contender's run of a layer at a type."""
    return next((r for r in result.runs if r.dtype == dtype and label(r) == name), None)


def ratios(report: Report, ours: str, other: str, dtype: str) -> list[float]:
    """Return our time over the other's, at each layer that both ran."""
    found = []
    for result in report.layers:
        pair = [find_run(result, name, dtype) for name in (ours, other)]
        times = [run.sample.median for run in pair if run and run.sample]
        if len(times) == 2:
            found.append(times[0] / times[1])
    return found


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean of at least one number."""
    return math.exp(sum(map(math.log, values)) / len(values))


def microseconds(sample: Sample) -> str:
    """Return the median and its spread."""
    return f"{_digits(sample.median * 1e6)} ±{sample.spread * 50:.0f} %"


def _layers(report: Report, dtype: str) -> Table:
    names = contenders(report, dtype)
    table = Table(title=f"{report.device['name']}, {dtype}, µs", box=box.SIMPLE, title_justify="left")
    table.add_column("layer", no_wrap=True)
    for heading in ("roof", *(part for n in names for part in _headings(n))):
        table.add_column(heading, justify="left" if heading == "tile" else "right", no_wrap=True)
    for result in report.layers:
        least = result.roofline[dtype]
        cells = [str(result.layer), f"{_digits(least.seconds * 1e6)} {least.bound[0]}"]
        for name in names:
            cells += _cells(result, find_run(result, name, dtype), name)
        table.add_row(*cells)
    return table


def _headings(name: str) -> tuple[str, ...]:
    return (name, "share", "TFLOP/s", "tile") if name.startswith(OURS) else (name,)


def _cells(result: LayerResult, run: Run | None, name: str) -> list[str]:
    if run is None or run.sample is None:
        return ["failed" if run else "", *[""] * (len(_headings(name)) - 1)]
    unsettled = " [red]clocks![/]" if run.clocks and not run.clocks.settled else ""
    time = microseconds(run.sample) + unsettled
    if not name.startswith(OURS):
        return [time]
    workgroup = "×".join(map(str, run.workgroup or ()))
    return [
        time,
        f"{result.share(run) or 0:.0%}",
        _digits(result.layer.flop / run.sample.median / 1e12),
        f"{run.tile or run.variant or ''} {workgroup}",
    ]


def _summaries(report: Report, dtype: str) -> Iterator[str]:
    names = contenders(report, dtype)
    for name in names:
        runs = [find_run(result, name, dtype) for result in report.layers]
        times = [run.sample.median for run in runs if run and run.sample]
        yield f"sum    {name}: {_digits(sum(times) * 1e6)} µs over {len(times)} shapes"
    for ours in (name for name in names if name.startswith(OURS)):
        for other in (name for name in names if not name.startswith(OURS)):
            if found := ratios(report, ours, other, dtype):
                yield (
                    f"ratio  {ours} takes {geometric_mean(found):.2f} times as long as {other} "
                    f"(geometric mean over {len(found)} shapes)"
                )


def _ceilings(report: Report) -> Table:
    table = Table("ceiling", "rate", "clocks", title="ceilings", box=box.SIMPLE, title_justify="left")
    for ceiling in report.ceilings:
        table.add_row(
            ceiling.name,
            _rate(ceiling.rate, "B/s" if ceiling.unit == "byte/s" else "FLOP/s"),
            f"{ceiling.clocks.drift:.1%} drift",
        )
    return table


def _host(report: Report) -> Table:
    host = report.host
    assert host is not None
    table = Table("host", "time", title="host cost", box=box.SIMPLE, title_justify="left")
    share = host.staging_copy.median / host.numpy_to_numpy.median
    table.add_row("a call on resident tensors, not waited for", microseconds(host.call) + " µs")
    table.add_row(
        f"array to array, {host.shape}", microseconds(host.numpy_to_numpy) + " µs"
    )
    table.add_row("plain staging copy of the same bytes", microseconds(host.staging_copy) + " µs")
    table.add_row("copy's share of array to array", f"{share:.0%}")
    return table


def _rate(rate: float, unit: str) -> str:
    scale, prefix = (1e12, "T") if rate >= 1e12 else (1e9, "G")
    return f"{_digits(rate / scale)} {prefix}{unit}"


def _digits(value: float) -> str:
    """Return a number with three figures, or every figure before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    decimals = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{max(decimals, 0)}f}"
