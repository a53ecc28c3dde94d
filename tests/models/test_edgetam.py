"""EdgeTAM's pointwise layers: how many there are, and their numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import pwconv
from pwconv.models import edgetam_pointwise
from pwconv.models.edgetam import Layers
from support import inside
from support.blockwise import Unnamed, check_parts
from support.mirror import Mirror

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


def test_the_55_layers(device):
    network = inside.finish(edgetam_pointwise(device))
    shapes = network.propagate({"x": (1, 48, 256, 256)})
    found: Counter[tuple[int, int, int]] = Counter()
    flop = 0
    for i in network.order:
        node = network.nodes[i]
        if node.operator.name == "conv2d_pw":
            taken = [shapes[j] for j in node.inputs]
            found[taken[0][1], shapes[i][1], shapes[i][2]] += 1
            flop += node.operator.flop(taken, shapes[i])
    assert found == MIXERS | DOWNSAMPLES | NECK
    assert found.total() == 55
    assert round(flop / 1e9, 1) == 32.9


def test_the_layers_are_of_timms_definition():
    """timm's trunk has them all, and three mixers more: those before each downsampling."""
    pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    found: Counter[tuple[int, int, int]] = Counter()
    for name, module in timm.create_model("repvit_m1").named_modules():
        if getattr(module, "kernel_size", None) != (1, 1) or module.groups != 1:
            continue
        if ".se." not in name and ".pre_block." not in name:
            stage = int(name.split(".")[1])
            found[module.in_channels, module.out_channels, 256 >> stage] += 1
    assert found == MIXERS | DOWNSAMPLES


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numbers(device, rng, dtype, storage):
    mirror = Mirror(device, dtype, storage)
    x = mirror.input("x", (1, 48, 8, 8))
    maps = Layers(7, np.dtype(dtype)).maps(Unnamed(mirror), x)
    for name, pair in maps.items():
        if pair not in mirror.outputs.values():
            mirror.output(name, pair)
    names = {pair: name for name, pair in mirror.outputs.items()}
    array = rng.standard_normal((1, 48, 8, 8)).astype(dtype)
    parts = check_parts(mirror, array)
    graph = edgetam_pointwise(device, size=32, dtype=dtype, storage=storage, seed=7)
    for name, result in graph.run(x=array).items():
        np.testing.assert_array_equal(result, parts[names[maps[name]]])


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_scratch_is_the_two_largest_neighbours(device, storage):
    """At 1024×1024: the largest lateral and the stage before it; their padding is the device's."""
    neighbours = pwconv.Graph(device, "float16", storage=storage)
    x = neighbours.input("x", (1, 48, 256, 256))
    neighbours.output("y", neighbours.conv2d_pw(x, np.ones((256, 48), np.float16)))
    memory = neighbours.memory()
    least = memory.inputs + memory.outputs
    assert least >= 2 * (48 + 256) * 256 * 256
    scratch = edgetam_pointwise(device, storage=storage, fuse=False).memory().scratch
    assert least <= scratch < 1.01 * least
    # What lies between two convolutions that are one is not there.
    assert edgetam_pointwise(device, storage=storage).memory().scratch <= scratch


def test_values_stay_of_order_one(device, rng):
    graph = edgetam_pointwise(device, size=32)
    maps = graph.run(x=rng.standard_normal((1, 48, 8, 8)).astype(np.float16))
    assert {name: a.shape for name, a in maps.items()} == {
        "stride_4": (1, 32, 8, 8),
        "stride_8": (1, 64, 4, 4),
        "stride_16": (1, 256, 2, 2),
    }
    for array in maps.values():
        assert 0.3 < np.std(array.astype(np.float64)) < 10


@pytest.mark.parametrize("size", [0, 16, 1000, -32])
def test_sizes_that_do_not_halve(device, size):
    with pytest.raises(ValueError, match=f"size is {size}; it must be a positive multiple of 32"):
        pwconv.models.edgetam_pointwise(device, size=size)


def test_a_negative_seed(device):
    with pytest.raises(ValueError, match="seed is -1; it must not be negative"):
        edgetam_pointwise(device, seed=-1)
