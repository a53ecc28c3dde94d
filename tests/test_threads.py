"""Eight threads at once, switched as often as Python can: each call of each kind, right each time.

What one layer or one graph promises of threads is in test_layers.py and graph/test_graph.py.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import pwconv

THREADS, CALLS = 8, 200

Call = Callable[[], np.ndarray]


@pytest.fixture
def switching() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def make_graph(device: pwconv.Device, weight: np.ndarray) -> pwconv.Graph:
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 6, 5, 7))
    hidden = graph.conv2d_pw(x, weight, activation="relu")
    graph.output("y", graph.add(graph.conv2d_pw(hidden, weight.T.copy()), x))
    return graph


def make_calls(device: pwconv.Device, seed: int, shared: list[Call]) -> list[Call]:
    """Return calls on objects of a thread's own, over two shapes each, and those that all share."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((9, 6)).astype(np.float32)
    bias = rng.standard_normal(9).astype(np.float32)
    layer = pwconv.PointwiseConv2d(weight, bias, activation="silu", device=device)
    rows = pwconv.Linear(weight, bias, device=device)
    calls: list[Call] = list(shared)
    for height in (3 + seed % 3, 8):
        image = rng.standard_normal((1, 6, height, 7)).astype(np.float32)
        matrix = rng.standard_normal((height, 6)).astype(np.float32)
        tensors = {s: device.tensor(image, storage=s) for s in ("buffer", "texture3d")}
        for storage, tensor in tensors.items():
            out = device.empty((1, 9, height, 7), "float32", storage)
            calls.append(lambda tensor=tensor, out=out: layer(tensor, out=out).numpy())
            calls.append(lambda tensor=tensor: layer(tensor).numpy())
            calls.append(tensor.numpy)
        calls.append(lambda image=image: layer(image))
        calls.append(lambda matrix=matrix: rows(matrix))
        calls.append(lambda image=image: device.tensor(image, "float16").numpy())
        calls.append(lambda image=image: pwconv.conv2d_pw(image, weight, bias, device=device))
        calls.append(lambda image=image: np.array(layer.explain(image.shape).out_shape))
    calls.append(lambda: pwconv.pack_linear_weight(weight, device=device).numpy())
    graph = make_graph(device, weight)
    sizes = {n: rng.standard_normal((n, 6, 5, 7)).astype(np.float32) for n in (1, 2)}

    def resized(batch: int) -> np.ndarray:
        graph.resize(x=sizes[batch].shape)
        return graph.run_async(x=sizes[batch]).wait()["y"]

    calls += [lambda: resized(1), lambda: resized(2)]
    return calls


def test_every_call_from_every_thread(own_device, rng, switching):
    weight = rng.standard_normal((9, 6)).astype(np.float32)
    layer = pwconv.PointwiseConv2d(weight, device=own_device)
    graph = make_graph(own_device, weight)
    image = rng.standard_normal((1, 6, 5, 7)).astype(np.float32)
    tensor = own_device.tensor(image, storage=graph.storage)
    shared: list[Call] = [
        lambda: layer(image),
        lambda: layer(tensor).numpy(),
        lambda: graph.run(x=image)["y"],
        lambda: graph.run(x=tensor)["y"].numpy(),
    ]
    work = [make_calls(own_device, seed, shared) for seed in range(THREADS)]
    expected = [[call() for call in calls] for calls in work]
    done: list[int] = []
    problems: list[object] = []
    start = threading.Barrier(THREADS)

    def run(index: int) -> None:
        order = random.Random(index)
        try:
            start.wait()
            for count in range(1, CALLS + 1):
                which = order.randrange(len(work[index]))
                result = work[index][which]()
                if not np.array_equal(result, expected[index][which]):
                    problems.append((index, which, count))
            done.append(count)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not problems
    assert done == [CALLS] * THREADS
    own_device.synchronize()
