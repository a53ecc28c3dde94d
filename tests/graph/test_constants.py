"""Constants: operands that lie on the device, in whichever storage the graph has."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from pwconv import ops
from support import inside
from support.leftovers import settled

SHAPE = (2, 7, 5, 3)


@pytest.fixture
def array(rng, dtype):
    return rng.standard_normal(SHAPE).astype(dtype)


def added(device, dtype, storage, array, shape=SHAPE):
    """A graph of x + array, beside the array itself in channels of their own."""
    graph = pwconv.Graph(device, dtype, storage=storage)
    x, constant = graph.input("x", shape), graph.constant(array, name="table")
    graph.output("sum", graph.add(x, constant))
    graph.output("both", graph.concat([x, constant]))
    return graph


def test_operands(device, rng, dtype, storage, array):
    graph = added(device, dtype, storage, array)
    x = rng.integers(-9, 10, SHAPE).astype(dtype)
    given, array[:] = array.copy(), np.nan  # the graph has its own
    for arguments in ({"x": x}, {"x": device.tensor(x, storage=storage)}):
        found = {name: np.asarray(y) for name, y in graph.run(arguments).items()}
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(found["sum"], x + given.astype(float), eps, eps)
        np.testing.assert_array_equal(found["both"], np.concatenate([x, given], 1))
    check = graph.check(x=x)
    assert check.passed
    assert [node.kind for node in check.nodes] == ["add", "concat"]


def test_no_dispatch_and_no_scratch(device, dtype, storage, array):
    graph = added(device, dtype, storage, array)
    program = inside.program(graph)
    assert len(program.constants) == 1
    assert not program.constants.keys() & program.dispatches.keys()
    memory = graph.memory()
    assert memory.scratch == memory.scratch_reserved == 0
    (resource,) = program.constants.values()
    assert memory.weights == resource.size >= array.nbytes
    assert "table" not in graph.summary()
    assert '[label="table: constant"]' in graph.to_dot()
    assert [node.name for node in graph.profile(1).nodes] == ["add_1", "concat_1"]


def test_sizes_of_either_storage(device, rng, monkeypatch, dtype):
    """Where "auto" comes to another storage at another size, so does the constant."""
    array = rng.integers(-9, 10, (1, 7, 1, 1)).astype(dtype)
    graph = pwconv.Graph(device, dtype)
    graph.output("y", graph.sub(graph.constant(array), graph.input("x", SHAPE)))
    storages = set()
    for shape in (SHAPE, (1, 7, 1, 6), SHAPE):
        x = rng.integers(-9, 10, shape).astype(dtype)
        graph.resize(x=shape)
        np.testing.assert_array_equal(graph.run(x=x)["y"], array - x)
        storages.add(graph.storage)
        other = "buffer" if graph.storage == "texture3d" else "texture3d"
        monkeypatch.setattr("pwconv.graph.graph.storage_order", lambda *_, kept=other: (kept,))
    assert storages == {"buffer", "texture3d"}


def test_constants_alone(device, rng):
    """A graph of no inputs; and a residual, which folds into the convolution before."""
    x, weight = (rng.integers(-3, 4, s).astype(np.float32) for s in ((5, 4, 3), (5, 5)))
    graph = pwconv.Graph(device)
    mixed = graph.conv2d_pw(graph.constant(x), weight)
    graph.output("y", graph.add(mixed, graph.constant(x), activation="relu"))
    expected = np.einsum("oc,chw->ohw", weight, x) + x
    np.testing.assert_array_equal(graph.run()["y"], np.maximum(expected, 0))
    assert len(inside.program(graph).dispatches) == 1


def test_memory_is_given_back(own_device):
    before = settled(own_device)
    for storage in ("buffer", "texture3d"):
        array = np.ones(SHAPE, np.float32)
        graph = added(own_device, "float32", storage, array)
        graph.run(x=array)
        del graph
    assert settled(own_device) == before


@pytest.mark.parametrize("slope", [[0.5, -2, 0.25, 3, 0, 1, -1], [0.25]], ids=len)
def test_prelu_by_an_array(device, rng, dtype, storage, slope):
    for shape in (SHAPE, SHAPE[1:]):
        graph = pwconv.Graph(device, dtype, storage=storage)
        graph.output("y", graph.prelu(graph.input("x", shape), np.array(slope, dtype)))
        x = rng.integers(-9, 10, shape).astype(dtype)
        slopes = np.array(slope, dtype)[:, None, None]
        np.testing.assert_array_equal(graph.run(x=x)["y"], np.where(x < 0, slopes * x, x))


@pytest.mark.parametrize(
    ("slope", "message"),
    [
        (np.ones((7, 1), np.float32), r"slope has shape \(7, 1\); it must be \[C\]"),
        (np.ones(3, np.float32), r"they must be the same"),
        ([0.25], "slope has dtype float64"),
        (np.ones(0, np.float32), "they must be the same"),
    ],
    ids=str,
)
def test_other_slopes(device, slope, message):
    graph = pwconv.Graph(device)
    x = graph.input("x", SHAPE)
    with pytest.raises((TypeError, ValueError), match=f"node 'prelu_1': .*{message}"):
        graph.prelu(x, slope)
    assert len(inside.nodes(graph)) == 1


def test_what_is_refused(device):
    graph = pwconv.Graph(device)
    for array in (np.ones((3, 4), np.float32), np.ones((1, 0, 3), np.float32)):
        with pytest.raises(ValueError, match=r"node 'a': array has shape .*: use reshape"):
            graph.constant(array, name="a")
    with pytest.raises(TypeError, match="node 'a': array has dtype int"):
        graph.constant(np.ones((3, 4, 5), int), name="a")
    table = graph.constant(np.ones((3, 4, 5), np.float32), name="a")
    with pytest.raises(ValueError, match="output 'y' is the constant 'a'; nothing is computed"):
        graph.output("y", table)
    with pytest.raises(ValueError, match="there are 1 values; constant takes 0"):
        graph.add_op(ops.make_constant(np.ones((1, 1, 1)), np.dtype("float32")), table)


@pytest.mark.parametrize("function", ["sub", "div", "minimum", "maximum", "prelu"])
def test_only_sums_and_products_become_parts_of_convolutions(device, rng, function):
    weight = rng.standard_normal((7, 7)).astype(np.float32)
    graph = pwconv.Graph(device)
    x, pooled = graph.input("x", SHAPE), graph.input("s", (2, 7, 1, 1))
    for name, other in (("whole", x), ("pooled", pooled)):
        before = graph.conv2d_pw(x, weight)
        graph.output(name, graph.conv2d_pw(getattr(graph, function)(before, other), weight))
    kept = [node.name for node in inside.program(graph).network.nodes]
    assert {f"{function}_1", f"{function}_2"} <= set(kept)


def test_sums_and_products_over_other_axes_stay_nodes(device, rng):
    """A residual is of the output's shape, and a scale [N, C, 1, 1]."""
    weight = rng.standard_normal((7, 7)).astype(np.float32)
    graph = pwconv.Graph(device)
    x = graph.input("x", SHAPE)
    for shape in ((1, 7, 1, 1), (2, 1, 1, 1), (2, 1, 5, 3), (1, 1, 1, 3)):
        other = graph.constant(rng.standard_normal(shape).astype(np.float32))
        node = graph.mul(graph.add(graph.conv2d_pw(x, weight), other), other)
        graph.output(f"y{shape}", graph.conv2d_pw(node, weight))
    operators = [node.operator for node in inside.program(graph).network.nodes]
    assert sum(isinstance(each, ops.Elementwise) for each in operators) == 8
    assert graph.check(x=rng.standard_normal(SHAPE).astype(np.float32)).passed
