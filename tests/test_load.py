"""Thousands of calls of mixed shapes in one process: memory is flat, on the host and on the device.

``--load 20000 -s`` runs so many, and shows the figures on the way.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pwconv
from pwconv import reference
from support import inside
from support.accuracy import assert_within
from support.leftovers import settled

_STATUS = Path("/proc/self/statm")
_PAGE = 4096
# More than the allocator's arenas move; 1000 leaked calls of these shapes are more than this.
_SPARE = 8 << 20


def resident() -> int:
    """Return the bytes of memory that the process has, where that can be asked."""
    gc.collect()
    return int(_STATUS.read_text().split()[1]) * _PAGE if _STATUS.exists() else 0


class Load:
    """Layers, functions and graphs, called at shapes drawn from some."""

    def __init__(self, device: pwconv.Device, shapes: int) -> None:
        self.device = device
        self.order = random.Random(7)
        self.rng = np.random.default_rng(7)
        self.weight = self.rng.standard_normal((9, 6)).astype(np.float32)
        self.layer = pwconv.PointwiseConv2d(self.weight, activation="relu", device=device)
        self.linear = pwconv.Linear(self.weight, device=device)
        self.graph = pwconv.Graph(device)
        x = self.graph.input("x", (1, 6, 4, 4))
        self.graph.output("y", self.graph.conv2d_pw(x, self.weight, activation="relu"))
        self.images = [
            self.rng.standard_normal((1 + n % 3, 6, 3 + n % 7, 2 + n % 11)).astype(np.float32)
            for n in range(shapes)
        ]

    def call(self) -> None:
        x = self.order.choice(self.images)
        kind = self.order.randrange(20)
        if kind == 0:
            y = pwconv.conv2d_pw(x, self.weight, activation="relu", device=self.device)
        elif kind == 1:
            with pytest.raises(ValueError, match="C_in = 6"):
                self.layer(x[:, :5])
            return
        elif kind < 4:
            self.graph.resize(x=x.shape)
            y = self.graph.run(x=x)["y"]
        elif kind < 8:
            rows = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
            y = np.maximum(self.linear(rows), 0).transpose(0, 3, 1, 2)
        elif kind < 12:
            y = self.layer(self.device.tensor(x)).numpy()
        else:
            y = self.layer(x)
        if kind < 5:
            assert_within(
                y,
                reference.conv2d_pw(x, self.weight, activation="relu"),
                reference.conv2d_pw_bound(x, self.weight, activation="relu"),
            )

    def tell(self, done: int) -> None:
        """Print what there is after so many calls, caches as they are."""
        self.device.synchronize()
        context = inside.context(self.device)
        context.queue.collect()
        print(
            f"{done:7,} calls: {resident() / 2**20:.1f} MiB resident; of the device "
            f"{context.memory.reserved / 2**20:.1f} MiB taken, {context.memory.used / 2**20:.2f} "
            f"MiB handed out, {len(context.live)} objects"
        )


@pytest.fixture
def unvalidated(device) -> Iterator[pwconv.Device]:
    """A device without the validation layer, whose notes grow by kilobytes a recording."""
    with pwconv.Device(device.info.index, validate=False) as opened:
        yield opened


def test_memory_is_flat(unvalidated, request):
    calls = request.config.getoption("--load")
    # So many that no cache holds all; or so few that the first half of the calls fills them all.
    many = calls >= 10_000
    load = Load(unvalidated, 60 if many else 6)
    figures = []
    done = 0
    for mark in (calls // 10, calls // 2, calls) if many else (calls // 2, calls):
        for _ in range(mark - done):
            load.call()
        done = mark
        load.tell(done)
        host = resident()
        figures.append((host, inside.context(unvalidated).memory.reserved, *settled(unvalidated)))
    first, last = figures[0], figures[-1]
    assert last[0] <= first[0] + _SPARE
    assert last[1] <= first[1]
    # A graph keeps its last eight shapes, which then are not always of one size.
    assert last[2] <= first[2]
    assert last[3] <= first[3] + (2**20 if many else 0)
