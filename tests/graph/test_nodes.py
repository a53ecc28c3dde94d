"""Each node's numbers: ragged shapes, both types, both storages, into poisoned outputs."""

from __future__ import annotations

import re

import numpy as np
import pytest

import pwconv
from support import inside, texels
from support.accuracy import random_linear
from support.mirror import Mirror, random_weight

SHAPES = ((2, 5, 7, 9), (13, 4, 3), (1, 4, 8, 8), (3, 1, 1, 1), (1, 3, 1, 17))


@pytest.fixture
def check(device, rng, monkeypatch, dtype, storage):
    """Run a graph on tensors; assert every element, and zeros in lanes past C."""

    def check(mirror: Mirror, shapes: dict[str, tuple[int, ...]], scale: float = 1.0) -> None:
        arrays = {
            name: (scale * rng.standard_normal(shape)).astype(dtype)
            for name, shape in shapes.items()
        }
        tensors = {name: device.tensor(a, storage=storage) for name, a in arrays.items()}
        with monkeypatch.context() as patch:
            patch.setattr(*inside.slots.graph_empty, texels.poisoned)
            results = mirror.graph.run(**tensors)
        for name, array in mirror.check(arrays, results).items():
            if storage == "texture3d":
                whole = array.reshape(texels.stored_shape(array.shape))
                lanes = texels.channels_packed(whole)
                np.testing.assert_array_equal(texels.read(results[name]), lanes)

    return check


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["add", "mul"])
def test_two_operands(device, dtype, storage, check, kind, shape):
    mirror = Mirror(device, dtype, storage)
    pooled = (*shape[:-2], 1, 1)
    x, y, s = (mirror.input(n, a) for n, a in (("x", shape), ("y", shape), ("s", pooled)))
    node = getattr(mirror, kind)
    mirror.output("same", node(x, y))
    mirror.output("scaled", node(x, s, "sigmoid"))
    mirror.output("swapped", node(s, y, ("leaky_relu", 0.1)))
    mirror.output("itself", node(x, x))
    check(mirror, {"x": shape, "y": shape, "s": pooled})


@pytest.mark.parametrize("shape", [(17,), (5, 6), (1, 9), (2, 3, 1, 2, 5)], ids=str)
def test_element_by_element_on_any_axes(device, dtype, storage, check, shape):
    mirror = Mirror(device, dtype, storage)
    x, y = mirror.input("x", shape), mirror.input("y", shape)
    mirror.output("sum", mirror.add(x, y, "silu"))
    mirror.output("product", mirror.mul(x, y))
    mirror.output("activated", mirror.activation(y, "sigmoid"))
    check(mirror, {"x": shape, "y": shape})


