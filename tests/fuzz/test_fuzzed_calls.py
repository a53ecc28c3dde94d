"""Layers, functions, devices and tensors, given anything: a documented error or a right number."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import pwconv
from pwconv import reference
from support import inside
from support.arguments import ACTIVATIONS, anything, array, assert_about, attempt, shapes, spoil
from support.leftovers import settled

DTYPES = st.sampled_from([None, "float32", "float16", np.float32, np.dtype(">f2")])
STORAGES = st.sampled_from(["auto", "buffer", "texture3d"])
SIZES = st.integers(1, 9)
SMALL_SHAPES = st.lists(st.integers(-1, 9), max_size=6).map(tuple)


@pytest.fixture
def closed(device):
    """A tensor and a packed weight of a device that was closed."""
    with pwconv.Device(device.info.index) as gone:
        weight = pwconv.pack_linear_weight(np.ones((3, 3), np.float32), device=gone)
        yield gone, gone.tensor(np.ones((3, 2, 2), np.float32)), weight


@pytest.fixture
def strange(device, own_device, closed):
    """What lives on this device, on another, and on one that was closed."""
    gone, *on_gone = closed
    gone.close()
    ones = np.ones((3, 2, 2), np.float32)
    packed = pwconv.pack_linear_weight(np.ones((3, 3), np.float32), device=device)
    found = [own_device.tensor(ones), own_device.tensor(ones, "float16", "texture3d")]
    found += [device, gone, *on_gone, device.tensor(ones), packed]
    yield st.sampled_from(found)
    del found, packed


@pytest.fixture
def leak_free(own_device, strange):
    before = settled(own_device)
    yield own_device
    assert settled(own_device) == before


def draw_layer(draw: Any, kind: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Draw the arguments of a layer that are right, and a shape of x."""
    c_in, c_out = draw(SIZES), draw(SIZES)
    arguments = {
        "weight": array(draw, (c_out, c_in)),
        "bias": draw(st.sampled_from([None, array(draw, (c_out,))])),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "dtype": draw(DTYPES),
    }
    if kind == "linear":
        return arguments, (*draw(st.lists(st.integers(0, 5), max_size=4)), c_in)
    arguments["stride"] = draw(st.one_of(st.integers(1, 3), st.tuples(SIZES, SIZES)))
    arguments["padding"] = draw(st.one_of(st.integers(0, 3), st.tuples(SIZES, SIZES)))
    batch = draw(st.lists(st.integers(0, 3), max_size=1))
    return arguments, (*batch, c_in, draw(SIZES), draw(SIZES))


def check(kind: str, dtype: np.dtype, accumulate: str, y: Any, x: Any, given: dict) -> None:
    """Compare with float64, in the type that the device computes in."""
    numbers = {
        name: np.asarray(value).astype(dtype)
        for name, value in (("x", x), ("weight", given["weight"]))
    }
    rest = {k: given[k] for k in ("bias", "activation", "stride", "padding") if k in given}
    expected_of = getattr(reference, kind)
    bound_of = getattr(reference, f"{kind}_bound")
    with np.errstate(all="ignore"):
        expected = expected_of(**numbers, **rest)
        bound = bound_of(**numbers, **rest, dtype=dtype, accumulate=accumulate)
    assert_about(y, expected, bound)


@pytest.mark.parametrize("kind", ["conv2d_pw", "linear"])
def test_functions(fuzz, leak_free, strange, kind):
    def case(draw):
        arguments, x_shape = draw_layer(draw, kind)
        arguments |= {"x": array(draw, x_shape), "device": leak_free}
        right = spoil(draw, arguments, strange)
        y = attempt(lambda: getattr(pwconv, kind)(**arguments), right=right)
        if y is not None and right:
            x = arguments["x"]
            check(kind, np.asarray(y).dtype, "float32", y, x, arguments)

    fuzz(50, case)


@pytest.mark.parametrize("kind", ["conv2d_pw", "linear"])
def test_layers(fuzz, leak_free, strange, kind):
    make = pwconv.PointwiseConv2d if kind == "conv2d_pw" else pwconv.Linear

    def case(draw):
        arguments, x_shape = draw_layer(draw, kind)
        arguments |= {"storage": draw(STORAGES), "accumulate": "float32", "device": leak_free}
        right = spoil(draw, arguments, strange)
        layer = attempt(lambda: make(**arguments), right=right)
        if layer is None:
            return
        assert repr(layer)
        x = array(draw, x_shape, None if inside.converts(layer) else layer.dtype.name)
        call = {"x": x, "out": None}
        if 0 not in x_shape and right and draw(st.booleans()):
            call["x"] = leak_free.tensor(x, layer.dtype, layer.storage)
        right_call = spoil(draw, call, strange) and right
        y = attempt(lambda: layer(**call), right=right_call)
        if right_call:
            check(kind, layer.dtype, "float32", y, x, arguments)
        asked = {"shape": x_shape, "storage": "auto"}
        right_question = spoil(draw, asked, shapes) and right and 0 not in x_shape
        told = attempt(lambda: layer.explain(**asked), right=right_question)
        assert told is None or str(told)

    fuzz(50, case)


