"""The kernel's numbers: every variant, shape class, activation, stride and padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pwconv
from pwconv import heuristics, shaders
from pwconv.dtypes import axis_name
from pwconv.heuristics import Choice
from pwconv.matrix_units import has_flexible_matrix, plan_matrices
from pwconv.ops import matmul
from pwconv.ops.matmul import step_along_k
from support import inside
from support.accuracy import check_infinite_weight, check_layer, random_problem
from support.mirror import Mirror, random_weight
from support.sweep import sweep

DTYPES = ("float32", "float16")
ACTIVATIONS = (
    None,
    "relu",
    "relu6",
    "hardswish",
    "silu",
    "gelu",
    "gelu_tanh",
    "sigmoid",
    "tanh",
    ("clamp", -0.25, 0.75),
    ("clamp", 0.5, 0.5),
    ("leaky_relu", 0.1),
    ("leaky_relu", -2.0),
)
ACCURACY_SHAPES = ((16, 32, 8), (32, 16, 8), (48, 96, 16), (96, 48, 16), (13, 27, 8), (33, 17, 8))
EDGETAM = (
    (48, 96, 256),
    (96, 48, 256),
    (96, 192, 128),
    (192, 96, 128),
    (192, 384, 64),
    (384, 192, 64),
    (384, 768, 32),
    (768, 384, 32),
    (48, 256, 256),
    (256, 32, 256),
    (96, 256, 128),
    (256, 64, 128),
)
TILES = tuple(
    (storage, family, variant.axes["tile"])
    for storage, families in inside.CONV_FAMILIES.items()
    for family in families
    for variant in shaders.variants(family, dtype="fp32", weight="buffer")
)


# Smaller than any tile, ragged in every direction, and whole steps of K, blocks of M and of N.
TILE_SHAPES = (
    (1, 1, (1, 1)),
    (4, 4, (8, 8)),
    (13, 27, (5, 7)),
    (9, 37, (3, 11)),
    (130, 200, (9, 31)),
    (96, 96, (16, 16)),
)
SMALL_TILES = ("m1n1k1", "32x32x32s4")


@pytest.fixture
def force(device: pwconv.Device, monkeypatch: pytest.MonkeyPatch):
    """Make layers take the variants of one family and tile, where the device can run them."""

    def force(family: str, tile: str, **axes: str) -> None:
        for variant in shaders.variants(family, tile=tile, **axes):
            lack = variant.unmet(device.info.limits, device.info.features)
            if lack:
                pytest.skip(f"{device.info.name} lacks {lack}")
            if family == "conv2d_pw_coopmat" and not plan_matrices(variant, device.info):
                pytest.skip(f"{device.info.name} lists no matrix product that divides {tile}")
            if family == "conv2d_pw_coopmat2" and not has_flexible_matrix(variant, device.info):
                pytest.skip(f"{device.info.name} lists no flexible matrix that divides {tile}")

        def choose(context, problem, weight_storage):
            able = matmul.candidates(context, problem, weight_storage).values()
            (variant,) = (v for v in able if v.family == family and v.axes["tile"] == tile)
            return Choice(variant, (8, 8, 1), "the test asks for it")

        monkeypatch.setattr(matmul, "choose", choose)
        # A scale is folded wherever it can be.
        monkeypatch.setattr(heuristics, "scale_pays", lambda *_: True)

    return force


def can_accumulate_in_half(device: pwconv.Device) -> bool:
    return "shaderFloat16" in device.info.features


@pytest.mark.parametrize(("dtype", "with_bias"), [("float32", True), ("float16", False)])
@pytest.mark.parametrize(("c_in", "c_out", "size"), ACCURACY_SHAPES)
def test_accuracy_shapes(device, rng, c_in, c_out, size, dtype, with_bias):
    x, weight, bias = random_problem(rng, c_in, c_out, (size, size), dtype, batch=1)
    layer = pwconv.PointwiseConv2d(weight, bias if with_bias else None, device=device)
    check_layer(layer, x, weight, bias if with_bias else None)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("c_in", "c_out", "size"), EDGETAM)
def test_edgetam_shapes(device, rng, c_in, c_out, size, dtype):
    x, weight, bias = random_problem(rng, c_in, c_out, (size, size), dtype, batch=1)
    layer = pwconv.PointwiseConv2d(weight, bias, activation="gelu", device=device)
    check_layer(layer, x, weight, bias)


@pytest.mark.parametrize(("dtype", "storage"), [("float32", "texture3d"), ("float16", "buffer")])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(device, rng, activation, dtype, storage):
    x, weight, bias = random_problem(rng, 5, 6, (7, 9), dtype)
    x *= np.linspace(0.01, 12, 9).astype(dtype)  # near zero, around the knees, and saturated
    layer = pwconv.PointwiseConv2d(
        weight, bias, activation=activation, storage=storage, device=device
    )
    check_layer(layer, x, weight, bias)


def first_infinite(scale: np.ndarray) -> np.ndarray:
    """Return a scale whose first channel is infinite, so that no sum has two infinities."""
    return np.concatenate([np.full_like(scale[:, :1], np.inf), scale[:, 1:]], axis=1)


WAYS = [(dtype, weight) for dtype in DTYPES for weight in ("buffer", "texture2d")]


@pytest.fixture
def check(device, rng):
    """Check a layer of [c_in, c_out, size], and that its infinite weight meets no padding."""

    def check(shape, dtype, weight_storage, **settings):
        c_in, c_out, size = shape
        x, weight, bias = random_problem(rng, c_in, c_out, size, dtype, batch=2)

        def make(weight):
            packed = pwconv.pack_linear_weight(weight, storage=weight_storage, device=device)
            return pwconv.PointwiseConv2d(
                packed, bias, activation="silu", device=device, **settings
            )

        check_layer(make(weight), x, weight, bias)
        if "stride" not in settings:
            last = np.moveaxis(x, 1, -1)
            check_infinite_weight(lambda w: np.moveaxis(make(w)(x), 1, -1), last, weight)

    return check


@pytest.mark.parametrize(
    ("storage", "family", "tile", "dtype", "weight"), sweep(TILES, SMALL_TILES, *WAYS)
)
def test_every_tile(device, force, check, storage, family, tile, dtype, weight):
    """On edges: one step of K and a part, and parts of blocks. All take one pipeline."""
    force(family, tile, dtype=axis_name(np.dtype(dtype)))
    (variant,) = shaders.variants(family, tile=tile, dtype="fp32", weight="buffer")
    step = step_along_k(variant)
    for shape in (
        (step + 1, 1, (17, 1)),
        (2 * step - 1, 27, (5, 7)),
        (step + 2, 37, (3, 11)),
        (2 * step - 3, 200, (9, 31)),
    ):
        check(shape, dtype, weight, storage=storage)


@pytest.mark.parametrize(
    ("storage", "family", "tile", "dtype"),
    sweep(TILES, SMALL_TILES, ("float32",), ("float16",), always=0),
)
def test_every_tile_scales_and_adds_a_residual(device, rng, force, storage, family, tile, dtype):
    """Of whole steps along K, so many that they are a loop, and at its end padding and residual."""
    force(family, tile, dtype=axis_name(np.dtype(dtype)))
    (variant,) = shaders.variants(family, tile=tile, dtype="fp32", weight="buffer")
    k = 66 * step_along_k(variant)
    mirror = Mirror(device, dtype, storage)
    arrays = {"x": (2, k, 5, 7), "scale": (2, k, 1, 1), "residual": (2, 27, 7, 11)}
    x, scale, residual = (mirror.input(name, shape) for name, shape in arrays.items())
    weight, bias = random_weight(rng, dtype, 27, k)
    settings = {"activation": "relu", "residual": residual, "padding": (1, 2)}
    mirror.output("y", mirror.conv2d_pw(mirror.mul(x, scale), weight, bias, **settings))
    inputs = {n: rng.standard_normal(s).astype(dtype) for n, s in arrays.items()}
    mirror.check(inputs)
    assert mirror.families() == [family]
    # An infinity times what is zero past K is NaN.
    inputs["scale"] = first_infinite(inputs["scale"])
    assert not np.isnan(mirror.graph.run(**inputs)["y"][:, :, 1:-1, 2:-2]).any()


@pytest.mark.parametrize(
    ("storage", "family", "tile", "dtype"),
    sweep(TILES, SMALL_TILES, ("float32",), ("float16",), always=0),
)
def test_every_tile_gathers_taps(device, rng, force, storage, family, tile, dtype):
    force(family, tile, dtype=axis_name(np.dtype(dtype)))
    mirror = Mirror(device, dtype, storage)
    weight, bias = random_weight(rng, dtype, 9, 13, 3, 3)
    x = mirror.input("x", (2, 13, 5, 7))
    mirror.output("y", mirror.conv2d(x, weight, bias, stride=(1, 2), padding=1))
    mirror.check({"x": rng.standard_normal((2, 13, 5, 7)).astype(dtype)})
    assert mirror.families() == [family]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("dtype", "weight"), WAYS)
@pytest.mark.parametrize(("storage", "family", "tile"), TILES)
def test_every_tile_at_every_shape(device, force, check, storage, family, tile, dtype, weight):
    """Each with as many steps along K as it has, and so a pipeline of its own."""
    force(family, tile, dtype=axis_name(np.dtype(dtype)))
    for shape in TILE_SHAPES:
        check(shape, dtype, weight, storage=storage)
    check((13, 27, (5, 7)), dtype, weight, storage=storage, stride=(2, 1), padding=(1, 2))


MATRIX_VARIANTS = shaders.variants("conv2d_pw_coopmat") + shaders.variants("conv2d_pw_coopmat2")


@pytest.mark.parametrize("variant", MATRIX_VARIANTS, ids=lambda v: v.name)
def test_every_tile_of_the_matrix_units(device, rng, force, variant):
    force(variant.family, variant.axes["tile"])
    for c_in, c_out, size in TILE_SHAPES:
        batch = 1 if size == (1, 1) else 2  # samples of one position would share other tiles
        x, weight, bias = random_problem(rng, c_in, c_out, size, "float16", batch=batch)
        for activation in ACTIVATIONS:
            layer = pwconv.PointwiseConv2d(
                weight, bias, activation=activation, storage="buffer", device=device
            )
            check_layer(layer, x, weight, bias)
        mirror = Mirror(device, "float16", "buffer")
        pair = mirror.input("x", x.shape), mirror.input("r", (batch, c_out, *size))
        y = mirror.conv2d_pw(pair[0], weight, bias, activation="silu", residual=pair[1])
        mirror.output("y", y)
        r = rng.standard_normal((batch, c_out, *size)).astype(np.float16)
        mirror.check({"x": x, "r": r})


COOPMAT_VARIANTS = shaders.variants("conv2d_pw_coopmat")


@pytest.mark.parametrize("variant", COOPMAT_VARIANTS, ids=lambda v: v.name)
def test_matrix_units_scale_as_a_product_would(device, rng, monkeypatch, force, variant):
    """Rounded to halves before it is multiplied: equal bits, folded or not."""
    force(variant.family, variant.axes["tile"])
    for c_in, c_out, size in TILE_SHAPES:
        batch = 1 if size == (1, 1) else 2  # samples of one position would share other tiles
        x, weight, bias = random_problem(rng, c_in, c_out, size, "float16", batch=batch)
        scale = rng.standard_normal((batch, c_in, 1, 1)).astype(np.float16)
        finite, infinite = [], []
        for pays, families in (
            (True, [variant.family]),
            (False, ["elementwise", variant.family]),
        ):
            monkeypatch.setattr(heuristics, "scale_pays", lambda *_, pays=pays: pays)
            mirror = Mirror(device, "float16", "buffer")
            scaled = mirror.mul(mirror.input("x", x.shape), mirror.input("scale", scale.shape))
            mirror.output("y", mirror.conv2d_pw(scaled, weight, bias))
            finite.append(mirror.check({"x": x, "scale": scale})["y"])
            infinite.append(mirror.graph.run(x=x, scale=first_infinite(scale))["y"])
            assert mirror.families() == families
        np.testing.assert_array_equal(*finite)
        assert not np.isnan(infinite[1]).any()
        np.testing.assert_array_equal(*infinite)


@pytest.mark.parametrize(("storage", "family", "tile"), sweep(TILES, SMALL_TILES, (), always=0))
def test_half_accumulation(device, rng, force, storage, family, tile):
    settings = {"accumulate": "float16", "storage": storage, "device": device}
    x, weight, bias = random_problem(rng, 37, 23, (5, 7), "float16", batch=2)
    packed = pwconv.pack_linear_weight(weight, storage="buffer", device=device)
    if not can_accumulate_in_half(device):
        with pytest.raises(
            pwconv.UnsupportedError, match="accumulate='float16' needs shaderFloat16"
        ):
            pwconv.PointwiseConv2d(packed, bias, **settings)
        return
    force(family, tile, dtype="fp16acc16")
    layer = pwconv.PointwiseConv2d(packed, bias, **settings)
    check_layer(layer, x, weight, bias, accumulate="float16")


def test_half_accumulation_differs_from_single(device, rng):
    if not can_accumulate_in_half(device):
        pytest.skip(f"{device.info.name} lacks the feature shaderFloat16")
    x, weight, _ = random_problem(rng, 512, 8, (8, 8), "float16")
    half = pwconv.PointwiseConv2d(weight, accumulate="float16", device=device)(x)
    single = pwconv.PointwiseConv2d(weight, device=device)(x)
    assert np.abs(half - single).max() > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [None, 1, 2, 5])
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (13, 1), (11, 23)])
def test_batches_and_ragged_sizes(device, rng, batch, size, dtype):
    x, weight, bias = random_problem(rng, 7, 5, size, dtype, batch=batch)
    check_layer(pwconv.PointwiseConv2d(weight, bias, device=device), x, weight, bias)


@settings(max_examples=10)
@given(data=st.data())
def test_some_geometries(device, data):
    check_any_geometry(device, data)


@pytest.mark.exhaustive
@settings(max_examples=40)
@given(data=st.data())
def test_any_geometry(device, data):
    check_any_geometry(device, data)


def check_any_geometry(device, data):
    draw = data.draw
    dtype = draw(st.sampled_from(DTYPES))
    stride = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    padding = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    size = (draw(st.integers(1, 19)), draw(st.integers(1, 19)))
    c_in, c_out = draw(st.integers(1, 41)), draw(st.integers(1, 41))
    activation = draw(st.sampled_from(ACTIVATIONS))
    batch = draw(st.sampled_from([None, 1, 2, 3]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, weight, bias = random_problem(rng, c_in, c_out, size, dtype, batch=batch)
    with_bias = bias if draw(st.booleans()) else None
    layer = pwconv.PointwiseConv2d(
        weight, with_bias, stride=stride, padding=padding, activation=activation, device=device
    )
    check_layer(layer, x, weight, with_bias)


def test_infinite_inputs_leave_padding_lanes_zero(device):
    """An infinity times the packed weight's zeros is NaN, in lanes that nobody asked for."""
    x = np.full((1, 3, 2, 2), np.inf, np.float32)
    weight = np.ones((5, 3), np.float32)
    layer = pwconv.PointwiseConv2d(weight, device=device)
    out = layer(device.tensor(x))
    np.testing.assert_array_equal(out.numpy(), np.full((1, 5, 2, 2), np.inf, np.float32))
    following = pwconv.PointwiseConv2d(np.zeros((4, 5), np.float32), device=device)
    finite = following(layer(device.tensor(np.ones((1, 3, 2, 2), np.float32)))).numpy()
    np.testing.assert_array_equal(finite, np.zeros((1, 4, 2, 2), np.float32))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_nan_goes_through(device, activation):
    x = np.array([np.nan, 1.0], np.float32).reshape(1, 1, 2)
    y = pwconv.conv2d_pw(x, np.ones((1, 1), np.float32), activation=activation, device=device)
    assert np.isnan(y[0, 0, 0])
    assert np.isfinite(y[0, 0, 1])


