"""Devices that can do less: every result is right, or an error that names the limit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pwconv
from pwconv import reference
from pwconv.dtypes import FLOAT16, FLOAT32
from pwconv.heuristics import Choice
from pwconv.ops import convolution, linear, matmul, pair
from pwconv.vk import memory
from support import inside
from support.accuracy import assert_within, check_layer, check_linear, random_linear, random_problem
from support.capped import Usage
from support.drawn import Drawn
from support.mirror import Mirror, random_weight

DTYPES = ("float32", "float16")
STORAGES = ("texture3d", "buffer")
# Families that a device may have no variant of, since others do their work.
SOME_DEVICES_ONLY = {
    "bench_matrix",
    "conv2d_pw_coopmat",
    "conv2d_pw_coopmat2",
    "conv2d_pw_pair_coopmat",
    "conv2d_pw_pair_coopmat2",
    "conv2d_pw_pair_staged_buffer",
    "conv2d_pw_pair_staged_texture3d",
    "conv2d_pw_staged_buffer",
}

# What kernels, and the choice among them, depend on.
of_kernels = pytest.mark.caps(
    *("maxComputeWorkGroupInvocations", "maxComputeSharedMemorySize", "maxPushConstantsSize"),
    *("maxComputeWorkGroupCount", "maxImageDimension3D", "maxStorageBufferRange"),
    *("maxPerStageDescriptorStorageBuffers", "subgroupSize"),
    *("shaderFloat16", "storageBuffer16BitAccess"),
)
of_storage = pytest.mark.caps(
    *("maxImageDimension2D", "maxStorageBufferRange", "maxComputeWorkGroupCount"),
    *("maxComputeWorkGroupInvocations", "storageBuffer16BitAccess"),
)


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


@of_kernels
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_convolutions(limited, rng, dtype, storage):
    where = {"storage": storage, "device": limited.device}
    x, weight, bias = random_problem(rng, 33, 50, (11, 13), dtype, batch=2)
    check_layer(pwconv.PointwiseConv2d(weight, bias, activation="gelu", **where), x, weight, bias)
    x, weight, bias = random_problem(rng, 13, 7, (5, 7), dtype)
    for weight_storage in ("texture2d", "buffer"):
        packed = pwconv.pack_linear_weight(weight, storage=weight_storage, device=limited.device)
        check_layer(pwconv.PointwiseConv2d(packed, bias, **where), x, weight, bias)
    strided = pwconv.PointwiseConv2d(weight, bias, stride=2, padding=(0, 3), **where)
    check_layer(strided, x, weight, bias)


@of_kernels
def test_what_is_left_to_the_device(limited, rng):
    """Arrays through a layer that may store its tensors and its weight as it likes."""
    x, weight, bias = random_problem(rng, 13, 7, (5, 300), "float32")
    y = pwconv.conv2d_pw(x, weight, bias, device=limited.device)
    bound = reference.conv2d_pw_bound(x, weight, bias, dtype="float32")
    assert_within(y, reference.conv2d_pw(x, weight, bias), bound)


@of_kernels
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


@pytest.mark.caps("shaderFloat16", "maxComputeSharedMemorySize")
def test_sums_in_half_precision(limited, rng):
    x, weight, bias = random_problem(rng, 13, 7, (5, 7), "float16")
    for storage in STORAGES:
        with refused("shaderFloat16", unless="shaderFloat16" in limited.device.info.features):
            layer = pwconv.PointwiseConv2d(
                weight, bias, accumulate="float16", storage=storage, device=limited.device
            )
            check_layer(layer, x, weight, bias, accumulate="float16")


@of_kernels
def test_what_a_device_is_said_to_run_is_within_its_limits(limited):
    """By the SPIR-V itself, of every variant; and something is left for every layer."""
    info, context = limited.device.info, inside.context(limited.device)
    taken = [v for v in inside.manifest().values() if not v.unmet(info.limits, info.features)]
    for variant in taken:
        usage = Usage()
        usage.see_code(variant.code)
        assert usage.past(info.limits) == {}, variant.name
    one = (1, 1, 1, 1)
    for storage, weight_storage, dtype in itertools.product(
        STORAGES, ("texture2d", "buffer"), (FLOAT32, FLOAT16)
    ):
        for kind in (convolution, linear):
            problem = kind.Problem(storage, one, one, dtype, FLOAT32)
            assert matmul.candidates(context, problem, weight_storage)
    for family in {v.family for v in inside.manifest().values()} - SOME_DEVICES_ONLY:
        assert any(v.family == family for v in taken), family


@of_storage
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


@of_storage
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


@pytest.mark.caps("maxStorageBufferRange")
def test_a_tensor_past_every_storage_names_both_limits(limited):
    limits = limited.device.info.limits
    elements = 4 * (limits["maxStorageBufferRange"] // 16 + 1)
    with refused("maxImageDimension3D", "maxStorageBufferRange"):
        limited.device.empty((1, 1, 1, elements), "float32")


@of_kernels
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


@of_kernels
@pytest.mark.parametrize(
    "storage", ["buffer", pytest.param("texture3d", marks=pytest.mark.exhaustive)]
)
def test_pairs(limited, rng, monkeypatch, storage):
    """Two convolutions fused by the first kernel that the device can run, where there is one."""
    found = []

    def choose_pair(*asked):
        able = pair.candidates(*asked)
        found.extend(able[:1])
        return Choice(able[0], (1, 1, 1), "the test asks for it") if able else None

    monkeypatch.setattr(pair, "choose_pair", choose_pair)
    mirror = Mirror(limited.device, "float32", storage)
    x = mirror.input("x", (1, 20, 9, 13))
    h = mirror.conv2d_pw(x, *random_weight(rng, "float32", 45, 20), activation="relu")
    mirror.output("y", mirror.conv2d_pw(h, *random_weight(rng, "float32", 20, 45), residual=x))
    mirror.check({"x": rng.standard_normal((1, 20, 9, 13)).astype(np.float32)})
    assert len(mirror.families()) == (1 if found else 2)


@pytest.mark.caps("maxImageDimension2D")
def test_a_residual_that_is_one_binding_too_many(limited, rng):
    """Of a convolution whose weight is a buffer, since it is past a texture."""
    limits = limited.device.info.limits
    n = limits["maxImageDimension2D"] // 4 * 4 + 4
    graph = pwconv.Graph(limited.device, storage="buffer")
    x, residual = graph.input("x", (1, 5, 3, 3)), graph.input("residual", (1, n, 3, 3))
    weight, bias = random_weight(rng, "float32", n, 5)
    graph.output("y", graph.conv2d_pw(x, weight, bias, residual=residual))
    arrays = {
        "x": rng.standard_normal((1, 5, 3, 3)).astype(np.float32),
        "residual": rng.standard_normal((1, n, 3, 3)).astype(np.float32),
    }
    few = limits["maxPerStageDescriptorStorageBuffers"] < 5
    with refused("maxPerStageDescriptorStorageBuffers", unless=not few):
        y = graph.run(**arrays)["y"]
        expected = reference.conv2d_pw(arrays["x"], weight, bias) + arrays["residual"]
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)


@pytest.mark.caps("maxStorageBufferRange")
def test_a_depthwise_weight_past_a_buffer(limited, rng):
    graph = pwconv.Graph(limited.device)
    x = graph.input("x", (1, 600, 32, 32))
    with refused("maxStorageBufferRange"):
        graph.conv2d_dw(x, np.ones((600, 1, 32, 32), np.float32))


@pytest.mark.exhaustive
@of_kernels
@settings(max_examples=5)
@given(data=st.data())
def test_random_graphs(limited, data):
    drawn = Drawn(data.draw, limited.device, most_nodes=5)
    drawn.mirror.check(drawn.arrays())


# A CPU that says it is a discrete GPU would time itself for minutes.
@pytest.mark.caps("timestampValidBits", "maxPushConstantsSize", discrete=False)
def test_a_profile(limited, rng, monkeypatch):
    monkeypatch.setattr(*inside.slots.copy_bytes, {"cpu": 1 << 20})
    monkeypatch.setattr(*inside.slots.iterations, lambda *_: 1)
    device = limited.device
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 8, 16, 16))
    weight = rng.standard_normal((8, 8)).astype(np.float32)
    graph.output("y", graph.conv2d_pw(x, weight))
    profile = graph.profile(runs=1)
    assert profile.total.median > 0
    timed = "timestampValidBits" not in limited.cap.limits
    assert profile.method.startswith("GPU timestamps" if timed else "host clock")
    assert bool(limited.usage.calls["vkCmdWriteTimestamp"]) == timed


@pytest.mark.caps("maxMemoryAllocationCount")
def test_memory_is_allocated_no_more_often_than_the_device_allows(limited, monkeypatch):
    device = limited.device
    most = device.info.limits["maxMemoryAllocationCount"]
    # So that these tensors take an allocation each, and one heap holds them all.
    monkeypatch.setattr(memory, "BLOCK_SIZE", 1 << 20)
    tensors = []
    with refused("maxMemoryAllocationCount"):
        # More than what is left of the larger blocks there are, and then one too many.
        for _ in range(most + 1000):
            tensors += [device.empty((1, 7, 1, 2**16), "float32", "buffer")]
    assert limited.usage.most["maxMemoryAllocationCount"] == most
    del tensors
    array = np.ones((3, 5, 7), np.float32)
    np.testing.assert_array_equal(device.tensor(array).numpy(), array)
