"""What drawing bad input has found, each kept as an example."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv import reference

ONES = np.ones((3, 3), np.float32)


@pytest.mark.parametrize("wanted", [1.5, [0], b"0", 0j, {}, np.zeros(2)], ids=repr)
def test_a_device_of_no_such_type(wanted):
    with pytest.raises(TypeError, match="or a name or part of one; there are 0: "):
        pwconv.Device(wanted)


@pytest.mark.parametrize("wanted", ["9" * 5000, "-1"], ids=lambda w: w[:9])
def test_a_device_of_no_such_name(wanted):
    with pytest.raises(pwconv.NoDeviceError, match=f"no device matches '{wanted}'; there are 0: "):
        pwconv.Device(wanted)


@pytest.mark.parametrize("wanted", [-1, 10**30], ids=lambda w: str(w)[:9])
def test_a_device_that_does_not_exist(wanted):
    with pytest.raises(pwconv.NoDeviceError, match="does not exist; there are 0: "):
        pwconv.Device(wanted)


@pytest.mark.parametrize("number", [np.int64, np.uint8, str], ids=lambda kind: kind.__name__)
def test_a_device_by_any_integer(device, number):
    with pwconv.Device(number(device.info.index)) as opened:
        assert opened.info == device.info


@pytest.mark.parametrize(
    "activation",
    [
        *(("leaky_relu", 1e300), ("leaky_relu", 10**400), ("clamp", 0, 10**400)),
        (np.array(["clamp", "clamp"]), 0, 1),
    ],
    ids=["double", "integer", "clamp", "array"],
)
def test_parameters_of_an_activation_past_float32(device, activation):
    with pytest.raises(ValueError, match="activation is "):
        pwconv.PointwiseConv2d(ONES, activation=activation, device=device)


def test_a_clamp_past_float32_is_no_clamp(device):
    x = np.array([[-3e38, 0, 3e38]], np.float32)
    identity = np.eye(3, dtype=np.float32)
    for clamp in (("clamp", -1e300, 1e300), ("clamp", -math.inf, 1e39)):
        y = pwconv.linear(x, identity, activation=clamp, device=device)
        np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("transposed", [None, "yes", 2**40, 0.5, ()], ids=repr)
def test_whether_a_weight_is_transposed_may_be_anything_true_or_false(device, transposed):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    packed = pwconv.pack_linear_weight(weight, transposed=transposed, device=device)
    expected = reference.pack_linear_weight(weight, transposed=bool(transposed))
    np.testing.assert_array_equal(packed.numpy(), expected)


@pytest.mark.parametrize("shape", [(-1, -1, 3), (-1, 3), (2, -1, -1, 3), (-3,)], ids=str)
def test_explaining_axes_below_zero(device, shape):
    layer = pwconv.Linear(ONES, device=device)
    with pytest.raises(ValueError, match=f"{shape[0]}|-1"):
        layer.explain(shape)


def test_an_empty_batch_on_a_closed_device(own_device):
    layer = pwconv.Linear(ONES, device=own_device)
    own_device.close()
    with pytest.raises(pwconv.ClosedError):
        layer(np.empty((0, 3), np.float32))


def test_shapes_without_end(device):
    with pytest.raises(ValueError, match="more than 64 axes"):
        device.empty(itertools.count(1), "float32")
    with pytest.raises(ValueError, match="stride is count"):
        pwconv.PointwiseConv2d(ONES, stride=itertools.count(1), device=device)
    assert device.empty((1,) * 64, "float32", "buffer").shape == (1,) * 64


@pytest.mark.parametrize("kind", ["conv2d_pw", "linear"])
def test_the_reference_of_an_empty_batch(kind):
    shape: tuple[int, ...] = (0, 3, 4, 5) if kind == "conv2d_pw" else (0, 3)
    x: Any = np.empty(shape, np.float32)
    result = getattr(reference, kind)(x, ONES)
    assert result.shape == getattr(reference, f"{kind}_bound")(x, ONES).shape == shape
