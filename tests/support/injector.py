"""Vulkan as pwconv reaches it, with failures on demand and a count of what exists.

It stands between the vulkan package and the loader: a call that is to fail is not made, and returns
the VkResult that it was given.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import vulkan
from vulkan import _vulkan

from pwconv.vk import api as vk

OUT_OF_HOST_MEMORY, OUT_OF_DEVICE_MEMORY, INITIALIZATION_FAILED = -1, -2, -3
DEVICE_LOST, MEMORY_MAP_FAILED, LAYER_NOT_PRESENT, EXTENSION_NOT_PRESENT = -4, -5, -6, -7
FEATURE_NOT_PRESENT, INCOMPATIBLE_DRIVER, TOO_MANY_OBJECTS = -8, -9, -10
FORMAT_NOT_SUPPORTED, FRAGMENTED_POOL, UNKNOWN = -11, -12, -13
OUT_OF_POOL_MEMORY, FRAGMENTATION, INVALID_SHADER = -1000069000, -1000161000, -1000012000
NOT_READY, TIMEOUT, INCOMPLETE = 1, 2, 5

_MEMORY = (OUT_OF_HOST_MEMORY, OUT_OF_DEVICE_MEMORY)

# What the specification has each function return besides success; any may return UNKNOWN too.
RESULTS: dict[str, tuple[int, ...]] = {
    "vkEnumerateInstanceVersion": (OUT_OF_HOST_MEMORY,),
    "vkEnumerateInstanceLayerProperties": (*_MEMORY, INCOMPLETE),
    "vkEnumerateInstanceExtensionProperties": (*_MEMORY, LAYER_NOT_PRESENT, INCOMPLETE),
    "vkCreateInstance": (
        *_MEMORY,
        INITIALIZATION_FAILED,
        LAYER_NOT_PRESENT,
        EXTENSION_NOT_PRESENT,
        INCOMPATIBLE_DRIVER,
    ),
    "vkCreateDebugUtilsMessengerEXT": (OUT_OF_HOST_MEMORY,),
    "vkEnumeratePhysicalDevices": (*_MEMORY, INITIALIZATION_FAILED, INCOMPLETE),
    "vkEnumerateDeviceExtensionProperties": (*_MEMORY, LAYER_NOT_PRESENT, INCOMPLETE),
    "vkGetPhysicalDeviceImageFormatProperties": (*_MEMORY, FORMAT_NOT_SUPPORTED),
    "vkCreateDevice": (
        *_MEMORY,
        INITIALIZATION_FAILED,
        EXTENSION_NOT_PRESENT,
        FEATURE_NOT_PRESENT,
        TOO_MANY_OBJECTS,
        DEVICE_LOST,
    ),
    "vkAllocateMemory": (*_MEMORY, TOO_MANY_OBJECTS),
    "vkMapMemory": (*_MEMORY, MEMORY_MAP_FAILED),
    "vkBindBufferMemory": _MEMORY,
    "vkBindImageMemory": _MEMORY,
    "vkCreateBuffer": _MEMORY,
    "vkCreateImage": _MEMORY,
    "vkCreateImageView": _MEMORY,
    "vkCreateShaderModule": (*_MEMORY, INVALID_SHADER),
    "vkCreatePipelineCache": _MEMORY,
    "vkGetPipelineCacheData": (*_MEMORY, INCOMPLETE),
    "vkCreateComputePipelines": (*_MEMORY, INVALID_SHADER),
    "vkCreatePipelineLayout": _MEMORY,
    "vkCreateDescriptorSetLayout": _MEMORY,
    "vkCreateDescriptorPool": (*_MEMORY, FRAGMENTATION),
    "vkAllocateDescriptorSets": (*_MEMORY, FRAGMENTED_POOL, OUT_OF_POOL_MEMORY),
    "vkCreateCommandPool": _MEMORY,
    "vkAllocateCommandBuffers": _MEMORY,
    "vkBeginCommandBuffer": _MEMORY,
    "vkEndCommandBuffer": _MEMORY,
    "vkQueueSubmit": (*_MEMORY, DEVICE_LOST),
    "vkCreateFence": _MEMORY,
    "vkResetFences": (OUT_OF_DEVICE_MEMORY,),
    "vkGetFenceStatus": (*_MEMORY, DEVICE_LOST, NOT_READY),
    "vkWaitForFences": (*_MEMORY, DEVICE_LOST, TIMEOUT),
    "vkDeviceWaitIdle": (*_MEMORY, DEVICE_LOST),
    "vkCreateQueryPool": _MEMORY,
    "vkGetQueryPoolResults": (*_MEMORY, DEVICE_LOST),
}

# What undoes each function that makes something.
UNDONE_BY = {
    "vkCreateInstance": "vkDestroyInstance",
    "vkCreateDebugUtilsMessengerEXT": "vkDestroyDebugUtilsMessengerEXT",
    "vkCreateDevice": "vkDestroyDevice",
    "vkAllocateMemory": "vkFreeMemory",
    "vkCreateBuffer": "vkDestroyBuffer",
    "vkCreateImage": "vkDestroyImage",
    "vkCreateImageView": "vkDestroyImageView",
    "vkCreateShaderModule": "vkDestroyShaderModule",
    "vkCreateComputePipelines": "vkDestroyPipeline",
    "vkCreatePipelineLayout": "vkDestroyPipelineLayout",
    "vkCreateDescriptorSetLayout": "vkDestroyDescriptorSetLayout",
    "vkCreateDescriptorPool": "vkDestroyDescriptorPool",
    "vkCreatePipelineCache": "vkDestroyPipelineCache",
    "vkCreateCommandPool": "vkDestroyCommandPool",
    "vkAllocateCommandBuffers": "vkFreeCommandBuffers",
    "vkCreateFence": "vkDestroyFence",
    "vkCreateQueryPool": "vkDestroyQueryPool",
}
_MADE_BY = {destroy: create for create, destroy in UNDONE_BY.items()}

# So many of pwconv's frames, from the call outwards, tell one place that calls from another.
_SITE_FRAMES = 3


@dataclass(frozen=True)
class Fault:
    """The ``nth`` call of a function fails, from 1; where it ``stays``, every one after it too."""

    function: str
    nth: int
    result: int
    stays: bool = False

    def __str__(self) -> str:
        return f"{self.function} #{self.nth}{'…' if self.stays else ''} → {self.result}"


class Injector:
    """Counts calls, makes them fail, and knows what exists.

    Attributes
    ----------
    calls : Counter
        Of every function that returns a VkResult, since :meth:`expect`.
    sites : dict
        The first call from each place, as (function, nth), by place.
    hit : bool
        Whether the fault has happened.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.sites: dict[tuple[object, ...], tuple[str, int]] = {}
        self.hit = False
        self._fault: Fault | None = None
        self._existing: dict[str, dict[int, Any]] = {create: {} for create in UNDONE_BY}

    def expect(self, fault: Fault | None) -> None:
        """Count from here, and have this happen."""
        self.calls.clear()
        self.sites.clear()
        self.hit = False
        self._fault = fault

    def existing(self) -> dict[str, int]:
        """Return how many objects there are, by the function that made them."""
        return {create: len(found) for create, found in self._existing.items() if found}

    def wrap(self, name: str, real: Any) -> Callable[..., Any]:
        """Return a C function that is seen and can fail."""
        fallible = name in RESULTS

        def call(*arguments: Any) -> Any:
            if fallible:
                result = self._count(name)
                if result is not None:
                    return result
            if name in _MADE_BY:
                self._forget(name, arguments)
            result = real(*arguments)
            if name in UNDONE_BY and result == 0:
                self._remember(name, arguments)
            return result

        call.real = real
        return call

    def _count(self, name: str) -> int | None:
        self.calls[name] += 1
        nth, fault = self.calls[name], self._fault
        self.sites.setdefault((name, *_site()), (name, nth))
        if fault is None or fault.function != name:
            return None
        if nth == fault.nth or (fault.stays and nth > fault.nth):
            self.hit = True
            return fault.result
        return None

    def _remember(self, name: str, arguments: tuple[Any, ...]) -> None:
        made = arguments[-1]
        handle = made[0]
        # A command pool takes its command buffers with it.
        pool = arguments[1].commandPool if name == "vkAllocateCommandBuffers" else None
        self._existing[name][_number(handle)] = pool

    def _forget(self, name: str, arguments: tuple[Any, ...]) -> None:
        existing = self._existing[_MADE_BY[name]]
        if name in ("vkDestroyInstance", "vkDestroyDevice"):
            handle = arguments[0]
        elif name == "vkFreeCommandBuffers":
            handle = arguments[3][0]
        else:
            handle = arguments[1]
        existing.pop(_number(handle), None)
        if name == "vkDestroyCommandPool":
            buffers = self._existing["vkAllocateCommandBuffers"]
            for number, pool in list(buffers.items()):
                if pool == handle:
                    del buffers[number]


