"""Nodes of a graph against float64, one by one: a sound device, and faults that are planted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv.graph.check import Check
from pwconv.staging import upload_buffer
from support import inside
from support.leftovers import settled
from support.mirror import random_weight

SHAPE = (2, 6, 9, 8)
KINDS = {
    *("conv2d", "conv2d_pw", "conv2d_dw", "linear", "global_avg_pool", "upsample", "concat"),
    *("slice", "add", "mul", "activation", "max_pool"),
}


@pytest.fixture
def build(device, rng, dtype, storage):
    """Return a graph with a node of every kind, of which some are folded into others."""

    def build(on: pwconv.Device = device) -> pwconv.Graph:
        g = pwconv.Graph(on, dtype, storage=storage)

        def weight(*shape: int) -> tuple[np.ndarray, np.ndarray]:
            return random_weight(rng, dtype, *shape)

        x = g.input("x", SHAPE)
        stem = g.conv2d(x, *weight(8, 6, 3, 3), padding=1, activation="silu", name="stem")
        deep = g.conv2d_dw(stem, *weight(8, 1, 3, 3), padding=1, name="deep")
        pool = g.global_avg_pool(deep, name="pool")
        gate = g.activation(
            g.conv2d_pw(pool, *weight(8, 8), name="squeeze"), "sigmoid", name="gate"
        )
        scaled = g.mul(deep, gate, name="scaled")
        mixed = g.add(g.conv2d_pw(scaled, *weight(8, 8), name="mix"), stem, name="residual")
        strided = g.conv2d_pw(mixed, *weight(5, 8), stride=2, name="strided")
        large = g.upsample(strided, name="large")
        largest = g.max_pool(large, 3, stride=1, padding=1, name="largest")
        part = g.slice(largest, 1, 4, name="part")
        joined = g.concat([part, large], name="joined")
        active = g.activation(joined, ("leaky_relu", 0.1), name="active")
        g.output("rows", g.linear(active, *weight(7, 8), activation="gelu", name="rows"))
        product = g.mul(active, joined, name="product")
        g.output("sum", g.add(active, product, activation="tanh", name="last"))
        return g

    return build


def wrong(report: Check) -> list[str]:
    return [node.name for node in report.nodes if not node.passed]


def numbers(graph: pwconv.Graph) -> dict[str, int]:
    """Return the number of each node that is run, by name."""
    program = inside.program(graph)
    return {program.network.nodes[i].name: i for i in program.dispatches}


@contextmanager
def launched(graph: pwconv.Graph, name: str, dispatches: Any) -> Iterator[None]:
    """Have a node's dispatches be other ones meanwhile."""
    program, i = inside.program(graph), numbers(graph)[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(program.dispatches, i, dispatches(program.dispatches[i]))
        yield


def test_a_sound_device_passes(device, rng, build, dtype, storage):
    graph = build()
    x = rng.standard_normal(SHAPE).astype(dtype)
    report = graph.check(x=x)
    assert wrong(report) == []
    assert report.passed
    assert {node.kind for node in report.nodes} >= KINDS
    assert {node.name for node in report.nodes} == set(numbers(graph))
    for node in report.nodes:
        assert abs(node.value - node.expected) <= node.bound < np.inf
        assert node.variants
        assert np.zeros(node.shape)[node.position] == 0  # it is inside
    # Folded nodes are one.
    assert "squeeze + gate" in numbers(graph)
    for given in (x, device.tensor(x, storage=storage)):
        results, outputs = graph.run(x=given), graph.check(x=given).outputs
        assert outputs.keys() == results.keys() == {"rows", "sum"}
        for name, array in outputs.items():
            np.testing.assert_array_equal(array, np.asarray(results[name]))


def test_a_pair_of_convolutions(device, rng, any_pair):
    graph = pwconv.Graph(device, storage="buffer")
    x = graph.input("x", (1, 6, 9, 8))
    hidden = graph.conv2d_pw(x, *random_weight(rng, "float32", 12, 6), activation="gelu")
    y = graph.conv2d_pw(hidden, *random_weight(rng, "float32", 6, 12), residual=x)
    graph.output("y", y)
    report = graph.check(x=rng.standard_normal((1, 6, 9, 8), np.float32))
    assert [node.kind for node in report.nodes] == ["conv2d_pw_pair"]
    assert report.passed
    network = inside.program(graph).network
    first, _ = network.nodes[network.outputs["y"]].operator.parameters
    nines = np.full(first.buffer.size // 4, 9, np.float32)
    upload_buffer(inside.context(device), nines, first.buffer)
    assert not graph.check(x=np.ones((1, 6, 9, 8), np.float32)).passed


def test_every_missing_launch_is_found(rng, build, dtype):
    """It leaves NaN: the nodes after it get that, and do what they should."""
    graph = build()
    x = rng.standard_normal(SHAPE).astype(dtype)
    assert graph.check(x=x).passed
    for name in numbers(graph):
        with launched(graph, name, lambda found: found[:-1]):
            report = graph.check(x=x)
        assert wrong(report) == [name]
        (node,) = (node for node in report.nodes if node.name == name)
        assert np.isnan(node.value)
        assert np.isfinite(node.expected)
        assert 0 < node.wrong <= np.prod(node.shape)
        assert str(report).splitlines()[-1] == f"{len(report.nodes)} nodes, 1 wrong"
    assert graph.check(x=x).passed


def test_a_launch_of_too_few_workgroups(rng, build, dtype):
    graph = build()
    x = rng.standard_normal(SHAPE).astype(dtype)

    def fewer(dispatches: list[Any]) -> list[Any]:
        (dispatch,) = dispatches
        ((push, (x, y, z)),) = dispatch.plan.parts
        counts = (x, y, z - 1) if z > 1 else (x, y - 1, z)
        return [replace(dispatch, plan=replace(dispatch.plan, parts=((push, counts),)))]

    with launched(graph, "deep", fewer):
        report = graph.check(x=x)
    assert wrong(report) == ["deep"]
    (node,) = (node for node in report.nodes if node.name == "deep")
    assert 0 < node.wrong < np.prod(node.shape)


@pytest.mark.parametrize("name", ["stem", "deep", "squeeze + gate", "strided", "rows"])
def test_a_wrong_bias_is_found(device, rng, build, dtype, name):
    """In the first of its channels, which alone is off, and in no node after it."""
    graph = build()
    x = rng.standard_normal(SHAPE).astype(dtype)
    before = graph.check(x=x)
    assert before.passed
    program = inside.program(graph)
    (parameters,) = program.network.nodes[numbers(graph)[name]].operator.parameters
    (bound,) = (node.bound for node in before.nodes if node.name == name)
    values, n = np.zeros(parameters.buffer.size // 4, np.float32), len(parameters.bias)
    values[:n] = parameters.bias
    each = -(-n // 4) * 4
    values[each : 2 * each] = 1.0  # the scale of no norm
    values[0] += max(50 * bound, 1e-3)
    upload_buffer(inside.context(device), values, parameters.buffer)
    report = graph.check(x=x)
    assert wrong(report) == [name]
    (node,) = (node for node in report.nodes if node.name == name)
    axis = -1 if node.kind == "linear" else -3
    assert node.position[axis] == 0
    assert node.wrong <= np.prod(node.shape) // node.shape[axis]


def test_not_numbers_make_no_sound_node_wrong(rng, build, dtype):
    graph = build()
    for value in (np.nan, np.inf, -np.inf):
        x = rng.standard_normal(SHAPE).astype(dtype)
        x[0, 1, 2, 3] = value
        report = graph.check(x=x)
        assert wrong(report) == []
        assert not np.isfinite(report.outputs["sum"]).all()
        assert np.isfinite(report.outputs["sum"][1]).all()


def test_numbers_that_overflow_make_no_sound_node_wrong(rng, build, dtype):
    graph = build()
    x = (np.finfo(dtype).max * rng.uniform(-1, 1, SHAPE)).astype(dtype)
    assert wrong(graph.check(x=x)) == []


def test_a_resized_graph(rng, build, dtype):
    graph = build()
    assert graph.check(x=np.ones(SHAPE, dtype)).passed
    shape = (1, 6, 5, 8)
    graph.resize(x=shape)
    x = rng.standard_normal(shape).astype(dtype)
    report = graph.check(x=x)
    assert report.passed
    assert report.outputs["sum"].shape == (1, 8, 6, 8)
    np.testing.assert_array_equal(report.outputs["sum"], graph.run(x=x)["sum"])
    with pytest.raises(ValueError, match=r"call graph\.resize"):
        graph.check(x=np.ones(SHAPE, dtype))


def test_images_without_a_batch(device, rng, dtype, storage):
    graph = pwconv.Graph(device, dtype, storage=storage)
    x = graph.input("x", (6, 5, 7))
    graph.output("y", graph.mul(x, graph.global_avg_pool(x)))
    report = graph.check(x=rng.standard_normal((6, 5, 7)).astype(dtype))
    assert report.passed
    assert [node.shape for node in report.nodes] == [(6, 1, 1), (6, 5, 7)]


def test_what_run_refuses_is_refused(device, build, dtype, storage):
    graph = build()
    x = np.ones(SHAPE, dtype)
    others = {"texture3d": "buffer", "buffer": "texture3d", "float32": "float16"}
    other_type = others.get(dtype, "float32")
    for given in (
        {},
        {"y": x},
        {"x": x, "y": x},
        {"x": x[:1]},
        {"x": x.transpose(0, 2, 3, 1)},
        {"x": None},
        {"x": x.astype(np.int32)},
        {"x": device.tensor(x[:1], storage=storage)},
        {"x": device.tensor(x, storage=others[storage])},
        {"x": device.tensor(x.astype(other_type), storage=storage)},
    ):
        with pytest.raises((TypeError, ValueError)) as by_run:
            graph.run(**given)
        with pytest.raises(type(by_run.value)) as by_check:
            graph.check(**given)
        assert str(by_check.value) == str(by_run.value)


def test_a_graph_without_outputs(device):
    graph = pwconv.Graph(device)
    graph.input("x", SHAPE)
    with pytest.raises(ValueError, match="the graph has no output"):
        graph.check(x=np.ones(SHAPE, np.float32))


def test_a_closed_device(own_device, build, dtype):
    graph = build(own_device)
    own_device.close()
    with pytest.raises(pwconv.ClosedError):
        graph.check(x=np.ones(SHAPE, dtype))


def test_memory_is_given_back(own_device, rng, build, dtype):
    graph = build(own_device)
    x = rng.standard_normal(SHAPE).astype(dtype)
    graph.check(x=x)
    before = settled(own_device)
    report = graph.check(x=x)
    assert settled(own_device) == before
    assert report.passed


def test_intermediates_are_given_back_on_the_way(device, rng, monkeypatch):
    """A long row of nodes holds two values at a time."""
    graph = pwconv.Graph(device, storage="buffer")
    value = graph.input("x", (1, 4, 8, 8))
    for _ in range(9):
        value = graph.mul(value, value)
    graph.output("y", value)
    live = inside.context(device).live
    counts = []
    submit = inside.context(device).submit

    def counted(*arguments: Any, **settings: Any) -> Any:
        counts.append(len(live))
        return submit(*arguments, **settings)

    graph.check(x=np.ones((1, 4, 8, 8), np.float32))
    monkeypatch.setattr(inside.context(device), "submit", counted)
    assert graph.check(x=np.ones((1, 4, 8, 8), np.float32)).passed
    assert max(counts) - min(counts) <= 2


def test_a_report_to_read(rng, build, dtype):
    graph = build()
    x = rng.standard_normal(SHAPE).astype(dtype)
    report = graph.check(x=x)
    *_, last = lines = str(report).splitlines()
    assert last == f"{len(report.nodes)} nodes, 0 wrong"
    for node in report.nodes:
        (line,) = (line for line in lines if line.split("  ")[0].strip() == node.name)
        for variant in set(node.variants):
            assert variant in line
        assert line.endswith(str(list(node.position)))
        assert f"{node.value:.7g}" in line
    with launched(graph, "rows", lambda _: []), launched(graph, "last", lambda _: []):
        report = graph.check(x=x)
    assert sorted(wrong(report)) == ["last", "rows"]
    assert str(report).splitlines()[-1] == f"{len(report.nodes)} nodes, 2 wrong"
    (line,) = (line for line in str(report).splitlines() if line.split()[:1] == ["rows"])
    assert " 1,120 " in line  # 2 × 8 × 10 × 7
    assert " nan " in line


def test_names_are_shown_as_they_can_be(device):
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 4, 3, 3))
    graph.output("y", graph.upsample(x, name="[red]\x1b[31m"))
    text = str(graph.check(x=np.ones((1, 4, 3, 3), np.float32)))
    assert "[red]\\x1b[31m" in text
    assert "\x1b" not in text
