"""A layer's result against the float64 reference, with the bound that the arithmetic gives."""

from __future__ import annotations

from typing import Any

import numpy as np

import pwconv
import texels
from pwconv import reference


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


def assert_within(actual: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    """Assert |actual − expected| ≤ bound everywhere; say where it is worst."""
    assert actual.shape == expected.shape
    error = np.abs(actual.astype(np.float64) - expected)
    wrong = ~(error <= bound)
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.where(wrong, error / bound, 0)), error.shape)
        raise AssertionError(
            f"{wrong.sum()} of {wrong.size} elements are outside their bound; at {worst}: "
            f"{actual[worst]} for {expected[worst]}, error {error[worst]:.3g} over "
            f"{bound[worst]:.3g}"
        )


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
