"""Two convolutions in one kernel: every tile, against float64 convolutions one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv import reference, shaders
from pwconv.dtypes import FLOAT32, axis_name
from pwconv.matrix_units import flexible_pair_matrix, plan_pair_matrices
from pwconv.ops import Choice, Epilogue, PointwisePair
from pwconv.ops.pair import most_channels
from pwconv.weights import Parameters
from support import inside, oracle
from support.accuracy import assert_within, random_problem
from support.mirror import convolution

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
MATRIX_VARIANTS = [
    *shaders.variants("conv2d_pw_pair_coopmat"),
    *shaders.variants("conv2d_pw_pair_coopmat2"),
]
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

    def __call__(self, x: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
        """Run into poisoned outputs; assert zeros in lanes past C."""
        site = oracle.site(self.device, self.storage, x.dtype)
        pair = PointwisePair(
            dtype=site.dtype,
            hidden_activation=self.activations[0],
            epilogue=Epilogue(self.activations[1], residual=residual is not None),
            parameters=tuple(
                Parameters(weight[None], bias.astype(FLOAT32))
                for weight, bias in zip(self.weights, self.biases, strict=True)
            ),
        )
        return oracle.run(
            pair,
            site,
            self.device,
            [x] if residual is None else [x, residual],
            choice=Choice(self.variant),
            weight_storage=self.variant.axes.get("weight", "buffer"),
        )

    def check(self, x: np.ndarray, residual: np.ndarray | None = None) -> None:
        """Assert every output; what lies between is rounded to halves by matrix units alone."""
        hidden = convolution(
            reference.exact(x),
            self.weights[0][:, :, None, None],
            self.biases[0],
            activation=self.activations[0],
            dtype=x.dtype if self.variant in MATRIX_VARIANTS else np.float32,
        )
        expected = convolution(
            hidden,
            self.weights[1][:, :, None, None],
            self.biases[1],
            activation=self.activations[1],
            residual=None if residual is None else reference.exact(residual),
            dtype=x.dtype,
        )
        assert np.isfinite(expected.error).all()
        assert_within(self(x, residual), expected.value, expected.error)


@pytest.fixture
def make(device: pwconv.Device, rng: np.random.Generator):
    """Return a batch of three, and random layers for one variant, if the device runs it."""

    def make(variant, storage, dtype, k, h, n, size, activations=(None, None)):
        lack = variant.unmet(device.info.limits, device.info.features)
        if not lack and variant in MATRIX_VARIANTS:
            plan = {"coopmat": plan_pair_matrices, "coopmat2": flexible_pair_matrix}
            if not plan[variant.family.rpartition("_")[2]](variant, device.info):
                lack = "a product of matrices that divides the block"
        if lack:
            pytest.skip(f"{device.info.name} lacks {lack}")
        x, first, first_bias = random_problem(rng, k, h, size, dtype, batch=3)
        _, second, second_bias = random_problem(rng, h, n, (1, 1), dtype)
        biases = [first_bias, second_bias]
        return x, PairOfLayers(device, variant, storage, [first, second], biases, activations)

    return make


def find(storage: str, tile: str, dtype: str, weight_storage: str) -> shaders.Variant:
    return shaders.variant(
        FAMILIES[storage], tile=tile, dtype=axis_name(np.dtype(dtype)), weight=weight_storage
    )


def smallest(storage: str) -> shaders.Variant:
    """Return the variant of float32 that takes the least shared memory."""
    variants = shaders.variants(FAMILIES[storage], dtype="fp32", weight="buffer")
    return min(variants, key=lambda variant: variant.shared_memory)


def shapes(variant: shaders.Variant, *, whole: bool) -> list[tuple[int, int, int, tuple[int, int]]]:
    """Return K, H, N and sizes: several blocks, and parts of one; K and H whole steps or not."""
    block_k, block = variant.defines["BLOCK_K"], variant.defines["BLOCK_N"]
    if whole:
        return [(3 * block_k, 2 * block, block - 7, (9, 31))]
    return [
        (37, 2 * block + 13, block - 5, (13, 23)),
        (block_k - 3, block + 1, block // 2, (17, 3)),
        (1, 1, 1, (3, 5)),
    ]


def check_other_positions(pair: PairOfLayers, x: np.ndarray, residual: np.ndarray | None) -> None:
    """Assert that NaN and infinity reach no output but those of their own positions."""
    h, w = x.shape[-2:]
    places = (0, 0), (h // 2, w // 2), (h - 1, w - 1)
    bad = x.copy()
    for (y, z), value in zip(places, (np.nan, np.inf, np.nan), strict=True):
        bad[1, :, y, z] = value
    expected, actual = pair(x, residual), pair(bad, residual)
    for y, z in (places[0], places[2]):
        assert np.isnan(actual[1, :, y, z]).all()
    for y, z in places:
        actual[1, :, y, z] = expected[1, :, y, z]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float16", marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize(("storage", "tile"), TILES)
def test_every_tile(make, rng, request, storage, tile, dtype):
    turn = TILES.index((storage, tile))
    ways = [("buffer", False), ("texture2d", True), ("texture2d", False), ("buffer", True)]
    if not request.config.getoption("--exhaustive"):
        # Each way is compiled: seconds.
        ways = [ways[turn % 2]]
    for way, (weight_storage, whole) in enumerate(ways):
        variant = find(storage, tile, dtype, weight_storage)
        activations = ACTIVATIONS[(turn + way + 3 * (dtype == "float16")) % len(ACTIVATIONS)]
        for shape in shapes(variant, whole=whole):
            x, pair = make(variant, storage, dtype, *shape, activations)
            residual = None if whole else rng.standard_normal((3, shape[2], *shape[3]))
            added = None if residual is None else residual.astype(dtype)
            pair.check(x, added)
            check_other_positions(pair, x, added)


@pytest.mark.parametrize("turn", range(len(MATRIX_VARIANTS)))
def test_every_tile_of_the_matrix_units(make, rng, turn):
    variant = MATRIX_VARIANTS[turn]
    most_k, most_n = most_channels(variant)
    block_h = variant.defines["BLOCK_H"]
    problems = [
        (most_k, 3 * block_h, most_n, (16, 16)),
        (most_k - 11, 2 * block_h + 5, most_n - 5, (13, 23)),
        (most_k // 2 + 1, block_h + 1, most_n // 2 + 3, (17, 3)),
        (1, 1, 1, (3, 5)),
    ]
    for way, problem in enumerate(problems):
        activations = ACTIVATIONS[(turn + way) % len(ACTIVATIONS)]
        x, pair = make(variant, "buffer", "float16", *problem, activations)
        added = rng.standard_normal((3, problem[2], *problem[3])).astype(np.float16)
        residual = added if way % 2 else None
        pair.check(x, residual)
        check_other_positions(pair, x, residual)


@pytest.mark.parametrize(
    "variant", [*map(smallest, FAMILIES), *MATRIX_VARIANTS], ids=lambda v: v.name
)
def test_infinity_meets_no_padding(make, variant):
    """Past K, H and N inputs and packed weights are zero, and infinity times zero is NaN."""
    storage = "texture3d" if "texture3d" in variant.family else "buffer"
    dtype = "float16" if variant in MATRIX_VARIANTS else "float32"
    x, pair = make(variant, storage, dtype, 5, 7, 3, (3, 5))

    def run(first_corner: float, second_corner: float, value: float) -> np.ndarray:
        weights = [np.ones_like(weight) for weight in pair.weights]
        weights[0][0, -1], weights[1][0, -1] = first_corner, second_corner
        ones = PairOfLayers(pair.device, variant, storage, weights, pair.biases)
        return ones(np.full_like(x, value))

    for y in run(1, 1, np.inf), run(np.inf, 1, 1), run(1, np.inf, 1)[:, :1]:
        np.testing.assert_array_equal(y, np.full_like(y, np.inf))
    assert np.isfinite(run(1, np.inf, 1)[:, 1:]).all()


@pytest.mark.parametrize("storage", FAMILIES)
def test_past_the_workgroup_count(make, monkeypatch, storage):
    """A grid past maxComputeWorkGroupCount goes in parts."""
    x, pair = make(smallest(storage), storage, "float32", 5, 7, 3, (19, 11))
    context = inside.another_context(pair.device)
    context.limits = {**context.limits, "maxComputeWorkGroupCount": (3, 1, 1)}
    monkeypatch.setattr(pair.device, inside.CONTEXT, context)
    pair.check(x)
    (plan,) = [p for p in inside.plans(context).values() if p.variant is pair.variant]
    assert len(plan.parts) > 2


def test_more_outputs_than_a_block(make):
    variant = smallest("buffer")
    block = variant.defines["BLOCK_N"]
    x, pair = make(variant, "buffer", "float32", 4, 4, block + 1, (1, 1))
    with pytest.raises(pwconv.UnsupportedError, match=f"{block} output .* are 4 and {block + 1}"):
        pair(x)
