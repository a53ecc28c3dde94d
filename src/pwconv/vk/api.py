"""The vulkan package's functions and structures, with failures raised as pwconv's errors.

The package loads the Vulkan loader when it is imported and cannot be imported without one, so it is
imported on first use: ``import pwconv`` works anywhere. Structures keep only their direct members
alive, not what an array of structures points to: bind every nested one to a local name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pwconv.errors import DeviceLostError, NoDeviceError, OutOfMemoryError, PwconvError

# The package has -1, which its own functions cannot pass for an unsigned 64-bit size.
WHOLE_SIZE = 2**64 - 1


def api_version(major: int, minor: int, patch: int = 0) -> int:
    """Return a version as Vulkan encodes it."""
    return major << 22 | minor << 12 | patch


API_1_1, API_1_2, API_1_3 = (api_version(1, minor) for minor in (1, 2, 3))

# What a call of a layer calls. The package's wrappers convert every argument, and take ten times as
# long as these functions do; called directly, they take lists, structures and ffi.NULL, never None.
_DIRECT = {"vkQueueSubmit", "vkGetFenceStatus", "vkResetFences", "vkWaitForFences"}

INSTALL_HINT = (
    "On Debian or Ubuntu: apt-get install libvulkan1 mesa-vulkan-drivers "
    "(with a CPU device, if there is no GPU). README.md lists other systems."
)


def __getattr__(name: str) -> Any:
    """Look a name up in the vulkan package, once."""
    if name.startswith("__"):
        raise AttributeError(name)
    value = _direct(name) if name in _DIRECT else getattr(_package(), name)
    if name.startswith("vk"):
        value = _raising(name, value)
    globals()[name] = value
    return value


def instance_function(instance: Any, name: str) -> Callable[..., Any]:
    """Return an extension's function."""
    return _raising(name, _package().vkGetInstanceProcAddr(instance, name))


def instance_pointer(instance: Any, name: str, signature: str) -> Callable[..., int]:
    """Return a function that the package does not know, by its C signature; it returns a VkResult.

    Raises
    ------
    PwconvError
        From the function: every result that is an error.
    """
    package = _package()
    pointer = package.lib.vkGetInstanceProcAddr(instance, name.encode())
    if pointer == package.ffi.NULL:
        raise PwconvError(f"the Vulkan loader has no {name}, which the device's features promise")
    function = package.ffi.cast(signature, pointer)

    def call(*arguments: Any) -> int:
        result = int(function(*arguments))
        if result < 0:
            raise PwconvError(f"{name}: VkResult {result}")
        return result

    return call


def pipeline_cache_data(device: Any, cache: Any) -> bytes:
    """Return a VkPipelineCache's contents; the package has no wrapper for it.

    Raises
    ------
    PwconvError
        The driver could not give them.
    """
    package = _package()
    size = package.ffi.new("size_t*")

    def get(target: Any) -> None:
        result = package.lib.vkGetPipelineCacheData(device, cache, size, target)
        if result != package.VK_SUCCESS:
            raise PwconvError(f"vkGetPipelineCacheData: VkResult {result}")

    get(package.ffi.NULL)
    data = package.ffi.new("char[]", size[0])
    get(data)
    return bytes(package.ffi.buffer(data, size[0]))


@functools.cache
def _package() -> Any:
    try:
        import vulkan
    except OSError as error:
        raise NoDeviceError(
            f"the Vulkan loader (libvulkan.so.1, vulkan-1.dll or libvulkan.dylib) is not "
            f"installed: {error}. {INSTALL_HINT}"
        ) from None
    return vulkan


def _direct(name: str) -> Callable[..., Any]:
    package = _package()
    function = getattr(package.lib, name)

    def call(*arguments: Any) -> None:
        result = function(*arguments)
        if result != 0:
            raise package.exception_codes[result]

    return call


def _raising(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    package = _package()
    out_of_memory = (
        package.VkErrorOutOfDeviceMemory,
        package.VkErrorOutOfHostMemory,
        package.VkErrorTooManyObjects,
        package.VkErrorOutOfPoolMemory,
    )

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except out_of_memory as error:
            raise OutOfMemoryError(f"{name}: {type(error).__name__}") from error
        except package.VkErrorDeviceLost as error:
            raise DeviceLostError(
                f"{name}: the driver lost the device (a crash, a reset, or work that ran too "
                "long). Close this pwconv.Device and make a new one; its contents are gone."
            ) from error
        except package.VkError as error:
            raise PwconvError(f"{name}: {type(error).__name__}") from error
        except KeyError as error:
            raise PwconvError(f"{name}: unknown VkResult {error}") from error

    return call