def test_shapes_of_explain(fuzz, leak_free):
    """Whatever the shape: what is told is of a shape that a call would take."""
    layers = {
        make: make(np.ones((5, 4), np.float32), device=leak_free)
        for make in (pwconv.PointwiseConv2d, pwconv.Linear)
    }

    def case(draw):
        layer = layers[draw(st.sampled_from(sorted(layers, key=repr)))]
        shape = draw(shapes)
        if draw(st.booleans()):
            shape = (*shape, 4) if isinstance(layer, pwconv.Linear) else (*shape[:1], 4, *shape[1:])
        told = attempt(lambda: layer.explain(shape, draw(STORAGES)), right=False)
        if told is not None:
            assert min(told.x_shape) > 0
            limits = leak_free.info.limits
            most = limits[
                "maxStorageBufferRange" if told.storage == "buffer" else "maxImageDimension3D"
            ]
            # A linear layer's rows go along the axes that have room for them.
            assert isinstance(layer, pwconv.Linear) or max(told.x_shape[-2:]) <= most

    fuzz(50, case)


@pytest.mark.parametrize("kind", ["conv2d_pw", "linear"])
def test_infinities_and_nans(fuzz, leak_free, kind):
    specials = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 6e-8])

    def case(draw):
        arguments, x_shape = draw_layer(draw, kind)
        arguments |= {"activation": None, "dtype": None}
        dtype = arguments["weight"].dtype.newbyteorder("=")
        x = array(draw, x_shape, dtype.name)
        for name, values in (("x", x), ("weight", arguments["weight"])):
            values = np.array(values)
            if values.size and draw(st.booleans()):
                values.flat[draw(st.integers(0, values.size - 1))] = draw(specials)
            arguments[name] = values
        y = getattr(pwconv, kind)(**arguments, device=leak_free)
        check(kind, dtype, "float32", y, arguments["x"], arguments)

    fuzz(30, case)


def test_packed_weights(fuzz, leak_free, strange):
    def case(draw):
        shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=3)))
        arguments = {
            "weight": array(draw, shape),
            "transposed": draw(st.booleans()),
            "dtype": draw(DTYPES),
            "storage": draw(st.sampled_from(["auto", "texture2d", "buffer"])),
            "device": leak_free,
        }
        right = spoil(draw, arguments, strange)
        packed = attempt(lambda: pwconv.pack_linear_weight(**arguments), right=right)
        if packed is not None and right:
            assert repr(packed)
            expected = reference.pack_linear_weight(
                arguments["weight"].astype(packed.dtype), transposed=arguments["transposed"]
            )
            np.testing.assert_array_equal(packed.numpy(), expected)

    fuzz(100, case)


def test_tensors(fuzz, leak_free, strange):
    def case(draw):
        shape = tuple(draw(st.lists(st.integers(0, 6), min_size=1, max_size=6)))
        source = array(draw, (shape[0], *(max(1, length) for length in shape[1:])))
        arguments = {"array": source, "dtype": draw(DTYPES), "storage": draw(STORAGES)}
        right = spoil(draw, arguments, strange)
        tensor = attempt(lambda: leak_free.tensor(**arguments), right=right)
        if tensor is None:
            return
        assert repr(tensor)
        assert len(tensor) == tensor.shape[0]
        if right:
            np.testing.assert_array_equal(tensor.numpy(), source.astype(tensor.dtype))
        wanted = {"dtype": draw(st.sampled_from([None, np.float64, "int8"])), "copy": None}
        spoil(draw, wanted, strange)
        attempt(lambda: tensor.__array__(**wanted), right=False)
        with pytest.raises(TypeError, match="cannot be copied"):
            copy.copy(tensor)

    fuzz(100, case)


def test_empty_tensors(fuzz, leak_free, strange):
    def case(draw):
        arguments = {
            "shape": draw(shapes),
            "dtype": draw(st.sampled_from(["float32", "float16"])),
            "storage": draw(STORAGES),
        }
        spoil(draw, arguments, strange)
        # Gigabytes that a texture's limits allow are not this test's to take; a buffer's are less.
        is_texture = isinstance(arguments["storage"], str) and arguments["storage"] == "texture3d"
        if is_texture and isinstance(arguments["shape"], tuple):
            arguments["shape"] = draw(SMALL_SHAPES)
        tensor = attempt(lambda: leak_free.empty(**arguments), right=False)
        assert tensor is None or tensor.nbytes >= 0

    fuzz(100, case)


def test_devices(fuzz, device):
    known = st.sampled_from([device.info.index, str(device.info.index), device.info.name])

    def case(draw):
        wanted = draw(st.one_of(known, anything, st.text(), st.integers()))
        opened = attempt(lambda: pwconv.Device(wanted), right=False)
        if opened is not None:
            opened.close()

    fuzz(40, case)


def test_after_close(fuzz, device, own_device):
    """Everything on a closed device says so, whatever it is given."""
    tensor = own_device.tensor(np.ones((3, 2, 2), np.float32))
    layers = [
        pwconv.PointwiseConv2d(np.ones((4, 3), np.float32), device=own_device),
        pwconv.Linear(np.ones((4, 2), np.float32), device=own_device),
    ]
    packed = pwconv.pack_linear_weight(np.ones((4, 3), np.float32), device=own_device)
    own_device.close()

    def case(draw):
        layer = draw(st.sampled_from(layers))
        x = array(draw, (3, 2, 2), "float32") if draw(st.booleans()) else tensor
        none = np.empty(
            (0, inside.weight(layer).shape[2], 2, inside.weight(layer).shape[2]), np.float32
        )
        calls = [
            *(lambda: layer(x), lambda: layer(none), tensor.numpy),
            *(packed.numpy, lambda: layer.explain((3, 2, 2)), own_device.synchronize),
            lambda: own_device.empty(draw(st.sampled_from([(3, 2), (0,)])), "float32"),
            lambda: np.asarray(tensor),
        ]
        with pytest.raises(pwconv.ClosedError):
            draw(st.sampled_from(calls))()

    fuzz(30, case)
