"""Graphs built, resized and run with anything: a documented error, or what they gave before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import pwconv
from support import inside
from support.arguments import ACTIVATIONS, anything, array, attempt, shapes, spoil
from support.leftovers import settled

# A node's method, and what it takes besides x that is right for six channels.
NODES: dict[str, dict[str, Any]] = {
    "conv2d_pw": {"weight": np.eye(6, dtype=np.float32), "bias": None, "stride": 1, "padding": 0},
    "conv2d": {
        "weight": np.ones((6, 6, 3, 3), np.float32) / 54,
        "padding": (1, 1, 1, 1),
        "dilation": 1,
        "groups": 1,
    },
    "conv2d_dw": {"weight": np.ones((6, 1, 3, 3), np.float16) / 9, "bias": None, "padding": 1},
    "conv2d_transposed": {
        "weight": np.ones((6, 3, 1, 1), np.float32) / 3,
        "padding": (0, 0, 0, 0),
        "output_padding": 0,
        "dilation": 1,
        "groups": 2,
    },
    "batch_norm": {
        "mean": np.zeros(6, np.float32),
        "variance": np.ones(6, np.float16),
        "weight": None,
        "bias": np.ones(6, np.float32),
        "eps": 1e-5,
    },
    "linear": {"weight": np.eye(5, dtype=np.float32), "activation": "relu"},
    "activation": {"activation": "silu"},
    "add": {"y": None},
    "mul": {"y": None},
    "sub": {"y": None},
    "div": {"y": None},
    "minimum": {"y": None},
    "maximum": {"y": None},
    "concat": {},
    "slice": {"start": 0, "stop": 6},
    "global_avg_pool": {},
    "max_pool": {"kernel": 3, "stride": 1, "padding": 1, "dilation": 1, "ceil_mode": False},
    "avg_pool": {
        "kernel": 3,
        "stride": 1,
        "padding": (1, 1, 1, 1),
        "ceil_mode": False,
        "count_include_pad": True,
    },
    "global_max_pool": {},
    "reduce": {"function": "mean", "axes": (2, 3), "keepdims": True},
    "softmax": {"axis": -1},
    "upsample": {"scale": 1},
    "resize_images": {
        "size": (4, 5),
        "scales": None,
        "mode": "linear",
        "nearest_mode": "floor",
        "coordinates": "half_pixel",
    },
}
X_SHAPE = (2, 6, 4, 5)


def add_node(draw: Any, graph: pwconv.Graph, values: list[Any], others: Any) -> None:
    """Add a node with arguments that are right, or spoiled; the graph is as good as before."""
    kind = draw(st.sampled_from(sorted(NODES)))
    arguments = {"x": draw(st.sampled_from(values)), "name": None, **NODES[kind]}
    if "y" in arguments:
        arguments["y"] = arguments["x"]
    if kind == "concat":
        arguments["values"] = [arguments.pop("x")]
    before = len(inside.nodes(graph))
    spoil(draw, arguments, others)
    value = attempt(lambda: getattr(graph, kind)(**arguments), right=False)
    assert len(inside.nodes(graph)) == before + (value is not None)
    if value is not None:
        values.append(value)


@pytest.fixture
def strange(device, own_device):
    """Values, tensors and weights of this graph's kind that are not its own."""
    other = pwconv.Graph(own_device)
    value = other.input("x", X_SHAPE)
    ones = np.ones(X_SHAPE, np.float32)
    tensors = [device.tensor(ones), own_device.tensor(ones), own_device.tensor(ones, "float16")]
    packed = pwconv.pack_linear_weight(np.eye(6, dtype=np.float32), device=own_device)
    yield st.sampled_from([value, own_device, other, packed, *tensors])
    del other, value, tensors, packed


@pytest.fixture
def leak_free(own_device, strange):
    before = settled(own_device)
    yield own_device
    assert settled(own_device) == before


def test_building_resizing_and_running(fuzz, leak_free, strange):
    sizes = st.tuples(st.integers(1, 3), st.just(6), st.integers(3, 9), st.just(5))

    def case(draw):
        made = {
            "device": leak_free,
            "dtype": draw(st.sampled_from(["float32", "float16"])),
            "storage": draw(st.sampled_from(["auto", "buffer", "texture3d"])),
        }
        if draw(st.integers(0, 4)) == 0:
            spoil(draw, made, strange)
        if made["device"] is None:
            made["device"] = leak_free
        graph = attempt(lambda: pwconv.Graph(**made), right=False)
        if graph is None:
            return
        declared = {"name": "x", "shape": X_SHAPE}
        if draw(st.integers(0, 4)) == 0:
            spoil(draw, declared, shapes)
        x = attempt(lambda: graph.input(**declared), right=False)
        if x is None:
            x = graph.input("x", X_SHAPE)
        values = [x]
        for _ in range(draw(st.integers(0, 4))):
            add_node(draw, graph, values, strange)
        attempt(lambda: graph.output(draw(anything), draw(anything)), right=False)
        last = values[-1] if len(values) > 1 else graph.activation(x, "relu")
        graph.output("y", last)
        if x.name != "x" or graph.device is not leak_free or x.shape != X_SHAPE:
            attempt(lambda: graph.run(**{x.name: draw(anything)}), right=False)
            return
        run(draw, graph, strange, sizes)

    fuzz(60, case)


def run(draw: Any, graph: pwconv.Graph, strange: Any, sizes: Any) -> None:
    x = array(draw, X_SHAPE, "float32")
    expected = attempt(lambda: graph.run(x=x)["y"], right=False)
    for _ in range(draw(st.integers(1, 4))):
        given = {"x": x}
        spoil(draw, given, strange)
        method = draw(st.sampled_from([graph.run, graph.run_async]))
        attempt(lambda method=method, given=given: method(**given), right=False)
        resized = {"x": draw(st.one_of(sizes, shapes, anything))}
        if draw(st.booleans()):
            resized[draw(st.sampled_from("ab"))] = X_SHAPE
        attempt(lambda resized=resized: graph.resize(**resized), right=False)
        attempt(lambda: graph.profile(draw(st.sampled_from([0, -1, None, "1"]))), right=False)
    graph.resize(x=X_SHAPE)
    if expected is not None:
        np.testing.assert_array_equal(graph.run(x=x)["y"], expected)
        np.testing.assert_array_equal(graph.run_async(x=x).wait()["y"], expected)


def test_activations_of_nodes(fuzz, leak_free):
    """Whatever is taken for an activation is one, and has numbers that a shader holds."""

    def case(draw):
        given = draw(
            st.one_of(
                st.sampled_from(ACTIVATIONS),
                st.tuples(st.sampled_from(["clamp", "leaky_relu", "relu"]), st.floats()),
                st.tuples(st.just("clamp"), st.floats(), st.floats()),
                anything,
            )
        )
        graph = pwconv.Graph(leak_free)
        x = graph.input("x", (3,))
        y = attempt(
            lambda: graph.activation(x, given), right=any(given is one for one in ACTIVATIONS)
        )
        if y is not None and given is not None:
            graph.output("y", y)
            array = np.array([-2, 0, 2], np.float32)
            expected = pwconv.reference.activate(array, given)
            with np.errstate(all="ignore"):
                np.testing.assert_allclose(
                    graph.run(x=array)["y"], expected.astype(np.float32), rtol=1e-5, atol=1e-6
                )

    fuzz(60, case)
