"""A photograph through a Vulkan device: its colours, then the first layers of EdgeTAM's mixer.

Every layer is checked against float64 with the bound of ``pwconv.reference``, and the colours
against Pillow's own conversion too.

    python examples/photograph.py [--device NAME] [--output pwconv-demo.png]

It needs scikit-image, which ships the photograph, and Pillow: ``pip install '.[demo]'``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import pwconv

try:
    import skimage.data
    from PIL import Image, ImageDraw
except ImportError as error:
    sys.exit(f"error: this needs scikit-image and Pillow ({error}): pip install '.[demo]'")

# JPEG's colours (ITU-T T.871, section 7): BT.601 luma, and differences scaled to the same range.
RGB_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5],
        [0.5, -0.587 / 1.402, -0.114 / 1.402],
    ],
    np.float32,
)
YCBCR_OFFSET = np.array([0, 128, 128], np.float32)

# Pillow adds three table entries, each within 1/64 of a level, and drops the fraction of the sum.
PILLOW_BOUND = 1 + 3 / 64

TIMED_RUNS = 5


@dataclass(frozen=True)
class Layer:
    """A pointwise convolution, its weight [C_out, C_in]."""

    name: str
    weight: Any
    bias: Any
    activation: str | None = None


@dataclass(frozen=True)
class Step:
    """What a layer did, how long it took, and how far from the truth it was.

    ``seconds`` is the median of a call on tensors that are on the device, waited for; ``error`` and
    ``bound`` are of the element where error / bound is largest.
    """

    name: str
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    dtype: str
    seconds: float
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound; NaN is not."""
        return self.error <= self.bound


def main() -> None:
    """Run every layer, print what came of each, write the pictures; exit with 1 if one is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "-d",
        "--device",
        help="index, or part of a name; by default $PWCONV_DEVICE, or the first GPU",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.png",
        default=Path("pwconv-demo.png"),
        help="where to write the pictures; by default %(default)s",
    )
    options = parser.parse_args()
    try:
        passed = run(options.device, options.output)
    except (pwconv.PwconvError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if passed else 1)


def run(device: str | None, output: Path) -> bool:
    """Run the photograph through a device; return whether every check passed."""
    if output.suffix.lower() != ".png" or not output.absolute().parent.is_dir():
        raise pwconv.PwconvError(
            f"{output} cannot be written: it must end in .png, in a folder that exists"
        )
    photograph = np.ascontiguousarray(skimage.data.chelsea().transpose(2, 0, 1))  # type: ignore[no-untyped-call]
    # Where no terminal shows it, a line is as long as it is.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    table = Table("step", "shape", "dtype", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("time", "error", "bound"):
        table.add_column(name, justify="right")
    table.add_column("check")
    pictures: dict[str, Image.Image] = {}
    steps = []
    with pwconv.Device(device) as opened:
        console.print(f"device   {opened.info}", markup=False, soft_wrap=True)
        console.print(
            f"picture  {photograph.shape[2]} × {photograph.shape[1]}, the cat Chelsea "
            "(from scikit-image)"
        )
        with console.status("running"):
            for step in run_layers(opened, photograph, pictures):
                steps.append(step)
                table.add_row(*cells(step))
    console.print(table)
    console.print(
        "time   one call on tensors on the device, submitted and waited for; median of 5\n"
        "error  against float64 (or Pillow), where it is largest relative to its bound\n"
    )
    contact_sheet(pictures).save(output)
    console.print(f"wrote {output}", markup=False, soft_wrap=True)
    failed = sum(not step.passed for step in steps)
    console.print(f"FAILED {failed} of {len(steps)} checks" if failed else "passed every check")
    return not failed


def run_layers(
    device: pwconv.Device, photograph: Any, pictures: dict[str, Image.Image]
) -> Iterator[Step]:
    """Run the layers, yielding each; ``pictures`` receives what is worth looking at."""
    pixels = Image.fromarray(photograph.transpose(1, 2, 0))
    pillow = np.asarray(pixels.convert("YCbCr"), np.float64).transpose(2, 0, 1)
    colours = Layer("RGB → YCbCr", RGB_TO_YCBCR, YCBCR_OFFSET)
    step, ycbcr = run_layer(device, colours, photograph.astype(np.float32))
    yield step
    difference = float(np.abs(ycbcr - pillow).max())
    yield replace(step, name="  vs Pillow", error=difference, bound=PILLOW_BOUND)

    pictures["photograph"] = pixels
    for title, plane in zip(("Y", "Cb", "Cr"), ycbcr, strict=True):
        pictures[title] = Image.fromarray(np.clip(np.rint(plane), 0, 255).astype(np.uint8))

    for dtype in ("float32", "float16"):
        x = (photograph / 127.5 - 1).astype(dtype)
        for layer in mixer(dtype):
            step, x = run_layer(device, layer, x)
            yield step
        pictures[f"mixer, {dtype}"] = false_colour(x)


def mixer(dtype: str) -> list[Layer]:
    """Lift to 48 channels, then EdgeTAM's first mixer, 48 → 96 → 48, all with seeded weights."""
    generator = np.random.default_rng(48)

    def layer(name: str, c_in: int, c_out: int, activation: str | None = None) -> Layer:
        weight = generator.standard_normal((c_out, c_in)) / np.sqrt(c_in)
        bias = generator.standard_normal(c_out) / 8
        return Layer(name, weight.astype(dtype), bias.astype(dtype), activation)

    return [
        layer("lift", 3, 48),
        layer("mixer, gelu", 48, 96, "gelu"),
        layer("mixer", 96, 48),
    ]