@pytest.mark.parametrize("name", ["sigmoid", "gelu", "relu6", ("clamp", 0.5, 2.0)], ids=str)
def test_activation(device, dtype, storage, check, name):
    mirror = Mirror(device, dtype, storage)
    mirror.output("y", mirror.activation(mirror.input("x", (2, 5, 7, 9)), name))
    check(mirror, {"x": (2, 5, 7, 9)}, scale=3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_global_avg_pool(device, dtype, storage, check, shape):
    mirror = Mirror(device, dtype, storage)
    mirror.output("y", mirror.global_avg_pool(mirror.input("x", shape)))
    check(mirror, {"x": shape})


def test_global_avg_pool_of_many_positions(device, dtype, storage, check):
    mirror = Mirror(device, dtype, storage)
    mirror.output("y", mirror.global_avg_pool(mirror.input("x", (1, 6, 61, 67))))
    check(mirror, {"x": (1, 6, 61, 67)})


def test_global_max_pool(device, rng, dtype, storage):
    x = rng.standard_normal((2, 5, 7, 9)).astype(dtype)
    x[0, 1], x[1, 2, 3, 4] = -np.inf, np.nan
    graph = pwconv.Graph(device, dtype, storage=storage)
    graph.output("y", graph.global_max_pool(graph.input("x", x.shape)))
    np.testing.assert_array_equal(graph.run(x=x)["y"], x.max((2, 3), keepdims=True))
    assert graph.check(x=x).passed


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_upsample(device, dtype, storage, check, shape, scale):
    mirror = Mirror(device, dtype, storage)
    mirror.output("y", mirror.upsample(mirror.input("x", shape), scale))
    check(mirror, {"x": shape})


@pytest.mark.parametrize(
    "channels", [(4, 8), (3, 5), (1, 1, 1, 1, 1, 1, 1), (7, 1, 2, 9, 4), (5,), (1, 16, 1)], ids=str
)
def test_concat(device, dtype, storage, check, channels):
    mirror = Mirror(device, dtype, storage)
    shapes = {f"x{i}": (2, c, 5, 7) for i, c in enumerate(channels)}
    mirror.output("y", mirror.concat([mirror.input(n, s) for n, s in shapes.items()]))
    check(mirror, shapes)


def test_concat_of_one_value_twice(device, dtype, storage, check):
    mirror = Mirror(device, dtype, storage)
    x = mirror.input("x", (3, 5, 7))
    mirror.output("y", mirror.concat([x, x]))
    check(mirror, {"x": (3, 5, 7)})


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (0, 13), (3, 9), (12, 13), (5, 6)])
def test_slice(device, dtype, storage, check, start, stop):
    mirror = Mirror(device, dtype, storage)
    mirror.output("y", mirror.slice(mirror.input("x", (2, 13, 5, 7)), start, stop))
    check(mirror, {"x": (2, 13, 5, 7)})


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (7, 7), (1, 4)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise(device, rng, dtype, storage, check, kernel, stride):
    mirror = Mirror(device, dtype, storage)
    weight, bias = random_weight(rng, dtype, 6, 1, *kernel)
    for name, shape in (("x", (2, 6, 9, 11)), ("small", (6, 4, 7))):
        x = mirror.input(name, shape)
        padding = (kernel[0] // 2, kernel[1] // 2 + 1)
        y = mirror.conv2d_dw(x, weight, bias, stride=stride, padding=padding, activation="silu")
        mirror.output(f"y_{name}", y)
    plain = mirror.conv2d_dw(mirror.input("z", (1, 6, 8, 8)), weight, stride=(1, stride))
    mirror.output("plain", plain)
    check(mirror, {"x": (2, 6, 9, 11), "small": (6, 4, 7), "z": (1, 6, 8, 8)})


@pytest.mark.parametrize("channels", [(3, 24), (5, 7), (4, 1), (1, 6)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_dense(device, rng, dtype, storage, check, channels, stride):
    mirror = Mirror(device, dtype, storage)
    c_in, c_out = channels
    weight, bias = random_weight(rng, dtype, c_out, c_in, 3, 3)
    x, r = mirror.input("x", (2, c_in, 9, 11)), mirror.input("r", (2, c_out, 9, 11))
    y = mirror.conv2d(x, weight, bias, stride=stride, padding=1, activation="gelu")
    mirror.output("y", y)
    mirror.output("sum", mirror.conv2d(x, weight, padding=(1, 1), residual=r))
    check(mirror, {"x": (2, c_in, 9, 11), "r": (2, c_out, 9, 11)})


def test_dense_kernels_of_other_sizes(device, rng, dtype, storage, check):
    mirror = Mirror(device, dtype, storage)
    x = mirror.input("x", (1, 3, 10, 12))
    for kernel, stride, padding in (((1, 1), 1, 0), ((2, 5), (2, 3), (0, 4)), ((7, 7), 4, 3)):
        weight, bias = random_weight(rng, dtype, 9, 3, *kernel)
        name = f"y{kernel[0]}"
        mirror.output(name, mirror.conv2d(x, weight, bias, stride=stride, padding=padding))
    check(mirror, {"x": (1, 3, 10, 12)})


@pytest.mark.parametrize(
    "axes", [(), (7,), (1,), (2, 5), (1, 70), (2, 3, 5), (2, 1, 2, 3)], ids=str
)
def test_linear(device, rng, dtype, storage, check, axes):
    shape = (*axes, 13)
    mirror = Mirror(device, dtype, storage)
    x = mirror.input("x", shape)
    _, weight, bias = random_linear(rng, shape, (21, 13), dtype)
    mirror.output("y", mirror.linear(x, weight, bias, activation="gelu"))
    mirror.output("plain", mirror.linear(x, weight[:3]))
    check(mirror, {"x": shape})


@pytest.mark.parametrize("axes", [(), (5,), (5, 1), (2, 5), (2, 1, 3)], ids=str)
def test_batched_linear(device, rng, dtype, storage, check, axes):
    shape = (3, *axes, 13)
    mirror = Mirror(device, dtype, storage)
    _, weight, bias = random_linear(rng, shape, (3, 10, 13), dtype)
    mirror.output("y", mirror.linear(mirror.input("x", shape), weight, bias, activation="silu"))
    if storage == "texture3d" and len(shape) < 4:
        says = r"node 'linear_1': x has shape \(3, .*give x four axes"
        with pytest.raises(pwconv.UnsupportedError, match=says):
            check(mirror, {"x": shape})
    else:
        check(mirror, {"x": shape})


def test_linear_on_an_output_of_images(device, rng, dtype, storage, check):
    mirror = Mirror(device, dtype, storage)
    y = mirror.conv2d_pw(mirror.input("x", (2, 3, 5, 6)), *random_weight(rng, dtype, 7, 3))
    y = mirror.linear(y, *random_weight(rng, dtype, 9, 6))
    mirror.output("y", mirror.conv2d_dw(y, *random_weight(rng, dtype, 7, 1, 3, 3), padding=1))
    check(mirror, {"x": (2, 3, 5, 6)})


def test_padding_that_holds_nan_does_not_matter(device):
    """What lies past a row's end, or past C, is nobody's."""
    for storage in ("texture3d", "buffer"):
        graph = pwconv.Graph(device, storage=storage)
        x = graph.input("x", (1, 3, 3, 3))
        weight = np.ones((3, 1, 3, 3), np.float32)
        graph.output("pooled", graph.global_avg_pool(x))
        graph.output("dw", graph.conv2d_dw(x, weight, padding=1))
        graph.output("dense", graph.conv2d(x, np.ones((2, 3, 3, 3), np.float32), padding=1))
        graph.output("rows", graph.linear(x, np.ones((2, 3), np.float32)))
        tensor = device.empty((1, 3, 3, 3), "float32", storage)
        texels.fill(tensor, float("nan") if storage == "buffer" else 0.0)
        pwconv.PointwiseConv2d(np.eye(3, dtype=np.float32), storage=storage, device=device)(
            device.tensor(np.ones((1, 3, 3, 3), np.float32), storage=storage), out=tensor
        )
        results = graph.run(x=tensor)
        for name, centre in (("pooled", 1.0), ("dw", 9.0), ("dense", 27.0), ("rows", 3.0)):
            array = results[name].numpy()
            assert np.isfinite(array).all()
            assert array.max() == pytest.approx(centre)


@pytest.mark.parametrize(
    "limits",
    [
        {"maxComputeWorkGroupInvocations": 128, "maxComputeWorkGroupSize": (128, 128, 64)},
        {"maxComputeWorkGroupCount": (2, 3, 2)},
    ],
    ids=["invocations", "groups"],
)
def test_small_limits(device, rng, monkeypatch, dtype, storage, check, limits):
    """Limits that other devices have: a grid past maxComputeWorkGroupCount goes in parts."""
    context = inside.another_context(device)
    context.limits = {**device.info.limits, **limits}
    monkeypatch.setattr(device, inside.CONTEXT, context)
    mirror = Mirror(device, dtype, storage)
    x = mirror.input("x", (2, 14, 9, 35))
    y = mirror.conv2d_dw(x, *random_weight(rng, dtype, 14, 1, 3, 3), padding=1)
    y = mirror.concat([mirror.mul(y, mirror.global_avg_pool(x)), mirror.slice(x, 3, 12)])
    mirror.output("y", mirror.upsample(y))
    mirror.output("rows", mirror.linear(x, *random_weight(rng, dtype, 11, 35)))
    check(mirror, {"x": (2, 14, 9, 35)})


def test_errors_name_the_node(device):
    graph = pwconv.Graph(device)
    x, y = graph.input("x", (1, 4, 6, 6)), graph.input("y", (1, 5, 6, 6))
    weight = np.ones((4, 1, 3, 3), np.float32)
    for build, error, says in (
        (lambda: graph.add(x, y), ValueError, r"node 'add_1': the operands have shapes \(1, 4"),
        (lambda: graph.mul(x, y, name="m"), ValueError, "node 'm': the operands"),
        (
            lambda: graph.mul(x, 2.0, name="m"),
            TypeError,
            r"node 'm': y is a float \(2.0\); it must be",
        ),
        (lambda: graph.activation(x, "no"), ValueError, "node 'activation_1': activation is 'no'"),
        (lambda: graph.concat([]), ValueError, "node 'concat_1': values is empty"),
        (
            lambda: graph.concat([x, graph.global_avg_pool(x)]),
            ValueError,
            "may differ in channels only",
        ),
        (lambda: graph.slice(x, 2, 2), ValueError, "start is 2 and stop is 2"),
        (lambda: graph.slice(x, -1, 2), ValueError, "0 ≤ start"),
        (lambda: graph.slice(x, 0, 5), ValueError, "stop is 5; x has shape"),
        (lambda: graph.slice(x, 0.5, 3), TypeError, "node 'slice_"),
        (lambda: graph.upsample(x, 0), ValueError, "scale is 0; it must be 1 to 1024"),
        (lambda: graph.conv2d_dw(y, weight, name="d"), ValueError, "node 'd': x has .* 5 channels"),
        (lambda: graph.conv2d_dw(x, weight[:, 0]), ValueError, "weight has shape"),
        (lambda: graph.conv2d_dw(x, np.ones((4, 2, 3, 3), "f4")), ValueError, "kernel of its own"),
        (lambda: graph.add(3, x), TypeError, "x is an int .3.; it must be a pwconv.graph.Value"),
        (lambda: graph.concat([x, None]), TypeError, r"values\[1\] is None; it must be"),
        (
            lambda: graph.conv2d_dw(x, np.ones((4, 1, 7, 7), "f4")),
            ValueError,
            "a 7x7 kernel with padding 0 needs H and W of at least 7; pad by 3, or use a larger",
        ),
        (
            lambda: graph.conv2d(x, np.ones((4, 4, 9, 7), "f4"), padding=(1, 0)),
            ValueError,
            r"a 9x7 kernel with padding \(1, 0\) needs H and W of at least 7; pad by \(4, 3\)",
        ),
        (lambda: graph.conv2d_dw(x, weight, np.ones(5, "f4")), ValueError, "bias has shape"),
        (lambda: graph.conv2d_dw(x, weight, stride=0), ValueError, "stride is 0"),
        (
            lambda: graph.linear(x, np.ones((3, 4), "f4")),
            ValueError,
            r"node 'linear_1': x has shape \(1, 4, 6, 6\); its last axis must be K = 4",
        ),
        (lambda: graph.linear(x, weight), ValueError, r"it must be \[N, K\] or \[B, N, K\]"),
        (lambda: graph.linear(x, np.ones((3, 6))), TypeError, "weight has dtype float64"),
        (lambda: graph.linear(x, np.ones((2, 3, 6), "f4")), ValueError, "with B = 2"),
        (
            lambda: graph.linear(x, np.ones((3, 6), "f4"), np.ones(6, "f4"), name="l"),
            ValueError,
            r"node 'l': bias has shape \(6,\); it must be \[N\] = \(3,\)",
        ),
        (lambda: graph.linear(x, np.ones((3, 6), "f4"), activation="no"), ValueError, "is 'no'"),
        (lambda: graph.conv2d(x, weight), ValueError, "C_in = 1"),
        (lambda: graph.conv2d(x, np.ones((4, 4), "f4")), ValueError, "KH, KW"),
        (lambda: graph.conv2d(x, np.ones((4, 4, 99, 99), "f4")), ValueError, "at most 1024 taps"),
        (lambda: graph.conv2d(x, np.ones((4, 4, 3, 3), "i4")), TypeError, "weight has dtype"),
    ):
        with pytest.raises(error, match=says):
            build()


@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 1, 4, 6, 6)], ids=str)
def test_nodes_of_images_refuse_other_axes(device, shape):
    graph = pwconv.Graph(device)
    x, images = graph.input("x", shape), graph.input("images", (1, 4, 6, 6))
    weight = np.ones((4, 4, 1, 1), np.float32)
    for add in (
        lambda: graph.conv2d_pw(x, weight, name="n"),
        lambda: graph.conv2d_pw(images, weight, residual=x, name="n"),
        lambda: graph.conv2d(x, weight, name="n"),
        lambda: graph.conv2d_dw(x, weight[:, :1], name="n"),
        lambda: graph.conv2d(x, weight[:, :2], groups=2, name="n"),
        lambda: graph.conv2d_transposed(x, weight, name="n"),
        lambda: graph.global_avg_pool(x, name="n"),
        lambda: graph.global_max_pool(x, name="n"),
        lambda: graph.avg_pool(x, 1, name="n"),
        lambda: graph.max_pool(x, 1, name="n"),
        lambda: graph.upsample(x, name="n"),
        lambda: graph.resize_images(x, size=2, name="n"),
        lambda: graph.reduce(x, name="n"),
        lambda: graph.slice(x, 0, 1, name="n"),
        lambda: graph.concat([x, x], name="n"),
    ):
        says = f"node 'n': an operand has shape {shape}; it must be [N, C, H, W] or [C, H, W]: decl"
        with pytest.raises(ValueError, match=re.escape(says)):
            add()
    for other in {(1, 1), (1,), (*shape[:-2], 1, 1)}:
        pooled = graph.input(f"pooled {other}", other)
        for operands in ((x, pooled), (pooled, x)):
            with pytest.raises(ValueError, match=r"the operands have shapes .* must be the same"):
                graph.mul(*operands)
