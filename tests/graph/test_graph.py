"""Graphs of pointwise convolutions: numbers, sizes, memory, runs in flight, errors."""

from __future__ import annotations

import gc
import itertools
import threading

import numpy as np
import pytest

import pwconv
from support import inside
from support.mirror import Mirror, random_weight

STORAGES = ("texture3d", "buffer")
DTYPES = ("float32", "float16")
both = pytest.mark.parametrize("storage", STORAGES)
types = pytest.mark.parametrize("dtype", DTYPES)


def mixer(
    device: pwconv.Device,
    rng: np.random.Generator,
    dtype: str,
    storage: str,
    shape: tuple[int, ...] = (2, 13, 9, 11),
) -> Mirror:
    """x + conv2(gelu(conv1(x))), and a convolution after it."""
    mirror = Mirror(device, dtype, storage)
    c = shape[-3]
    x = mirror.input("x", shape)
    h = mirror.conv2d_pw(x, *random_weight(rng, dtype, 2 * c, c), activation="gelu")
    y = mirror.conv2d_pw(h, *random_weight(rng, dtype, c, 2 * c), residual=x)
    z = mirror.conv2d_pw(y, *random_weight(rng, dtype, 5, c), residual=None, activation="relu")
    mirror.output("z", z)
    return mirror


