"""Strides that become a node of their own on buffers, and those that stay."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from pwconv.graph.network import Network, Node
from pwconv.ops import GlobalAvgPool
from support import inside
from support.mirror import Mirror, Pair, random_weight

pytestmark = pytest.mark.usefixtures("any_pair")

STRIDES = (2, (1, 2), (3, 2), (2, 1))


@pytest.fixture(params=["float32", "float16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def mirror(device: pwconv.Device, dtype: str) -> Mirror:
    return Mirror(device, dtype, "buffer")


@pytest.fixture
def conv(rng):
    def conv(mirror: Mirror, x: Pair, channels: int = 6, **settings: object) -> Pair:
        weight = random_weight(rng, mirror.dtype, channels, x.value.shape[-3])
        return mirror.conv2d_pw(x, *weight, **settings)

    return conv


@pytest.fixture
def check(rng):
    def check(mirror: Mirror) -> list[str]:
        """Check the graph's numbers; return what it runs."""
        graph = mirror.graph
        shapes = {name: inside.shapes(graph)[i] for name, i in inside.inputs(graph).items()}
        arrays = {n: rng.standard_normal(s).astype(mirror.dtype) for n, s in shapes.items()}
        mirror.check(arrays)
        for name, pair in mirror.outputs.items():
            assert graph.run(**arrays)[name].shape == pair.value.shape
        program = inside.program(graph)
        return [program.network.nodes[i].operator.name for i in program.dispatches]

    return check


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("shape", [(2, 5, 13, 21), (7, 29, 11), (1, 48, 16, 16), (2, 3, 1, 1)])
def test_a_stride(mirror, conv, check, shape, stride):
    """At sizes in turns: what is recorded comes back."""
    mirror.output("y", conv(mirror, mirror.input("x", shape), stride=stride, activation="silu"))
    for size in (shape[-2:], (1, 1), (17, 37), shape[-2:], (17, 37)):
        mirror.graph.resize(x=(*shape[:-2], *size))
        assert check(mirror) == ["subsample", "conv2d_pw"]


@pytest.mark.parametrize("stride", STRIDES)
def test_as_a_layer_gives_it(device, rng, dtype, stride):
    weight, bias = random_weight(rng, dtype, 9, 5)
    graph = pwconv.Graph(device, dtype, storage="buffer")
    x = graph.input("x", (2, 5, 13, 21))
    graph.output("y", graph.conv2d_pw(x, weight, bias, stride=stride))
    array = rng.standard_normal(x.shape).astype(dtype)
    layer = pwconv.PointwiseConv2d(weight, bias, stride=stride, storage="buffer", device=device)
    difference = np.abs(graph.run(x=array)["y"] - layer(array).astype(np.float64))
    assert difference.max() < (1e-5 if dtype == "float32" else 1e-2)


def test_a_residual_and_what_follows(mirror, conv, check):
    x, r = mirror.input("x", (2, 5, 13, 10)), mirror.input("r", (2, 6, 7, 5))
    y = mirror.add(conv(mirror, x, stride=2), r)
    mirror.output("y", mirror.activation(y, "gelu"))
    assert check(mirror) == ["subsample", "conv2d_pw"]
    assert "conv2d_pw_1 + add_1 + activation_1 (subsample)" in mirror.graph.summary()


def test_convolutions_of_one_value_share_it(mirror, conv, check):
    x = mirror.activation(mirror.input("x", (2, 5, 13, 10)), "relu")
    first = conv(mirror, x, stride=2)
    mirror.output("first", first)
    mirror.output("sum", mirror.add(first, conv(mirror, x, stride=2), "silu"))
    mirror.output("other", conv(mirror, x, stride=(2, 1)))
    mirror.output("plain", conv(mirror, x, 5, residual=x))
    kinds = check(mirror)
    assert kinds == [
        *("activation", "subsample", "conv2d_pw", "conv2d_pw"),
        *("subsample", "conv2d_pw", "conv2d_pw"),
    ]


