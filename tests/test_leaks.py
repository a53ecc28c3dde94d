"""Nothing grows: device memory and Vulkan objects over many calls, and over many devices."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

import pwconv
from pwconv.vk import api as vk
from support import inside
from support.accuracy import random_problem
from support.injector import UNDONE_BY

# The messenger's functions are an extension's, which pwconv has by other ways than the rest.
CREATED = {m: u for m, u in UNDONE_BY.items() if m != "vkCreateDebugUtilsMessengerEXT"}


@pytest.fixture
def objects(monkeypatch):
    """Vulkan objects that exist, by the function that makes them."""
    counts: Counter[str] = Counter()

    def counted(name: str, kind: str, change: int) -> None:
        real = getattr(vk, name)

        def call(*arguments: object) -> object:
            result = real(*arguments)
            counts[kind] += change
            return result

        monkeypatch.setattr(vk, name, call)

    for create, destroy in CREATED.items():
        counted(create, create, 1)
        counted(destroy, create, -1)
    return counts


def test_500_calls_of_mixed_sizes(device, objects, rng):
    weight, bias = random_problem(rng, 13, 9, (1, 1), "float32")[1:]
    sizes = [(1 + n % 2, 13, 3 + n, 11 - n // 2) for n in range(12)]
    inputs = [rng.standard_normal(size).astype(np.float32) for size in sizes]
    with pwconv.Device(device.info.index, validate=True) as own:
        layer = pwconv.PointwiseConv2d(weight, bias, device=own)
        memory = inside.context(own).memory
        order = random.Random(3)

        def calls(count: int) -> None:
            for _ in range(count):
                x = order.choice(inputs)
                layer(x)
                layer(own.tensor(x))
            own.synchronize()
            inside.context(own).queue.collect()

        calls(500)  # until every input has met every staging buffer
        before = (+objects, memory.reserved, memory.block_count)
        calls(500)
        assert (+objects, memory.reserved, memory.block_count) == before
        assert memory.used <= memory.reserved


def test_50_devices(device, objects):
    weight = np.ones((5, 3), np.float32)
    for _ in range(50):
        with pwconv.Device(device.info.index) as own:
            layer = pwconv.PointwiseConv2d(weight, device=own)
            layer(np.ones((3, 4, 4), np.float32))
        # A command pool takes its command buffers with it.
        del objects["vkAllocateCommandBuffers"]
        assert not +objects
        assert not -objects
