"""The command line: ``pwconv``, or ``python -m pwconv``."""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

import pwconv
from pwconv import demo as demonstration
from pwconv.bench import command as bench
from pwconv.bench import tune
from pwconv.deny_list import DenyList
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
    """Run the command line; a pwconv error is one line, not a traceback."""
    options = _parser().parse_args(arguments)
    try:
        passed = options.run(options)
    except pwconv.PwconvError as error:
        Console(stderr=True).print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        passed = False
    raise SystemExit(0 if passed else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pwconv", description=pwconv.__doc__)
    version = f"pwconv {metadata.version('pwconv')}"
    parser.add_argument("--version", action="version", version=version)
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
    rows: dict[str, Any] = {
        "name": lambda d: d.name,
        "type": lambda d: d.type,
        "driver": lambda d: d.driver,
        "Vulkan": lambda d: d.api_version,
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
    console = Console()
    console.print(table)
    for device in found:
        for line in (_tuning(device), *_denied(device)):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    return True


def _tuning(device: pwconv.DeviceInfo) -> str:
    """Return what is known of the fastest variants on a device, and whether it is used."""
    mode = f"PWCONV_TUNE={tuning_mode()}"
    store = Store(device)
    verdicts, problem = store.examine()
    start = f"tuning {device.index}: {store.file}"
    if problem:
        return f"{start} is ignored: {problem} ({mode})"
    if not store.file.exists():
        return f"{start} does not exist ({mode}); 'pwconv tune' makes it"
    used = "not used" if tuning_mode() == "off" else "used"
    count = f"{len(verdicts)} {'verdict' if len(verdicts) == 1 else 'verdicts'}"
    return f"{start}, {count}, {used} ({mode})"


def _denied(device: pwconv.DeviceInfo) -> list[str]:
    """Return which variants are not run on a device, and why."""
    deny_list = DenyList(device)
    denials, problem = deny_list.examine()
    start = f"denied {device.index}: {deny_list.file}"
    if problem:
        return [f"{start} is ignored: {problem}"]
    if not denials:
        return [f"denied {device.index}: nothing"]
    return [f"{start}, {len(denials)}", *(f"  {name}: {why}" for name, why in denials.items())]


def _demo(options: argparse.Namespace) -> bool:
    console = Console()
    folder = options.output.parent
    if not folder.is_dir():  # said before anything runs
        raise pwconv.PwconvError(f"{options.output} cannot be written: there is no folder {folder}")
    photograph = demonstration.load_photograph()
    pictures: dict[str, Any] = {}
    with pwconv.Device(options.device) as opened:
        console.print(f"device   {opened.info}", highlight=False, soft_wrap=True)
        console.print(
            f"picture  {photograph.shape[2]} × {photograph.shape[1]}, the cat Chelsea "
            "(from scikit-image)",
            highlight=False,
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
    console.print(table)
    console.print(
        "time   one call on tensors on the device, submitted and waited for; median of 5\n"
        "error  against float64 (or Pillow), where it is largest relative to its bound\n",
        highlight=False,
    )
    demonstration.write_pictures(pictures, options.output)
    console.print(f"wrote {options.output}", highlight=False, soft_wrap=True)
    return all(step.passed for step in steps)


def _cells(step: demonstration.Step) -> list[str]:
    return [
        step.name,
        f"{step.x_shape[0]}→{step.y_shape[0]} @ {step.x_shape[1]}×{step.x_shape[2]}",
        step.dtype,
        f"{step.seconds * 1e3:.2f} ms",
        f"{step.error:.2e}",
        f"{step.bound:.2e}",
        "ok" if step.passed else "[red]FAILED[/]",
    ]


def _number(value: Any) -> str:
    return " × ".join(f"{v:,}" for v in value) if isinstance(value, tuple) else f"{value:,}"