def noise(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


@both
@types
@pytest.mark.parametrize("shape", [(2, 13, 9, 11), (13, 7, 5), (1, 13, 1, 1)], ids=str)
def test_a_mixer(device, rng, dtype, storage, shape):
    mirror = mixer(device, rng, dtype, storage, shape)
    assert mirror.graph.storage == storage
    x = noise(rng, dtype, shape)
    first = mirror.check({"x": x})["z"]
    np.testing.assert_array_equal(mirror.graph.run(x=x)["z"], first)


@both
@types
def test_stride_padding_and_an_activated_residual(device, rng, dtype, storage):
    mirror = Mirror(device, dtype, storage)
    x, r = mirror.input("x", (2, 7, 9, 11)), mirror.input("r", (2, 10, 6, 5))
    weight, bias = random_weight(rng, dtype, 10, 7)
    y = mirror.conv2d_pw(
        x, weight, bias, stride=(2, 3), padding=(1, 2), activation="silu", residual=r
    )
    mirror.output("y", y)
    mirror.check({"x": noise(rng, dtype, (2, 7, 9, 11)), "r": noise(rng, dtype, (2, 10, 6, 5))})


@both
@types
def test_tensors_in_and_out(device, rng, dtype, storage):
    mirror = mixer(device, rng, dtype, storage)
    x = noise(rng, dtype, (2, 13, 9, 11))
    tensor = device.tensor(x, storage=storage)
    result = mirror.graph.run(x=tensor)["z"]
    assert isinstance(result, pwconv.Tensor)
    assert (result.shape, result.storage, result.dtype) == ((2, 5, 9, 11), storage, dtype)
    mirror.check({"x": x}, {"z": result})
    handle = mirror.graph.run_async(x=tensor)
    np.testing.assert_array_equal(handle.wait()["z"].numpy(), mirror.graph.run(x=x)["z"])
    assert handle.wait()["z"] is handle.wait()["z"]


def test_arrays_and_tensors_together_give_tensors(device, rng):
    mirror = Mirror(device, "float32", "buffer")
    x, r = mirror.input("x", (3, 4, 5)), mirror.input("r", (3, 4, 5))
    mirror.output("y", mirror.conv2d_pw(x, *random_weight(rng, "float32", 3, 3), residual=r))
    arrays = {name: noise(rng, "float32", (3, 4, 5)) for name in "xr"}
    tensor = device.tensor(arrays["r"], storage="buffer")
    results = mirror.graph.run(x=arrays["x"], r=tensor)
    assert isinstance(results["y"], pwconv.Tensor)
    mirror.check(arrays, results)


@types
def test_arrays_of_another_type_are_converted(device, rng, dtype):
    other = {"float32": "float16", "float16": "float32"}[dtype]
    mirror = mixer(device, rng, dtype, "auto")
    x = noise(rng, "float16", (2, 13, 9, 11))
    same = mirror.graph.run(x=x.astype(dtype))["z"]
    np.testing.assert_array_equal(mirror.graph.run(x=x.astype(other))["z"], same)
    np.testing.assert_array_equal(mirror.graph.run(x=np.asfortranarray(x))["z"], same)


@both
def test_arrays_of_many_chunks(device, rng, monkeypatch, storage):
    shape = (2, 13, 9, 11)
    mirror = mixer(device, rng, "float32", storage, shape)
    x = noise(rng, "float32", shape)
    expected = mirror.check({"x": x})["z"]
    monkeypatch.setattr(*inside.slots.chunk_bytes, 1024)
    again = mixer(device, np.random.default_rng(2026), "float32", storage, shape)
    handles = [again.graph.run_async(x=x * scale) for scale in (2, 1, 3, 1)]
    for handle in handles[1::2]:
        np.testing.assert_array_equal(handle.wait()["z"], expected)


# -- sizes and memory ------------------------------------------------------------------------------


@both
@types
def test_resized_as_if_made_anew(device, rng, dtype, storage):
    mirror = mixer(device, rng, dtype, storage)
    for size in ((9, 11), (3, 2), (20, 17), (9, 11), (1, 1), (20, 17), (30, 31), (3, 2)):
        batch = 1 + size[0] % 3
        shape = (batch, 13, *size)
        mirror.graph.resize(x=shape)
        assert f"x={shape}" in repr(mirror.graph)
        mirror.check({"x": noise(rng, dtype, shape)})


@both
def test_two_sizes_in_turns_cost_nothing(device, rng, monkeypatch, storage):
    mirror = mixer(device, rng, "float32", storage)
    shapes = [(1, 13, 9, 11), (1, 13, 17, 6)]
    arrays = [noise(rng, "float32", shape) for shape in shapes]
    tensors = [device.tensor(array, storage=storage) for array in arrays]
    expected = []
    for _ in range(2):
        for array, tensor in zip(arrays, tensors, strict=True):
            mirror.graph.resize(x=array.shape)
            expected.append(mirror.graph.run(x=array)["z"])
            mirror.graph.run(x=tensor)

    def forbidden(*arguments: object) -> None:
        raise AssertionError("something is made anew")

    memory = inside.context(device).memory
    before = memory.used, memory.reserved
    with monkeypatch.context() as patch:
        for name in ("vkCreateBuffer", "vkCreateImage", "vkAllocateMemory"):
            patch.setattr(f"pwconv.vk.api.{name}", forbidden, raising=False)
        patch.setattr("pwconv.vk.queue.Queue.record", forbidden)
        for _ in range(3):
            for array, tensor, known in zip(arrays, tensors, expected, strict=False):
                mirror.graph.resize(x=array.shape)
                np.testing.assert_array_equal(mirror.graph.run(x=array)["z"], known)
                mirror.graph.run(x=tensor)
    assert (memory.used, memory.reserved) == before


def test_a_resize_that_fails_changes_nothing(device, rng):
    mirror = mixer(device, rng, "float32", "auto")
    x = noise(rng, "float32", (2, 13, 9, 11))
    mirror.check({"x": x})
    for wrong, error, says in (
        ((2, 12, 9, 11), ValueError, "node 'conv2d_pw_1': x has shape .*12 channels"),
        ((2, 13, 9, 0), ValueError, "may be"),
        ((13, 9), ValueError, "must be"),
        ("abc", TypeError, "tuple of ints"),
        ((1, 13, 2**20, 2**20), pwconv.UnsupportedError, "has shape"),
    ):
        with pytest.raises(error, match=says):
            mirror.graph.resize(x=wrong)
        mirror.check({"x": x})
    with pytest.raises(ValueError, match=r"no input 'y'; there are 'x'"):
        mirror.graph.resize(y=(1, 2, 3, 4))


@both
@types
def test_memory_of_a_chain(device, rng, dtype, storage):
    """The peak is the sum of the two largest neighbours among the intermediates."""
    channels = (8, 40, 24, 24, 40, 4, 16, 8)
    mirror = Mirror(device, dtype, storage)
    x = mirror.input("x", (1, channels[0], 8, 8))
    for c_in, c_out in itertools.pairwise(channels):
        x = mirror.conv2d_pw(x, *random_weight(rng, dtype, c_out, c_in))
    mirror.output("y", x)
    small = mirror.graph.memory()
    scratch = inside.scratch(mirror.graph)

    def size(c: int, side: int) -> int:
        return scratch.requirements(storage, (1, c, side, side), np.dtype(dtype)).size

    assert small.scratch == small.scratch_reserved == size(40, 8) + size(24, 8)
    assert small.inputs == small.outputs == size(8, 8)
    itemsize = np.dtype(dtype).itemsize
    pairs = list(itertools.pairwise(channels))
    assert small.weights >= sum(a * b * itemsize + 4 * b for a, b in pairs)
    mirror.graph.resize(x=(1, 8, 16, 16))
    large = mirror.graph.memory()
    assert large.scratch == large.scratch_reserved == size(40, 16) + size(24, 16)
    assert large.weights == small.weights
    mirror.graph.resize(x=(1, 8, 8, 8))
    again = mirror.graph.memory()
    assert (again.scratch, again.scratch_reserved) == (small.scratch, large.scratch)
    mirror.check({"x": noise(rng, dtype, (1, 8, 8, 8))})


@both
def test_nothing_leaks(device, rng, storage):
    live, memory = inside.context(device).live, inside.context(device).memory
    mirrors = [mixer(device, rng, "float32", storage)]
    shapes = [(1, 13, 3 + n, 15 - n) for n in range(12)]  # more than are kept
    arrays = [noise(rng, "float32", shape) for shape in shapes]

    def rounds() -> tuple[int, int]:
        graph = mirrors[0].graph
        for array in arrays:
            graph.resize(x=array.shape)
            graph.run(x=array)
            graph.run_async(x=array)
            graph.run(x=device.tensor(array, storage=storage))
        device.synchronize()
        gc.collect()
        inside.context(device).queue.collect()
        return len(live), memory.used

    rounds()
    rounds()
    before = rounds()
    assert rounds() == before
    with_graph = len(live)
    mirrors.clear()
    gc.collect()
    device.synchronize()
    inside.context(device).queue.collect()
    assert len(live) < with_graph


@both
def test_only_what_depends_waits(device, rng, storage):
    mirror = Mirror(device, "float32", storage)
    x = mirror.input("x", (1, 3, 4, 4))
    weight = random_weight(rng, "float32", 3, 3)[0]
    branches = [mirror.conv2d_pw(x, weight, activation="silu") for _ in range(3)]
    for n, branch in enumerate(branches):
        mirror.output(f"y{n}", mirror.conv2d_pw(branch, weight, activation="silu"))
    mirror.check({"x": noise(rng, "float32", (1, 3, 4, 4))})
    program = inside.program(mirror.graph)
    numbers = [*program.network.inputs.values(), *program.network.outputs.values()]
    tensors = {i: device.empty((1, 3, 4, 4), "float32", storage) for i in numbers}
    groups = program.groups({i: tensor.resource for i, tensor in tensors.items()})
    waits = [entry.waits for entry in inside.place_barriers(groups)]
    assert waits == [False, False, False, True, False, False]


# -- runs in flight --------------------------------------------------------------------------------


@both
def test_runs_in_flight_do_not_mix(device, rng, storage):
    mirror = mixer(device, rng, "float32", storage)
    shapes = ((2, 13, 9, 11), (2, 13, 5, 7))
    arrays = [noise(rng, "float32", shapes[n % 2]) for n in range(12)]
    expected = []
    for array in arrays:
        mirror.graph.resize(x=array.shape)
        expected.append(mirror.graph.run(x=array)["z"])
    handles = []
    for array in arrays:
        mirror.graph.resize(x=array.shape)
        passed = array.copy()
        handles.append(mirror.graph.run_async(x=passed))
        passed[...] = np.nan
    for n in (5, 11, 0, 3, 10, 1, 2, 4, 6, 7, 8, 9):
        np.testing.assert_array_equal(handles[n].wait()["z"], expected[n])
        np.testing.assert_array_equal(handles[n].wait()["z"], expected[n])


def test_results_outlive_the_graph(device, rng):
    mirror = mixer(device, rng, "float32", "auto")
    x = noise(rng, "float32", (2, 13, 9, 11))
    expected = mirror.graph.run(x=x)["z"]
    handles = [mirror.graph.run_async(x=x) for _ in range(2)]
    del mirror
    gc.collect()
    for handle in handles:
        np.testing.assert_array_equal(handle.wait()["z"], expected)


def test_from_several_threads(device, rng):
    mirror = mixer(device, rng, "float32", "auto")
    arrays = [noise(rng, "float32", (2, 13, 9, 11)) for _ in range(4)]
    expected = [mirror.graph.run(x=array)["z"] for array in arrays]
    right = []

    def work(n: int) -> None:
        runs = [mirror.graph.run(x=arrays[n])["z"] for _ in range(20)]
        right.append(all(np.array_equal(z, expected[n]) for z in runs))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 4


def test_a_closed_device(own_device, rng):
    mirror = mixer(own_device, rng, "float32", "auto")
    x = noise(rng, "float32", (2, 13, 9, 11))
    handle = mirror.graph.run_async(x=x)
    own_device.close()
    with pytest.raises(pwconv.ClosedError):
        handle.wait()
    for call in (
        lambda: mirror.graph.run(x=x),
        lambda: mirror.graph.resize(x=(1, 13, 4, 4)),
    ):
        with pytest.raises(pwconv.ClosedError):
            call()


# -- errors ----------------------------------------------------------------------------------------


def test_errors_name_the_node(device):
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 4, 3, 3))
    weight = np.ones((6, 4), np.float32)
    y = graph.conv2d_pw(x, weight, name="first")
    for build, error, says in (
        (lambda: graph.conv2d_pw(y, weight), ValueError, "node 'conv2d_pw_1': x has .* 6 channels"),
        (
            lambda: graph.conv2d_pw(x, weight, residual=x, name="r"),
            ValueError,
            r"node 'r': residual has shape \(1, 4, 3, 3\); it must be the output's, \(1, 6, 3, 3\)",
        ),
        (
            lambda: graph.conv2d_pw(x, weight, activation="swush", name="a"),
            ValueError,
            "node 'a': activation is 'swush'",
        ),
        (lambda: graph.conv2d_pw(x, weight[0], name="w"), ValueError, "node 'w': weight has shape"),
        (lambda: graph.conv2d_pw(x, "no", name="t"), TypeError, "node 't': weight has dtype"),
        (lambda: graph.conv2d_pw(np.ones((1, 4, 3, 3)), weight), TypeError, "x is an ndarray; it"),
        (lambda: graph.conv2d_pw(x, weight, name="first"), ValueError, "which another node"),
        (lambda: graph.conv2d_pw(x, weight, name=3), TypeError, "must be a string"),
        (lambda: graph.input("x", (1, 2, 3, 4)), ValueError, "which another node"),
        (lambda: graph.input("z", (0, 2, 3, 4)), ValueError, "length 0"),
        (lambda: graph.input("z", ()), ValueError, r"input 'z' has shape \(\)"),
        (lambda: graph.output("x", x), ValueError, "is the input 'x' itself"),
        (lambda: graph.output("z", "first"), TypeError, "is a str"),
        (lambda: graph.run(x=np.ones((1, 4, 3, 3), np.float32)), ValueError, "has no output"),
    ):
        with pytest.raises(error, match=says):
            build()
    graph.output("y", y)
    with pytest.raises(ValueError, match="'z': node 'first' is the output 'y' already"):
        graph.output("z", y)
    other = graph.conv2d_pw(x, weight)
    with pytest.raises(ValueError, match="one of this name already"):
        graph.output("y", other)
    with pytest.raises(ValueError, match="of another graph"):
        pwconv.Graph(device).conv2d_pw(x, weight)
    graph.input("idle", (1, 4, 3, 3))
    with pytest.raises(ValueError, match="input 'idle' is not used"):
        graph.run(x=np.ones((1, 4, 3, 3), np.float32))


