"""``pwconv bench`` on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pwconv.bench import report, table
from pwconv.bench.graphs import GRAPH_SIZE, GRAPH_WORKLOADS, GraphCase, graph_workload
from pwconv.bench.options import (
    add_options,
    chosen_dtypes,
    chosen_layers,
    chosen_storages,
)
from pwconv.bench.run import Job, run
from pwconv.bench.workloads import WORKLOADS, Layer
from pwconv.device import Device
from pwconv.documents import require_writable
from pwconv.errors import PwconvError, UnsupportedError
from pwconv.terminal import make_console, progress_bar


def add_parser(commands: Any) -> None:
    """Add the command to a parser's."""
    bench = commands.add_parser(
        "bench",
        help="measure layers and graphs against the device's own ceilings, and against peers",
    )
    add_options(bench, (*WORKLOADS, *GRAPH_WORKLOADS))
    bench.add_argument(
        "--size",
        type=int,
        help="H and W of the image that a workload of graphs "
        f"({', '.join(GRAPH_WORKLOADS)}) is for; by default {GRAPH_SIZE}",
    )
    bench.add_argument("--no-peers", action="store_true", help="measure pwconv alone")
    bench.add_argument("--no-host", action="store_true", help="leave the host's cost out")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    bench.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw the roofline and the peers"
    )
    bench.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> bool:
    # Before an hour of measuring rather than after it.
    if options.plot:
        from pwconv.bench.plot import endings

        require_writable(options.plot, endings())
    if options.json:
        require_writable(options.json)
    console = make_console()
    with Device(options.device) as device:
        console.print(f"device {device.info}", soft_wrap=True)
        job = _job(options, device)
        with progress_bar(console) as progress:
            task = progress.add_task("", total=1.0)
            found = run(
                device,
                job,
                lambda what, share: progress.update(task, description=what, completed=share),
            )
    # Files first: whoever reads what is printed may go away.
    written, problems = _write(found, options)
    table.print_report(found, console)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)
    if problems:
        raise PwconvError("; ".join(map(str, problems)))
    return all(any(r.sample for r in result.runs) for result in found.results)


def _write(
    found: report.Report, options: argparse.Namespace
) -> tuple[list[Path], list[PwconvError]]:
    """Write the files that were asked for; return those that are there, and what went wrong."""
    writers: list[tuple[Path, Callable[[report.Report, Path], None]]] = []
    if options.json:
        writers.append((options.json, report.write_json))
    if options.plot:
        from pwconv.bench.plot import write_plot

        writers.append((options.plot, write_plot))
    written, problems = [], []
    for path, write in writers:
        try:
            write(found, path)
            written.append(path)
        except PwconvError as error:
            problems.append(error)
    return written, problems


def _job(options: argparse.Namespace, device: Device) -> Job:
    layers: Sequence[Layer] = ()
    graphs: Sequence[GraphCase] = ()
    if options.workload in GRAPH_WORKLOADS:
        size = GRAPH_SIZE if options.size is None else options.size
        name = f"{options.workload} at {size}"
        graphs = graph_workload(options.workload, size)
    elif options.size is not None:
        raise UnsupportedError(
            f"--size is {options.size}; only workloads of graphs take it: "
            f"{', '.join(GRAPH_WORKLOADS)}"
        )
    else:
        name, layers = chosen_layers(options)
    return Job(
        workload=name,
        layers=layers,
        graphs=graphs,
        dtypes=chosen_dtypes(options),
        storages=chosen_storages(options, device),
        peers=not options.no_peers,
        host=not options.no_host,
    )
