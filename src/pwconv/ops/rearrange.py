"""Elements by a strided view: transpose, slice, flip, pad, broadcast; rearrange.comp."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pwconv.dtypes import FLOAT32, Array, DType
from pwconv.errors import UnsupportedError
from pwconv.heuristics import Choice
from pwconv.layout import Shape4
from pwconv.ops.base import Case, Operator, Site, operator
from pwconv.ops.cases import of_integers, plane_sizes
from pwconv.ops.limits import Limits
from pwconv.reference import Approximation
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import Dispatch

# shaders/rearrange.comp has the same numbers.
_MODES = {"inside": 0, "constant": 1, "edge": 2, "reflect": 3, "wrap": 4}
_MOST_AXES = 8
_MOST_ELEMENTS = 2**31  # shaders count them, and coordinates, in 32 bits


@dataclass(frozen=True)
class Axis:
    """An axis of a view: coordinates ``start`` … ``start + size − 1``, times ``stride``.

    Attributes
    ----------
    size : int
        At least 1.
    stride : int
        Elements of the input from one coordinate to the next; 0 repeats, below 0 goes back.
    start : int
        The first coordinate; below 0 there is padding before.
    extent : int, optional
        Coordinates that there are, 0 … ``extent − 1``, for modes besides "inside".
    mode : str
        Of others: "inside" has none; "constant" takes the operator's fill or its second input,
        "edge" the nearest, "reflect" those about the edge, and "wrap" those from the other end, as
        numpy.pad does.
    """

    size: int
    stride: int
    start: int = 0
    extent: int | None = None
    mode: str = "inside"

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(f"mode is {self.mode!r}; it must be one of {', '.join(_MODES)}")
        if self.size < 1:
            raise ValueError(f"size is {self.size}; it must be 1 or more: an axis has elements")
        if self.extent is not None if self.mode == "inside" else (self.extent or 0) < 1:
            raise ValueError(
                f"extent is {self.extent} and mode is {self.mode!r}; it must be 1 or more, or None "
                "for 'inside' alone"
            )

    def coordinates(self) -> Array:
        """Return the coordinate of each element; those outside where the mode is "constant"."""
        found = self.start + np.arange(self.size)
        if self.extent is None or self.mode == "constant":
            return found
        last = self.extent - 1
        if self.mode == "edge":
            return found.clip(0, last)
        if self.mode == "wrap":
            return found % self.extent
        return last - abs(last - found % max(2 * last, 1))

    def outside(self, coordinates: Array) -> Array:
        """Return where coordinates are outside and the mode is "constant"."""
        if self.extent is None:
            return np.zeros(coordinates.shape, bool)
        return (coordinates < 0) | (coordinates >= self.extent)


@operator("rearrange")
@dataclass(frozen=True, eq=False, kw_only=True)
class Rearrange(Operator):
    """Elements by a strided view of the input, as numpy.lib.stride_tricks has them, and padding.

    The output's row-major order is the view's: whatever its shape, the last axis varies fastest.

    Attributes
    ----------
    source : tuple of int
        [N, C, H, W] of the input, as :func:`pwconv.tensor.shape4` has its shape.
    view : tuple of Axis
        At most 8; their strides are of the row-major input.
    out : tuple of int
        The output's shape, of as many elements as the view.
    offset : int
        Element of the input at which all coordinates are 0.
    fill : float
        What is outside, rounded to the tensors' type.
    over : bool
        Take a second input, of the output's shape, and have its elements outside in place of fill.
    """

    source: Shape4
    view: tuple[Axis, ...]
    out: Shape
    offset: int = 0
    fill: float = 0.0
    over: bool = False

    families = ("rearrange",)
    operands = ("x", "y")
    images_only = False
    copies = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.view) <= _MOST_AXES:
            raise ValueError(
                f"view has {len(self.view)} axes; it must have 1 to {_MOST_AXES}: rearrange in two "
                "steps"
            )
        sizes = tuple(axis.size for axis in self.view)
        if math.prod(self.out) != math.prod(sizes):
            raise ValueError(
                f"out is {self.out}, {math.prod(self.out)} elements; the view has {sizes}, "
                f"{math.prod(sizes)}: they must be as many"
            )
        first, last = self._bounds
        if first < 0 or last >= math.prod(self.source):
            raise ValueError(
                f"view reads elements {first} to {last}; source {self.source} has 0 to "
                f"{math.prod(self.source) - 1}: change its strides, starts or offset"
            )

    @property
    def arity(self) -> int:
        """Two with ``over``, and else one."""
        return 2 if self.over else 1

    def check(self, site: Site) -> None:
        """Raise where elements or coordinates are past what shaders count."""
        ends = (abs(axis.start) + axis.size for axis in self.view)
        most = max(math.prod(self.source), math.prod(self.out), *ends)
        if most > _MOST_ELEMENTS:
            raise UnsupportedError(
                f"rearranging {self.source} to {self.out} counts to {most:,}, and shaders to "
                f"{_MOST_ELEMENTS:,}; cut it into parts"
            )

    def shape(self, *inputs: Shape) -> Shape:
        """Return ``out``."""
        if shape4(inputs[0], "x") != self.source:
            raise ValueError(
                f"x has shape {inputs[0]}; the view is of {self.source} alone: make another for "
                "this shape"
            )
        if self.over and inputs[1] != self.out:
            raise ValueError(f"y has shape {inputs[1]}; it must be the output's, {self.out}")
        return self.out

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch, over the axes in a buffer that is uploaded now.

        Raises
        ------
        UnsupportedError
            As :meth:`check`.
        OutOfMemoryError
        """
        self.check(site)
        numbers = [
            (axis.size, axis.stride, axis.start, axis.extent or 0, _MODES[axis.mode])
            for axis in self.view
        ]
        dispatch = site.dispatch(
            choice.variant if choice else site.variant("rearrange"),
            inputs[0],
            out,
            {
                "t_in": 0,
                "t_over": 1 if self.over else 0,
                # Of 32 bits each, which wrap around as the shader's do.
                "t_axes": site.table(np.array(numbers).astype(np.uint32)),
            },
            axes=len(self.view),
            offset=self.offset % 2**32,
            over=self.over,
            fill=float(FLOAT32.type(self.fill)),
        )
        return [dispatch]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the elements."""
        at, outside = self._elements()
        taken = inputs[0].moved(lambda x: x.reshape(-1)[at].reshape(self.out))
        if not outside.any():
            return taken
        value, error = (inputs[1].value, inputs[1].error) if self.over else (self.fill, 0.0)
        mask = outside.reshape(self.out)
        return Approximation(np.where(mask, value, taken.value), np.where(mask, error, taken.error))

    def expected(
        self, inputs: Sequence[Approximation], dtype: DType, *, exact: bool = False
    ) -> Approximation:
        """Return the elements, and the fill as the type has it."""
        with np.errstate(over="ignore"):
            fill = float(FLOAT32.type(self.fill).astype(dtype))
        return Operator.expected(replace(self, fill=fill), inputs, dtype, exact=exact)

    @property
    def _bounds(self) -> tuple[int, int]:
        """The first and the last element of the input that it may read; coordinates are folded."""
        first = last = self.offset
        for axis in self.view:
            low, high = axis.start, axis.start + axis.size - 1
            if axis.extent is not None:
                low, high = 0, axis.extent - 1
            ends = axis.stride * low, axis.stride * high
            first, last = first + min(ends), last + max(ends)
        return first, last

    def _elements(self) -> tuple[Array, Array]:
        """Return the input's element for each of the output, by number, and where it is outside."""
        at, outside = np.array(self.offset), np.array(False)
        for axis in self.view:
            coordinates = axis.coordinates()
            past = axis.outside(coordinates)
            at = at[..., None] + axis.stride * coordinates
            outside = outside[..., None] | past
        return np.where(outside, 0, at).reshape(-1), outside.reshape(-1)

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield several sizes, H and W swapped, and each way to pad."""
        for name, shape in plane_sizes(limits.extent()).items():
            swapped = transpose(shape, (0, 1, 3, 2))
            yield of_integers(name, swapped, (shape,), limits.dtype)
        shape = (2, 23, 7, 11)
        permuted = transpose(shape, (3, 1, 0, 2))
        yield of_integers("permuted", permuted, (shape,), limits.dtype)
        for mode in ("constant", "edge", "reflect", "wrap"):
            padded = pad(shape, (0, 2, 3, -1), (1, 5, 0, 4), mode, 0.5)
            yield of_integers(mode, padded, (shape,), limits.dtype)
        over = replace(pad(shape, (0, 2, 3, -1), (1, 5, 0, 4)), over=True)
        yield of_integers("over another", over, (shape, shape4(over.out, "out")), limits.dtype)


def of_strided(
    source_shape: Shape,
    view_shape: Sequence[int],
    view_strides: Sequence[int],
    offset: int = 0,
    out_shape: Shape | None = None,
) -> Rearrange:
    """Return the elements of a view, as numpy.lib.stride_tricks.as_strided has them.

    Parameters
    ----------
    source_shape : tuple of int
        The input's.
    view_shape, view_strides : sequence of int
        At most 8 axes; strides in elements of the row-major input.
    offset : int
        The first element.
    out_shape : tuple of int, optional
        The output's, the view's by default.

    Raises
    ------
    ValueError
        The view reads elements that there are not, or the output has not as many.
    """
    if len(view_shape) != len(view_strides):
        raise ValueError(
            f"view_shape is {tuple(view_shape)} and view_strides {tuple(view_strides)}; they must "
            "have as many axes"
        )
    return Rearrange(
        source=shape4(source_shape, "source_shape"),
        view=tuple(map(Axis, view_shape, view_strides)),
        out=tuple(view_shape if out_shape is None else out_shape),
        offset=offset,
    )


def reshape(shape: Shape, out_shape: Shape) -> Rearrange:
    """Return the elements in the same order, in another shape of as many."""
    return of_strided(shape, (math.prod(shape),), (1,), 0, out_shape)


def transpose(shape: Shape, axes: Sequence[int]) -> Rearrange:
    """Return the axes in another order, as numpy.transpose does.

    Raises
    ------
    ValueError
        The axes are not each of the shape's, once.
    """
    order = [axis + len(shape) if axis < 0 else axis for axis in axes]
    if sorted(order) != list(range(len(shape))):
        raise ValueError(
            f"axes is {tuple(axes)}; it must name each axis of {shape} once, 0 to {len(shape) - 1}"
        )
    strides = _strides(shape)
    return of_strided(shape, [shape[axis] for axis in order], [strides[axis] for axis in order])


def slice_(
    shape: Shape, starts: Sequence[int], steps: Sequence[int], sizes: Sequence[int]
) -> Rearrange:
    """Return ``sizes`` elements along each axis, the first at ``starts``, every ``steps``-th.

    A step below 0 goes back from the start, and 0 repeats it.

    Raises
    ------
    ValueError
        Elements that there are not.
    """
    for name, given in (("starts", starts), ("steps", steps), ("sizes", sizes)):
        _check_axes(name, given, shape)
    for axis, (length, start, step, size) in enumerate(
        zip(shape, starts, steps, sizes, strict=True)
    ):
        last = start + step * (size - 1)
        if size < 1 or not (0 <= start < length and 0 <= last < length):
            raise ValueError(
                f"starts is {tuple(starts)}, steps {tuple(steps)} and sizes {tuple(sizes)}; along "
                f"axis {axis} that is {start} to {last}, and {shape} has 0 to {length - 1}"
            )
    strides = _strides(shape)
    offset = sum(start * stride for start, stride in zip(starts, strides, strict=True))
    stepped = [step * stride for step, stride in zip(steps, strides, strict=True)]
    return of_strided(shape, sizes, stepped, offset)


def pad(
    shape: Shape,
    before: Sequence[int],
    after: Sequence[int],
    mode: str = "constant",
    value: float = 0.0,
) -> Rearrange:
    """Return the input with elements before and after along each axis, as numpy.pad does.

    Parameters
    ----------
    shape : tuple of int
        The input's.
    before, after : sequence of int
        Along each axis; below 0 so many elements are left out.
    mode : "constant", "edge", "reflect" or "wrap"
    value : float
        Of "constant".

    Raises
    ------
    ValueError
        Another mode, or nothing is left along an axis.
    """
    if mode not in _MODES or mode == "inside":
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(list(_MODES)[1:])}")
    for name, given in (("before", before), ("after", after)):
        _check_axes(name, given, shape)
    out = tuple(map(sum, zip(before, shape, after, strict=True)))
    if min(out) < 1:
        raise ValueError(
            f"before is {tuple(before)} and after {tuple(after)}; of {shape} they leave {out}: "
            "leave at least one element along each axis"
        )
    axes = zip(out, _strides(shape), before, shape, strict=True)
    return Rearrange(
        source=shape4(shape, "shape"),
        view=tuple(Axis(size, stride, -first, n, mode) for size, stride, first, n in axes),
        out=out,
        fill=value,
    )


def _strides(shape: Shape) -> list[int]:
    """Return the row-major strides, in elements."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _check_axes(name: str, given: Sequence[int], shape: Shape) -> None:
    if len(given) != len(shape):
        raise ValueError(f"{name} is {tuple(given)}; it must have {len(shape)} numbers, as {shape}")
