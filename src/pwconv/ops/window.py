"""Windows that move over images: geometry, output sizes, and what is wrong with an input's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pwconv.layout import Shape4, ceil_div, conv_output_size
from pwconv.tensor import Shape, as_pair, shape4

MOST_TAPS = 2**10
"""Of a kernel: products are counted in 32 bits, and trips of loops are few."""


Sides = tuple[int, int, int, int]


@dataclass(frozen=True)
class Geometry:
    """Stride, padding, taps and dilation, each (along H, along W); pointwise is one tap.

    ``padding`` is that at the top and at the left, ``end`` at the bottom and at the right, the same
    by default. Pooling alone has ``ceil``: see :func:`pwconv.layout.conv_output_size`.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    kernel: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False
    end: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.end is None:
            object.__setattr__(self, "end", self.padding)

    @property
    def sides(self) -> Sides:
        """Padding at the top, left, bottom and right."""
        assert self.end is not None
        return (*self.padding, *self.end)

    @property
    def reach(self) -> tuple[int, int]:
        """Positions from the first tap to the last, both included."""
        (kh, kw), (dilation_h, dilation_w) = self.kernel, self.dilation
        return dilation_h * (kh - 1) + 1, dilation_w * (kw - 1) + 1

    def output_shape(self, x_shape: Shape4, out_channels: int) -> Shape4:
        """Return [N, C_out, H_out, W_out]; sizes below 1 mean an empty output."""
        (n, _, h, w), reach, (bottom, right) = x_shape, self.reach, self.end or self.padding
        top, left = self.padding
        return (
            n,
            out_channels,
            conv_output_size(h, self.stride[0], top, reach[0], ceil=self.ceil, end=bottom),
            conv_output_size(w, self.stride[1], left, reach[1], ceil=self.ceil, end=right),
        )

    def products(self, in_channels: int) -> int:
        """Return K: with several taps, each has whole vec4s of channels."""
        taps = self.kernel[0] * self.kernel[1]
        return in_channels if taps == 1 else taps * 4 * ceil_div(in_channels, 4)

    @property
    def push_constants(self) -> dict[str, int]:
        """Stride and padding, by the names that shaders have."""
        names = ("stride_h", "stride_w", "pad_h", "pad_w")
        return dict(zip(names, (*self.stride, *self.padding), strict=True))

    @property
    def constants(self) -> dict[str, int]:
        """The specialization constants of kernel and dilation."""
        names = ("KERNEL_H", "KERNEL_W", "DILATION_H", "DILATION_W")
        return dict(zip(names, (*self.kernel, *self.dilation), strict=True))


POINTWISE = Geometry()
"""One tap, at stride 1, without padding."""


def as_geometry(
    stride: Any, padding: Any, kernel: tuple[int, int] = (1, 1), dilation: Any = 1
) -> Geometry:
    """Return the geometry of a user's stride, padding and dilation.

    Raises
    ------
    ValueError
    """
    top, left, bottom, right = as_sides(padding)
    return Geometry(
        stride=as_pair(stride, "stride", least=1),
        padding=(top, left),
        kernel=kernel,
        dilation=as_pair(dilation, "dilation", least=1),
        end=(bottom, right),
    )


def as_sides(padding: Any, *, least: int = 0) -> Sides:
    """Return a user's padding at the top, left, bottom and right: an int, a pair, or four.

    Raises
    ------
    ValueError
    """
    if isinstance(padding, Sequence) and len(padding) == 4:
        try:
            top, left = as_pair(padding[:2], "padding", least=least)
            return (top, left, *as_pair(padding[2:], "padding", least=least))
        except ValueError:
            raise ValueError(
                f"padding is {padding!r}; its numbers, at the top, left, bottom and right, must be "
                f"from {least}"
            ) from None
    return as_pair(padding, "padding", least=least) * 2


def window_shape(x_shape: Shape, c_in: int, c_out: int, geometry: Geometry) -> Shape:
    """Return [N, C_out, H_out, W_out] for an x of [N, C_in, H, W], or both without N.

    Raises
    ------
    ValueError
        Another shape, or an image smaller than the kernel.
    """
    if len(x_shape) not in (3, 4):
        raise ValueError(
            f"x has shape {x_shape}; it must be [N, C, H, W] or [C, H, W]: use reshape"
        )
    if min(x_shape[-3:]) < 1 or x_shape[0] < 0:
        raise ValueError(f"x has shape {x_shape}; only the batch may be 0")
    images = shape4(x_shape, "x")
    if images[1] != c_in:
        raise ValueError(
            f"x has shape {x_shape}, {images[1]} channels; the weight takes C_in = {c_in}"
            + _other_channels(x_shape, c_in, c_out)
        )
    out = geometry.output_shape(images, c_out)
    if min(out[2:]) < 1:
        raise ValueError(f"x has shape {x_shape}: {_too_small(geometry)}")
    return out if len(x_shape) == 4 else out[1:]


def _too_small(geometry: Geometry) -> str:
    """Return the H and W that a kernel needs, and the padding for a smaller image, for an error."""
    (kh, kw), (reach_h, reach_w) = geometry.kernel, geometry.reach
    top, left, bottom, right = geometry.sides
    beyond = [stride - 1 if geometry.ceil else 0 for stride in geometry.stride]
    h, w = max(1, reach_h - top - bottom - beyond[0]), max(1, reach_w - left - right - beyond[1])
    needs = f"H and W of at least {h}" if h == w else f"H of at least {h} and W of at least {w}"
    if geometry.dilation == (1, 1):
        dilated, remedy = "", f"pad by {_one((max(top, kh // 2), max(left, kw // 2)))}"
    else:  # Pooling pads by half the kernel at most, which may not be enough.
        dilated, remedy = f" with dilation {_one(geometry.dilation)}", "use a smaller dilation"
    sides = geometry.sides if geometry.end != geometry.padding else _one(geometry.padding)
    padded = f"{' and' if dilated else ' with'} padding {sides}"
    return f"a {kh}x{kw} kernel{dilated}{padded} needs {needs}; {remedy}, or use a larger image"


def _one(pair: tuple[int, int]) -> int | tuple[int, int]:
    """Return a pair along H and W, or the number where both are the same."""
    return pair[0] if pair[0] == pair[1] else pair


def _other_channels(x_shape: Shape, c_in: int, c_out: int) -> str:
    """Return a hint for an x of other channels than the weight takes, for an error."""
    channels = x_shape[-3]
    if x_shape[-1] == c_in:
        axes = (0, 3, 1, 2) if len(x_shape) == 4 else (2, 0, 1)
        return f"; the last axis of x is: pass x.transpose{axes} if channels come last in it"
    groups = channels // c_in
    if c_in == c_out or channels % c_in or c_out % groups:
        return ""
    if c_in == 1 and c_out == channels:
        return "; a weight of one channel each is depthwise: use pwconv.Graph.conv2d_dw"
    return f"; it may have {groups} groups: pwconv.Graph.conv2d takes groups={groups}"
