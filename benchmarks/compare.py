"""pwconv against PyTorch and ncnn on one device, in turns in one run, clocks held and checked.

python benchmarks/compare.py --workload edgetam --json edgetam.json --plot edgetam.png
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pwconv
from peers import open_peers
from plot import endings, write_plot
from pwconv.bench.report import Report, to_document
from pwconv.bench.run import Contender, run
from pwconv.bench.table import describe
from pwconv.documents import require_writable, write_document
from pwconv.terminal import make_console, progress_bar, show
from pwconv.timing.clocks import Clocks
from table import compare
from workloads import WORKLOADS, workload

_DTYPES = ("float32", "float16")
_STORAGES = ("texture3d", "buffer")


def main() -> None:
    """Read the options, measure, write the files, print what was found."""
    options = _parser().parse_args()
    try:
        _measure(options)
    except pwconv.PwconvError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-w", "--workload", choices=WORKLOADS, default="edgetam")
    parser.add_argument(
        "--size", type=int, help="H and W of the image, of workloads that take one; by default 1024"
    )
    parser.add_argument(
        "-d",
        "--device",
        help="index, or part of a name; by default $PWCONV_DEVICE, or the first GPU",
    )
    parser.add_argument(
        "--dtype", dest="dtypes", action="append", choices=_DTYPES, help="by default both"
    )
    parser.add_argument(
        "--storage",
        dest="storages",
        action="append",
        choices=_STORAGES,
        help="of pwconv's activations; by default both",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it")
    return parser


def _measure(options: argparse.Namespace) -> None:
    # Before an hour of measuring rather than after it.
    if options.plot:
        require_writable(options.plot, endings())
    if options.json:
        require_writable(options.json)
    cases = workload(options.workload, options.size)
    console = make_console()
    with pwconv.Device(options.device) as device, ExitStack() as opened:

        def peers(clocks: Clocks, report: Report) -> list[Contender]:
            return [
                opened.enter_context(closing(peer)).measure
                for peer in open_peers(device.info, clocks, report)
            ]

        show(console, f"device {device.info}")
        with progress_bar(console) as progress:
            found = run(
                device,
                options.workload + (f" at {options.size}" if options.size else ""),
                cases,
                options.dtypes or _DTYPES,
                options.storages or _STORAGES,
                progress,
                others=peers,
            )
    try:  # files first: whoever reads what is printed may go away
        if options.json:
            write_document(to_document(found), options.json)
        if options.plot:
            write_plot(found, options.plot)
    finally:
        show(console, *describe(found), *compare(found))


if __name__ == "__main__":
    main()
