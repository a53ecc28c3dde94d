"""Listing, choosing, opening and closing devices, and every failure on the way."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

import pwconv
from pwconv import cli
from pwconv import device as device_module
from pwconv.vk import api as vk
from pwconv.vk import instance
from support import inside

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
    assert info.identity.startswith(f"{info.vendor_id:08x}-{info.device_id:08x}-")
    assert (info.driver_id, info.uuid) == (device.info.driver_id, device.info.uuid)
    assert len(bytes.fromhex(info.uuid)) == 16
    if "llvmpipe" in info.name:
        assert (info.vendor_id, info.driver_id) == (0x10005, 13)
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


def listed(
    *kinds: str, names: Sequence[str] = (), problems: Mapping[int, str] = {}
) -> list[pwconv.DeviceInfo]:
    names = names or [f"Card {i}" for i in range(len(kinds))]
    return [
        pwconv.DeviceInfo(
            *(i, names[i], kind, "driver 1", "1.3.0", {}, frozenset(), frozenset(), (), ""),
            problem=problems.get(i),
        )
        for i, kind in enumerate(kinds)
    ]


def test_the_default_is_the_strongest_kind():
    choose = inside.choose_device
    assert choose(None, listed("cpu", "integrated", "discrete", "discrete")) == 2
    assert choose(None, listed("cpu", "other", "virtual")) == 2
    assert choose(None, listed("cpu", "virtual", "integrated")) == 2
    assert choose(None, listed("other", "cpu")) == 1


def test_the_default_is_one_that_can_be_used():
    choose = inside.choose_device
    no_queue = "has no queue that runs compute shaders"
    kinds = ("discrete", "discrete", "cpu")
    assert choose(None, listed(*kinds, problems={0: no_queue})) == 1
    assert choose(None, listed(*kinds, problems={0: no_queue, 1: "has Vulkan 1.0.3"})) == 2
    with pytest.raises(
        pwconv.UnsupportedError, match=r"no device of 0: Card 0 has no queue.*; 1: Card 1 is old"
    ):
        choose(None, listed("discrete", "cpu", problems={0: no_queue, 1: "is old"}))
    # Who asks for it by index is told why it cannot be used; by a name, the one that can is meant.
    assert choose(0, listed(*kinds, problems={0: no_queue})) == 0
    assert choose("card", listed("discrete", "cpu", problems={0: no_queue})) == 1


def test_a_first_device_without_a_compute_queue_hides_no_second(device, monkeypatch, capsys):
    """And is listed with what is wrong with it."""
    handles, family = instance.Instance.physical_devices, inside.compute_queue_family
    families: list[int | None] = []
    first = device.info.index

    def of_two(self: instance.Instance) -> list[object]:
        families[:] = [None]
        return [handles(self)[first]] * 2

    def of_the_second(handle: object) -> int | None:
        return families.pop() if families else family(handle)

    monkeypatch.delenv("PWCONV_DEVICE", raising=False)
    monkeypatch.setattr(instance.Instance, "physical_devices", of_two)
    monkeypatch.setattr(*inside.slots.compute_queue_family, of_the_second)
    problem = "has no queue that runs compute shaders"
    assert [info.problem for info in pwconv.devices()] == [problem, None]
    assert device_module.choose_device(None).index == 1
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["info"])
    assert exit_info.value.code == 0
    assert "no: has no queue" in capsys.readouterr().out
    with pytest.raises(pwconv.UnsupportedError, match=f"{problem}; choose another"):
        pwconv.Device(0)


def test_a_name_may_be_of_digits_and_an_exact_one_wins():
    choose = inside.choose_device
    names = ("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090", "Radeon 2")
    found = listed("discrete", "discrete", "discrete", names=names)
    assert choose("nvidia geforce rtx 4090", found) == 1
    assert choose("4090 laptop", found) == 0
    assert choose("2", found) == 2  # an index before a name
    assert choose("4090", found[1:]) == 1
    with pytest.raises(pwconv.NoDeviceError, match="several devices match '4090'"):
        choose("4090", found)
    with pytest.raises(pwconv.NoDeviceError, match="device 4090 does not exist"):
        choose(4090, found)
    with pytest.raises(TypeError, match=r"device is 1\.5; it must be an index, or a name"):
        choose(1.5, found)


REPLACED = "\N{REPLACEMENT CHARACTER}"
NAMES = {
    b"Caf\xe9 GPU": f"Caf{REPLACED} GPU",
    b"[red]x[/] :smile: [link=x]": "[red]x[/] :smile: [link=x]",
    b"[/bold] GPU": "[/bold] GPU",
    b"\x1b[31mGPU\x07\r\n2\xe2\x80\xae": f"{REPLACED}[31mGPU{REPLACED * 3}2{REPLACED}",
    b"x" * 256: "x" * 256,  # nothing ends it
}


@pytest.mark.parametrize(("raw", "name"), NAMES.items(), ids=range(len(NAMES)))
def test_a_driver_may_call_its_device_anything(device, monkeypatch, capsys, raw, name):
    real = vk.vkGetPhysicalDeviceProperties

    def named(handle: object) -> object:
        properties = real(handle)
        vk.ffi.memmove(properties.obj.deviceName, raw.ljust(256, b"\0"), 256)
        return properties

    monkeypatch.setattr(vk, "vkGetPhysicalDeviceProperties", named)
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setenv("FORCE_COLOR", "1")
    info = pwconv.devices()[device.info.index]
    assert info.name == name
    assert (name in repr(info)) == (name in str(info)) == True  # noqa: E712
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["info"])
    assert exit_info.value.code == 0
    assert name in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["verify", "-d", "no such device"])
    assert name in capsys.readouterr().err
    with pwconv.Device(device.info.index) as opened:
        assert name in repr(opened)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (2, "device 2 does not exist; there are 0: Card 0"),
        ("7", "no device matches '7'; there are"),
        (-1, "device -1 does not exist"),
        ("card", "several devices match 'card'; there are 0: Card 0.*1: Card 1"),
        ("Arc", "no device matches 'Arc'; there are"),
    ],
)
def test_no_such_device(wanted, message):
    with pytest.raises(pwconv.NoDeviceError, match=message):
        inside.choose_device(wanted, listed("cpu", "discrete"))


def test_no_device_at_all():
    with pytest.raises(pwconv.NoDeviceError, match="apt-get install"):
        inside.choose_device(None, [])


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
    for expected in ("libvulkan", "/nonexistent.json ($VK_DRIVER_FILES", "VK_LOADER_DEBUG=all"):
        assert expected in result.stdout


def test_a_broken_manifest(tmp_path):
    """The loader says that it is out of memory."""
    manifest = tmp_path / "driver.json"
    manifest.write_text("no JSON")
    result = run(
        """
        import pwconv
        try:
            pwconv.devices()
        except pwconv.NoDeviceError as error:
            print(error)
        """,
        VK_DRIVER_FILES=str(manifest),
        VK_ICD_FILENAMES=str(manifest),
    )
    for expected in ("The loader is", "libvulkan", str(manifest), "VK_LOADER_DEBUG=all"):
        assert expected in result.stdout, result.stderr
    assert "elease tensors" not in result.stdout


def test_manifests_are_those_of_the_loaders_folders(tmp_path, monkeypatch):
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_DATA_HOME", "XDG_DATA_DIRS"):
        monkeypatch.setenv(name, str(tmp_path))
    folder = tmp_path / "vulkan" / "icd.d"
    assert str(folder) in instance.describe_loader()
    folder.mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    monkeypatch.setenv("VK_ADD_DRIVER_FILES", "/more.json")
    for expected in ("/more.json, ", str(folder / "card.json")):
        assert expected in instance.describe_loader()


@pytest.mark.parametrize("kind", ["AttributeError", "cffi's error"])
def test_a_loader_of_vulkan_1_0(monkeypatch, kind):
    """It has no vkEnumerateInstanceVersion, and how cffi says so depends on how it was built."""

    def missing() -> None:
        raise AttributeError("undefined") if kind == "AttributeError" else vk.ffi.error("undefined")

    monkeypatch.setattr(vk, "vkEnumerateInstanceVersion", missing)
    with pytest.raises(pwconv.UnsupportedError, match=r"version 1\.0; pwconv needs 1\.1: update"):
        instance.Instance(validate=False)


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
        assert inside.vulkan_instance(inside.context(opened)).messenger is not None
    with pwconv.Device(device.info.index, validate=False) as opened:
        assert inside.vulkan_instance(inside.context(opened)).messenger is None
    monkeypatch.setenv("PWCONV_VALIDATE", "perhaps")
    with pytest.raises(pwconv.PwconvError, match=r"PWCONV_VALIDATE is 'perhaps'; .* 1, true, yes"):
        pwconv.Device()


def test_ways_to_say_yes_and_no(monkeypatch):
    for value in ("1", "true", "YES", "On"):
        monkeypatch.setenv("PWCONV_VALIDATE", value)
        assert inside.validate_by_default()
    for value in ("", "0", "False", "no", "OFF"):
        monkeypatch.setenv("PWCONV_VALIDATE", value)
        assert not inside.validate_by_default()


def test_no_compute_queue(device, monkeypatch):
    monkeypatch.setattr(vk, "vkGetPhysicalDeviceQueueFamilyProperties", lambda _: [])
    with pytest.raises(pwconv.UnsupportedError, match="no queue that runs compute"):
        pwconv.Device(device.info.index, validate=True)


def test_vulkan_too_old(device, monkeypatch):
    monkeypatch.setattr(*inside.slots.version, lambda _: "1.0.99")
    with pytest.raises(pwconv.UnsupportedError, match=r"Vulkan 1\.0\.99; pwconv needs 1\.1"):
        pwconv.Device(device.info.index, validate=True)


def test_what_takes_a_device_takes_its_index_or_name(device, monkeypatch):
    """And an open one is used again."""
    monkeypatch.setenv("PWCONV_VALIDATE", "1")
    x = np.ones((3, 2, 2), np.float32)
    index = device.info.index
    layer = pwconv.PointwiseConv2d(WEIGHT, device=index)
    assert layer.device.info.index == index
    # The session's, or another that this process has open.
    monkeypatch.setattr(device_module, "open_context", None)
    names = [info.name for info in pwconv.devices()]
    for wanted in (index, np.int64(index), str(index), device.info.name.upper()):
        if wanted == device.info.name.upper() and names.count(device.info.name) > 1:
            continue
        assert pwconv.Linear(WEIGHT, device=wanted).device is layer.device
        assert pwconv.Graph(device=wanted).device is layer.device
        assert pwconv.pack_linear_weight(WEIGHT, device=wanted).device is layer.device
        assert pwconv.conv2d_pw(x, WEIGHT, device=wanted).sum() == 60
        assert pwconv.linear(x[:, 0, 0], WEIGHT, device=wanted).sum() == 15


def test_one_that_was_opened_for_a_layer_lives_as_long_as_it(device, monkeypatch):
    monkeypatch.setattr(*inside.slots.opened, weakref.WeakValueDictionary())
    monkeypatch.setattr(*inside.slots.default, None)
    first = pwconv.Linear(WEIGHT, device=device.info.index)
    second = pwconv.Linear(WEIGHT, device=device.info.index)
    assert first.device is second.device
    context = inside.context(first.device)
    with pwconv.Device(device.info.index, validate=True) as other:
        assert other is not first.device  # who opens one has one
    del first
    gc.collect()
    assert not context.closed
    second.device.close()
    third = pwconv.Linear(WEIGHT, device=device.info.index)
    assert inside.context(third.device).usable
    context = inside.context(third.device)
    del second, third
    gc.collect()
    assert context.closed


def test_a_tensor_says_which_opening_is_meant(device, own_device):
    x = own_device.tensor(np.ones((3, 2, 2), np.float32))
    assert pwconv.conv2d_pw(x, WEIGHT, device=own_device.info.index).device is own_device
    layer = pwconv.PointwiseConv2d(WEIGHT, device=device)
    with pytest.raises(ValueError, match="two openings of one physical device") as raised:
        layer(x)
    assert "device=" in str(raised.value)


@pytest.mark.parametrize("wanted", [1.5, [0], object()])
def test_no_device_at_all_is_a_type_error(wanted):
    with pytest.raises(TypeError, match=r"must be a pwconv\.Device, an index in"):
        pwconv.Linear(WEIGHT, device=wanted)


def test_the_default_device_is_public(device):
    assert pwconv.default_device() is pwconv.Linear(WEIGHT).device
    assert "default_device" in pwconv.__all__


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
    context = inside.context(opened)
    tensor = opened.tensor(np.ones((3, 2, 2), np.float32))
    layer = pwconv.PointwiseConv2d(WEIGHT, device=opened)
    layer(tensor)
    if order == "tensor":
        del tensor
        assert not context.closed
    elif order == "device":
        del opened
        gc.collect()
        assert not context.closed  # the tensor and the layer still need it
        assert layer(tensor).numpy().shape == (5, 2, 2)
    elif order == "layer":
        del layer
    opened = tensor = layer = None
    gc.collect()
    assert context.closed
    assert not context.live


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
    inside.context(own_device).queue.run_once(lambda _: None)
    info = vk.VkBufferCreateInfo(size=0, usage=vk.VK_BUFFER_USAGE_STORAGE_BUFFER_BIT, sharingMode=0)
    handle = vk.vkCreateBuffer(inside.context(own_device).handle, info, None)
    vk.vkDestroyBuffer(inside.context(own_device).handle, handle, None)
    with pytest.raises(pwconv.ValidationError, match="VUID-VkBufferCreateInfo-size-00912"):
        own_device.synchronize()


def test_memory_exhausted(own_device, monkeypatch):
    """Everything made before stays usable, and so does the device."""
    tensor = own_device.tensor(np.ones((3, 2, 2), np.float32))
    heaps = inside.context(own_device).physical.heap_sizes
    small = [1 << 20] * len(heaps)  # less than is in use in some heaps, nothing in others
    monkeypatch.setattr(inside.context(own_device).physical, "heap_sizes", small)
    with pytest.raises(pwconv.OutOfMemoryError, match="smaller batches"):
        own_device.empty((128, 64, 64, 64), "float32")
    monkeypatch.setattr(inside.context(own_device).physical, "heap_sizes", heaps)
    np.testing.assert_array_equal(tensor.numpy(), 1)
    assert own_device.empty((128, 64, 64, 64), "float32").numpy().shape == (128, 64, 64, 64)


def fail_with(name: str, error: str, times: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make a Vulkan function return an error, the first times it is called."""
    real = getattr(vk, name)
    left = [times]

    def fake(*arguments: object) -> object:
        if left[0]:
            left[0] -= 1
            raise getattr(inside.vulkan_package(), error)
        return real(*arguments)

    monkeypatch.setattr(vk, name, inside.raising(name, fake))
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
