"""Graphs of thousands of nodes: nothing that is done for each looks at all of the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import pwconv
from pwconv.graph.memory import Lifetime, place, schedule
from pwconv.graph.network import Network, Node
from pwconv.ops import Concat, GlobalAvgPool, Site
from pwconv.vk.barriers import Hazards
from pwconv.vk.resources import Span
from support import inside
from support.growth import seconds

# Eight times the work; by the square it would take 64 times as long.
FEW, MANY, MOST = 1000, 8000, 24


def assert_grows_slowly(call: Callable[[int], object]) -> None:
    call(10)
    few = seconds(lambda: call(FEW))
    assert seconds(lambda: call(MANY)) < MOST * few + 0.05


def chain(size: int) -> list[tuple[int, ...]]:
    return [(i,) for i in range(size)]


def nest(size: int) -> list[tuple[int, ...]]:
    """Half of the nodes are kept for the other half, the last of them first."""
    half = size // 2
    return [*chain(half), *((half + i, half - i) for i in range(half))]


def fan(size: int) -> list[tuple[int, ...]]:
    return [*((0,) for _ in range(size - 1)), tuple(range(1, size))]


def outputs(size: int) -> list[tuple[int, ...]]:
    return [(0,)] * size


def leaves(size: int) -> list[tuple[int, ...]]:
    """A chain, with an output beside each of its nodes."""
    return [(max(0, i - 1 - i % 2),) for i in range(size)]


def network(taken: list[tuple[int, ...]]) -> Network:
    operation = GlobalAvgPool()
    nodes = [Node("x", None), *(Node(str(i), operation, each) for i, each in enumerate(taken))]
    read = {j for each in taken for j in each}
    ends = [i for i in range(1, len(nodes)) if i not in read]
    return Network(tuple(nodes), {"x": 0}, {f"y{i}": i for i in ends})


@pytest.mark.parametrize("shape", [chain, nest, fan, outputs, leaves])
def test_schedule_and_placement(shape):
    def arrange(size: int) -> None:
        graph = network(shape(size))
        assert sum(graph.uses.values()) >= len(graph.order) == size
        ends = set(graph.outputs.values())
        sizes = {i: 256 * (1 + i % 3) for i in graph.order if i not in ends}
        order = schedule(graph, sizes, lambda i: i % 5)
        step = {i: position for position, i in enumerate(order)}
        readers = graph.readers()
        place([Lifetime(step[i], max(step[j] for j in readers[i]), sizes[i]) for i in sizes])

    assert_grows_slowly(arrange)


def test_hazards_of_steps_that_do_not_depend():
    def add(size: int) -> None:
        hazards = Hazards()
        for i in range(size):
            place_of_its_own = Span(-1, 10 * (i * 7919 % size), 10 * (i * 7919 % size) + 9)
            assert not hazards.add([Span(0, 0, 1)], [place_of_its_own, Span(i + 1, 0, 1)])

    assert_grows_slowly(add)


def test_pieces_of_a_concatenation(device):
    def plan(size: int) -> None:
        inside.plans(inside.context(device)).clear()
        site = Site(inside.context(device), "texture3d", np.dtype("float32"))
        planned = Concat().plan(site, [(1, 3, 1, 1)] * size, (1, 3 * size, 1, 1))
        operands = {i for dispatch in planned for i in dispatch.resources.values()}
        assert operands == {-1, *range(size)}

    assert_grows_slowly(plan)


def test_building(device):
    """Nodes, outputs and inputs; names that are drawn and given."""

    def build(size: int) -> None:
        graph = pwconv.Graph(device)
        values = [graph.input(f"x{i}", (1, 1, 1, 1)) for i in range(size // 4)]
        for x in values:
            graph.output(x.name, graph.add(graph.upsample(x, 1), x))
        inside.finish(graph)

    assert_grows_slowly(build)


def test_activations_that_do_nothing(device):
    """Each becomes part of the one before: so would its name, of ever more parts."""
    graph = pwconv.Graph(device)
    value = graph.input("x", (1, 1, 1, 1))
    for _ in range(2000):
        value = graph.activation(value, None)
    graph.output("y", value)
    assert graph.run(x=np.full((1, 1, 1, 1), 3, np.float32))["y"] == 3
    nodes = inside.program(graph).network.nodes
    assert max(len(node.name) for node in nodes) < 30


def test_an_order_that_is_deep():
    """As if each node of a chain had been added by a pass, before what it takes."""
    operation = GlobalAvgPool()
    nodes = [Node(str(i), operation, (i + 1,)) for i in range(5000)]
    graph = Network((*nodes, Node("x", None)), {"x": 5000}, {"y": 0})
    assert graph.order == list(reversed(range(5000)))


def test_a_deep_chain_runs(device):
    graph = pwconv.Graph(device)
    value = graph.input("x", (1, 3, 2, 2))
    for _ in range(1200):  # past Python's limit of calls within calls
        value = graph.upsample(value, 1)
    graph.output("y", value)
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    np.testing.assert_array_equal(graph.run(x=x)["y"], x)
    assert len(graph.summary().splitlines()) > 1200


def test_many_outputs(device):
    """Eight times the outputs, first built and then run, in about so many times the time."""

    def run(size: int) -> None:
        graph = pwconv.Graph(device)
        x = graph.input("x", (1, 1, 1, 1))
        for i in range(size):
            graph.output(f"y{i}", graph.upsample(x, 1))
        results = graph.run(x=np.full((1, 1, 1, 1), 2, np.float32))
        assert len(results) == size
        assert all((y == 2).all() for y in results.values())

    run(10)
    few = seconds(lambda: run(125))
    assert seconds(lambda: run(1000)) < MOST * few + 0.5