def test_errors_of_a_run(device, rng):
    mirror = mixer(device, rng, "float32", "buffer")
    graph, x = mirror.graph, noise(rng, "float32", (2, 13, 9, 11))
    graph.run(x=x)
    tensor = device.tensor(x, storage="texture3d")
    for call, error, says in (
        (lambda: graph.run(), ValueError, "input 'x' is missing"),
        (lambda: graph.run(x=x, y=x), ValueError, "no input 'y'; there are 'x'"),
        (lambda: graph.run(x=x[:1]), ValueError, r"call graph.resize\(x=\(1, 13, 9, 11\)\)"),
        (lambda: graph.run(x=x.astype(int)), TypeError, "x has dtype"),
        (lambda: graph.run(x=tensor), ValueError, "storage='buffer'"),
        (lambda: graph.input("z", (1, 2, 3, 4)), ValueError, "ended its building"),
    ):
        with pytest.raises(error, match=says):
            call()
    mirror.check({"x": x})


def test_inputs_of_any_name(device):
    graph = pwconv.Graph(device)
    names = ("self", "the image", "graph")
    x, y, z = (graph.input(name, (1, 2, 2)) for name in names)
    graph.output("self", graph.add(graph.add(x, y), z))
    ones = dict.fromkeys(names, np.ones((1, 2, 2), np.float32))
    assert (graph.run(**ones)["self"] == 3).all()
    graph.resize(**dict.fromkeys(names, (1, 1, 1)))
    assert graph.run(**{name: array[:, :1, :1] for name, array in ones.items()})["self"] == 3


def test_values_that_no_output_needs_are_not_run(device, rng):
    mirror = Mirror(device, "float32", "auto")
    x = mirror.input("x", (1, 3, 4, 4))
    mirror.conv2d_pw(x, *random_weight(rng, "float32", 3, 3))
    mirror.output("y", mirror.conv2d_pw(x, *random_weight(rng, "float32", 3, 3)))
    mirror.check({"x": noise(rng, "float32", (1, 3, 4, 4))})
    assert len(inside.program(mirror.graph).dispatches) == 1
    assert mirror.graph.memory().scratch == 0
