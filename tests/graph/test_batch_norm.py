"""Batch norm: its numbers by itself, and as part of the convolution before it."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from pwconv import reference
from support import inside
from support.accuracy import assert_within

C = 9
EPS = 1e-3


@pytest.fixture(params=["float32", "float16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def norm(rng) -> dict[str, np.ndarray]:
    return {
        "mean": rng.standard_normal(C).astype(np.float32),
        "variance": rng.uniform(0.1, 3, C).astype(np.float32),
        "weight": rng.standard_normal(C).astype(np.float32),
        "bias": rng.standard_normal(C).astype(np.float32),
    }


def scale_and_shift(norm: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the multiply-add of each channel that batch norm is, in float64."""
    wide = {name: array.astype(np.float64) for name, array in norm.items()}
    scale = wide["weight"] / np.sqrt(wide["variance"] + EPS)
    return scale, wide["bias"] - wide["mean"] * scale


def kinds(graph: pwconv.Graph) -> list[str]:
    program = inside.program(graph)
    return [program.network.nodes[i].operator.name for i in program.dispatches]


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_by_itself(device, rng, norm, dtype, storage):
    x = rng.standard_normal((2, C, 5, 7)).astype(dtype)
    graph = pwconv.Graph(device, dtype, storage=storage)
    value = graph.input("x", x.shape)
    graph.output("y", graph.batch_norm(value, **norm, eps=EPS, activation="relu"))
    scale, shift = scale_and_shift(norm)
    kernel = scale.astype(dtype).reshape(C, 1, 1, 1)
    call = {"weight": kernel, "bias": shift.astype(np.float32), "groups": C, "activation": "relu"}
    bound = reference.conv2d_bound(x, **call, dtype=dtype)
    assert_within(graph.run(x=x)["y"], reference.conv2d(x, **call), bound)


