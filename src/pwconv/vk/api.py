"""The vulkan package's functions and structures, with failures raised as pwconv's errors.

The package loads the Vulkan loader when it is imported and cannot be imported without one, so it is
imported on first use: ``import pwconv`` works anywhere. Structures keep only their direct members
alive, not what an array of structures points to: bind every nested one to a local name.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pwconv.errors import (
    DeviceLostError,
    NoDeviceError,
    OutOfMemoryError,
    PwconvError,
    UnsupportedError,
)

# The package has -1, which its own functions cannot pass for an unsigned 64-bit size.
WHOLE_SIZE = 2**64 - 1


def api_version(major: int, minor: int, patch: int = 0) -> int:
    """Return a version as Vulkan encodes it."""
    return major << 22 | minor << 12 | patch


API_1_1, API_1_2, API_1_3 = (api_version(1, minor) for minor in (1, 2, 3))

# Functions of calls and recordings. The package's wrappers convert every argument, and take ten
# times as long as these functions do; called directly, they take cffi's types, and never None.
_DIRECT = {
    "vkQueueSubmit",
    "vkGetFenceStatus",
    "vkResetFences",
    "vkWaitForFences",
    "vkAllocateDescriptorSets",
    "vkAllocateCommandBuffers",
    "vkBeginCommandBuffer",
    "vkEndCommandBuffer",
}
_DIRECT_VOID = {
    "vkUpdateDescriptorSets",
    "vkCmdBindPipeline",
    "vkCmdBindDescriptorSets",
    "vkCmdPushConstants",
    "vkCmdDispatch",
    "vkCmdPipelineBarrier",
}

INSTALL_HINT = (
    "On Debian or Ubuntu: apt-get install libvulkan1 mesa-vulkan-drivers "
    "(with a CPU device, if there is no GPU). docs/drivers.md lists other systems."
)


def __getattr__(name: str) -> Any:
    """Return a name of the vulkan package, looked up once."""
    if name.startswith("__"):
        raise AttributeError(name)
    if name in _DIRECT_VOID:
        globals()[name] = value = getattr(_package().lib, name)
        return value
    if name in _DIRECT:
        globals()[name] = value = _direct(name, getattr(_package().lib, name))
        return value
    value = getattr(_package(), name)
    if name.startswith("vkCreate") or name == "vkAllocateMemory":
        value = _creating(name, value)
    if name.startswith("vk"):
        value = _raising(name, value)
    globals()[name] = value
    return value


def make(made: ExitStack, kind: str, device: Any, info: Any) -> Any:
    """Create an object of a device, "Buffer" say, that is destroyed with ``made``."""
    here = sys.modules[__name__]
    create, destroy = (getattr(here, f"vk{verb}{kind}") for verb in ("Create", "Destroy"))
    made.callback(destroy, device, handle := create(device, info, None), None)
    return handle


def instance_function(instance: Any, name: str) -> Callable[..., Any]:
    """Return an extension's function."""
    return _raising(name, _package().vkGetInstanceProcAddr(instance, name))


def instance_pointer(instance: Any, name: str, signature: str) -> Callable[..., None]:
    """Return a function that the package does not know, by its C signature."""
    package = _package()
    pointer = package.lib.vkGetInstanceProcAddr(instance, name.encode())
    if pointer == package.ffi.NULL:
        raise PwconvError(f"the Vulkan loader has no {name}, which the device's features promise")
    return _direct(name, package.ffi.cast(signature, pointer))


