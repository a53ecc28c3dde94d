"""Two convolutions in one kernel: every tile, against float64 convolutions one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import propagation
import pwconv
import texels
from accuracy import assert_within, random_problem
from pwconv import shaders
from pwconv.activation import parse_activation
from pwconv.dispatch import Dispatch
from pwconv.dtypes import as_dtype, axis_name
from pwconv.kernels.conv2d_pw_pair import PairProblem, plan_conv2d_pw_pair

FAMILIES = {
    "buffer": "conv2d_pw_pair_staged_buffer",
    "texture3d": "conv2d_pw_pair_staged_texture3d",
}
DTYPES = ("float32", "float16")
TILES = tuple(
    (storage, variant.axes["tile"])
    for storage, family in FAMILIES.items()
    for variant in shaders.variants(family, dtype="fp32", weight="buffer")
)
# Hidden activation, activation; of the hidden ones, act(0) is not 0 in the second and the third.
ACTIVATIONS = (
    ("gelu", None),
    ("sigmoid", "relu"),
    (("clamp", 0.5, 2.0), "gelu"),
    ("relu", ("leaky_relu", 0.1)),
    (None, "hardswish"),
    ("gelu_tanh", ("clamp", -0.25, 0.75)),
    ("silu", "tanh"),
)


class PairOfLayers:
    """Two layers' weights and biases, given to one variant of the kernel that runs both."""

    def __init__(
        self,
        device: pwconv.Device,
        variant: shaders.Variant,
        storage: str,
        weights: list[np.ndarray],
        biases: list[np.ndarray],
        activations: tuple[Any, Any] = (None, None),
    ) -> None:
        self.device, self.variant, self.storage = device, variant, storage
        self.weights, self.biases, self.activations = weights, biases, activations
        self.layers = [
            pwconv.PointwiseConv2d(
                pwconv.pack_linear_weight(w, storage=variant.axes["weight"], device=device), b
            )
            for w, b in zip(weights, biases, strict=True)
        ]

    def __call__(self, x: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
        """Run into poisoned outputs; assert zeros in lanes past C."""
        first, second = self.layers
        problem = PairProblem(
            self.storage, x.shape, first.out_channels, second.out_channels, as_dtype(x.dtype)
        )
        plan = plan_conv2d_pw_pair(
            self.device._dispatcher,
            self.variant,
            problem,
            *(parse_activation(activation) for activation in self.activations),
            residual=residual is not None,
        )
        t_in = self.device.tensor(x, storage=self.storage)
        added = t_in if residual is None else self.device.tensor(residual, storage=self.storage)
        out = texels.poisoned(self.device, problem.out_shape, x.dtype, self.storage)
        resources = {
            "t_in": t_in.resource,
            "t_out": out.resource,
            "t_residual": added.resource,
            "first_packed": first._weight.resource,
            "first_bias": first._bias,
            "second_packed": second._weight.resource,
            "second_bias": second._bias,
        }
        self.device._dispatcher.submit(Dispatch(plan, resources))
        y = out.numpy()
        if self.storage == "texture3d":
            np.testing.assert_array_equal(texels.read(out), texels.channels_packed(y))
        return y

    def check(self, x: np.ndarray, residual: np.ndarray | None = None) -> None:
        """Assert every output; what lies between the two is not rounded to halves."""
        hidden = propagation.conv2d(
            propagation.exact(x),
            self.weights[0][:, :, None, None],
            self.biases[0],
            activation=self.activations[0],
            dtype=np.float32,
        )
        expected = propagation.conv2d(
            hidden,
            self.weights[1][:, :, None, None],
            self.biases[1],
            activation=self.activations[1],
            residual=None if residual is None else propagation.exact(residual),
            dtype=x.dtype,
        )
        assert np.isfinite(expected.error).all()
        assert_within(self(x, residual), expected.value, expected.error)


@pytest.fixture
def make(device: pwconv.Device, rng: np.random.Generator):
    """Return x, and a pair of random layers of one variant, where the device can run it."""

    def make(storage, tile, weight_storage, dtype, k, h, n, size, activations=(None, None)):
        variant = shaders.variant(
            FAMILIES[storage],
            dtype=axis_name(np.dtype(dtype)),
            weight=weight_storage,
            tile=tile,
        )
        lack = variant.unmet(device.info.limits, device.info.features)
        if lack:
            pytest.skip(f"{device.info.name} lacks {lack}")
        x, first, first_bias = random_problem(rng, k, h, size, dtype, batch=2)
        _, second, second_bias = random_problem(rng, h, n, (1, 1), dtype)
        biases = [first_bias, second_bias]
        pair = PairOfLayers(device, variant, storage, [first, second], biases, activations)
        return x, pair

    return make


def most_outputs(storage: str, tile: str) -> int:
    """Return the output channels of a tile's block."""
    (variant,) = shaders.variants(FAMILIES[storage], dtype="fp32", weight="buffer", tile=tile)
    return variant.defines["BLOCK_N"]


@pytest.mark.parametrize("weight_storage", ["texture2d", "buffer"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("storage", "tile"), TILES)
def test_every_tile(make, rng, storage, tile, dtype, weight_storage):
    """Ragged everywhere: positions of several blocks, hidden channels of two slices and a part."""
    block_n = most_outputs(storage, tile)
    turn = TILES.index((storage, tile)) + (weight_storage == "buffer")
    x, pair = make(
        storage,
        tile,
        weight_storage,
        dtype,
        *(37, 2 * block_n + 13, block_n - 5, (13, 23)),
        ACTIVATIONS[turn % len(ACTIVATIONS)],
    )
    residual = rng.standard_normal((2, block_n - 5, 13, 23)).astype(dtype)
    pair.check(x, residual if turn % 2 else None)
