"""What is taken for an array, and what an error tells to pass instead."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv.dtypes import as_float_array, convert

ONES = np.ones((2, 3), np.float32)


class TorchTensor:
    """As a tensor of torch's: a numpy array where it can be one, or else torch's own error."""

    def __init__(self, problem: Exception | None, dtype: str = "torch.float32") -> None:
        self.problem = problem
        self.dtype = dtype

    def detach(self) -> TorchTensor:
        return self

    def float(self) -> TorchTensor:
        return TorchTensor(self.problem, "torch.float32")

    def cpu(self) -> TorchTensor:
        return self

    def numpy(self) -> np.ndarray:
        if self.dtype != "torch.float32":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return ONES

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.problem is not None:
            raise self.problem
        return self.numpy()


GRAD = RuntimeError(
    "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
)
CUDA = TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy")


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (TorchTensor(GRAD), "weight is a TorchTensor .*requires grad.*; pass "),
        (TorchTensor(CUDA), "weight is a TorchTensor .*cuda:0.*; pass "),
        (TorchTensor(None, "torch.bfloat16"), "BFloat16.*; pass weight.detach\\(\\).float\\(\\)"),
    ],
)
def test_tensors_of_torch(weight, says):
    with pytest.raises(TypeError, match=says) as caught:
        as_float_array(weight, "weight")
    advice = str(caught.value).rpartition("; pass ")[2]
    assert advice.endswith(".cpu().numpy()")
    np.testing.assert_array_equal(eval(advice), ONES)
    with pytest.raises(TypeError, match=r"each by tensor.detach\(\).cpu\(\).numpy\(\)"):
        as_float_array([weight], "weight")
    np.testing.assert_array_equal(as_float_array(TorchTensor(None), "weight"), ONES)


@pytest.mark.parametrize(
    "x",
    [
        np.ones((2, 3)),
        np.ones((2, 3), bool),
        np.ones((2, 3), np.longdouble),
        np.ones((2, 3), object),
        np.array([[1, Fraction(1, 2)]], object),
        np.ones((2, 3), [("a", "f4"), ("b", "i2")]),
        np.ones((2, 3), complex),
        [[1.0, 2.0], [3, 4]],
        [1j, 2.0],
    ],
    ids=lambda x: str(np.asarray(x).dtype),
)
def test_the_advice_works(x):
    with pytest.raises(TypeError, match=r"^x has dtype .*; pwconv computes in float32") as caught:
        as_float_array(x, "x")
    advice = str(caught.value).rpartition(": pass ")[2].partition(", and the")[0]
    advice = advice.partition(", or another")[0]
    array = eval(advice, {"numpy": np, "x": x})
    assert as_float_array(array, "x").dtype == np.float32


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        ([[1.0, 2.0], [3.0]], ValueError, "x is a list that numpy .*inhomogeneous.* one length"),
        (np.array([[1.0], [2.0, 3.0]], object), TypeError, "dtype object.*all rows of one length"),
        (np.array([1, None], object), TypeError, "dtype object.*pass numbers"),
        ("abc", TypeError, "x has dtype <U3.*pass numbers"),
        (np.ones(3, "M8[s]"), TypeError, "x has dtype datetime64.*pass numbers"),
        (np.ones(3, "V4"), TypeError, "pass numbers"),
        (None, TypeError, "dtype object.*pass numbers"),
    ],
    ids=lambda value: str(value)[:20].replace("\n", ""),
)
def test_what_is_no_array_of_numbers(x, error, says):
    with pytest.raises(error, match=says):
        as_float_array(x, "x")


class Masked:
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.ma.masked_array(ONES, ONES > 0)


@pytest.mark.parametrize(
    "x",
    [
        np.ma.masked_array(ONES, ONES > 0),
        np.ma.masked_array(ONES),
        Masked(),
        [np.ma.masked_array(ONES, ONES > 0), ONES],
        ((ONES[0], ONES[0]), [np.ma.masked_array(ONES[0])] * 2),
    ],
    ids=["masked", "without a mask", "from __array__", "in a list", "in a list of lists"],
)
def test_masks_are_refused(device, x):
    with pytest.raises(TypeError, match=r"^x is a masked array.*x.filled\(number\)"):
        as_float_array(x, "x")
    weight = np.ones((4, 3), np.float32)
    graph = pwconv.Graph(device)
    graph.output("y", graph.linear(graph.input("x", (2, 3)), weight))
    building = pwconv.Graph(device)
    images = building.input("x", (1, 2, 4, 4))
    for call, argument in (
        (lambda: pwconv.linear(x, weight, device=device), "x"),
        (lambda: pwconv.linear(ONES, x, device=device), "weight"),
        (lambda: pwconv.linear(ONES, weight, x, device=device), "bias"),
        (lambda: pwconv.conv2d_pw(x, weight, device=device), "x"),
        (lambda: pwconv.pack_linear_weight(x, device=device), "weight"),
        (lambda: device.tensor(x), "array"),
        (lambda: graph.run(x=x), "x"),
        (lambda: building.conv2d(images, x), "weight"),
        (lambda: building.conv2d_dw(images, x), "weight"),
        (lambda: building.conv2d_dw(images, np.ones((2, 1, 1, 1), "f4"), x), "bias"),
    ):
        with pytest.raises(TypeError, match=f"{argument} is a"):
            call()


def test_masks_are_refused_by_the_reference():
    masked = np.ma.masked_array(ONES, ONES > 0)
    for call in (
        lambda: pwconv.reference.activate(masked, "relu"),
        lambda: pwconv.reference.linear(masked, ONES),
        lambda: pwconv.reference.linear(ONES, ONES, bias=masked[0]),
        lambda: pwconv.reference.linear_bound(ONES, masked),
        lambda: pwconv.reference.conv2d_pw(ONES[:, :, None], masked),
        lambda: pwconv.reference.pack_linear_weight(masked),
    ):
        with pytest.raises(TypeError, match="masked"):
            call()


def test_other_arrays_lose_nothing():
    """A view, a subclass and lists of arrays are taken as they are."""

    class Subclass(np.ndarray):
        pass

    for x in (ONES[::-1], ONES.view(Subclass), list(ONES), [list(row) for row in ONES]):
        array = as_float_array(x, "x")
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(array, ONES)


def test_conversion_to_half_says_nothing(device, rng):
    """Nearest even, and infinite past 65504, in each kind of weight, on host and device alike."""
    values = np.array([65504, 65519.99, 65520, -1e30, 1e-8, 3e-8, 2049, np.inf], np.float32)
    with np.errstate(all="ignore"):
        expected = values.astype(np.float16)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        np.testing.assert_array_equal(convert(values, np.dtype(np.float16)), expected)
        pwconv.reference.pack_linear_weight(values[None], dtype="float16")
        graph = pwconv.Graph(device, "float16")
        x = graph.input("x", (1, 1, 1, 1))
        column = values[:, None, None, None]
        graph.output("conv2d_pw", graph.conv2d_pw(x, column[:, :, 0, 0]))
        graph.output("conv2d", graph.conv2d(x, column))
        repeated = graph.concat([x] * len(values))
        graph.output("conv2d_dw", graph.conv2d_dw(repeated, column))
        graph.output("linear", graph.linear(x, column[:, :, 0, 0]))
        results = graph.run(x=np.ones((1, 1, 1, 1), np.float32))
        layer = pwconv.PointwiseConv2d(values[:, None], dtype="float16", device=device)
        results["layer"] = layer(np.ones((1, 1, 1, 1), np.float32))
        results["input"] = device.tensor(values, "float16").numpy()
    for name, result in results.items():
        np.testing.assert_array_equal(result.ravel(), expected, err_msg=name)
