"""Memory shared by lifetime: what is in use together never overlaps; chains take the least.

The order in which nodes run: each after what it takes, in hardly more memory than by number.
"""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pwconv.graph.memory import Lifetime, place, schedule
from pwconv.graph.network import Network, Node
from pwconv.ops import GlobalAvgPool

SIZES = st.integers(1, 9).map(lambda size: 256 * size)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5), SIZES), max_size=14))
def test_values_in_use_together_do_not_overlap(drawn):
    lifetimes = [Lifetime(first, first + length, size) for first, length, size in drawn]
    placement = place(lifetimes)
    ends = [offset + x.size for offset, x in zip(placement.offsets, lifetimes, strict=True)]
    assert placement.size == max(ends, default=0)
    assert min(placement.offsets, default=0) == 0
    for i, j in itertools.combinations(range(len(lifetimes)), 2):
        if set(range(lifetimes[i].first, lifetimes[i].last + 1)) & set(
            range(lifetimes[j].first, lifetimes[j].last + 1)
        ):
            assert ends[i] <= placement.offsets[j] or ends[j] <= placement.offsets[i]


@given(st.lists(SIZES, min_size=2, max_size=20))
def test_a_chain_takes_its_two_largest_neighbours(sizes):
    placement = place([Lifetime(i, i + 1, size) for i, size in enumerate(sizes)])
    assert placement.size == max(a + b for a, b in itertools.pairwise(sizes))


@given(st.lists(SIZES, min_size=1, max_size=12), SIZES)
def test_a_residual_is_kept_beside_a_chain(sizes, kept):
    """As a block's input that is added at its end: it is in use all along."""
    lifetimes = [Lifetime(0, len(sizes), kept)]
    lifetimes += [Lifetime(i, i + 1, size) for i, size in enumerate(sizes)]
    at_once = [kept + a + b for a, b in itertools.pairwise(sizes)] or [kept + sizes[0]]
    assert place(lifetimes).size <= 2 * max(at_once)


def network(*inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Network:
    """Return node 0, the input, and one for each set of inputs."""
    operation = GlobalAvgPool()
    nodes = [Node("x", None), *(Node(str(i), operation, taken) for i, taken in enumerate(inputs))]
    return Network(tuple(nodes), {"x": 0}, {f"y{i}": i for i in outputs})


def in_use(graph: Network, order: list[int], sizes: dict[int, int]) -> int:
    """Return the most bytes at once, step by step."""
    most = 0
    for step, _ in enumerate(order):
        begun, to_come = set(order[: step + 1]), order[step:]
        needed = {j for i in to_come for j in graph.nodes[i].inputs} | {order[step]}
        most = max(most, sum(sizes.get(i, 0) for i in begun & needed))
    return most


# 1 ─ 2 ─ 3 ─ 4 ─ 5, and a branch from 1 to the output 6, added after it.
BRANCH = network((0,), (1,), (1,), (3,), (4,), (5,), outputs=(2, 6))


def test_a_branch_runs_beside_the_heaviest_node_of_the_next():
    sizes = dict.fromkeys((1, 3, 4, 5), 100)
    flop = {1: 1, 2: 5, 3: 0, 4: 1, 5: 7, 6: 3}
    assert BRANCH.order == [1, 2, 3, 4, 5, 6]
    assert schedule(BRANCH, {**sizes, 1: 1}, flop.__getitem__) == [1, 3, 4, 5, 2, 6]


def test_it_does_not_go_where_that_takes_memory():
    sizes = dict.fromkeys((1, 3, 4, 5), 100)
    flop = {1: 1, 2: 5, 3: 1, 4: 2, 5: 7, 6: 3}
    # Beside 4 or 5 what node 1 gives would be in use with two others.
    assert schedule(BRANCH, sizes, flop.__getitem__) == [1, 3, 2, 4, 5, 6]


def test_it_stays_where_nothing_is_computed():
    sizes = dict.fromkeys((1, 3, 4, 5), 0)
    assert schedule(BRANCH, sizes, lambda i: 0) == BRANCH.order


@st.composite
def networks(draw):
    count = draw(st.integers(1, 14))
    inputs = [
        tuple(draw(st.lists(st.integers(0, i), min_size=1, max_size=3, unique=True)))
        for i in range(count)
    ]
    taken = {j for each in inputs for j in each}
    outputs = tuple(i for i in range(1, count + 1) if i not in taken or draw(st.booleans()))
    return network(*inputs, outputs=outputs)


@given(networks(), st.data())
def test_each_runs_once_and_after_what_it_takes(graph, data):
    numbers = graph.order
    outputs = set(graph.outputs.values())
    sizes = {i: data.draw(st.integers(0, 9)) for i in numbers if i not in outputs}
    flop = {i: data.draw(st.integers(0, 3)) for i in numbers}
    order = schedule(graph, sizes, flop.__getitem__)
    assert sorted(order) == sorted(numbers)
    position = {i: p for p, i in enumerate(order)}
    for i, j in itertools.chain(*([(i, j) for j in graph.nodes[i].inputs] for i in numbers)):
        assert j == 0 or position[j] < position[i]
    assert in_use(graph, order, sizes) <= in_use(graph, numbers, sizes) * 65 / 64


def as_whole_orders(graph: Network, sizes: dict[int, int], flop: dict[int, int]) -> list[int]:
    """Return what schedule does, from whole orders, each gone through from its beginning."""
    order = graph.order
    read = {j for i in order for j in graph.nodes[i].inputs}
    most = in_use(graph, order, sizes) * 65 / 64
    for leaf in [i for i in order if i not in read]:
        at = order.index(leaf)
        rest = [i for i in order if i != leaf]
        beside = [p for p in range(at, min(at + 8, len(rest))) if rest[p] in read]
        for p in sorted(beside, key=lambda p: -flop[rest[p]]):
            moved = [*rest[: p + 1], leaf, *rest[p + 1 :]]
            if flop[rest[p]] > 0 and in_use(graph, moved, sizes) <= most:
                order = moved
                break
    return order


@given(networks(), st.data())
def test_only_the_steps_between_matter(graph, data):
    outputs = set(graph.outputs.values())
    sizes = {i: data.draw(st.integers(0, 9)) for i in graph.order if i not in outputs}
    flop = {i: data.draw(st.integers(0, 3)) for i in graph.order}
    assert schedule(graph, sizes, flop.__getitem__) == as_whole_orders(graph, sizes, flop)
