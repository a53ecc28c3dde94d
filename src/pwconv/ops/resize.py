"""Other sizes along H and W: upsample, subsample, resize.comp."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pwconv import reference
from pwconv.dtypes import Array
from pwconv.errors import UnsupportedError
from pwconv.heuristics import Choice
from pwconv.layout import ceil_div, sizes
from pwconv.ops.base import Case, Operator, Site, operator
from pwconv.ops.cases import at_sizes, of_integers, plane_sizes
from pwconv.ops.limits import Limits
from pwconv.reference import Approximation, Taps
from pwconv.tensor import Shape, as_pair, shape4
from pwconv.vk.commands import OUT, Dispatch

_MOST_SCALE = 1024
# shaders/resize.comp has the same struct.
_TAP = np.dtype([("first", np.uint32), ("second", np.uint32), ("weight", np.float32)])
_MODES = ("nearest", "linear")
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
_NEAREST_MODES: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - x.dtype.type(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + x.dtype.type(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


@operator("upsample")
@dataclass(frozen=True, eq=False, kw_only=True)
class Upsample(Operator):
    """Each element repeated ``scale`` times along H and along W."""

    scale: int

    families = ("upsample",)
    copies = True

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= _MOST_SCALE:
            raise ValueError(f"scale is {self.scale}; it must be 1 to {_MOST_SCALE}")

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C, scale·H, scale·W], or without N."""
        h, w = inputs[0][-2:]
        return (*inputs[0][:-2], self.scale * h, self.scale * w)

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        variant = choice.variant if choice else site.variant("upsample")
        return [site.dispatch(variant, inputs[0], out, scale=self.scale)]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the elements, repeated."""
        return inputs[0].moved(lambda x: x.repeat(self.scale, -2).repeat(self.scale, -1))

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield several sizes, of which a part is enlarged, so that the output fits."""
        for name, (n, c, h, w) in plane_sizes(limits.extent()).items():
            small = (n, c, max(h // 3, 1), max(w // 3, 1))
            yield of_integers(name, cls(scale=3), (small,), limits.dtype)


@operator("subsample")
@dataclass(frozen=True, eq=False, kw_only=True)
class Subsample(Operator):
    """Every ``stride``-th position along H and along W, of activations stored as buffers."""

    stride: tuple[int, int]

    families = ("subsample",)
    copies = True

    def __post_init__(self) -> None:
        if min(self.stride) < 1:
            raise ValueError(f"stride is {self.stride}; it must be 1 or more along either axis")

    def storages(self, inputs: Sequence[Shape], storages: tuple[str, ...]) -> tuple[str, ...]:
        """Return "buffer": a convolution reads textures at any stride by itself."""
        if "buffer" not in storages:
            raise UnsupportedError("positions of textures are not copied; use storage='buffer'")
        return ("buffer",)

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C, ceil(H / stride), ceil(W / stride)], or without N."""
        *leading, h, w = inputs[0]
        return (*leading, ceil_div(h, self.stride[0]), ceil_div(w, self.stride[1]))

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch: an invocation a vector of 16 bytes of the output."""
        x, y = shape4(inputs[0], "x"), shape4(out, "output")
        known = sizes(x, y, site.storage, site.dtype.itemsize)
        plan = site.context.plan(
            choice.variant if choice else site.variant("subsample"),
            (ceil_div(known["pitch_out"] * site.dtype.itemsize, 16), known["planes"], 1),
            {**known, "stride_h": self.stride[0], "stride_w": self.stride[1]},
            shape=(64, 1, 1),
        )
        return [Dispatch(plan, {"t_in": 0, "t_out": OUT})]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the positions that are kept."""
        stride_h, stride_w = self.stride
        return inputs[0].moved(lambda x: x[..., ::stride_h, ::stride_w])

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield several sizes."""
        yield from at_sizes(limits, cls(stride=(2, 3)))


@operator("resize")
@dataclass(frozen=True, eq=False, kw_only=True)
class Resize(Operator):
    """Other sizes along H and W, by the nearest positions or between four, as ONNX's Resize.

    Attributes
    ----------
    size : (int, int) or None
        H and W of the output.
    scales : (float, float) or None
        The output's size over the input's, rounded to float32; this or ``size``.
    mode : "nearest" or "linear"
    nearest_mode : "round_prefer_floor", "round_prefer_ceil", "floor" or "ceil"
        The position that is nearest.
    coordinates : "half_pixel", "pytorch_half_pixel", "asymmetric" or "align_corners"
        Where in the input an output's position is; those outside count as the edge.
    """

    size: tuple[int, int] | None = None
    scales: tuple[float, float] | None = None
    mode: str = "nearest"
    nearest_mode: str = "round_prefer_floor"
    coordinates: str = "half_pixel"

    families = ("resize",)

    def __post_init__(self) -> None:
        for name, given, known in (
            ("mode", self.mode, _MODES),
            ("nearest_mode", self.nearest_mode, tuple(_NEAREST_MODES)),
            ("coordinates", self.coordinates, _COORDINATES),
        ):
            if given not in known:
                raise ValueError(f"{name} is {given!r}; it must be one of {', '.join(known)}")
        if (self.size is None) == (self.scales is None):
            raise ValueError(
                f"size is {self.size} and scales is {self.scales}; one of them must be given, and "
                "the other None"
            )

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C, H_out, W_out], or without N: the size, or ⌊H·scale⌋ and ⌊W·scale⌋."""
        *leading, h, w = inputs[0]
        if self.scales is None:
            assert self.size is not None
            return (*leading, *self.size)
        # In float32, as ONNX has scales and ONNX Runtime multiplies them.
        found = [
            math.floor(np.float32(n) * np.float32(s))
            for n, s in zip((h, w), self.scales, strict=True)
        ]
        if min(found) < 1:
            raise ValueError(
                f"scales is {self.scales}; of x's shape {inputs[0]} they leave H = {found[0]} and "
                f"W = {found[1]}: leave at least 1 of each"
            )
        return (*leading, *found)

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return three for each of the three sums of two; of "nearest" none."""
        return 9 * math.prod(out) if self.mode == "linear" else 0

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch, over a table of taps that is uploaded now.

        Raises
        ------
        UnsupportedError, OutOfMemoryError
        """
        taps = self._taps(inputs[0], out)
        table = np.empty(sum(out[-2:]), _TAP)
        for name in _TAP.names or ():
            table[name] = np.concatenate([getattr(axis, name) for axis in taps])
        dispatch = site.dispatch(
            choice.variant if choice else site.variant("resize"),
            inputs[0],
            out,
            {"t_in": 0, "t_taps": site.table(table.view(np.uint32))},
        )
        return [dispatch]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the elements, or the weighted means of two along W and then along H."""
        x = inputs[0]
        rows, columns = self._taps(x.value.shape, self.shape(x.value.shape))
        return reference.between(reference.between(x, columns, -1), rows, -2)

    def _taps(self, x: Shape, out: Shape) -> tuple[Taps, Taps]:
        """Return what is read along H and along W."""
        scales = (None, None) if self.scales is None else self.scales
        rows, columns = map(self._axis, x[-2:], out[-2:], scales)
        return rows, columns

    def _axis(self, n: int, n_out: int, scale: float | None) -> Taps:
        """Return what each of ``n_out`` positions is made of, of ``n``.

        Coordinates are those of the ONNX operator specification, Resize. For "nearest" they are
        computed in float32, step by step as there: ONNX Runtime does, and a tie or a floor may
        differ from that of the exact number.
        """
        number: Any = np.float32 if self.mode == "nearest" else np.float64
        at: Any = np.arange(n_out, dtype=number)
        ratio = number(n_out) / number(n) if scale is None else number(np.float32(scale))
        half = number(0.5)
        if self.coordinates == "align_corners":
            at = at * number(n - 1) / number(max(n_out - 1, 1))
        elif self.coordinates == "asymmetric":
            at = at / ratio
        elif self.coordinates == "pytorch_half_pixel" and n_out == 1:
            at = np.zeros_like(at)
        else:
            at = (at + half) / ratio - half
        if self.mode == "nearest":
            nearest = _NEAREST_MODES[self.nearest_mode](at).clip(0, n - 1).astype(np.int64)
            return Taps(nearest, nearest, np.zeros(n_out))
        # To multiples of 2⁻²⁴: what float64 has just beside a whole number reads nothing else.
        at = np.round(at.clip(0, n - 1) * 2.0**24) / 2.0**24
        first = np.floor(at).astype(np.int64)
        return Taps(first, np.minimum(first + 1, n - 1), at - first)

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield several sizes, of either mode."""
        for name, shape in plane_sizes(limits.extent()).items():
            h, w = (max(2 * n // 3, 1) for n in shape[2:])
            for mode in _MODES:
                smaller = cls(size=(h, w), mode=mode)
                yield of_integers(f"{name}, {mode}", smaller, (shape,), limits.dtype)
        larger = cls(scales=(2.6, 1.7), mode="linear", coordinates="align_corners")
        yield of_integers("enlarged", larger, ((2, 23, 7, 11),), limits.dtype)


def make_resize(
    *,
    size: Any = None,
    scales: Any = None,
    mode: Any = "nearest",
    nearest_mode: Any = "round_prefer_floor",
    coordinates: Any = "half_pixel",
) -> Resize:
    """Return resizing by a user's numbers.

    Raises
    ------
    TypeError, ValueError
        As :meth:`pwconv.Graph.resize_images`.
    """
    return Resize(
        size=None if size is None else as_pair(size, "size", least=1),
        scales=None if scales is None else _as_scales(scales),
        mode=mode,
        nearest_mode=nearest_mode,
        coordinates=coordinates,
    )


def _as_scales(scales: Any) -> tuple[float, float]:
    """Return a user's scales along H and W, as float32 has them."""
    try:
        h, w = scales if np.ndim(scales) else (scales, scales)
        h, w = (float(np.float32(s * 1.0)) for s in (h, w))  # a str is no number
        if all(1 / _MOST_SCALE <= s <= _MOST_SCALE for s in (h, w)):
            return h, w
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(
        f"scales is {scales!r}; it must be a number from 1/{_MOST_SCALE} to {_MOST_SCALE}, or two "
        "of them, along H and W"
    )
