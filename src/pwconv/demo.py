"""A photograph through a Vulkan device: colours, then the first layers of EdgeTAM's mixer.

Every step is checked: against float64 with the bound of :mod:`pwconv.reference`, and the colours
against Pillow's own conversion too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pwconv import reference
from pwconv.device import Device
from pwconv.dtypes import Array
from pwconv.errors import PwconvError
from pwconv.modules import PointwiseConv2d

if TYPE_CHECKING:
    from PIL.Image import Image

# JPEG's colours (ITU-T T.871, section 7): BT.601 luma, and differences scaled to the same range.
_RGB_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5],
        [0.5, -0.587 / 1.402, -0.114 / 1.402],
    ],
    np.float32,
)
_YCBCR_OFFSET = np.array([0, 128, 128], np.float32)

# Pillow adds three table entries, each within 1/64 of a level, and drops the fraction of the sum.
_PILLOW_BOUND = 1 + 3 / 64

_TIMED_RUNS = 5


@dataclass(frozen=True)
class Step:
    """One layer of the demo: what it did, how long it took, how far from the truth it was.

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


def load_photograph() -> Array:
    """Return scikit-image's photograph of the cat Chelsea, [3, H, W] of uint8.

    Raises
    ------
    PwconvError
        scikit-image or Pillow is not installed.
    """
    try:
        import PIL.Image  # noqa: F401 - asked for here so that one message serves both
        import skimage.data
    except ImportError as error:
        raise PwconvError(
            f"the demo needs scikit-image and Pillow ({error}): pip install 'pwconv[demo]'"
        ) from None
    photograph = np.asarray(skimage.data.chelsea())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(photograph.transpose(2, 0, 1))


def run_steps(device: Device, photograph: Array, pictures: dict[str, Any]) -> Iterator[Step]:
    """Run the demo's layers, yielding each; ``pictures`` receives what is worth looking at."""
    from PIL import Image

    pixels = Image.fromarray(photograph.transpose(1, 2, 0))
    pillow = np.asarray(pixels.convert("YCbCr"), np.float64).transpose(2, 0, 1)
    colours = _Layer("RGB → YCbCr", _RGB_TO_YCBCR, _YCBCR_OFFSET)
    step, ycbcr = _run(device, colours, photograph.astype(np.float32))
    yield step
    difference = float(np.abs(ycbcr - pillow).max())
    yield replace(step, name="  vs Pillow", error=difference, bound=_PILLOW_BOUND)

    pictures["photograph"] = pixels
    for title, plane in zip(("Y", "Cb", "Cr"), ycbcr, strict=True):
        pictures[title] = Image.fromarray(np.clip(np.rint(plane), 0, 255).astype(np.uint8))

    for dtype in ("float32", "float16"):
        x = (photograph / 127.5 - 1).astype(dtype)
        for layer in _mixer(dtype):
            step, x = _run(device, layer, x)
            yield step
        pictures[f"mixer, {dtype}"] = _false_colour(x)


def contact_sheet(pictures: dict[str, Image]) -> Image:
    """Return the pictures on one sheet, each under its title."""
    from PIL import Image, ImageDraw

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


def write_pictures(pictures: dict[str, Image], path: Path) -> None:
    """Write the contact sheet as a PNG.

    Raises
    ------
    PwconvError
        The file cannot be written.
    """
    try:
        contact_sheet(pictures).save(path, "PNG")
    except OSError as error:
        raise PwconvError(f"{path} cannot be written: {error}") from None


@dataclass(frozen=True)
class _Layer:
    name: str
    weight: Array
    bias: Array
    activation: str | None = None


def _mixer(dtype: str) -> list[_Layer]:
    """Lift to 48 channels, then EdgeTAM's first mixer, 48 → 96 → 48, all with seeded weights."""
    generator = np.random.default_rng(48)

    def layer(name: str, c_in: int, c_out: int, activation: str | None = None) -> _Layer:
        weight = generator.standard_normal((c_out, c_in)) / np.sqrt(c_in)
        bias = generator.standard_normal(c_out) / 8
        return _Layer(name, weight.astype(dtype), bias.astype(dtype), activation)

    return [
        layer("lift", 3, 48),
        layer("mixer, gelu", 48, 96, "gelu"),
        layer("mixer", 96, 48),
    ]


def _run(device: Device, layer: _Layer, x: Array) -> tuple[Step, Array]:
    convolution = PointwiseConv2d(
        layer.weight, layer.bias, activation=layer.activation, device=device
    )
    tensor = device.tensor(x)
    y = convolution(tensor).numpy()
    seconds = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        convolution(tensor)
        device.synchronize()
        seconds.append(time.perf_counter() - start)
    arguments = (x, layer.weight, layer.bias)
    expected = reference.conv2d_pw(*arguments, activation=layer.activation)
    bound = reference.conv2d_pw_bound(*arguments, activation=layer.activation, dtype=x.dtype)
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


def _false_colour(features: Array) -> Image:
    """Return three channels as red, green and blue, each stretched over what it holds."""
    from PIL import Image

    planes = features[:3].astype(np.float64)
    low, high = np.percentile(planes, (1, 99), axis=(1, 2), keepdims=True)
    scaled = np.clip((planes - low) / (high - low), 0, 1) * 255
    return Image.fromarray(scaled.astype(np.uint8).transpose(1, 2, 0))