@pytest.mark.parametrize("kind", ["conv2d_pw", "conv2d", "conv2d_dw"])
def test_in_the_weights_before_it(device, rng, norm, dtype, kind):
    """Rounded once: the bound is that of a convolution by weights that were scaled in float64."""
    groups = C if kind == "conv2d_dw" else 1
    taps = (1, 1) if kind == "conv2d_pw" else (3, 3)
    weight = rng.standard_normal((C, C // groups, *taps)).astype(np.float32)
    bias = rng.standard_normal(C).astype(np.float32)
    x = rng.standard_normal((2, C, 5, 7)).astype(dtype)
    graph = pwconv.Graph(device, dtype)
    y = getattr(graph, kind)(graph.input("x", x.shape), weight, bias, padding=1)
    graph.output("y", graph.batch_norm(y, **norm, eps=EPS, activation="silu"))
    scale, shift = scale_and_shift(norm)
    call = {
        "weight": (weight * scale[:, None, None, None]).astype(dtype),
        "bias": (bias * scale + shift).astype(np.float32),
        "padding": 1,
        "groups": groups,
        "activation": "silu",
    }
    bound = reference.conv2d_bound(x, **call, dtype=dtype)
    assert_within(graph.run(x=x)["y"], reference.conv2d(x, **call), bound)
    assert kinds(graph) == [kind]
    assert graph.check(x=x).passed


@pytest.mark.parametrize("kind", ["conv2d", "conv2d_transposed"])
def test_in_the_weights_of_groups(device, rng, norm, kind):
    """In float16: bits are those of weights that numpy scales, in float64, and rounds once."""
    weight = rng.standard_normal((C, 3, 3, 3)).astype(np.float32)
    bias = rng.standard_normal(C).astype(np.float32)
    scale, shift = scale_and_shift(norm)
    of_weight = scale.reshape(C, 1, 1, 1)
    if kind == "conv2d_transposed":  # [C_in, C_out / groups, KH, KW]
        of_weight = scale.reshape(3, 1, 3).repeat(3, axis=1).reshape(C, 3, 1, 1)
    dtype = "float16"
    scaled = (weight * of_weight).astype(dtype), (bias * scale + shift).astype(np.float32)
    x = rng.standard_normal((2, C, 5, 7)).astype(dtype)
    graph = pwconv.Graph(device, dtype)
    value, add = graph.input("x", x.shape), getattr(graph, kind)
    y = add(value, weight, bias, padding=1, groups=3)
    graph.output("folded", graph.batch_norm(y, **norm, eps=EPS, activation="silu"))
    graph.output("scaled", add(value, *scaled, padding=1, groups=3, activation="silu"))
    found = graph.run(x=x)
    np.testing.assert_array_equal(found["folded"], found["scaled"])
    assert len(kinds(graph)) == 2
    assert graph.check(x=x).passed


@pytest.mark.parametrize("kind", ["conv2d_pw", "conv2d_dw", "conv2d_transposed"])
def test_after_the_sums(device, kind):
    """In float32, two in a row: where sum and bias cancel, rounded products of weights show."""
    weight = np.full((C, 1, 1, 1), 1 + 2.0**-23, np.float32)
    if kind != "conv2d_dw":
        weight = weight * np.eye(C, dtype=np.float32)[:, :, None, None]
    zeros, ones = np.zeros(C, np.float32), np.ones(C, np.float32)
    x = np.ones((1, C, 4, 4), np.float32)
    graph = pwconv.Graph(device)
    y = getattr(graph, kind)(graph.input("x", x.shape), weight, -ones)
    for scale in (3 * ones, 5 * ones):
        y = graph.batch_norm(y, zeros, ones, scale, zeros, eps=0.0)
    graph.output("y", y)
    np.testing.assert_array_equal(graph.run(x=x)["y"], 15 * 2.0**-23 * x)
    assert kinds(graph) == [kind]
    assert graph.check(x=x).passed


def test_where_it_stays_a_node(device, rng, norm, dtype):
    """After an activation, a value that is read again, an input; weights past float16's range."""
    graph = pwconv.Graph(device, dtype, fuse=False)
    weight = np.eye(C, dtype=np.float32)
    x = graph.input("x", (1, C, 2, 2))
    active = graph.conv2d_pw(x, weight, activation="relu")
    graph.output("active", graph.batch_norm(active, **norm))
    shared = graph.conv2d_pw(x, weight)
    graph.output("shared", graph.add(graph.batch_norm(shared, **norm), shared))
    graph.output("input", graph.batch_norm(x, **norm))
    huge = {**norm, "weight": np.full(C, np.finfo(dtype).max, dtype)}
    wide = graph.conv2d_pw(x, 16 * weight)
    graph.output("huge", graph.batch_norm(wide, **huge, eps=1.0))
    x_array = np.full((1, C, 2, 2), 2.0**-20, dtype)
    assert graph.check(x=x_array).passed
    assert kinds(graph).count("conv2d_dw") == (4 if dtype == "float16" else 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mean": np.ones((C, 1), np.float32)}, ValueError, r"mean has shape \(9, 1\); it must be"),
        ({"weight": np.ones(C + 1, np.float32)}, ValueError, r"weight has shape \(10,\)"),
        ({"variance": np.full(C, -1, np.float32)}, ValueError, "variance has -1; with eps"),
        ({"eps": float("nan")}, ValueError, "eps is nan"),
        ({"bias": np.ones(C, np.int32)}, TypeError, "bias has dtype int32"),
        ({"mean": np.ones(0, np.float32)}, ValueError, "mean has shape"),
    ],
)
def test_wrong_arguments(device, norm, change, error, message):
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, C, 2, 2))
    with pytest.raises(error, match=f"node 'batch_norm_1': {message}"):
        graph.batch_norm(x, **{**norm, **change})


def test_another_count_of_channels(device, norm):
    graph = pwconv.Graph(device)
    with pytest.raises(ValueError, match="node 'norm': x has shape"):
        graph.batch_norm(graph.input("x", (1, C + 1, 2, 2)), **norm, name="norm")
