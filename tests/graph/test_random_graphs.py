"""Graphs drawn at random: every output against float64, at several sizes, memory poisoned."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pwconv
from pwconv import heuristics
from pwconv.ops import operators
from pwconv.tensor import empty
from pwconv.vk import api as vk
from pwconv.vk.commands import Recording
from pwconv.vk.resources import Buffer, Image
from support import inside
from support.drawn import Drawn
from support.mirror import Mirror

pytestmark = pytest.mark.usefixtures("any_pair", "any_scale")


@pytest.fixture(scope="module")
def any_scale() -> Iterator[None]:
    """Have scales folded that the device would be slower with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heuristics, "scale_pays", lambda *_: True)
        yield


@settings(max_examples=6)
@given(data=st.data())
def test_any_graph_at_any_size(device, data):
    check_any(Drawn(data.draw, device, most_nodes=10, least_nodes=3))


@pytest.mark.exhaustive
def test_many_graphs(device):
    """As above; between them they have every operator that a graph's methods add."""
    added = set()

    @settings(max_examples=150)
    @given(data=st.data())
    def check_many(data):
        drawn = Drawn(data.draw, device, most_nodes=20, least_nodes=6)
        added.update(node.operator.kind for node in inside.nodes(drawn.mirror.graph) if node.inputs)
        check_any(drawn)

    check_many()
    of_passes = {"conv2d_pw_pair", "subsample"}
    assert added == operators().keys() - of_passes - {"constant"}


def check_any(drawn: Drawn) -> None:
    """Check a graph at several sizes, and then at the first again; bits are those of every run."""
    graph = drawn.mirror.graph
    sizes = drawn.sizes()
    for turn in range(3):
        arrays = drawn.arrays()
        first = drawn.mirror.check(arrays)
        assert_same(run_otherwise(graph, arrays), first)
        if turn == 0:
            begun = arrays, first
        drawn.resize()
    graph.resize(sizes)
    assert_same(graph.run(begun[0]), begun[1])


def run_otherwise(graph: pwconv.Graph, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run on tensors, and twice at once on arrays; return what all of them give."""
    handles = [graph.run_async(arrays) for _ in range(2)]
    tensors = {
        name: graph.device.tensor(array, graph.dtype, graph.storage)
        for name, array in arrays.items()
    }
    found = {name: tensor.numpy() for name, tensor in graph.run(tensors).items()}
    for handle in handles:
        assert_same(handle.wait(), found)
    return found


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


@settings(max_examples=10)
@given(data=st.data())
def test_memory_that_is_free_may_hold_anything(device, data):
    """Nodes one by one; after each, what was used for the last time becomes NaN."""
    drawn = Drawn(data.draw, device, most_nodes=10)
    drawn.resize()
    arrays = drawn.arrays()
    drawn.mirror.check(arrays, run_poisoned(drawn.mirror.graph, arrays))


def run_poisoned(graph: pwconv.Graph, arrays: dict[str, np.ndarray]) -> dict[str, pwconv.Tensor]:
    program = inside.program(graph)
    network, storage = program.network, program.site.storage
    tensors = {
        network.inputs[name]: graph.device.tensor(array, graph.dtype, storage)
        for name, array in arrays.items()
    }
    for i in network.outputs.values():
        tensors[i] = empty(graph.device, program.shapes[i], graph.dtype, storage)
    groups = program.groups({i: tensor.resource for i, tensor in tensors.items()})
    context = inside.context(graph.device)
    order, readers = list(program.dispatches), network.readers()
    last = {i: max(readers.get(i, [i]), key=order.index) for i in order}
    for i, group in zip(order, groups, strict=True):
        recording = Recording(context.queue, [group])
        context.queue.wait(recording.submit(awaited=True))
        context.retire(recording.destroy)
        for done in (j for j in order if last[j] == i and j in inside.program_resources(program)):
            poison(graph, inside.program_resources(program)[done])
    return {name: tensors[i] for name, i in network.outputs.items()}


def poison(graph: pwconv.Graph, resource: Buffer | Image) -> None:
    def record(command_buffer: object) -> None:
        if isinstance(resource, Buffer):
            nan = np.full(2, math.nan, graph.dtype).view(np.uint32)[0]
            vk.vkCmdFillBuffer(command_buffer, resource.handle, 0, vk.WHOLE_SIZE, int(nan))
            return
        everything = vk.VkImageSubresourceRange(aspectMask=1, levelCount=1, layerCount=1)
        colour = vk.VkClearColorValue(float32=[math.nan] * 4)
        layout = vk.VK_IMAGE_LAYOUT_GENERAL
        vk.vkCmdClearColorImage(command_buffer, resource.handle, layout, colour, 1, [everything])

    inside.context(graph.device).queue.run_once(record)


def test_overlapping_memory_is_noticed(device, rng, monkeypatch):
    """The test above fails where everything lies in one place."""
    from pwconv.graph import program

    def place_wrongly(lifetimes):
        size = max(lifetime.size for lifetime in lifetimes)
        return program.Placement((0,) * len(lifetimes), size)

    monkeypatch.setattr(program, "place", place_wrongly)
    mirror = Mirror(device, "float32", "buffer")
    x = mirror.input("x", (1, 3, 4, 4))
    weight = np.eye(3, dtype=np.float32)
    first = mirror.conv2d_pw(x, weight, activation="silu")
    second = mirror.conv2d_pw(first, weight, activation="silu")
    mirror.output("y", mirror.add(first, second))
    arrays = {"x": rng.standard_normal((1, 3, 4, 4)).astype(np.float32)}
    with pytest.raises(AssertionError):
        mirror.check(arrays, run_poisoned(mirror.graph, arrays))
