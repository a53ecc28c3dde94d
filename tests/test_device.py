"""Listing, choosing, opening and closing devices, and every failure on the way."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import pwconv
from pwconv import device as device_module
from pwconv.vk import api as vk

WEIGHT = np.ones((5, 3), np.float32)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, as a user would."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_devices_are_described(device):
    info = pwconv.devices()[device.info.index]
    assert str(info) == str(device.info)
    assert info.identity == device.info.identity
    assert info.type in ("discrete", "integrated", "virtual", "cpu", "other")
    assert tuple(map(int, info.api_version.split("."))) >= (1, 1)
    assert info.limits["maxComputeWorkGroupInvocations"] >= 128
    assert len(info.limits["maxComputeWorkGroupCount"]) == 3
    assert str(info) == f"{info.name} ({info.type}, {info.driver}, Vulkan {info.api_version})"


def test_choosing_by_index_and_name(device):
    index = device.info.index
    for wanted in (index, str(index)):
        with pwconv.Device(wanted) as opened:
            assert opened.info.index == index
    same_name = [i for i in pwconv.devices() if device.info.name.lower() in i.name.lower()]
    if len(same_name) == 1:
        with pwconv.Device(device.info.name.upper()) as opened:
            assert opened.info.index == index


def test_choosing_by_environment(device, monkeypatch):
    monkeypatch.setenv("PWCONV_DEVICE", str(device.info.index))
    with pwconv.Device() as opened:
        assert opened.info.index == device.info.index
    monkeypatch.setenv("PWCONV_DEVICE", "no such thing")
    with pytest.raises(pwconv.NoDeviceError, match="no device matches 'no such thing'; there are"):
        pwconv.Device()


def listed(*kinds: str) -> list[pwconv.DeviceInfo]:
    return [
        pwconv.DeviceInfo(
            i, f"Card {i}", kind, "driver 1", "1.3.0", {}, frozenset(), frozenset(), (), ""
        )
        for i, kind in enumerate(kinds)
    ]


def test_the_default_is_the_strongest_kind():
    choose = device_module._choose
    assert choose(None, listed("cpu", "integrated", "discrete", "discrete")) == 2
    assert choose(None, listed("cpu", "other", "virtual")) == 2
    assert choose(None, listed("cpu", "virtual", "integrated")) == 2
    assert choose(None, listed("other", "cpu")) == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (2, "device 2 does not exist; there are 0: Card 0"),
        ("7", "device 7 does not exist"),
        (-1, "device -1 does not exist"),
        ("card", "several devices match 'card'; there are 0: Card 0.*1: Card 1"),
        ("Arc", "no device matches 'Arc'; there are"),
    ],
)
def test_no_such_device(wanted, message):
    with pytest.raises(pwconv.NoDeviceError, match=message):
        device_module._choose(wanted, listed("cpu", "discrete"))


def test_no_device_at_all():
    with pytest.raises(pwconv.NoDeviceError, match="apt-get install"):
        device_module._choose(None, [])


def test_no_loader(tmp_path):
    (tmp_path / "vulkan.py").write_text("raise OSError('Cannot find Vulkan SDK version')")
    result = run(
        """
        import numpy, pwconv
        pwconv.reference.conv2d_pw(numpy.ones((1, 1, 1)), numpy.ones((1, 1)))
        try:
            pwconv.devices()
        except pwconv.NoDeviceError as error:
            print(error)
        """,
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    )
    assert "the Vulkan loader" in result.stdout, result.stderr
    assert "apt-get install libvulkan1" in result.stdout


def test_no_driver():
    result = run(
        """
        import pwconv
        try:
            pwconv.Device()
        except pwconv.NoDeviceError as error:
            print(error)
        """,
        VK_DRIVER_FILES="/nonexistent.json",
        VK_ICD_FILENAMES="/nonexistent.json",
    )
    assert "apt-get install" in result.stdout, result.stderr


def test_no_validation_layer(tmp_path):
    result = run(
        """
        import pwconv
        try:
            pwconv.Device()
        except pwconv.UnsupportedError as error:
            print(error)
        """,
        VK_LAYER_PATH=str(tmp_path),
        PWCONV_VALIDATE="1",
    )
    assert "VK_LAYER_KHRONOS_validation is not installed" in result.stdout, result.stderr
    assert "vulkan-validationlayers" in result.stdout


def test_validation_by_environment(device, monkeypatch):
    monkeypatch.setenv("PWCONV_VALIDATE", "1")
    with pwconv.Device(device.info.index) as opened:
        assert opened._logical._instance.messenger is not None
    with pwconv.Device(device.info.index, validate=False) as opened:
        assert opened._logical._instance.messenger is None
    monkeypatch.setenv("PWCONV_VALIDATE", "perhaps")
    with pytest.raises(ValueError, match="PWCONV_VALIDATE is 'perhaps'"):
        pwconv.Device()


def test_no_compute_queue(device, monkeypatch):
    monkeypatch.setattr(vk, "vkGetPhysicalDeviceQueueFamilyProperties", lambda _: [])
    with pytest.raises(pwconv.UnsupportedError, match="no queue that runs compute"):
        pwconv.Device(device.info.index, validate=True)


def test_vulkan_too_old(device, monkeypatch):
    monkeypatch.setattr("pwconv.vk.physical_device._version", lambda _: "1.0.99")
    with pytest.raises(pwconv.UnsupportedError, match=r"Vulkan 1\.0\.99; pwconv needs 1\.1"):
        pwconv.Device(device.info.index, validate=True)


def test_everything_after_close_is_an_error(own_device):
    tensor = own_device.tensor(np.ones((3, 2, 2), np.float32))
    packed = pwconv.pack_linear_weight(WEIGHT, device=own_device)
    own_device.close()
    own_device.close()
    assert own_device.closed
    assert "(closed)" in repr(own_device)
    for call in (
        lambda: own_device.tensor(np.ones((3, 2, 2), np.float32)),
        lambda: own_device.empty((3, 2, 2), "float32"),
        lambda: own_device.empty((0, 3, 2, 2), "float32"),
        lambda: pwconv.pack_linear_weight(WEIGHT, device=own_device),
        lambda: pwconv.PointwiseConv2d(WEIGHT, device=own_device),
        own_device.synchronize,
        tensor.numpy,
        packed.numpy,
    ):
        with pytest.raises(pwconv.ClosedError, match=r"was closed; make a new pwconv\.Device"):
            call()
    assert tensor.shape == (3, 2, 2)  # what needs no device still answers


@pytest.mark.parametrize("order", ["tensor", "device", "layer", "together"])
def test_garbage_collection_in_any_order(device, order):
    opened = pwconv.Device(device.info.index, validate=True)
    logical = opened._logical
    tensor = opened.tensor(np.ones((3, 2, 2), np.float32))
    layer = pwconv.PointwiseConv2d(WEIGHT, device=opened)
    layer(tensor)
    if order == "tensor":
        del tensor
        assert not logical.closed
    elif order == "device":
        del opened
        gc.collect()
        assert not logical.closed  # the tensor and the layer still need it
        assert layer(tensor).numpy().shape == (5, 2, 2)
    elif order == "layer":
        del layer
    opened = tensor = layer = None
    gc.collect()
    assert logical.closed
    assert not logical.live


def test_interpreter_exit_with_everything_alive(device):
    result = run(
        f"""
        import numpy as np, pwconv
        device = pwconv.Device({device.info.index}, validate=True)
        layer = pwconv.PointwiseConv2d(np.ones((5, 3), np.float32), device=device)
        y = layer(device.tensor(np.ones((3, 2, 2), np.float32)))
        cycle = [device, layer, y]; cycle.append(cycle)
        print(y.numpy().sum())
        """
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "60.0\n", "")


def test_the_validation_layer_is_heard(own_device):
    """A planted mistake, so that silence elsewhere means something."""
    own_device._logical.queue.run_once(lambda _: None)
    info = vk.VkBufferCreateInfo(size=0, usage=vk.VK_BUFFER_USAGE_STORAGE_BUFFER_BIT, sharingMode=0)
    handle = vk.vkCreateBuffer(own_device._logical.handle, info, None)
    vk.vkDestroyBuffer(own_device._logical.handle, handle, None)
    with pytest.raises(pwconv.ValidationError, match="VUID-VkBufferCreateInfo-size-00912"):
        own_device.synchronize()


def test_memory_exhausted(own_device, monkeypatch):
    """Everything made before stays usable, and so does the device."""
    tensor = own_device.tensor(np.ones((3, 2, 2), np.float32))
    heaps = own_device._logical.physical.heap_sizes
    used = [own_device._logical.memory.reserved]
    monkeypatch.setattr(own_device._logical.physical, "heap_sizes", [u + (1 << 20) for u in used] * len(heaps))
    with pytest.raises(pwconv.OutOfMemoryError, match="smaller batches"):
        own_device.empty((128, 64, 64, 64), "float32")
    monkeypatch.setattr(own_device._logical.physical, "heap_sizes", heaps)
    np.testing.assert_array_equal(tensor.numpy(), 1)
    assert own_device.empty((128, 64, 64, 64), "float32").numpy().shape == (128, 64, 64, 64)


def fail_with(name: str, error: str, times: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make a Vulkan function return an error, the first times it is called."""
    real = getattr(vk, name)
    left = [times]

    def fake(*arguments: object) -> object:
        if left[0]:
            left[0] -= 1
            raise getattr(vk._package(), error)
        return real(*arguments)

    monkeypatch.setattr(vk, name, vk._raising(name, fake))
    return left


