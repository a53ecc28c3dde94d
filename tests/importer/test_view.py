"""Views of a value's elements against NumPy's own arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from pwconv.importer.view import View, image_shape, usual_view


@dataclass(frozen=True)
class Placed:
    """What a view needs of a graph's value."""

    shape: tuple[int, ...]


def elements(view: View) -> np.ndarray:
    """Return the elements' numbers, found by the view's strides."""
    numbers = np.full(view.shape, view.offset)
    for axis, (length, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        steps = np.arange(length) * stride
        numbers = numbers + steps.reshape([-1 if i == axis else 1 for i in range(len(view.shape))])
    return numbers


def change(rng, view, array):
    """Return a view and an array after the same random step."""
    step = rng.integers(4)
    if step == 0:
        order = rng.permutation(array.ndim).tolist()
        return view.transposed(order), array.transpose(order)
    if step == 1 and array.ndim:
        axis = int(rng.integers(array.ndim))
        length = array.shape[axis]
        start, by = int(rng.integers(length)), int(rng.choice([1, 2, -1, -2]))
        taken = range(length)[start::by]
        return view.sliced(axis, taken.start, by, len(taken)), array.take(list(taken), axis)
    if step == 2:
        shape = (2, *array.shape)
        return view.expanded(shape), np.broadcast_to(array, shape)
    rest, lengths = array.size, []
    while rest > 1 and len(lengths) < 5:
        lengths.append(int(rng.choice([n for n in range(2, rest + 1) if rest % n == 0])))
        rest //= lengths[-1]
    lengths.insert(int(rng.integers(len(lengths) + 1)), rest)
    reshaped = view.reshaped(tuple(lengths))
    return (view, array) if reshaped is None else (reshaped, array.reshape(lengths))


@pytest.mark.parametrize("seed", range(5))
def test_any_steps(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        shape = tuple(int(n) for n in rng.choice([1, 2, 3, 4, 6], 4))
        array = np.arange(math.prod(shape)).reshape(shape)
        view = View.of(Placed(shape))
        for _ in range(rng.integers(1, 5)):
            view, array = change(rng, view, array)
            assert view.shape == array.shape
            assert (elements(view) == array).all()
            if view.is_permutation:
                assert sorted(array.reshape(-1)) == list(range(math.prod(shape)))
            axes = view.axes
            if axes is not None:
                others = [a for a in range(4) if a not in axes]
                whole = np.arange(math.prod(shape)).reshape(shape).transpose([*axes, *others])
                assert (whole.reshape(array.shape) == array).all()


def test_reshaping_moves_nothing_where_numpy_moves_nothing():
    rng = np.random.default_rng(7)
    for _ in range(300):
        shape = tuple(int(n) for n in rng.choice([2, 3, 4], 4))
        order = rng.permutation(4).tolist()
        new = tuple(int(n) for n in rng.permutation([shape[0] * shape[1], *shape[2:]]))
        array = np.zeros(shape).transpose(order)
        view = View.of(Placed(shape)).transposed(order).reshaped(new)
        shared = np.shares_memory(array, array.reshape(new))
        assert (view is not None) == shared


@pytest.mark.parametrize("shape", [(), (7,), (2, 7), (2, 3, 5), (2, 3, 5, 7), (2, 3, 4, 5, 6, 7)])
def test_a_copy_has_its_elements_in_order(shape):
    placed = Placed(image_shape(shape))
    assert math.prod(placed.shape) == math.prod(shape)
    view = usual_view(placed, shape)
    assert (elements(view).reshape(-1) == np.arange(math.prod(shape))).all()
    if len(shape) <= 4:
        assert view.axes == {0: (), 1: (1,), 2: (0, 1), 3: (0, 1, 3), 4: (0, 1, 2, 3)}[len(shape)]