@pytest.mark.parametrize("activation", ["tanh", "gelu", "gelu_tanh", "sigmoid", "silu"])
def test_large_arguments_stay_finite(device, activation):
    x = np.array([-1e4, -100, -50, 50, 100, 1e4], np.float32).reshape(1, 1, 6)
    weight = np.ones((1, 1), np.float32)
    layer = pwconv.PointwiseConv2d(weight, activation=activation, device=device)
    assert np.isfinite(check_layer(layer, x, weight, None)).all()


def test_half_results_round_to_nearest_even(device):
    """0.5 + 2^-12 lies between two halves, nearer to the lower; 1 + 3·2^-11 is a tie."""
    x = np.array([[[0.5]], [[2.0**-12]]], np.float16)
    y = pwconv.conv2d_pw(x, np.ones((1, 2), np.float16), device=device)
    assert y[0, 0, 0] == np.float16(0.5)
    x = np.array([[[1.0]], [[3 * 2.0**-11]]], np.float16)
    y = pwconv.conv2d_pw(x, np.ones((1, 2), np.float16), device=device)
    assert y[0, 0, 0] == np.float16(1 + 2.0**-9)


def test_half_overflow_is_infinite(device):
    x = np.full((2, 1, 1), 60000, np.float16)
    y = pwconv.conv2d_pw(x, np.ones((1, 2), np.float16), device=device)
    assert np.isposinf(y).all()


@pytest.mark.parametrize(
    "limits",
    [
        {"maxComputeWorkGroupInvocations": 128, "maxComputeWorkGroupSize": (128, 128, 64)},
        {"maxComputeWorkGroupCount": (3, 2, 1)},
        {"maxComputeWorkGroupInvocations": 128, "maxComputeWorkGroupCount": (2, 65535, 2)},
    ],
    ids=["invocations", "groups", "both"],
)
def test_small_limits(device, rng, monkeypatch, limits):
    """Limits that other devices have: a grid past maxComputeWorkGroupCount goes in parts."""
    context = inside.another_context(device)
    context.limits = {**device.info.limits, **limits}
    monkeypatch.setattr(device, inside.CONTEXT, context)
    x, weight, bias = random_problem(rng, 11, 37, (13, 19), "float32", batch=3)
    check_layer(pwconv.PointwiseConv2d(weight, bias, device=device), x, weight, bias)
