"""A layer's result against the float64 reference, with the bound that the arithmetic gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import pwconv
from pwconv import reference
from support import texels


def check_layer(
    layer: pwconv.PointwiseConv2d,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    accumulate: str = "float32",
) -> np.ndarray:
    """Run a layer into poisoned outputs; assert every element, and zeros in lanes past C.

    A layer whose storage is "auto" is run on both, and must give results within the bound on each.
    """
    settings: dict[str, Any] = {
        "stride": layer.stride,
        "padding": layer.padding,
        "activation": layer.activation,
    }
    expected = reference.conv2d_pw(x, weight, bias, **settings)
    bound = reference.conv2d_pw_bound(
        x, weight, bias, **settings, dtype=layer.dtype, accumulate=accumulate
    )
    for storage in ("buffer", "texture3d") if layer.storage == "auto" else (layer.storage,):
        out = texels.poisoned(layer.device, expected.shape, layer.dtype, storage)
        result = layer(layer.device.tensor(x, storage=storage), out=out)
        assert result is out
        actual = out.numpy()
        assert_within(actual, expected, bound)
        if storage == "texture3d":
            whole = actual if actual.ndim == 4 else actual[None]
            np.testing.assert_array_equal(texels.read(out), texels.channels_packed(whole))
    return actual


def check_linear(
    layer: pwconv.Linear,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    storage: str = "auto",
    accumulate: str = "float32",
) -> None:
    """Run a layer on an array, and on tensors into poisoned outputs, of one storage or of both."""
    expected = reference.linear(x, weight, bias, activation=layer.activation)
    bound = reference.linear_bound(
        x,
        weight,
        bias,
        activation=layer.activation,
        dtype=layer.dtype,
        accumulate=accumulate,
    )
    assert_within(layer(x), expected, bound)
    for each in ("buffer", "texture3d") if storage == "auto" else (storage,):
        tensor = layer.device.tensor(x, storage=each)
        # A batched weight may take a texture to a buffer.
        out_storage = layer.explain(x.shape, each).storage
        out = texels.poisoned(layer.device, expected.shape, layer.dtype, out_storage)
        assert layer(tensor, out=out) is out
        actual = out.numpy()
        assert_within(actual, expected, bound)
        if out_storage == "texture3d":
            whole = actual.reshape(texels.stored_shape(actual.shape))
            np.testing.assert_array_equal(texels.read(out), texels.channels_packed(whole))


def check_infinite_weight(
    run: Callable[[np.ndarray], np.ndarray], x: np.ndarray, weight: np.ndarray
) -> None:
    """Assert that an infinite weight reaches one output alone, and that as an infinity.

    Times a zero past K it would be NaN. ``run(weight)`` takes x [..., K] to [..., N], and its
    activation leaves infinity as it is.
    """
    infinite = weight.copy()
    infinite[0, -1] = np.inf
    finite, actual = run(weight), run(infinite)
    np.testing.assert_array_equal(actual[..., 1:], finite[..., 1:])
    assert np.isposinf(actual[..., 0][x[..., -1] > 0]).all()


def assert_within(actual: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    """Assert |actual − expected| ≤ bound everywhere; say where it is worst.

    Infinities must be equal; where NaN is expected, NaN is right.
    """
    assert actual.shape == expected.shape
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        error = np.abs(actual.astype(np.float64) - expected)
    wrong = ~(same | (error <= bound))
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.where(wrong, error / bound, 0)), error.shape)
        raise AssertionError(
            f"{wrong.sum()} of {wrong.size} elements are outside their bound; at {worst}: "
            f"{actual[worst]} for {expected[worst]}, error {error[worst]:.3g} over "
            f"{bound[worst]:.3g}"
        )


def random_linear(
    rng: np.random.Generator,
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    dtype: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, weight and bias whose results are of order one."""
    x = rng.standard_normal(x_shape).astype(dtype)
    weight = (rng.standard_normal(weight_shape) / np.sqrt(weight_shape[-1])).astype(dtype)
    return x, weight, rng.standard_normal(weight_shape[-2]).astype(dtype)


def random_problem(
    rng: np.random.Generator,
    c_in: int,
    c_out: int,
    size: tuple[int, int],
    dtype: str,
    *,
    batch: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, weight and bias whose results are of order one."""
    shape = (c_in, *size) if batch is None else (batch, c_in, *size)
    x = rng.standard_normal(shape).astype(dtype)
    weight = (rng.standard_normal((c_out, c_in)) / np.sqrt(c_in)).astype(dtype)
    return x, weight, rng.standard_normal(c_out).astype(dtype)
