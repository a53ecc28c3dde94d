"""The functions that need no layer."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from pwconv import reference
from support.accuracy import assert_within, random_linear, random_problem


def test_conv2d_pw(device, rng):
    x, weight, bias = random_problem(rng, 5, 7, (6, 8), "float32", batch=2)
    settings = {"stride": 2, "padding": (0, 1), "activation": "hardswish"}
    y = pwconv.conv2d_pw(x, weight, bias, **settings, device=device)
    assert_within(
        y,
        reference.conv2d_pw(x, weight, bias, **settings),
        reference.conv2d_pw_bound(x, weight, bias, **settings),
    )


@pytest.mark.parametrize("weight_shape", [(7, 5), (2, 7, 5)], ids=str)
def test_linear(device, rng, weight_shape):
    x, weight, bias = random_linear(rng, (2, 6, 5), weight_shape, "float32")
    y = pwconv.linear(x, weight, bias, activation="hardswish", device=device)
    assert_within(
        y,
        reference.linear(x, weight, bias, activation="hardswish"),
        reference.linear_bound(x, weight, bias, activation="hardswish"),
    )
    resident = pwconv.linear(device.tensor(x), weight, bias, activation="hardswish")
    assert isinstance(resident, pwconv.Tensor)
    assert resident.device is device
    halves = pwconv.linear(x.astype(np.float16), weight, bias, device=device)
    assert halves.dtype == np.float16
    assert pwconv.linear(x, weight, bias, dtype="float16", device=device).dtype == np.float16


def test_dtype_is_that_of_x(device, rng):
    x, weight, bias = random_problem(rng, 5, 7, (6, 8), "float32")
    assert pwconv.conv2d_pw(x, weight, bias, device=device).dtype == np.float32
    halves = pwconv.conv2d_pw(x.astype(np.float16), weight, bias, device=device)
    assert halves.dtype == np.float16
    asked = pwconv.conv2d_pw(x, weight, bias, dtype="float16", device=device)
    np.testing.assert_array_equal(asked, halves)


def test_the_device_is_that_of_the_tensor(device, rng):
    x, weight, _ = random_problem(rng, 5, 7, (6, 8), "float32")
    y = pwconv.conv2d_pw(device.tensor(x), weight)
    assert y.device is device


def test_a_default_device_is_opened_once_and_again_after_close(rng):
    x, weight, _ = random_problem(rng, 5, 7, (6, 8), "float32")
    first = pwconv.PointwiseConv2d(weight).device
    assert pwconv.PointwiseConv2d(weight).device is first
    y = pwconv.conv2d_pw(x, weight)
    first.close()
    assert pwconv.PointwiseConv2d(weight).device is not first
    np.testing.assert_array_equal(pwconv.conv2d_pw(x, weight), y)


def test_wrong_x(device):
    with pytest.raises(TypeError, match="x has dtype int64"):
        pwconv.conv2d_pw(np.ones((3, 4, 4), int), np.ones((5, 3), np.float32), device=device)
    with pytest.raises(TypeError, match="x has dtype int64"):
        pwconv.linear(np.ones((4, 3), int), np.ones((5, 3), np.float32), device=device)
