"""The linear kernels' numbers: every variant, shape class and storage, and small or odd rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pwconv
from pwconv import reference, shaders
from pwconv.dtypes import FLOAT32
from pwconv.heuristics import Choice
from pwconv.ops import matmul
from pwconv.ops.linear import Problem
from pwconv.ops.matmul import step_along_k
from support import inside, texels
from support.accuracy import assert_within, check_infinite_weight, check_linear, random_linear
from support.sweep import sweep

DTYPES = ("float32", "float16")
STORAGES = ("texture3d", "buffer")
FAMILIES = {
    "texture3d": ("linear_tiled_texture3d", "linear_sliced_texture3d"),
    "buffer": ("linear_staged_buffer", "linear_tiled_buffer", "linear_sliced_buffer"),
}
TILES = tuple(
    (storage, family, variant.axes["tile"])
    for storage, families in FAMILIES.items()
    for family in families
    for variant in shaders.variants(family, dtype="fp32", weight="buffer")
)
# They take a driver seconds to compile: in which ways is for the smaller ones to test.
SMALL_TILES = [tile for _, _, tile in TILES if tile.startswith(("m1n1", "32x32"))]
WAYS = [(dtype, weight) for dtype in ("float32", "float16") for weight in ("buffer", "texture2d")]


# Smaller than any tile, ragged in every direction, and whole steps of K, blocks of M and of N. With
# one of C a texture has its rows in one lane, with more in four.
TILE_SHAPES = (
    ((1, 1, 1, 1), 1),
    ((2, 5, 7, 13), 27),
    ((1, 37, 1, 9), 101),
    ((2, 1, 11, 130), 35),
    ((1, 1, 64, 32), 64),
    ((1, 128, 1, 32), 64),
)


def lanes_of(storage: str, x_shape: tuple[int, ...]) -> int:
    return 1 if storage == "buffer" or x_shape[1] == 1 else 4


@pytest.fixture
def force(device: pwconv.Device, monkeypatch: pytest.MonkeyPatch):
    """Make layers take the variants of one family and tile, where the device can run them."""

    def force(family: str, tile: str) -> None:
        for variant in shaders.variants(family, tile=tile, dtype="fp32"):
            lack = variant.unmet(device.info.limits, device.info.features)
            if lack:
                pytest.skip(f"{device.info.name} lacks {lack}")

        def choose(context, problem, weight_storage):
            able = matmul.candidates(context, problem, weight_storage).values()
            (variant,) = (v for v in able if v.family == family and v.axes["tile"] == tile)
            return Choice(variant, (8, 8, 1), "the test asks for it")

        monkeypatch.setattr(matmul, "choose", choose)

    return force


def run_poisoned(layer: pwconv.Linear, x: np.ndarray, storage: str) -> pwconv.Tensor:
    out_shape = (*x.shape[:-1], layer.out_features)
    out = texels.poisoned(layer.device, out_shape, layer.dtype, storage)
    return layer(layer.device.tensor(x, storage=storage), out=out)


@pytest.fixture
def check(device, rng):
    """Check a layer on rows of a shape, and that its infinite weight meets no padding."""

    def check(x_shape, n, storage, dtype, weight_storage):
        x, weight, bias = random_linear(rng, x_shape, (n, x_shape[-1]), dtype)

        def run(weight):
            packed = pwconv.pack_linear_weight(weight, storage=weight_storage, device=device)
            layer = pwconv.Linear(packed, bias, activation="silu", device=device)
            return run_poisoned(layer, x, storage).numpy()

        assert_within(
            run(weight),
            reference.linear(x, weight, bias, activation="silu"),
            reference.linear_bound(x, weight, bias, activation="silu", dtype=dtype),
        )
        check_infinite_weight(run, x, weight)

    return check


@pytest.mark.parametrize(
    ("storage", "family", "tile", "dtype", "weight"), sweep(TILES, SMALL_TILES, *WAYS)
)
def test_every_tile(device, force, check, storage, family, tile, dtype, weight):
    """In two pipelines: edges, a step of K and a part, parts of blocks; and all of them whole."""
    force(family, tile)
    (variant,) = shaders.variants(family, tile=tile, dtype="fp32", weight=weight)
    step = step_along_k(variant)
    many = variant.defines.get("LANES", 1) != 1  # a texture with more than one of C has four lanes
    for rows, n, k in ((7, 27, step + 1), (37, 101, 2 * step - 1), (131, 35, step + 3)):
        check((2, rows, 2, k) if many else (2, 1, rows, k), n, storage, dtype, weight)
    check((1, 128, 1, 2 * step) if many else (1, 1, 128, 2 * step), 64, storage, dtype, weight)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("dtype", "weight"), WAYS)
@pytest.mark.parametrize(("storage", "family", "tile"), TILES)
def test_every_tile_at_every_shape(device, force, check, storage, family, tile, dtype, weight):
    """Each with as many steps along K as it has, and so a pipeline of its own."""
    force(family, tile)
    (variant,) = shaders.variants(family, tile=tile, dtype="fp32", weight=weight)
    for x_shape, n in TILE_SHAPES:
        if lanes_of(storage, x_shape) == variant.defines.get("LANES", 1):
            check(x_shape, n, storage, dtype, weight)


@pytest.mark.parametrize(
    ("storage", "family", "tile", "weight_storage"),
    sweep(TILES, SMALL_TILES, ("buffer",), ("texture2d",), always=0),
)
def test_every_tile_with_batched_weights(device, rng, force, storage, family, tile, weight_storage):
    force(family, tile)
    (variant,) = shaders.variants(family, tile=tile, dtype="fp32", weight=weight_storage)
    rows = 1 if variant.defines.get("LANES") == 1 else 5
    x, weight, bias = random_linear(rng, (3, rows, 2, 13), (3, 6, 13), "float32")
    packed = pwconv.pack_linear_weight(weight, storage=weight_storage, device=device)
    layer = pwconv.Linear(packed, bias, device=device)
    assert_within(
        run_poisoned(layer, x, storage).numpy(),
        reference.linear(x, weight, bias),
        reference.linear_bound(x, weight, bias),
    )


@pytest.mark.parametrize(("storage", "family", "tile"), sweep(TILES, SMALL_TILES, (), always=0))
def test_half_accumulation(device, rng, force, storage, family, tile):
    (variant,) = shaders.variants(family, tile=tile, dtype="fp32", weight="buffer")
    rows = 1 if variant.defines.get("LANES") == 1 else 5
    x, weight, bias = random_linear(rng, (2, rows, 3, 37), (23, 37), "float16")
    settings = {"accumulate": "float16", "device": device}
    if "shaderFloat16" not in device.info.features:
        with pytest.raises(
            pwconv.UnsupportedError, match="accumulate='float16' needs shaderFloat16"
        ):
            pwconv.Linear(weight, bias, **settings)
        return
    force(family, tile)
    y = run_poisoned(pwconv.Linear(weight, bias, **settings), x, storage)
    assert_within(
        y.numpy(),
        reference.linear(x, weight, bias),
        reference.linear_bound(x, weight, bias, dtype="float16", accumulate="float16"),
    )


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float16", marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("leading", [(), (1,), (7,), (3, 5), (2, 3, 5), (2, 1, 3, 2)], ids=str)
@pytest.mark.parametrize(("k", "n"), [(1, 1), (13, 7), (8, 6), (12, 16), (31, 2)])
def test_leading_axes(device, rng, leading, k, n, dtype):
    x, weight, bias = random_linear(rng, (*leading, k), (n, k), dtype)
    check_linear(pwconv.Linear(weight, bias, device=device), x, weight, bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axes", [(), (1,), (5,), (2, 5), (5, 2), (2, 3, 2)], ids=str)
def test_batched_weights(device, rng, axes, dtype):
    x, weight, bias = random_linear(rng, (3, *axes, 13), (3, 7, 13), dtype)
    check_linear(pwconv.Linear(weight, bias, device=device), x, weight, bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 5), (64, 32), (67, 33), (515, 131)])
@pytest.mark.parametrize("rows", [1, 2, 8])
def test_few_rows(device, rng, rows, k, n, dtype):
    x, weight, bias = random_linear(rng, (rows, k), (n, k), dtype)
    layer = pwconv.Linear(weight, bias, activation="gelu", device=device)
    for storage in ("auto", *STORAGES):
        assert "_sliced_" in layer.explain(x.shape, storage).variant
    check_linear(layer, x, weight, bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "activation",
    [None, "relu", "hardswish", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh", ("clamp", 0.5, 2)],
    ids=str,
)
def test_activations(device, rng, activation, dtype):
    x, weight, bias = random_linear(rng, (5, 9, 6), (7, 6), dtype)
    x *= np.linspace(0.01, 12, 9).astype(dtype)[:, None]  # near zero, at the knees, and saturated
    layer = pwconv.Linear(weight, bias, activation=activation, device=device)
    check_linear(layer, x, weight, bias, storage="texture3d" if dtype == "float32" else "buffer")


@settings(max_examples=10)
@given(data=st.data())
def test_some_shapes(device, data):
    check_any_shape(device, data)


@pytest.mark.exhaustive
@settings(max_examples=40)
@given(data=st.data())
def test_any_shape(device, data):
    check_any_shape(device, data)


def check_any_shape(device, data):
    draw = data.draw
    dtype = draw(st.sampled_from(DTYPES))
    leading = tuple(draw(st.lists(st.integers(1, 6), max_size=4)))
    k, n = draw(st.integers(1, 41)), draw(st.integers(1, 41))
    batched = bool(leading) and draw(st.booleans())
    weight_shape = (leading[0], n, k) if batched else (n, k)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, weight, bias = random_linear(rng, (*leading, k), weight_shape, dtype)
    with_bias = bias if draw(st.booleans()) else None
    check_linear(pwconv.Linear(weight, with_bias, device=device), x, weight, with_bias)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", [(5,), (6, 5), (2, 3, 5), (1, 4, 5), (2, 3, 2, 5)], ids=str)
def test_padding_is_not_read(device, rng, shape, storage):
    """What lies past K, and in lanes past C, is another tensor's, or nobody's: NaN, say."""
    weight = rng.standard_normal((7, 5)).astype(np.float32)
    x = texels.poisoned(device, shape, "float32", storage)
    identity = np.eye(5, dtype=np.float32)
    values = rng.standard_normal(shape).astype(np.float32)
    # The identity writes what x holds, and leaves its padding as it is or as it falls out.
    pwconv.Linear(identity, device=device)(device.tensor(values, storage=storage), out=x)
    y = pwconv.Linear(weight, device=device)(x).numpy()
    assert_within(y, reference.linear(values, weight), reference.linear_bound(values, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rows", [1, 9])
def test_infinities_and_nan_stay_in_their_rows(device, storage, rows, dtype):
    x = np.ones((3, rows, 5), dtype)
    x[1, 0, 4], x[2, 0, 1] = np.inf, np.nan
    weight = np.ones((6, 5), dtype)
    y = pwconv.Linear(weight, activation="relu", device=device)(device.tensor(x, storage=storage))
    expected = np.full((3, rows, 6), 5, dtype)
    expected[1, 0], expected[2, 0] = np.inf, np.nan
    np.testing.assert_array_equal(y.numpy(), expected)


def test_half_results_round_to_nearest_even_and_overflow(device):
    one = np.ones((1, 2), np.float16)
    tie = pwconv.linear(np.array([1.0, 3 * 2.0**-11], np.float16), one, device=device)
    np.testing.assert_array_equal(tie, np.array([1 + 2.0**-9], np.float16))
    large = pwconv.linear(np.full(2, 60000, np.float16), one, device=device)
    assert np.isposinf(large).all()


def test_halves_that_share_words(device, rng):
    """Rows of one N in one row of a buffer: neighbours write halves of the same words at once."""
    x, weight, bias = random_linear(rng, (3, 67, 8), (1, 8), "float16")
    layer = pwconv.Linear(weight, bias, device=device)
    for _ in range(5):
        check_linear(layer, x, weight, bias, storage="buffer")


@pytest.mark.parametrize(
    "limits",
    [
        {"maxComputeWorkGroupInvocations": 128, "maxComputeWorkGroupSize": (128, 128, 64)},
        {"maxComputeWorkGroupCount": (2, 1, 1)},
    ],
    ids=["invocations", "groups"],
)
@pytest.mark.parametrize("rows", [2, 40])
def test_small_limits(device, rng, monkeypatch, limits, rows):
    """Limits that other devices have: a grid past maxComputeWorkGroupCount goes in parts."""
    context = inside.another_context(device)
    context.limits = {**device.info.limits, **limits}
    monkeypatch.setattr(device, inside.CONTEXT, context)
    x, weight, bias = random_linear(rng, (2, rows, 1, 11), (2, 137, 11), "float32")
    check_linear(pwconv.Linear(weight, bias, device=device), x, weight, bias)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", ["cpu", "discrete"])
def test_the_tile_follows_shape_and_device(device, monkeypatch, storage, kind):
    info = dataclasses.replace(device.info, type=kind)
    monkeypatch.setattr(inside.context(device), "info", info)

    def tile(shape: tuple[int, int, int, int], n: int) -> str:
        problem = Problem(storage, shape, (*shape[:3], n), FLOAT32, FLOAT32)
        return matmul.choose(inside.context(device), problem, "buffer").variant.axes["tile"]

    for shape in ((1, 8192, 1, 256), (1, 1, 8192, 256)):
        lanes = lanes_of(storage, shape)
        asked = {"storage": storage, "dtype": "float32", "lanes": lanes}
        ranked = inside.ranked_tiles("linear", info, **asked)
        assert tile(shape, 3072) == ranked[0]
        assert tile(shape, 4) != ranked[0]  # one n4: most of the first tile would be waste
        assert tile((1, 9, 1, 256) if lanes == 4 else (1, 1, 9, 256), 4) == ranked[-1]
    assert tile((1, 1, 1, 256), 64).startswith("m1n1s")
    assert tile((1, 8, 1, 256), 64).startswith("m4n1s")
