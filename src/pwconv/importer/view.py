"""Views: how the axes of a file's tensors lie in the [N, C, H, W] of a graph's values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pwconv.graph import Value
from pwconv.tensor import Shape

IMAGES = (0, 1, 2, 3)
# The axis of [N, C, H, W] that each of a tensor's axes is, by rank, where it may be any.
_USUAL: dict[int, tuple[int, ...]] = {0: (), 1: (1,), 2: (0, 1), 3: (0, 1, 3), 4: IMAGES}


@dataclass(frozen=True)
class View:
    """A tensor of any rank over the elements of a value [N, C, H, W].

    Like a strided array of NumPy: transposing, slicing, expanding and most reshaping make other
    views and move nothing.

    Attributes
    ----------
    value : pwconv.graph.Value
    shape : tuple of int
    strides : tuple of int
        In elements of the value as a contiguous array.
    offset : int
        The first element.
    """

    value: Value
    shape: Shape
    strides: tuple[int, ...]
    offset: int = 0

    @classmethod
    def of(cls, value: Value, axes: Sequence[int] = IMAGES) -> View:
        """Return the whole value, as a tensor whose axes are these of [N, C, H, W]."""
        strides = contiguous(value.shape)
        return cls(value, tuple(value.shape[a] for a in axes), tuple(strides[a] for a in axes))

    @property
    def axes(self) -> tuple[int, ...] | None:
        """The axis of [N, C, H, W] that each axis is; None if it is no such transposition."""
        shape, strides = self.value.shape, contiguous(self.value.shape)
        if self.offset or self.size != math.prod(shape) or len(self.shape) > len(shape):
            return None
        found: dict[int, int] = {}
        for i, (length, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            if length > 1:
                fitting = [a for a in IMAGES if (shape[a], strides[a]) == (length, stride)]
                if not fitting:
                    return None
                found[i] = fitting[0]
        # An axis of length 1 is the usual one where that is free.
        usual = _USUAL[len(self.shape)]
        free = [a for a in IMAGES if a not in found.values()]
        for i in range(len(self.shape)):
            if i not in found:
                found[i] = usual[i] if usual[i] in free else free[0]
                free.remove(found[i])
        return tuple(found[i] for i in range(len(self.shape)))

    @property
    def usual_axes(self) -> tuple[int, ...]:
        """Its axes; if it has none, those that a tensor of its rank has if it is copied."""
        return self.axes or _USUAL[len(self.shape)]

    @property
    def size(self) -> int:
        """Count of elements."""
        return math.prod(self.shape)

    @property
    def is_permutation(self) -> bool:
        """True if it has each of the value's elements once."""
        if self.offset or self.size != math.prod(self.value.shape):
            return False
        steps = sorted((s, n) for n, s in zip(self.shape, self.strides, strict=True) if n > 1)
        reach = 1
        for stride, length in steps:
            if stride != reach:
                return False
            reach *= length
        return True

    def over(self, value: Value) -> View:
        """Return the same view of another value of the same shape."""
        return replace(self, value=value)

    def transposed(self, order: Sequence[int]) -> View:
        """Return it with axes in another order."""
        return replace(
            self,
            shape=tuple(self.shape[i] for i in order),
            strides=tuple(self.strides[i] for i in order),
        )

    def sliced(self, axis: int, start: int, step: int, length: int) -> View:
        """Return every ``step``-th of an axis' elements, from ``start`` on."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + start * strides[axis]
        shape[axis], strides[axis] = length, strides[axis] * step
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=offset)

    def expanded(self, shape: Shape) -> View:
        """Return it broadcast to a shape, by NumPy's rules."""
        new = len(shape) - len(self.shape)
        strides = [0] * new
        for length, stride, wanted in zip(self.shape, self.strides, shape[new:], strict=True):
            strides.append(stride if length == wanted else 0)
        return replace(self, shape=shape, strides=tuple(strides))

    def reshaped(self, shape: Shape) -> View | None:
        """Return it with other axes, of as many elements; None if elements would have to move."""
        strides: list[int] = []
        old = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        new = [n for n in shape if n != 1]
        i = j = 0
        while i < len(old) or j < len(new):
            # The fewest axes of either whose elements are as many.
            i_end, j_end = i + 1, j + 1
            before, after = old[i][0], new[j]
            while before != after:
                if before < after:
                    before *= old[i_end][0]
                    i_end += 1
                else:
                    after *= new[j_end]
                    j_end += 1
            for (_, outer), (length, inner) in zip(
                old[i : i_end - 1], old[i + 1 : i_end], strict=True
            ):
                if outer != length * inner:
                    return None
            group = contiguous(new[j:j_end])
            strides += [step * old[i_end - 1][1] for step in group]
            i, j = i_end, j_end
        known = iter(strides)
        return replace(
            self, shape=shape, strides=tuple(next(known) if n != 1 else 1 for n in shape)
        )


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a contiguous array, in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def image_shape(shape: Shape) -> Shape:
    """Return [N, C, H, W] in which a tensor of any rank is kept when it is copied."""
    if len(shape) in _USUAL:
        lengths = dict(zip(_USUAL[len(shape)], shape, strict=True))
        return tuple(lengths.get(a, 1) for a in IMAGES)
    return (shape[0], math.prod(shape[1:-2]), *shape[-2:])


def usual_view(value: Value, shape: Shape) -> View:
    """Return a tensor over the value in which it was copied, as :func:`image_shape` has it."""
    return View(value, shape, contiguous(shape))