def test_the_driver_runs_out_of_memory(own_device, monkeypatch):
    tensor = own_device.tensor(np.ones((3, 2, 2), np.float32))
    shape = (128, 64, 64, 64)  # more than a block, so that the driver is asked
    left = fail_with("vkAllocateMemory", "VkErrorOutOfDeviceMemory", 10**6, monkeypatch)
    with pytest.raises(pwconv.OutOfMemoryError, match=r"has no .* bytes left"):
        own_device.empty(shape, "float32")
    left[0] = 1
    assert own_device.empty(shape, "float32").shape == shape  # after what was kept is released
    np.testing.assert_array_equal(tensor.numpy(), 1)


def test_device_lost(own_device, monkeypatch):
    layer = pwconv.PointwiseConv2d(WEIGHT, device=own_device)
    x = own_device.tensor(np.ones((3, 2, 2), np.float32))
    own_device.synchronize()
    fail_with("vkQueueSubmit", "VkErrorDeviceLost", 1, monkeypatch)
    with pytest.raises(pwconv.DeviceLostError, match="make a new one"):
        layer(x)
    for use in (own_device.synchronize, x.numpy, lambda: layer(x)):
        with pytest.raises(pwconv.DeviceLostError, match="in an earlier call"):
            use()
    fail_with("vkQueueSubmit", "VkErrorDeviceLost", 1, monkeypatch)
    fail_with("vkDeviceWaitIdle", "VkErrorDeviceLost", 1, monkeypatch)
    own_device.close()
    assert own_device.closed


def test_an_unknown_failure_names_the_call(own_device, monkeypatch):
    fail_with("vkCreateImageView", "VkErrorUnknown", 1, monkeypatch)
    with pytest.raises(pwconv.PwconvError, match="vkCreateImageView: VkErrorUnknown"):
        own_device.empty((3, 2, 2), "float32", "texture3d")
    assert own_device.empty((3, 2, 2), "float32", "texture3d").shape == (3, 2, 2)


def test_without_driver_properties(device, monkeypatch):
    """A Vulkan 1.1 driver without extensions is described by its version number."""
    monkeypatch.setattr(vk, "vkEnumerateDeviceExtensionProperties", lambda *_: [])
    monkeypatch.setattr(vk, "API_1_2", 2**32)
    info = pwconv.devices()[device.info.index]
    assert info.driver.startswith("version ")