def test_a_chain_is_fused(mirror, conv, check):
    """The second of a pair may not have a stride: it takes what only then is there."""
    y = mirror.input("x", (2, 5, 26, 41))
    for _ in range(2):
        hidden = conv(mirror, y, 8, stride=2, activation="gelu")
        y = conv(mirror, hidden)
    mirror.output("y", conv(mirror, y, 3, stride=(3, 2)))
    pair = ["subsample", "conv2d_pw_pair"]
    assert check(mirror) == [*pair, *pair, "subsample", "conv2d_pw"]
    mirror.graph.resize(x=(1, 5, 7, 3))
    assert check(mirror) == [*pair, *pair, "subsample", "conv2d_pw"]


def test_without_fusion(device, dtype, conv, check):
    mirror = Mirror(device, dtype, "buffer", fuse=False)
    hidden = conv(mirror, mirror.input("x", (5, 9, 14)), stride=2)
    mirror.output("y", conv(mirror, hidden))
    assert check(mirror) == ["subsample", "conv2d_pw", "conv2d_pw"]


def test_of_a_scaled_value(mirror, conv, check):
    x, s = mirror.input("x", (2, 5, 9, 14)), mirror.input("s", (2, 5, 1, 1))
    mirror.output("y", conv(mirror, mirror.mul(x, s), stride=2))
    assert check(mirror) == ["mul", "subsample", "conv2d_pw"]


@pytest.mark.parametrize("padding", [1, (0, 1)])
def test_with_padding_it_stays(mirror, conv, check, padding):
    mirror.output("y", conv(mirror, mirror.input("x", (2, 5, 9, 14)), stride=2, padding=padding))
    assert check(mirror) == ["conv2d_pw"]


def test_on_textures_it_stays(device, dtype, conv, check):
    mirror = Mirror(device, dtype, "texture3d")
    mirror.output("y", conv(mirror, mirror.input("x", (2, 5, 9, 14)), stride=2))
    assert check(mirror) == ["conv2d_pw"]


def test_what_is_told_of_it(device, rng):
    """It costs no arithmetic, and one tensor of scratch beside the weights that there were."""
    told = {}
    for storage in ("buffer", "texture3d"):
        graph = pwconv.Graph(device, storage=storage)
        weight, bias = random_weight(rng, "float32", 16, 8)
        x = graph.input("x", (1, 8, 32, 32))
        graph.output("y", graph.conv2d_pw(x, weight, bias, stride=2, name="down"))
        told[storage] = graph
    graph = told["buffer"]
    profile, whole = graph.profile(runs=1), told["texture3d"].profile(runs=1)
    assert [node.name for node in profile.nodes] == ["down (subsample)", "down"]
    assert [node.kind for node in profile.nodes] == ["subsample", "conv2d_pw"]
    assert [node.shape for node in profile.nodes] == [(1, 8, 16, 16), (1, 16, 16, 16)]
    assert [node.flop for node in profile.nodes] == [0, whole.nodes[0].flop]
    assert profile.nodes[0].least_bytes == 4 * 8 * (32 * 32 + 16 * 16)
    assert profile.nodes[0].variants == ("subsample_buffer_fp32",)
    memory = graph.memory()
    assert 4 * 8 * 16 * 16 <= memory.scratch < 2 * 4 * 8 * 16 * 16
    assert memory.weights == inside.nodes(graph)[1].operator.weight_bytes
    drawing = graph.to_dot()
    assert 'n0 -> n2 [label="1 × 8 × 32 × 32"]' in drawing
    assert 'n2 -> n1 [label="1 × 8 × 16 × 16"]' in drawing
    assert 'n2 [label="down (subsample): subsample"]' in drawing


def test_added_nodes_run_right_before_their_readers():
    pool = GlobalAvgPool()
    nodes = (
        Node("x", None),
        Node("first", pool, (0,)),
        Node("second", pool, (6,)),
        Node("aside", pool, (1,)),
        Node("third", pool, (2, 5)),
        Node("added", pool, (1,)),
        Node("added, of added", pool, (5,)),
    )
    network = Network(nodes, {"x": 0}, {"y": 4})
    assert network.order == [1, 5, 6, 2, 4]
    assert network.reached == {0, 1, 2, 4, 5, 6}
    assert network.readers() == {0: [1], 1: [5], 5: [6, 4], 6: [2], 2: [4]}
