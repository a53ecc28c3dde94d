"""A report as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from pwconv.bench.report import GraphHostCost, HostCost, Report, Result, Run
from pwconv.bench.views import (
    OURS,
    contenders,
    dtypes,
    find_run,
    geometric_mean,
    kinds,
    label,
    ratios,
)
from pwconv.timing.samples import Sample

_METHODS = ("conv2d", "matmul", "eager", "eager NHWC", "compiled")
# Peers that compute the same in several ways are met at their best, TF32 apart: it is not float32.
_GROUPS = {
    "the best of PyTorch": tuple(f"PyTorch {method}" for method in _METHODS),
    "the best of PyTorch TF32": tuple(f"PyTorch {method} TF32" for method in _METHODS),
    "ncnn Vulkan": ("ncnn Vulkan",),
}


def print_report(report: Report, console: Console) -> None:
    """Print everything that the report holds."""

    def say(text: str) -> None:
        console.print(text)

    for dtype in dtypes(report):
        console.print(_times(report, dtype))
        for line in _summaries(report, dtype):
            say(line)
        console.print()
    if report.layers:
        console.print(_kernels(report))
    if report.graphs:
        console.print(_graphs(report))
    console.print(_ceilings(report))
    if report.host:
        console.print(_host(report.host))
    if report.graph_host:
        console.print(_graph_host(report.graph_host))
    for name, outcome in report.peers.items():
        say(f"peer   {name}: {outcome}")
    for failure in _failures(report):
        say(f"failed {failure}")
    for note in report.notes:
        say(f"note   {note}")
    say(
        "time   median ± half the distance of the quartiles, in %; ! where the clocks did not hold"
        "\nroof   the least time that the ceilings allow, by (m)emory or (a)rithmetic; share of it"
        f"\nmethod {report.method}"
    )


def _times(report: Report, dtype: str) -> Table:
    names = contenders(report, dtype)
    table = _table(f"{report.device['name']}: {dtype}, µs")
    table.add_column("layer" if report.layers else "graph", no_wrap=True)
    table.add_column("roof", justify="right", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
        if name.startswith(OURS):
            table.add_column("share", justify="right")
    for result in report.results:
        least = result.roofline[dtype]
        cells = [str(result.subject), f"{_digits(least.seconds * 1e6)} {least.bound[0]}"]
        for name in names:
            run = find_run(result, name, dtype)
            cells.append(_time(run))
            if name.startswith(OURS):
                share = result.share(run) if run else None
                cells.append("" if share is None else f"{share:.0%}")
        table.add_row(*cells)
    return table


def _time(run: Run | None) -> str:
    if run is None or run.sample is None:
        return "failed" if run else ""
    held = run.clocks is None or run.clocks.settled
    return microseconds(run.sample) + ("" if held else "!")


def _summaries(report: Report, dtype: str) -> Iterator[str]:
    names = contenders(report, dtype)
    for results in kinds(report):
        if len(results) > 1:
            yield from _sums(results, names, dtype)
        for ours in (name for name in names if name.startswith(OURS)):
            for title, others in _GROUPS.items():
                if found := ratios(results, ours, others, dtype):
                    over = (
                        f"geometric mean of {len(found)}"
                        if len(results) > 1
                        else results[0].subject
                    )
                    yield (
                        f"ratio  {ours} takes {geometric_mean(found):.2f}× the time of {title} "
                        f"({over})"
                    )


def _sums(results: Sequence[Result], names: Sequence[str], dtype: str) -> Iterator[str]:
    for name in names:
        timed = [
            (run.sample.median * 1e6, result.subject.count)
            for result in results
            if (run := find_run(result, name, dtype)) and run.sample
        ]
        if timed:
            once, all_of_them = sum(t for t, _ in timed), sum(t * count for t, count in timed)
            yield (
                f"sum    {name}: {_digits(once)} µs over {len(timed)} {results[0].subject.kind}, "
                f"{_digits(all_of_them)} µs as often as the network has them"
            )


def _kernels(report: Report) -> Table:
    table = _table("what pwconv ran")
    for heading in ("layer", "storage", "variant", "workgroup"):
        table.add_column(heading, no_wrap=heading == "layer", overflow="fold")
    for heading in ("TFLOP/s", "GB/s"):
        table.add_column(heading, justify="right")
    for result in report.layers:
        for run in result.runs:
            if run.contender == OURS and run.sample:
                table.add_row(*_kernel(result, run, run.sample))
    return table


def _kernel(result: Result, run: Run, sample: Sample) -> tuple[str, ...]:
    return (
        str(result.subject),
        run.storage or "",
        run.variant or "",
        "×".join(map(str, run.workgroup or ())),
        *_rates(result, run, sample),
    )


def _graphs(report: Report) -> Table:
    table = _table("what pwconv ran")
    for heading in ("graph", "dtype", "contender"):
        table.add_column(heading)
    for heading in ("dispatches", "scratch MB", "TFLOP/s", "GB/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in report.graphs:
        for run in result.runs:
            if run.contender.startswith(OURS) and run.sample:
                table.add_row(
                    str(result.subject),
                    run.dtype,
                    label(run),
                    str(run.dispatches),
                    _digits((run.scratch or 0) / 1e6),
                    *_rates(result, run, run.sample),
                )
    return table


def _rates(result: Result, run: Run, sample: Sample) -> tuple[str, str]:
    return (
        _digits(result.subject.flop / sample.median / 1e12),
        _digits(result.least_bytes(run.dtype) / sample.median / 1e9),
    )


def _failures(report: Report) -> list[str]:
    return [
        f"{label(run)} {run.dtype} {result.subject}: {run.failure}"
        for result in report.results
        for run in result.runs
        if run.failure
    ]


def _ceilings(report: Report) -> Table:
    table = _table("the device's ceilings")
    table.add_column("what")
    for heading in ("rate", "clocks' drift"):
        table.add_column(heading, justify="right")
    for ceiling in report.ceilings:
        unit = "B/s" if ceiling.unit == "byte/s" else "FLOP/s"
        drift = f"{ceiling.clocks.drift:.1%}" + ("" if ceiling.clocks.settled else "!")
        table.add_row(ceiling.name, _rate(ceiling.rate, unit), drift)
    return table


def _host(host: HostCost) -> Table:
    table = _table("the host's cost")
    table.add_column("what")
    table.add_column("µs", justify="right")
    share = host.staging_copy.median / host.numpy_to_numpy.median
    table.add_row("a call on resident tensors, not waited for", microseconds(host.call))
    table.add_row(f"array to array, {host.shape}", microseconds(host.numpy_to_numpy))
    table.add_row(
        f"plain staging copy of the same bytes ({share:.0%} of that)",
        microseconds(host.staging_copy),
    )
    return table


def _graph_host(host: GraphHostCost) -> Table:
    table = _table(f"the host's cost: {host.graph} {host.dtype} {host.storage}, tensors resident")
    table.add_column("what")
    table.add_column("µs", justify="right")
    beyond = (host.run.median - host.gpu) * 1e6
    table.add_row("graph.run, not waited for", microseconds(host.call))
    table.add_row("graph.run, waited for", microseconds(host.run))
    table.add_row("  beyond the GPU's own time of a run", f"{beyond:,.0f}")
    table.add_row("graph.resize to a known size", microseconds(host.resize))
    table.add_row("graph.resize to a new size", microseconds(host.new_resize))
    table.add_row("  and graph.run there, not waited for", microseconds(host.first_call))
    return table


def _table(title: str) -> Table:
    return Table(
        title=title, box=box.SIMPLE, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0)
    )


def microseconds(sample: Sample) -> str:
    """Return a median in microseconds, ± half the distance of its quartiles in percent."""
    return f"{_digits(sample.median * 1e6)} ±{sample.spread * 50:.0f}"


def _rate(rate: float, unit: str) -> str:
    scale, prefix = (1e12, "T") if rate >= 1e12 else (1e9, "G")
    return f"{_digits(rate / scale)} {prefix}{unit}"


def _digits(value: float) -> str:
    """Return a number with three figures, or every figure before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    decimals = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{max(decimals, 0)}f}"
