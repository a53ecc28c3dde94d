"""Devices that can do less: every result is right, or an error that names the limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import pytest
from capped import Cap
from hypothesis import given, settings
from hypothesis import strategies as st

import pwconv
from accuracy import check_layer, check_linear, random_linear, random_problem
from drawn import Drawn
from mirror import Mirror, random_weight
from pwconv import reference, shaders
from pwconv.dtypes import FLOAT32
from pwconv.kernels import conv2d_pw, conv2d_pw_choice, conv2d_pw_pair_choice, linear
from pwconv.kernels.tiling import Choice

DTYPES = ("float32", "float16")
STORAGES = ("texture3d", "buffer")


@contextmanager
def refused(*limits: str, unless: bool = False) -> Iterator[None]:
    """Assert that a device refuses, naming every one of the limits."""
    if unless:
        yield
        return
    with pytest.raises((pwconv.UnsupportedError, pwconv.OutOfMemoryError)) as raised:
        yield
    for limit in limits:
        assert limit in str(raised.value)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_convolutions(limited, rng, dtype, storage):
    where = {"storage": storage, "device": limited.device}
    x, weight, bias = random_problem(rng, 33, 50, (23, 29), dtype, batch=2)
    check_layer(pwconv.PointwiseConv2d(weight, bias, activation="gelu", **where), x, weight, bias)
    x, weight, bias = random_problem(rng, 13, 7, (5, 7), dtype)
    for weight_storage in ("texture2d", "buffer"):
        packed = pwconv.pack_linear_weight(weight, storage=weight_storage, device=limited.device)
        check_layer(pwconv.PointwiseConv2d(packed, bias, **where), x, weight, bias)
    strided = pwconv.PointwiseConv2d(weight, bias, stride=2, padding=(0, 3), **where)
    check_layer(strided, x, weight, bias)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_layers(limited, rng, dtype, storage):
    """Few rows and many, and a weight for each of a batch."""
    for x_shape, weight_shape in (
        ((3, 37), (11, 37)),
        ((2, 5, 19, 37), (50, 37)),
        ((2, 1, 7, 37), (2, 11, 37)),
    ):
        x, weight, bias = random_linear(rng, x_shape, weight_shape, dtype)
        layer = pwconv.Linear(weight, bias, activation="relu", device=limited.device)
        check_linear(layer, x, weight, bias, storage=storage)


def test_sums_in_half_precision(limited, rng):
    x, weight, bias = random_problem(rng, 13, 7, (5, 7), "float16")
    for storage in STORAGES:
        with refused("shaderFloat16", unless="shaderFloat16" in limited.device.info.features):
            layer = pwconv.PointwiseConv2d(
                weight, bias, accumulate="float16", storage=storage, device=limited.device
            )
            check_layer(layer, x, weight, bias, accumulate="float16")


@pytest.fixture
def each_tile(limited, monkeypatch):
    """Run a check with each variant of a kernel that the device can run; return their names."""

    def each_tile(module: ModuleType, problem: object, check: Callable[[str], None]) -> set[str]:
        dispatcher, ran = limited.device._dispatcher, set()
        for weight_storage in ("texture2d", "buffer"):
            for name in module.candidates(dispatcher, problem, weight_storage):

                def choose(dispatcher, problem, weight_storage, name=name):
                    variant = module.candidates(dispatcher, problem, weight_storage)[name]
                    return Choice(variant, (8, 8, 1), "the test asks for it")

                monkeypatch.setattr(module, "choose", choose)
                check(weight_storage)
                ran.add(name)
        return ran

    return each_tile


def takes_tiles_away(cap: Cap) -> bool:
    return bool(
        cap.limits.keys()
        & {
            "maxComputeWorkGroupInvocations",
            "maxComputeSharedMemorySize",
            "maxPerStageDescriptorStorageBuffers",
        }
    )


@pytest.mark.parametrize("storage", STORAGES)
def test_every_tile_of_a_convolution(limited, rng, each_tile, storage):
    """Where a limit takes tiles away, each one that is left."""
    if not takes_tiles_away(limited.cap):
        pytest.skip("the cap takes no tile away")
    x, weight, bias = random_problem(rng, 37, 50, (9, 11), "float32", batch=1)

    def check(weight_storage: str) -> None:
        device = limited.device
        packed = pwconv.pack_linear_weight(weight, storage=weight_storage, device=device)
        layer = pwconv.PointwiseConv2d(packed, bias, storage=storage, device=device)
        check_layer(layer, x, weight, bias)

    shapes = x.shape, (1, 50, 9, 11)
    problem = conv2d_pw.Problem(storage, *shapes, FLOAT32, FLOAT32, conv2d_pw.Geometry())
    left = each_tile(conv2d_pw_choice, problem, check)
    families = {"texture3d": ("conv2d_pw_tiled", "conv2d_pw_staged_texture3d")}
    families["buffer"] = ("conv2d_pw_staged_buffer",)
    all_of_them = sum(len(shaders.variants(f, dtype="fp32")) for f in families[storage])
    assert 0 < len(left) <= all_of_them


@pytest.mark.parametrize("storage", STORAGES)
def test_every_tile_of_a_linear_layer(limited, rng, each_tile, storage):
    if not takes_tiles_away(limited.cap):
        pytest.skip("the cap takes no tile away")
    x, weight, bias = random_linear(rng, (1, 1, 23, 37), (50, 37), "float32")

    def check(weight_storage: str) -> None:
        device = limited.device
        packed = pwconv.pack_linear_weight(weight, storage=weight_storage, device=device)
        check_linear(pwconv.Linear(packed, bias, device=device), x, weight, bias, storage=storage)

    problem = linear.Problem(storage, x.shape, 50, 1, FLOAT32, FLOAT32)
    assert each_tile(linear, problem, check)


@pytest.mark.parametrize("storage", ["texture2d", "buffer"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_weights(limited, rng, dtype, storage):
    weight = rng.standard_normal((2, 45, 39)).astype(dtype)
    packed = pwconv.pack_linear_weight(weight, storage=storage, device=limited.device)
    np.testing.assert_array_equal(packed.numpy(), reference.pack_linear_weight(weight))
    # 4·ceil(N/4) texels wide, past 256 where that is the most.
    weight = rng.standard_normal((301, 9)).astype(dtype)
    past = limited.device.info.limits["maxImageDimension2D"] < 304
    with refused("maxImageDimension2D", unless=storage == "buffer" or not past):
        packed = pwconv.pack_linear_weight(weight, storage=storage, device=limited.device)
        np.testing.assert_array_equal(packed.numpy(), reference.pack_linear_weight(weight))
    packed = pwconv.pack_linear_weight(weight, device=limited.device)
    assert packed.storage == ("buffer" if past else "texture2d")
    np.testing.assert_array_equal(packed.numpy(), reference.pack_linear_weight(weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_there_and_back(limited, rng, dtype):
    device = limited.device
    extent, most = (device.info.limits[n] for n in ("maxImageDimension3D", "maxStorageBufferRange"))
    for shape in ((3, 5, 7, 11), (1, 1, 1, 257), (1, 1030, 2, 3), (2, 9, 211, 199)):
        array = rng.standard_normal(shape).astype(dtype)
        n, c, h, w = shape
        with refused("maxImageDimension3D", unless=max(w, h, n * -(-c // 4)) <= extent):
            np.testing.assert_array_equal(device.tensor(array, storage="texture3d").numpy(), array)
        with refused("maxStorageBufferRange", unless=array.nbytes <= most - 2**12):
            np.testing.assert_array_equal(device.tensor(array, storage="buffer").numpy(), array)
        if max(w, h, n * -(-c // 4)) <= extent or array.nbytes <= most - 2**12:
            np.testing.assert_array_equal(device.tensor(array).numpy(), array)


def test_a_tensor_past_every_storage_names_both_limits(limited):
    limits = limited.device.info.limits
    elements = 4 * (limits["maxStorageBufferRange"] // 16 + 1)
    if elements > 2**22:
        pytest.skip("the cap is not on buffers")
    with refused("maxImageDimension3D", "maxStorageBufferRange"):
        limited.device.empty((1, 1, 1, elements), "float32")


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_graph(limited, rng, dtype, storage):
    """Of every kind of node, with a scale and a residual to fold, and a pair to fuse."""
    mirror = Mirror(limited.device, dtype, storage)
    x = mirror.input("x", (1, 12, 13, 11))
    h = mirror.conv2d_pw(x, *random_weight(rng, dtype, 24, 12), activation="gelu")
    h = mirror.conv2d_pw(h, *random_weight(rng, dtype, 12, 24), residual=x)
    h = mirror.conv2d_dw(h, *random_weight(rng, dtype, 12, 1, 3, 3), padding=1)
    gate = mirror.conv2d_pw(
        mirror.global_avg_pool(h), *random_weight(rng, dtype, 12, 12), activation="sigmoid"
    )
    scaled = mirror.conv2d_pw(mirror.mul(h, gate), *random_weight(rng, dtype, 12, 12), residual=x)
    both = mirror.concat([mirror.slice(scaled, 3, 10), x])
    small = mirror.conv2d(both, *random_weight(rng, dtype, 9, 19, 3, 3), stride=2, padding=1)
    mirror.output("large", mirror.upsample(small))
    mirror.output("rows", mirror.linear(small, *random_weight(rng, dtype, 5, 6), activation="relu"))
    mirror.output("sum", mirror.add(scaled, h, "relu"))
    array = rng.standard_normal((1, 12, 13, 11)).astype(dtype)
    mirror.check({"x": array})
    mirror.graph.resize(x=(2, 12, 5, 11))
    mirror.check({"x": rng.standard_normal((2, 12, 5, 11)).astype(dtype)})


@pytest.mark.parametrize("storage", STORAGES)
def test_pairs(limited, rng, monkeypatch, storage):
    """Two convolutions fused by the first kernel that the device can run, where there is one."""
    found = []

    def choose_pair(*asked):
        able = conv2d_pw_pair_choice.candidates(*asked)
        found.extend(able[:1])
        return Choice(able[0], (1, 1, 1), "the test asks for it") if able else None

    monkeypatch.setattr(conv2d_pw_pair_choice, "choose_pair", choose_pair)
    mirror = Mirror(limited.device, "float32", storage)
    x = mirror.input("x", (1, 20, 9, 13))
    h = mirror.conv2d_pw(x, *random_weight(rng, "float32", 45, 20), activation="relu")
    mirror.output("y", mirror.conv2d_pw(h, *random_weight(rng, "float32", 20, 45), residual=x))
    mirror.check({"x": rng.standard_normal((1, 20, 9, 13)).astype(np.float32)})
    assert len(mirror.families()) == (1 if found else 2)


@settings(max_examples=3)
@given(data=st.data())
def test_random_graphs(limited, data):
    drawn = Drawn(data.draw, limited.device, most_nodes=6)
    drawn.mirror.check(drawn.arrays())


def test_a_profile(limited, rng):
    device = limited.device
    if limited.cap.discrete and device.info.driver.startswith("llvmpipe"):
        pytest.skip("a CPU that says it is a GPU would time itself for minutes")
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 8, 16, 16))
    weight = rng.standard_normal((8, 8)).astype(np.float32)
    graph.output("y", graph.conv2d_pw(x, weight))
    profile = graph.profile(runs=2)
    assert profile.total.median > 0
    timed = "timestampValidBits" not in limited.cap.limits
    assert profile.method.startswith("GPU timestamps" if timed else "host clock")
    assert bool(limited.usage.calls["vkCmdWriteTimestamp"]) == timed


def test_memory_is_allocated_no_more_often_than_the_device_allows(limited):
    device = limited.device
    most = device.info.limits["maxMemoryAllocationCount"]
    if most > 64:
        pytest.skip("the cap is not on allocations")
    if device.info.limits["maxStorageBufferRange"] < 100 << 20:
        pytest.skip("no tensor is large enough to take an allocation of its own")
    before = device._logical.memory.block_count
    tensors = []
    with refused("maxMemoryAllocationCount"):
        for _ in range(most + 1):
            tensors.append(device.empty((1, 17, 1, 2**20), "float32", "buffer"))
    assert len(tensors) >= most - before - 1
    del tensors[:2]
    array = np.ones((3, 5, 7), np.float32)
    np.testing.assert_array_equal(device.tensor(array).numpy(), array)
