"""Graphs of linear layers alone: x of [..., K], any rows, one weight or one for each batch."""

from __future__ import annotations

import re

import numpy as np
import pytest

import pwconv
from pwconv.tensor import storage_order
from support import inside
from support.accuracy import random_linear
from support.mirror import Mirror

K, HIDDEN, N = 13, 31, 10

both = pytest.mark.parametrize("storage", ["texture3d", "buffer"])
types = pytest.mark.parametrize("dtype", ["float32", "float16"])


def mlp(
    device: pwconv.Device,
    rng: np.random.Generator,
    dtype: str,
    storage: str,
    shape: tuple[int, ...],
    batches: tuple[int, ...] = (),
) -> Mirror:
    """linear(gelu(linear(x)))"""
    mirror = Mirror(device, dtype, storage)
    x = mirror.input("x", shape)
    _, weight, bias = random_linear(rng, (), (*batches, HIDDEN, K), dtype)
    h = mirror.activation(mirror.linear(x, weight, bias), "gelu")
    _, weight, bias = random_linear(rng, (), (*batches, N, HIDDEN), dtype)
    mirror.output("y", mirror.linear(h, weight, bias))
    return mirror


def noise(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


@both
@types
def test_resized_over_rows(device, rng, dtype, storage):
    mirror = mlp(device, rng, dtype, storage, (7, K))
    for rows in (7, 1, 64, 3, 257, 7):
        mirror.graph.resize(x=(rows, K))
        mirror.check({"x": noise(rng, dtype, (rows, K))})
    assert mirror.graph.storage == storage
    assert len(inside.program(mirror.graph).dispatches) == 2


@both
@types
def test_resized_to_other_axes(device, rng, dtype, storage):
    mirror = mlp(device, rng, dtype, storage, (K,))
    for shape in ((K,), (5, K), (2, 5, K), (1, 5, K), (2, 3, 4, K), (2, 1, 3, 2, K), (K,)):
        mirror.graph.resize(x=shape)
        (y,) = mirror.check({"x": noise(rng, dtype, shape)}).values()
        assert y.shape == (*shape[:-1], N)


@both
@types
def test_batched_weights_resized_over_rows(device, rng, dtype, storage):
    extra = (1,) if storage == "texture3d" else ()
    mirror = mlp(device, rng, dtype, storage, (3, 7, *extra, K), (3,))
    for rows in (7, 1, 66, 5, 7):
        shape = (3, rows, *extra, K)
        mirror.graph.resize(x=shape)
        mirror.check({"x": noise(rng, dtype, shape)})
    with pytest.raises(ValueError, match=r"node 'linear_1': x has shape .*with B = 3"):
        mirror.graph.resize(x=(2, 7, *extra, K))


def test_batches_that_would_share_texels_become_buffers(device, rng):
    mirror = mlp(device, rng, "float32", "auto", (3, 7, K), (3,))
    preferred = storage_order(inside.context(device), "auto")[0]
    for shape, storage in (((3, 7, K), "buffer"), ((3, 7, 1, K), preferred), ((3, K), "buffer")):
        mirror.graph.resize(x=shape)
        assert mirror.graph.storage == storage
        mirror.check({"x": noise(rng, "float32", shape)})


def test_a_resize_that_no_storage_serves_changes_nothing(device, rng):
    mirror = mlp(device, rng, "float32", "texture3d", (3, 7, 1, K), (3,))
    says = re.escape(f"node 'linear_1': x has shape (3, 7, {K}): a texture has several batches")
    with pytest.raises(pwconv.UnsupportedError, match=says):
        mirror.graph.resize(x=(3, 7, K))
    mirror.check({"x": noise(rng, "float32", (3, 7, 1, K))})


@both
@types
@pytest.mark.parametrize("shape", [(7, K), (2, 5, K), (K,)], ids=str)
def test_tensors_in_and_out(device, rng, dtype, storage, shape):
    mirror = mlp(device, rng, dtype, storage, shape)
    x = noise(rng, dtype, shape)
    result = mirror.graph.run(x=device.tensor(x, storage=storage))["y"]
    assert isinstance(result, pwconv.Tensor)
    assert (result.shape, result.storage, result.dtype) == ((*shape[:-1], N), storage, dtype)
    mirror.check({"x": x}, {"y": result})
    first, second = mirror.graph.run_async(x=x), mirror.graph.run_async(x=-x)
    np.testing.assert_array_equal(first.wait()["y"], result.numpy())
    mirror.check({"x": -x}, second.wait())


@both
@pytest.mark.parametrize("shape", [(97, K), (2, 41, K)], ids=str)
def test_arrays_of_many_chunks(device, rng, monkeypatch, storage, shape):
    monkeypatch.setattr(*inside.slots.chunk_bytes, 1024)
    mirror = mlp(device, rng, "float32", storage, shape)
    x = noise(rng, "float32", shape)
    for array in (x, np.asfortranarray(x), x[::-1]):
        mirror.check({"x": array})


@both
def test_a_packed_weight_and_a_weight_of_another_type(device, rng, storage):
    _, weight, bias = random_linear(rng, (), (N, K), "float16")
    x = noise(rng, "float16", (5, K))
    results = []
    packed = pwconv.pack_linear_weight(weight, device=device)
    for given in (weight, weight.astype(np.float32), packed, weight[None]):
        graph = pwconv.Graph(device, "float16", storage=storage)
        graph.output("y", graph.linear(graph.input("x", (5, K)), given, bias))
        results.append(graph.run(x=x)["y"])
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    graph = pwconv.Graph(device, "float32", storage=storage)
    with pytest.raises(ValueError, match=r"node 'linear_1': dtype is .* packed as float16"):
        graph.linear(graph.input("x", (5, K)), packed)


@both
@types
def test_memory(device, rng, dtype, storage):
    mirror = mlp(device, rng, dtype, storage, (64, K))
    memory = mirror.graph.memory()
    itemsize = np.dtype(dtype).itemsize
    scratch = inside.scratch(mirror.graph)

    def size(columns: int) -> int:
        return scratch.requirements(storage, (1, 64, 1, columns), np.dtype(dtype)).size

    assert (memory.inputs, memory.scratch, memory.outputs) == (size(K), size(HIDDEN), size(N))
    assert memory.weights >= (K * HIDDEN + HIDDEN * N) * itemsize + 4 * (HIDDEN + N)


def test_what_it_tells_of_itself(device, rng):
    mirror = mlp(device, rng, "float32", "buffer", (2, 5, K))
    graph = mirror.graph
    first, second = graph.profile(runs=2).nodes
    assert (first.name, first.kind) == ("linear_1 + activation_1", "linear")
    assert first.shape == (2, 5, HIDDEN)
    assert (first.flop, second.flop) == (2 * 10 * K * HIDDEN, 2 * 10 * HIDDEN * N)
    weights = sum(
        inside.program(graph).network.nodes[i].operator.weight_bytes
        for i in inside.program(graph).dispatches
    )
    moved = 4 * 10 * (K + 2 * HIDDEN + N)
    assert first.least_bytes + second.least_bytes == moved + weights
    assert all(v.startswith("linear_") for node in (first, second) for v in node.variants)
    assert first.time.median > 0
    summary = graph.summary()
    for shown in ("linear_1 + activation_1", "linear_2", f"2 × 5 × {HIDDEN}", "µs"):
        assert shown in summary
    drawing = graph.to_dot()
    assert 'label="linear_2: linear"' in drawing
    assert f'[label="2 × 5 × {HIDDEN}"]' in drawing