def loader_file() -> str:
    """Return the path of the loader, or its name if the system does not give it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            mapped = line.split(maxsplit=5)[-1]
            if "/libvulkan.so" in mapped:
                return mapped
    return str(_package().name)


def text(structure: Any, member: str) -> str:
    """Return a driver's text, which may be any bytes, as one printable line."""
    # Past the package's wrapper, whose own decoding raises UnicodeDecodeError.
    raw = getattr(getattr(structure, "obj", structure), member)
    decoded = _package().ffi.string(raw).decode(errors="replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in decoded)


def pipeline_cache_data(device: Any, cache: Any) -> bytes:
    """Return a VkPipelineCache's contents; the package has no wrapper for it.

    Raises
    ------
    PwconvError
        The driver could not give them.
    """
    package = _package()
    size = package.ffi.new("size_t*")
    get = _direct("vkGetPipelineCacheData", package.lib.vkGetPipelineCacheData)
    get(device, cache, size, package.ffi.NULL)
    data = package.ffi.new("char[]", size[0])
    get(device, cache, size, data)
    return bytes(package.ffi.buffer(data, size[0]))


@functools.cache
def first_member() -> int:
    """Return where the members of a structure begin, in words: after the type and ``pNext``.

    Both take as much as a pointer, which is two words, or one on a 32-bit system.
    """
    return 2 * int(_package().ffi.sizeof("void*")) // 4


@functools.cache
def _package() -> Any:
    try:
        import vulkan
    except OSError as error:
        raise NoDeviceError(
            f"the Vulkan loader (libvulkan.so.1, vulkan-1.dll or libvulkan.dylib) is not "
            f"installed: {error}. {INSTALL_HINT}"
        ) from None

    class VkErrorFragmentation(vulkan.VkError):  # type: ignore[misc]
        """VK_ERROR_FRAGMENTATION, for which the package has no class."""

    # The package has these without their sign.
    vulkan.exception_codes[-1000069000] = vulkan.VkErrorOutOfPoolMemory
    vulkan.exception_codes[-1000161000] = VkErrorFragmentation
    return vulkan


def _direct(name: str, function: Callable[..., int]) -> Callable[..., None]:
    """Return a C function that raises as the package's wrappers do, by one call of Python's."""
    codes = _package().exception_codes

    def fail(result: int) -> None:
        raise codes[result]

    fail = _raising(name, fail)

    def call(*arguments: Any) -> None:
        result = function(*arguments)
        if result != 0:
            fail(result)

    return call


def _creating(name: str, create: Callable[..., Any]) -> Callable[..., Any]:
    """Return a creating function that destroys the new object where Ctrl-C interrupts it.

    Python raises KeyboardInterrupt when the driver, which may have compiled for seconds, returns:
    before anyone has the handle.
    """
    package = _package()
    kind = {"vkAllocateMemory": "DeviceMemory", "vkCreateComputePipelines": "Pipeline"}.get(
        name, name.removeprefix("vkCreate")
    )
    destroy = getattr(package, "vkFreeMemory" if kind == "DeviceMemory" else f"vkDestroy{kind}")
    parents = 0 if kind in ("Instance", "Device") else 1

    def call(*arguments: Any) -> Any:
        made = package.ffi.new(f"Vk{kind}[1]")
        try:
            create(*arguments, made)
            return made if kind == "Pipeline" else made[0]
        except (package.VkError, package.VkIncomplete, KeyError):
            raise
        except BaseException:
            if made[0]:
                destroy(*arguments[:parents], made[0], None)
            raise

    return call


# Error class and remedy of a Vulkan failure, by the package's exception.
_EXHAUSTED = (
    OutOfMemoryError,
    "memory, or another of the driver's resources, is exhausted. Release tensors and layers, or "
    "work in smaller batches; the device stays usable.",
)
_REFUSED = (
    UnsupportedError,
    "the driver refuses what it, or the loader, has listed. Update it, or choose another device.",
)
_FAILURES: dict[str, tuple[type[PwconvError], str]] = {
    "VkErrorOutOfHostMemory": _EXHAUSTED,
    "VkErrorOutOfDeviceMemory": _EXHAUSTED,
    "VkErrorOutOfPoolMemory": _EXHAUSTED,
    "VkErrorFragmentedPool": _EXHAUSTED,
    "VkErrorFragmentation": _EXHAUSTED,
    "VkErrorTooManyObjects": _EXHAUSTED,
    "VkErrorMemoryMapFailed": _EXHAUSTED,  # of addresses to map it to
    "VkErrorDeviceLost": (
        DeviceLostError,
        "the driver lost the device (a crash, a reset, or work that ran too long). Close this "
        "pwconv.Device and make a new one; its contents are gone.",
    ),
    "VkErrorExtensionNotPresent": _REFUSED,
    "VkErrorFeatureNotPresent": _REFUSED,
    "VkErrorLayerNotPresent": _REFUSED,
    "VkErrorFormatNotSupported": _REFUSED,
    "VkErrorIncompatibleDriver": _REFUSED,
    "VkErrorInitializationFailed": (
        PwconvError,
        "the driver could not start. Try `vulkaninfo`: where that fails too, repair or update the "
        "driver, or choose another device.",
    ),
    "VkIncomplete": (PwconvError, "what was listed changed meanwhile. Try again."),
}
_DRIVER_FAILED = (
    PwconvError,
    "the driver failed. Try again, update it, or choose another device.",
)


def _raising(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    package = _package()

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (package.VkError, package.VkIncomplete) as error:
            result = type(error).__name__
            kind, advice = _FAILURES.get(result, _DRIVER_FAILED)
            raise kind(f"{name}: {result}: {advice}") from error
        except KeyError as error:
            kind, advice = _DRIVER_FAILED
            raise kind(f"{name}: unknown VkResult {error}: {advice}") from error

    return call
