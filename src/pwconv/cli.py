"""The command line: ``pwconv``, or ``python -m pwconv``."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

import pwconv
from pwconv import demo as demonstration
from pwconv.bench import command as bench
from pwconv.bench import tune
from pwconv.cache import cache_problem, cache_root
from pwconv.deny_list import DenyList
from pwconv.device import require_devices
from pwconv.documents import require_writable
from pwconv.terminal import make_console
from pwconv.tuning.store import Store
from pwconv.tuning.tuner import tuning_mode
from pwconv.verify import command as verify

_SHOWN_LIMITS = (
    "maxImageDimension2D",
    "maxImageDimension3D",
    "maxStorageBufferRange",
    "maxMemoryAllocationSize",
    "maxComputeSharedMemorySize",
    "maxComputeWorkGroupInvocations",
    "maxComputeWorkGroupSize",
    "maxComputeWorkGroupCount",
    "subgroupSize",
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error is one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # rather than end for a × that it cannot show
    try:
        try:
            options = _parser().parse_args(arguments)
            status = 0 if options.run(options) else 1
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
        _complain("interrupted")
    except BrokenPipeError:
        status = 1  # whoever reads has seen enough
    except OSError as error:
        status = 1
        # Those of files have their name.
        where = "" if error.filename or not error.errno else "the output cannot be written: "
        _complain(f"error: {where}{error}")
    except pwconv.PwconvError as error:
        status = 1
        _complain(f"error: {error}")
    _give_up_output()
    raise SystemExit(status)


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):
        make_console(stderr=True).print(text, style="red", soft_wrap=True)


def _give_up_output() -> None:
    """Lose what cannot be written, or the interpreter complains of it at its exit."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pwconv", description=pwconv.__doc__)
    parser.add_argument("--version", action="version", version=f"pwconv {pwconv.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="list the Vulkan devices and what they can do")
    info.set_defaults(run=_info)

    demo = commands.add_parser(
        "demo", help="take a photograph through the device, and check every step"
    )
    demo.add_argument(
        "-d",
        "--device",
        help="index, or part of a name; by default $PWCONV_DEVICE, or the first GPU",
    )
    demo.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.png",
        default=Path("pwconv-demo.png"),
        help="where to write the picture; by default %(default)s",
    )
    demo.set_defaults(run=_demo)

    bench.add_parser(commands)
    tune.add_parser(commands)
    verify.add_parser(commands)
    return parser


def _info(_: argparse.Namespace) -> bool:
    found = pwconv.devices()
    require_devices(found)
    rows: dict[str, Any] = {
        "name": lambda d: d.name,
        "type": lambda d: d.type,
        "driver": lambda d: d.driver,
        "Vulkan": lambda d: d.api_version,
        "usable": lambda d: f"no: {d.problem}" if d.problem else "yes",
        "fp16 arithmetic": lambda d: "yes" if "shaderFloat16" in d.features else "no",
        "matrix products": lambda d: "\n".join(
            [str(matrix) for matrix in d.matrices if not matrix.flexible] or ["none"]
        ),
    }
    for limit in _SHOWN_LIMITS:
        rows[limit] = lambda d, limit=limit: _number(d.limits[limit])
    table = Table("", *(f"{device.index}" for device in found))
    for name, value in rows.items():
        table.add_row(name, *(value(device) for device in found))
    console = make_console()
    console.print(table)
    problem = cache_problem()
    kept = f"nothing is kept between runs: {problem}" if problem else cache_root()
    lines = [f"cache: {kept}"]
    for device in found:
        lines += [_tuning(device), *_denied(device)]
    for line in lines:
        console.print(line, soft_wrap=True)
    return True


def _tuning(device: pwconv.DeviceInfo) -> str:
    """Return what is known of the fastest variants on a device, and whether it is used."""
    mode = f"PWCONV_TUNE={tuning_mode()}"
    store = Store(device)
    verdicts, problem = store.examine()
    start = f"tuning {device.index}: {store.file}"
    if problem:
        return f"{start} is ignored: {problem} ({mode})"
    if not os.path.lexists(store.file):
        made = "" if cache_problem() else "; 'pwconv tune' makes it"
        return f"{start} does not exist ({mode}){made}"
    used = "not used" if tuning_mode() == "off" else "used"
    count = f"{len(verdicts)} {'verdict' if len(verdicts) == 1 else 'verdicts'}"
    return f"{start}, {count}, {used} ({mode})"


def _denied(device: pwconv.DeviceInfo) -> list[str]:
    """Return which variants are not run on a device, and why."""
    deny_list = DenyList(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            denials = deny_list.read()
        except pwconv.PwconvError as error:
            return [f"denied {device.index}: the device cannot be opened: {error}"]
    if caught:
        return [f"denied {device.index}: {caught[0].message}"]
    if not denials:
        return [f"denied {device.index}: nothing"]
    return [
        f"denied {device.index}: {deny_list.file}, {len(denials)}",
        *(f"  {name}: {denial}" for name, denial in denials.items()),
    ]


def _demo(options: argparse.Namespace) -> bool:
    console = make_console()
    require_writable(options.output, (".png",))  # said before anything runs
    photograph = demonstration.load_photograph()
    pictures: dict[str, Any] = {}
    with pwconv.Device(options.device) as opened:
        console.print(f"device   {opened.info}", soft_wrap=True)
        console.print(
            f"picture  {photograph.shape[2]} × {photograph.shape[1]}, the cat Chelsea "
            "(from scikit-image)",
        )
        table = Table(
            "step", "shape", "dtype", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
        )
        for name in ("time", "error", "bound"):
            table.add_column(name, justify="right")
        table.add_column("check")
        steps = []
        with console.status("running"):
            for step in demonstration.run_steps(opened, photograph, pictures):
                steps.append(step)
                table.add_row(*_cells(step))
    try:
        demonstration.write_pictures(pictures, options.output)
    finally:
        console.print(table)
    console.print(
        "time   one call on tensors on the device, submitted and waited for; median of 5\n"
        "error  against float64 (or Pillow), where it is largest relative to its bound\n",
    )
    console.print(f"wrote {options.output}", soft_wrap=True)
    return all(step.passed for step in steps)


def _cells(step: demonstration.Step) -> list[str | Text]:
    return [
        step.name,
        f"{step.x_shape[0]}→{step.y_shape[0]} @ {step.x_shape[1]}×{step.x_shape[2]}",
        step.dtype,
        f"{step.seconds * 1e3:.2f} ms",
        f"{step.error:.2e}",
        f"{step.bound:.2e}",
        "ok" if step.passed else Text("FAILED", style="red"),
    ]


def _number(value: Any) -> str:
    return " × ".join(f"{v:,}" for v in value) if isinstance(value, tuple) else f"{value:,}"
