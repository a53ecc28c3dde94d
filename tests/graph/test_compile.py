"""The kernels of a graph compile in threads, each once; what goes wrong there is the caller's."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import pwconv
from pwconv.errors import OutOfMemoryError
from pwconv.vk import pipelines


@pytest.fixture
def graph(own_device, rng) -> pwconv.Graph:
    """A graph of several kernels, some of which two nodes share."""
    graph = pwconv.Graph(own_device, "float32", storage="buffer")
    x = graph.input("x", (1, 5, 7, 11))
    y = graph.conv2d_pw(x, rng.standard_normal((5, 5)).astype(np.float32))
    for _ in range(3):
        y = graph.max_pool(graph.activation(y, "softplus"), 3, padding=1)
    graph.output("y", graph.softmax(y))
    return graph


def test_each_once_and_told(graph, monkeypatch):
    threads, told = [], []

    class Watched(pipelines.Pipeline):
        def __init__(self, *arguments):
            threads.append(threading.current_thread().name)
            super().__init__(*arguments)

    monkeypatch.setattr(pipelines, "Pipeline", Watched)
    graph.compile(lambda done, total: told.append((done, total)))
    compiled = sum(name.startswith("pwconv-compile") for name in threads)
    packing = len(threads) - compiled
    assert compiled >= 4
    assert packing == 1
    left = len(told)  # by the time when weights were packed, when some may be done
    assert left <= compiled
    assert [done for done, _ in told] == list(range(1, left + 1))
    assert told[-1:] in ([], [(left, left)])
    graph.compile(lambda *progress: told.append(progress))
    assert (len(threads), len(told)) == (compiled + packing, left)


def test_its_numbers(graph, rng):
    x = rng.standard_normal((1, 5, 7, 11)).astype(np.float32)
    assert graph.check(x=x).passed


def test_a_kernel_that_does_not_compile(graph, rng, monkeypatch):
    """Its error is raised, and the next call tries again."""
    make = pipelines.Pipeline

    class Failing(pipelines.Pipeline):
        def __init__(self, core, cache, code, *arguments):
            if len(code) == longest:
                raise OutOfMemoryError("no memory to compile")
            super().__init__(core, cache, code, *arguments)

    longest = max(len(v.code) for v in pwconv.shaders.variants("softmax", dtype="fp32"))
    monkeypatch.setattr(pipelines, "Pipeline", Failing)
    with pytest.raises(OutOfMemoryError, match="no memory to compile"):
        graph.compile()
    monkeypatch.setattr(pipelines, "Pipeline", make)
    assert graph.check(x=rng.standard_normal((1, 5, 7, 11)).astype(np.float32)).passed


def test_nothing_is_left_behind(graph, own_device, monkeypatch):
    """After an error in the middle, a layer's kernel compiles when it is asked for."""
    with pytest.raises(KeyboardInterrupt):
        graph.compile(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    layer = pwconv.Linear(np.eye(3, dtype=np.float32), device=own_device)
    np.testing.assert_array_equal(layer(np.ones((2, 3), np.float32)), np.ones((2, 3)))
