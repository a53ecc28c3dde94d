"""EdgeTAM's pointwise layers: how many there are, their numbers, and their memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import pwconv
from pwconv.bench.graphs import make_graph
from support import inside
from support.blockwise import Parts
from support.mirror import Mirror
from workloads import workload

# C_in, C_out and the output's side at 1024×1024.
MIXERS = {
    (48, 96, 256): 2,
    (96, 48, 256): 2,
    (96, 192, 128): 3,
    (192, 96, 128): 3,
    (192, 384, 64): 15,
    (384, 192, 64): 15,
    (384, 768, 32): 3,
    (768, 384, 32): 3,
}
DOWNSAMPLES = {(48, 96, 128): 1, (96, 192, 64): 1, (192, 384, 32): 1}
NECK = {
    (48, 256, 256): 1,
    (96, 256, 128): 1,
    (192, 256, 64): 1,
    (384, 256, 32): 1,
    (256, 32, 256): 1,
    (256, 64, 128): 1,
}


def layers(
    device: pwconv.Device,
    size: int,
    storage: str = "auto",
    dtype: str = "float16",
    **settings: bool,
) -> pwconv.Graph:
    return make_graph(device, workload("edgetam-mixers", size)[-1], dtype, storage, **settings)


def test_the_55_layers(device):
    network = inside.finish(layers(device, 1024))
    shapes = network.propagate({"x": (1, 48, 256, 256)})
    found: Counter[tuple[int, int, int]] = Counter()
    for i in network.order:
        node = network.nodes[i]
        if node.operator.name == "conv2d_pw":
            found[shapes[node.inputs[0]][1], shapes[i][1], shapes[i][2]] += 1
    assert found == MIXERS | DOWNSAMPLES | NECK
    assert found.total() == 55


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numbers(device, rng, dtype, storage):
    parts = Parts(Mirror(device, dtype, storage))
    workload("edgetam-mixers", 32)[-1].define(parts)
    x = rng.standard_normal((1, 48, 8, 8)).astype(dtype)
    graph = layers(device, 32, storage, dtype=dtype)
    parts.check(graph, x)
    for result in graph.run(x=x).values():
        assert 0.3 < np.std(result.astype(np.float64)) < 10


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_scratch_is_the_two_largest_neighbours(device, storage):
    """At 1024×1024: the largest lateral and the stage before it; their padding is the device's."""
    neighbours = pwconv.Graph(device, "float16", storage=storage)
    x = neighbours.input("x", (1, 48, 256, 256))
    neighbours.output("y", neighbours.conv2d_pw(x, np.ones((256, 48), np.float16)))
    memory = neighbours.memory()
    least = memory.inputs + memory.outputs
    assert least >= 2 * (48 + 256) * 256 * 256
    scratch = layers(device, 1024, storage, fuse=False).memory().scratch
    assert least <= scratch < 1.01 * least
    # What lies between two convolutions that are one is not there.
    assert layers(device, 1024, storage).memory().scratch <= scratch
