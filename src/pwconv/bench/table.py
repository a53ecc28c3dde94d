"""A report as tables and lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from pwconv.bench.report import HostCost, Report, Result, Run, is_ours
from pwconv.terminal import make_table
from pwconv.timing.stopwatch import Sample

_HOST_ROWS = {
    "numpy_to_numpy": "graph.run, array to array",
    "staging_copy": "plain staging copy of the same bytes",
    "call": "graph.run on resident tensors, not waited for",
    "run": "graph.run on resident tensors, waited for",
    "resize": "graph.resize to a known size",
    "new_resize": "graph.resize to a new size",
    "first_call": "  and graph.run there, not waited for",
}


def describe(report: Report) -> Iterator[Table | str]:
    """Yield everything that the report holds."""
    for dtype in report.dtypes:
        yield _times(report, dtype)
        for results in report.kinds():
            if len(results) > 1:
                yield from _sums(results, report.contenders(dtype), dtype)
    yield _kernels(report)
    yield _ceilings(report)
    if report.host:
        yield _host(report.host)
    for result in report.graphs:
        for run in result.runs:
            if run.failure:
                yield f"failed {run.label} {run.dtype} {result.name}: {run.failure}"
    for note in report.notes:
        yield f"note   {note}"
    yield (
        "time   median ± half the distance of the quartiles, in %; ! where the clocks did not hold"
        "\nroof   the least time that the ceilings allow, by (m)emory or (a)rithmetic; share of it"
        f"\nmethod {report.method}"
    )


def microseconds(sample: Sample) -> str:
    """Return a median in microseconds, ± half the distance of its quartiles in percent."""
    return f"{digits(sample.median * 1e6)} ±{sample.spread * 50:.0f}"


def digits(value: float) -> str:
    """Return a number with three figures, or every figure before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    decimals = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{max(decimals, 0)}f}"


def _times(report: Report, dtype: str) -> Table:
    table = make_table(f"{report.device['name']}: {dtype}, µs", "graph", ">roof")
    labels = report.contenders(dtype)
    for label in labels:
        table.add_column(label, justify="right")
        if is_ours(label):
            table.add_column("share", justify="right")
    for result in report.graphs:
        least = result.roofline[dtype]
        cells = [result.name, f"{digits(least.seconds * 1e6)} {least.bound[0]}"]
        for label in labels:
            run = result.find(label, dtype)
            cells.append(_time(run))
            if is_ours(label):
                share = result.share(run) if run else None
                cells.append("" if share is None else f"{share:.0%}")
        table.add_row(*cells)
    return table


def _time(run: Run | None) -> str:
    if run is None or run.sample is None:
        return "failed" if run else ""
    held = run.clocks is None or run.clocks.settled
    return microseconds(run.sample) + ("" if held else "!")


def _sums(results: Sequence[Result], labels: Sequence[str], dtype: str) -> Iterator[str]:
    for label in labels:
        timed = [
            (run.sample.median * 1e6, result.count)
            for result in results
            if (run := result.find(label, dtype)) and run.sample
        ]
        if timed:
            once, all_of_them = sum(t for t, _ in timed), sum(t * count for t, count in timed)
            yield (
                f"sum    {label}: {digits(once)} µs over {len(timed)} {results[0].kind}, "
                f"{digits(all_of_them)} µs as often as the network has them"
            )


def _kernels(report: Report) -> Table:
    table = make_table(
        "what pwconv ran",
        *("graph", "dtype", "contender", "kernels"),
        *(">dispatches", ">scratch MB", ">TFLOP/s", ">GB/s"),
    )
    for result in report.graphs:
        for run in result.runs:
            if is_ours(run.label) and run.sample:
                table.add_row(
                    *(result.name, run.dtype, run.label),
                    run.kernels[0] if len(run.kernels) == 1 else f"{len(run.kernels)}",
                    f"{run.dispatches}",
                    digits((run.scratch or 0) / 1e6),
                    digits(result.flop / run.sample.median / 1e12),
                    digits(result.least_bytes[run.dtype] / run.sample.median / 1e9),
                )
    return table


def _ceilings(report: Report) -> Table:
    table = make_table("the device's ceilings", "what", ">rate", ">clocks' drift")
    for ceiling in report.ceilings:
        unit = "B/s" if ceiling.unit == "byte/s" else "FLOP/s"
        scale, prefix = (1e12, "T") if ceiling.rate >= 1e12 else (1e9, "G")
        drift = f"{ceiling.clocks.drift:.1%}" + ("" if ceiling.clocks.settled else "!")
        table.add_row(ceiling.name, f"{digits(ceiling.rate / scale)} {prefix}{unit}", drift)
    return table


def _host(host: HostCost) -> Table:
    title = f"the host's cost: {host.graph} {host.dtype} {host.storage}"
    table = make_table(title, "what", ">µs")
    for name, what in _HOST_ROWS.items():
        if name in host.samples:
            table.add_row(what, microseconds(host.samples[name]))
        if name == "run" and host.gpu is not None and name in host.samples:
            beyond = (host.samples[name].median - host.gpu) * 1e6
            table.add_row("  beyond the GPU's own time of a run", f"{beyond:,.0f}")
    return table
