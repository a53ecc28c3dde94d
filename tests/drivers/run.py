"""Run the suite on several Vulkan drivers, each set up first, and print one table.

A driver is set up by the script of its name, which leaves a Python on that driver alone in
``.drivers/NAME/python``; that is kept for the next time. One that cannot be set up is shown as not
run. The exit status is 1 when a test failed or a suite was broken off.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from outcomes import Outcome, count, table
from rich.console import Console

HERE = Path(__file__).resolve().parent
TREE = HERE.parents[1]
FOLDER = TREE / ".drivers"
NAMES = re.compile(r"swiftshader|lavapipe-[a-z]+")
VERSION = "import pwconv; print(' and '.join(info.driver for info in pwconv.devices()))"


def main() -> None:
    """Read the command line, run, print, and exit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "drivers",
        nargs="+",
        metavar="DRIVER",
        type=driver_name,
        help="swiftshader, or lavapipe- and a Debian suite: lavapipe-bookworm, lavapipe-sid",
    )
    parser.add_argument(
        "-j",
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="run on so many drivers at a time; by default on one a processor, %(default)s",
    )
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="pytest's arguments")
    options = parser.parse_args()

    # One after another, as some share what they are made from.
    missing = {name: set_up(name) for name in options.drivers}

    def run(name: str) -> Outcome:
        if missing[name]:
            return Outcome(name, not_run=missing[name])
        return run_suite(name, options.pytest)

    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        outcomes = list(pool.map(run, missing))
    # In a log there is no terminal whose width to keep to.
    Console(width=None if sys.stdout.isatty() else 140).print(table(outcomes))
    raise SystemExit(0 if all(outcome.ok for outcome in outcomes) else 1)


def driver_name(text: str) -> str:
    """Return text if there is a driver of that name to set up."""
    if not NAMES.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"no driver '{text}': take swiftshader, or lavapipe- and a Debian suite (lavapipe-sid)"
        )
    return text


def set_up(name: str) -> str:
    """Set a driver up where it is not yet; return why it could not be, or ""."""
    print(f"{name}: setting up", flush=True)
    script = HERE / f"{name.partition('-')[0]}.sh"
    done = subprocess.run(
        [script, FOLDER / name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if not done.returncode:
        return ""
    print(done.stdout, flush=True)
    return (done.stdout.strip().splitlines() or [f"{script.name} failed"])[-1]


def run_suite(name: str, pytest_arguments: Sequence[str]) -> Outcome:
    """Run pytest on a driver, with each line of its output under the driver's name."""
    python = str(FOLDER / name / "python")
    report = FOLDER / name / "report.xml"
    report.unlink(missing_ok=True)
    asked = subprocess.run([python, "-c", VERSION], capture_output=True, text=True, check=False)
    version = asked.stdout.strip()
    if not version:
        print(asked.stderr, flush=True)
        return Outcome(name, broken="pwconv finds no Vulkan device")

    cache = f"cache_dir={FOLDER / name / 'cache'}"
    command = [python, "-m", "pytest", "-o", cache, f"--junitxml={report}", *pytest_arguments]
    started = time.monotonic()
    with subprocess.Popen(
        command, cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{name}: {line}", end="", flush=True)
    seconds = time.monotonic() - started

    broken = ""
    if process.returncode < 0:
        broken = signal.Signals(-process.returncode).name
    elif process.returncode > 1 or not report.exists():
        broken = f"pytest's exit status is {process.returncode}"
    passed, failed, skipped = count(report) if report.exists() else (0, 0, Counter[str]())
    return Outcome(name, version, seconds, passed, failed, skipped, broken=broken)


if __name__ == "__main__":
    main()