def run_layer(device: pwconv.Device, layer: Layer, x: Any) -> tuple[Step, Any]:
    """Run, time and check a layer on x [C, H, W]; return what came of it, and its output."""
    convolution = pwconv.PointwiseConv2d(
        layer.weight, layer.bias, activation=layer.activation, device=device
    )
    tensor = device.tensor(x)
    y = convolution(tensor).numpy()
    seconds = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        convolution(tensor)
        device.synchronize()
        seconds.append(time.perf_counter() - start)
    arguments = (x, layer.weight, layer.bias)
    expected = pwconv.reference.conv2d_pw(*arguments, activation=layer.activation)
    bound = pwconv.reference.conv2d_pw_bound(*arguments, activation=layer.activation, dtype=x.dtype)
    error = np.abs(y - expected)
    worst = np.unravel_index(np.argmax(error / bound), error.shape)
    step = Step(
        layer.name,
        x.shape,
        y.shape,
        str(y.dtype),
        statistics.median(seconds),
        float(error[worst]),
        float(bound[worst]),
    )
    return step, y


def cells(step: Step) -> list[str | Text]:
    """Return a step as a row of the table."""
    return [
        step.name,
        f"{step.x_shape[0]}→{step.y_shape[0]} @ {step.x_shape[1]}×{step.x_shape[2]}",
        step.dtype,
        f"{step.seconds * 1e3:.2f} ms",
        f"{step.error:.2e}",
        f"{step.bound:.2e}",
        "ok" if step.passed else Text("FAILED", style="red"),
    ]


def false_colour(features: Any) -> Image.Image:
    """Return three channels as red, green and blue, each stretched over what it holds."""
    planes = features[:3].astype(np.float64)
    low, high = np.percentile(planes, (1, 99), axis=(1, 2), keepdims=True)
    scaled = np.clip((planes - low) / (high - low), 0, 1) * 255
    return Image.fromarray(scaled.astype(np.uint8).transpose(1, 2, 0))


def contact_sheet(pictures: dict[str, Image.Image]) -> Image.Image:
    """Return the pictures on one sheet, each under its title."""
    width, height = next(iter(pictures.values())).size
    columns, margin, caption = 3, 8, 14
    rows = -(-len(pictures) // columns)
    cell = (width + margin, height + margin + caption)
    sheet = Image.new("RGB", (columns * cell[0] + margin, rows * cell[1] + margin), "white")
    draw = ImageDraw.Draw(sheet)
    for position, (title, picture) in enumerate(pictures.items()):
        left = margin + position % columns * cell[0]
        top = margin + position // columns * cell[1]
        draw.text((left, top), title, fill="black")
        sheet.paste(picture.convert("RGB"), (left, top + caption))
    return sheet


if __name__ == "__main__":
    main()
