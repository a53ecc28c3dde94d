"""Elements by strided views, bit for bit against numpy's own functions."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import pwconv
from pwconv.ops import Axis, Rearrange
from pwconv.ops.rearrange import of_strided, pad, reshape, slice_, transpose
from pwconv.reference import exact
from support import inside, oracle

SHAPE = (2, 5, 7, 11)
MODES = ("constant", "edge", "reflect", "wrap")


def check(device, storage, dtype, operator, arrays, expected):
    """Into a poisoned output; and what the reference says is the same, without a bound."""
    found = oracle.run(operator, oracle.site(device, storage, dtype), device, arrays)
    np.testing.assert_array_equal(found, expected)
    about = operator.expected([exact(array) for array in arrays], expected.dtype)
    np.testing.assert_array_equal(about.value, expected)
    assert not about.error.any()
    assert operator.flop([array.shape for array in arrays], found.shape) == 0


def normal(rng, dtype, shape=SHAPE):
    return rng.standard_normal(shape).astype(dtype)


def test_transpose_in_every_order(device, rng, storage, dtype):
    x = normal(rng, dtype)
    for axes in itertools.permutations(range(4)):
        check(device, storage, dtype, transpose(SHAPE, axes), [x], x.transpose(axes))
    check(device, storage, dtype, transpose(SHAPE, (0, -1, 1, -2)), [x], x.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(13, 17), (3, 5, 7), (19,), (2, 3, 1, 5, 7)], ids=str)
def test_other_axes(device, rng, storage, dtype, shape):
    """As they are stored: [C, W], [C, H, W], [W], and more before them."""
    x = normal(rng, dtype, shape)
    check(device, storage, dtype, transpose(shape, range(len(shape))[::-1]), [x], x.T)
    check(device, storage, dtype, reshape(shape, (x.size, 1)), [x], x.reshape(-1, 1))


@pytest.mark.parametrize("out", [(5, 2, 11, 7), (1, 1, 1, 770), (770, 1, 1, 1), (14, 55), (770,)])
def test_reshape(device, rng, storage, dtype, out):
    x = normal(rng, dtype)
    check(device, storage, dtype, reshape(SHAPE, out), [x], x.reshape(out))


def test_channel_shuffle(device, rng, storage, dtype):
    """A view of five axes, and depth to space of six."""
    x = normal(rng, dtype, (3, 12, 5, 7))
    node = of_strided(x.shape, (3, 4, 3, 5, 7), (420, 35, 140, 7, 1), 0, x.shape)
    shuffled = x.reshape(3, 3, 4, 5, 7).swapaxes(1, 2).reshape(x.shape)
    check(device, storage, dtype, node, [x], shuffled)
    node = of_strided(
        x.shape, (3, 3, 5, 2, 7, 2), (420, 35, 7, 210, 1, 105), 0, out_shape=(3, 3, 10, 14)
    )
    blocks = x.reshape(3, 2, 2, 3, 5, 7).transpose(0, 3, 4, 1, 5, 2)
    check(device, storage, dtype, node, [x], blocks.reshape(3, 3, 10, 14))


def test_slices(device, rng, storage, dtype):
    """Steps forwards and backwards, flips, and one element repeated."""
    x = normal(rng, dtype)
    for starts, steps, sizes, expected in (
        ((0, 1, 2, 3), (1, 2, 2, 3), (2, 2, 3, 3), x[:, 1:5:2, 2::2, 3::3]),
        ((1, 4, 6, 10), (-1, -1, -1, -1), SHAPE, x[::-1, ::-1, ::-1, ::-1]),
        ((1, 4, 0, 9), (1, -3, 1, -4), (1, 2, 7, 3), x[1:, 4::-3, :, 9::-4]),
        ((0, 3, 0, 0), (1, 0, 1, 1), (2, 9, 7, 11), x[:, 3:4].repeat(9, 1)),
    ):
        check(device, storage, dtype, slice_(SHAPE, starts, steps, sizes), [x], expected)


def test_broadcast(device, rng, storage, dtype):
    x = normal(rng, dtype, (3, 1, 5))
    node = of_strided(x.shape, (2, 3, 7, 5), (0, 5, 0, 1))
    check(device, storage, dtype, node, [x], np.broadcast_to(x, (2, 3, 7, 5)))


@pytest.mark.parametrize("mode", MODES)
def test_pad(device, rng, storage, dtype, mode):
    """On all axes, further than the input is long where numpy does, and crops."""
    x = normal(rng, dtype)
    settings = {"constant_values": np.array(0.1, dtype)} if mode == "constant" else {}
    for before, after in (
        ((0, 0, 1, 2), (0, 0, 3, 1)),
        ((1, 2, 0, 5), (0, 3, 6, 0)),
        ((3, 11, 9, 13), (2, 6, 17, 29)),
    ):
        expected = np.pad(x, list(zip(before, after, strict=True)), mode, **settings)
        check(device, storage, dtype, pad(SHAPE, before, after, mode, 0.1), [x], expected)
    cropped = np.pad(x, ((0, 0), (0, 2), (0, 0), (0, 0)), mode, **settings)[:, 1:, 2:5, 1:]
    node = pad(SHAPE, (0, -1, -2, -1), (0, 2, -2, 0), mode, 0.1)
    check(device, storage, dtype, node, [x], cropped)
    thin = normal(rng, dtype, (1, 3, 1, 5))
    expected = np.pad(thin, ((0, 0), (0, 0), (2, 3), (0, 0)), mode, **settings)
    check(device, storage, dtype, pad(thin.shape, (0, 0, 2, 0), (0, 0, 3, 0), mode, 0.1), [thin],
          expected)  # fmt: skip


@pytest.mark.parametrize("fill", [np.inf, -np.inf, np.nan, 1e6, -0.0])
def test_what_fills(device, rng, storage, dtype, fill):
    """Rounded to the type as numpy rounds it, and no bound from it."""
    x = normal(rng, dtype, (1, 3, 5, 7))
    with np.errstate(over="ignore"):
        filled = np.array(fill, np.float32).astype(dtype)
    expected = np.pad(x, ((0, 0), (1, 2), (0, 1), (2, 0)), constant_values=filled)
    node = pad(x.shape, (0, 1, 0, 2), (0, 2, 1, 0), value=fill)
    check(device, storage, dtype, node, [x], expected)


def test_over_another(device, rng, storage, dtype):
    """Where the view is outside, the other's elements: slice assignment, and concatenation."""
    x, y = normal(rng, dtype), normal(rng, dtype, (2, 6, 17, 13))
    node = replace(pad(SHAPE, (0, 1, 4, 2), (0, 0, 6, 0)), over=True)
    expected = y.copy()
    expected[:, 1:, 4:11, 2:] = x
    check(device, storage, dtype, node, [x, y], expected)
    z = normal(rng, dtype, (2, 5, 3, 11))
    graph = pwconv.Graph(device, dtype, storage=storage)
    values = [graph.input(name, array.shape) for name, array in (("x", x), ("z", z))]
    first = graph.add_op(pad(x.shape, (0,) * 4, (0, 0, 3, 0)), values[0])
    last = replace(pad(z.shape, (0, 0, 7, 0), (0,) * 4), over=True)
    graph.output("y", graph.add_op(last, values[1], first, name="both"))
    np.testing.assert_array_equal(graph.run(x=x, z=z)["y"], np.concatenate([x, z], 2))
    assert graph.check(x=x, z=z).passed


