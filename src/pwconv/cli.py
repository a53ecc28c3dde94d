"""The command line: ``pwconv``, or ``python -m pwconv``."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

import pwconv
from pwconv import demo as demonstration

if TYPE_CHECKING:
    from pwconv.demo import Step

app = typer.Typer(
    help="Pointwise convolutions on any Vulkan device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_SHOWN_LIMITS = (
    "maxImageDimension2D",
    "maxImageDimension3D",
    "maxStorageBufferRange",
    "maxMemoryAllocationSize",
    "maxComputeSharedMemorySize",
    "maxComputeWorkGroupInvocations",
    "maxComputeWorkGroupSize",
    "maxComputeWorkGroupCount",
)

_DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        "-d",
        help="Index or part of a name; by default $PWCONV_DEVICE, or the first GPU.",
    ),
]


def main() -> None:
    """Run the command line; a pwconv error is one line, not a traceback."""
    try:
        app()
    except pwconv.PwconvError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise SystemExit(1) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pwconv {metadata.version('pwconv')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version  # shown by its callback


@app.command()
def info() -> None:
    """List the Vulkan devices and the limits that bear on pwconv."""
    found = pwconv.devices()
    rows: dict[str, Any] = {
        "name": lambda d: d.name,
        "type": lambda d: d.type,
        "driver": lambda d: d.driver,
        "Vulkan": lambda d: d.api_version,
        "fp16 arithmetic": lambda d: "yes" if "shaderFloat16" in d.features else "no",
    }
    for limit in _SHOWN_LIMITS:
        rows[limit] = lambda d, limit=limit: _number(d.limits[limit])
    table = Table("", *(f"{device.index}" for device in found))
    for name, value in rows.items():
        table.add_row(name, *(value(device) for device in found))
    Console().print(table)


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the picture.")
    ] = Path("pwconv-demo.png"),
    device: _DeviceOption = None,
) -> None:
    """Take a photograph through the device, check every step, and write a picture."""
    console = Console()
    photograph = demonstration.load_photograph()
    pictures: dict[str, Any] = {}
    with pwconv.Device(device) as opened:
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
    demonstration.write_pictures(pictures, output)
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)
    if not all(step.passed for step in steps):
        console.print("error: a step is outside its bound", style="red")
        raise typer.Exit(1)


def _cells(step: Step) -> list[str]:
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