class _Library:
    """The loader, each of its functions wrapped."""

    def __init__(self, injector: Injector, real: Any) -> None:
        self._injector = injector
        self._real = real

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if name in RESULTS or name in _MADE_BY:
            value = self._injector.wrap(name, value)
        setattr(self, name, value)
        return value


@contextmanager
def injected() -> Iterator[Injector]:
    """Put an injector between the vulkan package and the loader."""
    injector = Injector()
    real_library, real_call = _vulkan.lib, _vulkan._callApi
    extensions = dict(_vulkan._instance_ext_funcs)

    def call_api(function: Any, *arguments: Any) -> Any:
        types = _vulkan.ffi.typeof(getattr(function, "real", function)).args
        converted = map(_vulkan._auto_handle, arguments, types)
        return function(*converted)

    def extension(name: str) -> Callable[[Any], Any]:
        return lambda pointer: extensions[name](injector.wrap(name, pointer))

    kept = _forget_functions()
    library = _Library(injector, real_library)
    vulkan.lib = _vulkan.lib = library
    _vulkan._callApi = call_api
    for name in extensions.keys() & (RESULTS.keys() | _MADE_BY.keys()):
        _vulkan._instance_ext_funcs[name] = extension(name)
    try:
        yield injector
    finally:
        vulkan.lib = _vulkan.lib = real_library
        _vulkan._callApi = real_call
        _vulkan._instance_ext_funcs.update(extensions)
        _forget_functions()
        vars(vk).update(kept)


def _forget_functions() -> dict[str, Any]:
    """Have pwconv look the functions up again; return those that it had."""
    names = [name for name in vars(vk) if name.startswith("vk")]
    return {name: vars(vk).pop(name) for name in names}


def _site() -> tuple[object, ...]:
    frame = sys._getframe(3)
    places: list[object] = []
    while frame is not None and len(places) < _SITE_FRAMES:
        file = frame.f_code.co_filename
        if "/pwconv/" in file and not file.endswith("/vk/api.py"):
            places.append((file.rpartition("/pwconv/")[2], frame.f_lineno))
        frame = frame.f_back
    return tuple(places)


def _number(handle: Any) -> int:
    return int(_vulkan.ffi.cast("uintptr_t", handle))