def test_infinities_and_nan(device, rng, storage, dtype):
    x = normal(rng, dtype)
    x.reshape(-1)[::7], x.reshape(-1)[1::7] = np.nan, np.inf
    check(device, storage, dtype, transpose(SHAPE, (0, 2, 3, 1)), [x], x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Axis(0, 1), "size is 0; it must be 1 or more"),
        (lambda: Axis(3, 1, mode="mirror"), "mode is 'mirror'; it must be one of inside, const"),
        (lambda: Axis(3, 1, mode="edge"), "extent is None and mode is 'edge'; it must be 1 or"),
        (lambda: Axis(3, 1, extent=3), "extent is 3 and mode is 'inside'; it must be"),
        (lambda: Axis(3, 1, extent=0, mode="wrap"), "extent is 0 and mode is 'wrap'"),
        (lambda: of_strided(SHAPE, (1,) * 9, (1,) * 9), "view has 9 axes; it must have 1 to 8"),
        (lambda: of_strided(SHAPE, (2, 3), (1,)), "view_shape is (2, 3) and view_strides (1,);"),
        (lambda: of_strided(SHAPE, (771,), (1,)), "view reads elements 0 to 770; source (2, 5, 7"),
        (lambda: of_strided(SHAPE, (3,), (-1,), 1), "view reads elements -1 to 1; source (2, 5,"),
        (lambda: reshape(SHAPE, (2, 5, 7, 10)), "out is (2, 5, 7, 10), 700 elements; the view has"),
        (lambda: transpose(SHAPE, (0, 1, 2)), "axes is (0, 1, 2); it must name each axis of"),
        (lambda: transpose(SHAPE, (0, 1, 2, 2)), "axes is (0, 1, 2, 2); it must name each axis"),
        (lambda: slice_(SHAPE, (0,), (1,), (1,)), "starts is (0,); it must have 4 numbers, as (2"),
        (
            lambda: slice_(SHAPE, (0, 0, 0, 9), (1, 1, 1, 1), (2, 5, 7, 3)),
            "along axis 3 that is 9 to 11, and (2, 5, 7, 11) has 0 to 10",
        ),
        (lambda: pad(SHAPE, (0, 0, 0), (0, 0, 0, 0)), "before is (0, 0, 0); it must have 4 number"),
        (lambda: pad(SHAPE, (0, 0, -4, 0), (0, 0, -3, 0)), "they leave (2, 5, 0, 11): leave at"),
        (lambda: pad(SHAPE, (0,) * 4, (0,) * 4, "inside"), "mode is 'inside'; it must be one of c"),
    ],
)  # fmt: skip
def test_what_is_refused(make, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        make()


def test_inputs_of_other_shapes(device):
    graph = pwconv.Graph(device)
    x = graph.input("x", (2, 5, 7, 12))
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 7, 12\); the view is of \(2, 5, 7"):
        graph.add_op(transpose(SHAPE, (0, 1, 3, 2)), x)
    node = replace(pad(x.shape, (0,) * 4, (0, 0, 1, 0)), over=True)
    with pytest.raises(ValueError, match=r"y has shape .* must be the output's, \(2, 5, 8, 12\)"):
        graph.add_op(node, x, x)


def test_more_elements_than_shaders_count(device):
    site = SimpleNamespace(context=inside.context(device))
    large = Rearrange(
        source=(1, 1, 1, 1), view=(Axis(2**16, 0), Axis(2**16, 0)), out=(1, 1, 2**16, 2**16)
    )
    with pytest.raises(pwconv.UnsupportedError, match="counts to 4,294,967,296, and shaders to 2,"):
        large.check(site)
