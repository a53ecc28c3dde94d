"""What the tests under caps rely on: a cap is what the device says, and going past it is seen."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from support import inside
from support.capped import Cap, capped


@pytest.fixture
def array(rng) -> np.ndarray:
    return rng.standard_normal((1, 9, 30, 70)).astype(np.float32)


def test_a_device_says_what_it_is_made_to_say(device):
    cap = Cap(
        "some",
        {"maxPushConstantsSize": 64, "maxComputeWorkGroupSize": (8, 9, 7), "subgroupSize": 0},
        frozenset({"shaderFloat16"}),
        discrete=True,
    )
    with capped(cap):
        info = pwconv.devices()[device.info.index]
    assert info.type == "discrete"
    assert info.limits["maxPushConstantsSize"] == 64
    assert info.limits["maxComputeWorkGroupSize"] == (8, 9, 7)
    assert info.limits["subgroupSize"] == 0
    assert "shaderFloat16" not in info.features
    unchanged = info.limits.keys() - cap.limits.keys()
    assert all(info.limits[name] == device.info.limits[name] for name in unchanged)
    assert pwconv.devices()[device.info.index] == device.info


def test_what_is_asked_past_a_cap_is_seen(device, array, monkeypatch):
    """By a context that does not ask for the limits; all else of the call is within them."""
    full = device.info.limits
    cap = Cap("few", {"maxComputeWorkGroupCount": (4, 2, 2), "maxComputeWorkGroupInvocations": 8})
    with capped(cap) as usage, pwconv.Device(device.info.index, validate=True) as own:
        limits = own.info.limits
        np.testing.assert_array_equal(own.tensor(array).numpy(), array)
        assert usage.past(limits) == {}
        monkeypatch.setattr(inside.context(own), "limits", full)
        inside.plans(inside.context(own)).clear()
        np.testing.assert_array_equal(own.tensor(array).numpy(), array)
        past = usage.past(limits)
        assert past.keys() == cap.limits.keys()
        assert past["maxComputeWorkGroupInvocations"] == (64, 8)


def test_every_kind_of_use_is_seen(device, rng, array):
    """On a device without a cap, against limits that nothing keeps to."""
    with capped(Cap("none")) as usage, pwconv.Device(device.info.index, validate=True) as own:
        weight = rng.standard_normal((7, 9)).astype(np.float32)
        packed = pwconv.pack_linear_weight(weight, storage="texture2d", device=own)
        pwconv.PointwiseConv2d(packed, storage="texture3d", device=own)(array)
        graph = pwconv.Graph(own)
        graph.output("y", graph.global_avg_pool(graph.input("x", array.shape)))
        graph.run(x=array)
    assert usage.past(device.info.limits) == {}
    for limit, most in {
        "maxComputeSharedMemorySize": 1,
        "maxPerStageDescriptorStorageBuffers": 0,
        "maxPerStageDescriptorStorageImages": 0,
        "maxPerStageDescriptorSampledImages": 0,
        "maxPerStageResources": 1,
        "maxPushConstantsSize": 4,
        "maxStorageBufferRange": 64,
        "maxMemoryAllocationCount": 1,
        "maxMemoryAllocationSize": 64,
        "maxImageDimension2D": 1,
        "maxImageDimension3D": 2,
    }.items():
        assert usage.past({**device.info.limits, limit: most}).keys() == {limit}
