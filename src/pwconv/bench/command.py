"""``pwconv bench`` on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pwconv.bench import ours, report, table
from pwconv.bench.run import Job, run
from pwconv.bench.workloads import WORKLOADS, Layer, parse_shape, workload
from pwconv.device import Device
from pwconv.errors import UnsupportedError

_DTYPES = ("float32", "float16")


def add_parser(commands: Any) -> None:
    """Add the command to a parser's."""
    bench = commands.add_parser(
        "bench", help="measure layers against the device's own ceilings, and against peers"
    )
    what = bench.add_mutually_exclusive_group()
    what.add_argument(
        "-w",
        "--workload",
        choices=list(WORKLOADS),
        help="whose layers to measure; by default edgetam",
    )
    what.add_argument(
        "-s",
        "--shape",
        dest="shapes",
        action="append",
        type=_shape,
        metavar="K,N,H,W[,BATCH]",
        help="C_in, C_out, height and width of a layer to measure; may be repeated",
    )
    bench.add_argument(
        "-d",
        "--device",
        help="index, or part of a name; by default $PWCONV_DEVICE, or the first GPU",
    )
    bench.add_argument(
        "--dtype", dest="dtypes", action="append", choices=_DTYPES, help="by default both"
    )
    bench.add_argument(
        "--storage",
        dest="storages",
        action="append",
        metavar="STORAGE",
        help="of activations; by default every one that the layers take",
    )
    bench.add_argument("--no-peers", action="store_true", help="measure pwconv alone")
    bench.add_argument("--no-host", action="store_true", help="leave the host's cost out")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    bench.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw the roofline and the peers"
    )
    bench.set_defaults(run=_run)


def _shape(text: str) -> Layer:
    try:
        return parse_shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run(options: argparse.Namespace) -> bool:
    # Before an hour of measuring rather than after it.
    if options.plot:
        from pwconv.bench.plot import require_matplotlib

        require_matplotlib()
    for path in filter(None, (options.json, options.plot)):
        report.require_writable(path)
    console = Console()
    with Device(options.device) as device:
        console.print(f"device {device.info}", highlight=False, soft_wrap=True)
        job = _job(options, device)
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        ) as progress:
            task = progress.add_task("", total=1.0)
            found = run(
                device,
                job,
                lambda what, share: progress.update(task, description=what, completed=share),
            )
    table.print_report(found, console)
    if options.json:
        report.write_json(found, options.json)
        console.print(f"wrote {options.json}", highlight=False, soft_wrap=True)
    if options.plot:
        from pwconv.bench.plot import write_plot

        write_plot(found, options.plot)
        console.print(f"wrote {options.plot}", highlight=False, soft_wrap=True)
    return all(any(r.sample for r in result.runs) for result in found.layers)


def _job(options: argparse.Namespace, device: Device) -> Job:
    shapes = options.shapes
    name = " ".join(map(str, shapes)) if shapes else options.workload or "edgetam"
    able = ours.storages(device)
    for storage in options.storages or ():
        if storage not in able:
            raise UnsupportedError(
                f"--storage is {storage!r}; layers on {device.info.name} take {', '.join(able)}"
            )
    return Job(
        workload=name,
        layers=shapes or workload(name),
        dtypes=options.dtypes or _DTYPES,
        storages=options.storages or able,
        peers=not options.no_peers,
        host=not options.no_host,
    )
