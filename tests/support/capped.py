"""A device that says it can do less than it can, and a record of what is asked of it all the same.

Both stand where pwconv meets Vulkan: what reads the limits cannot tell, and the validation layer,
which knows the real ones, would not notice.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

import spirv_reflection
from pwconv.vk import api as vk
from pwconv.vk import features

_DISCRETE = 2
_SUBGROUP_PROPERTIES, _MAINTENANCE3_PROPERTIES = 1000094000, 1000168000

DESCRIPTOR_TYPES = {"sampled_image": 2, "storage_image": 3, "storage_buffer": 7}
PER_STAGE = {
    "sampled_image": "maxPerStageDescriptorSampledImages",
    "storage_image": "maxPerStageDescriptorStorageImages",
    "storage_buffer": "maxPerStageDescriptorStorageBuffers",
}


@dataclass(frozen=True)
class Cap:
    """What a device is made to say.

    Attributes
    ----------
    name : str
    limits : Mapping
        The most that it may say of each, by Vulkan's names; ``timestampValidBits`` too.
    without : frozenset of str
        Features that it may not have.
    discrete : bool
        Whether it says it is a GPU with memory of its own, whose defaults are other than a CPU's.
    """

    name: str
    limits: Mapping[str, Any] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    discrete: bool = False

    def __str__(self) -> str:
        return self.name

    def __or__(self, other: Cap) -> Cap:
        return Cap(
            f"{self.name}-{other.name}",
            {**self.limits, **other.limits},
            self.without | other.without,
            self.discrete or other.discrete,
        )


@contextmanager
def capped(cap: Cap) -> Iterator[Usage]:
    """Cap every device that is opened meanwhile; record what is asked of them."""
    usage = Usage()
    with pytest.MonkeyPatch.context() as patch:
        for name, replacement in {**_answers(cap), **usage.recorders()}.items():
            patch.setattr(vk, name, replacement)
        query = features.query
        patch.setattr(features, "query", lambda *asked: query(*asked) - cap.without)
        yield usage


def _answers(cap: Cap) -> dict[str, Callable[..., Any]]:
    """Return the functions that tell of a device, which tell of less."""
    properties, properties2 = vk.vkGetPhysicalDeviceProperties, vk.vkGetPhysicalDeviceProperties2
    families = vk.vkGetPhysicalDeviceQueueFamilyProperties
    image_format = vk.vkGetPhysicalDeviceImageFormatProperties

    def get_properties(handle: Any) -> Any:
        found = properties(handle)
        _lower(found.limits, cap.limits)
        if cap.discrete:
            found.deviceType = _DISCRETE
        return found

    def get_properties2(handle: Any, chain: Any) -> None:
        properties2(handle, chain)
        following = vk.ffi.cast("VkPhysicalDeviceSubgroupProperties*", chain.pNext)
        if following.sType == _MAINTENANCE3_PROPERTIES:
            following = vk.ffi.cast("VkPhysicalDeviceMaintenance3Properties*", chain.pNext)
        elif following.sType != _SUBGROUP_PROPERTIES:
            return
        _lower(following, cap.limits)

    def get_families(handle: Any) -> Any:
        found = list(families(handle))
        for family in found:
            _lower(family, cap.limits)
        return found

    def get_image_format(*asked: Any) -> Any:
        found = image_format(*asked)
        dimensions = 3 if asked[2] == vk.VK_IMAGE_TYPE_3D else 2
        most = cap.limits.get(f"maxImageDimension{dimensions}D", 2**32)
        for axis in ("width", "height", "depth"):
            setattr(found.maxExtent, axis, min(getattr(found.maxExtent, axis), most))
        return found

    return {
        "vkGetPhysicalDeviceProperties": get_properties,
        "vkGetPhysicalDeviceProperties2": get_properties2,
        "vkGetPhysicalDeviceQueueFamilyProperties": get_families,
        "vkGetPhysicalDeviceImageFormatProperties": get_image_format,
    }


def _lower(structure: Any, limits: Mapping[str, Any]) -> None:
    """Lower the members of a structure that are limited; a subgroup has the size that is told."""
    for name, most in limits.items():
        if not hasattr(structure, name):
            continue
        value = getattr(structure, name)
        if isinstance(most, tuple):
            for axis, limit in enumerate(most):
                value[axis] = min(value[axis], limit)
        else:
            setattr(structure, name, most if name == "subgroupSize" else min(value, most))


class Usage:
    """The most of each limit that was asked for, and how often anything was.

    Attributes
    ----------
    most : dict
        By Vulkan's names of the limits; sizes and counts along three axes are tuples.
    calls : Counter
        Of the functions that are recorded.
    """

    def __init__(self) -> None:
        self.most: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self._codes: dict[int, bytes] = {}
        self._sets: dict[int, list[int]] = {}
        self._allocations: set[int] = set()

    def past(self, limits: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return what went past the limits, and the limit."""
        return {
            name: (used, limits[name])
            for name, used in self.most.items()
            if any(a > b for a, b in zip(_axes(used), _axes(limits[name]), strict=True))
        }

    def see_code(self, code: bytes) -> None:
        """Note what a shader needs, whatever its specialization constants."""
        reflected = _reflect(code)
        types = [binding["type"] for binding in reflected.bindings]
        for name, limit in PER_STAGE.items():
            self._use(limit, types.count(name))
        self._use("maxPerStageResources", len(types))
        pushed = max((constant["offset"] + 4 for constant in reflected.push_constants), default=0)
        self._use("maxPushConstantsSize", pushed)
        self._use("maxComputeSharedMemorySize", reflected.shared_memory)
        if reflected.workgroup:
            self._see_workgroup(reflected.workgroup)

    def recorders(self) -> dict[str, Callable[..., Any]]:
        """Return the functions that ask something of a device, each seen."""
        return {
            name: self._recorder(name, getattr(vk, name), see)
            for name, see in (
                ("vkCreateShaderModule", self._see_module),
                ("vkCreateDescriptorSetLayout", self._see_set_layout),
                ("vkCreatePipelineLayout", self._see_layout),
                ("vkCreateComputePipelines", self._see_pipeline),
                ("vkCmdDispatch", self._see_dispatch),
                ("vkAllocateMemory", self._see_allocation),
                ("vkFreeMemory", self._see_free),
                ("vkCreateImage", self._see_image),
                ("vkUpdateDescriptorSets", self._see_descriptors),
                ("vkCmdWriteTimestamp", self._see_timestamp),
            )
        }

    def _recorder(
        self, name: str, real: Callable[..., Any], see: Callable[..., None]
    ) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            result = real(*arguments)
            see(result, *arguments)
            return result

        return call

    def _use(self, name: str, amount: Any) -> None:
        known = self.most.get(name, amount)
        pairs = zip(_axes(known), _axes(amount), strict=True)
        most = tuple(max(pair) for pair in pairs)
        self.most[name] = most if isinstance(amount, tuple) else most[0]

    def _see_module(self, module: Any, device: Any, info: Any, *_: Any) -> None:
        self._codes[_number(module)] = bytes(vk.ffi.buffer(info.pCode, info.codeSize))

    def _see_set_layout(self, layout: Any, device: Any, info: Any, *_: Any) -> None:
        bindings = [info.pBindings[i] for i in range(info.bindingCount)]
        self._sets[_number(layout)] = [
            b.descriptorType for b in bindings for _ in range(b.descriptorCount)
        ]

    def _see_layout(self, layout: Any, device: Any, info: Any, *_: Any) -> None:
        bound = [
            kind
            for i in range(info.setLayoutCount)
            for kind in self._sets[_number(info.pSetLayouts[i])]
        ]
        for name, limit in PER_STAGE.items():
            self._use(limit, bound.count(DESCRIPTOR_TYPES[name]))
        self._use("maxPerStageResources", len(bound))
        for i in range(info.pushConstantRangeCount):
            pushed = info.pPushConstantRanges[i]
            self._use("maxPushConstantsSize", pushed.offset + pushed.size)

    def _see_pipeline(self, made: Any, device: Any, cache: Any, count: int, infos: Any, _: Any):
        for info in infos:
            code = self._codes[_number(info.stage.module)]
            self.see_code(code)
            self._see_workgroup(
                _reflect(code).workgroup or self._specialized(_reflect(code), info.stage)
            )

    def _see_workgroup(self, size: Sequence[int]) -> None:
        x, y, z = size
        self._use("maxComputeWorkGroupSize", (x, y, z))
        self._use("maxComputeWorkGroupInvocations", x * y * z)

    @staticmethod
    def _specialized(reflected: spirv_reflection.Reflection, stage: Any) -> list[int]:
        constants = stage.pSpecializationInfo
        data = bytes(vk.ffi.buffer(constants.pData, constants.dataSize))
        entries = [constants.pMapEntries[i] for i in range(constants.mapEntryCount)]
        values = {e.constantID: struct.unpack_from("<I", data, e.offset)[0] for e in entries}
        ids = {c["name"]: c["id"] for c in reflected.specialization_constants}
        return [values[ids[f"local_size_{axis}"]] for axis in "xyz"]

    def _see_dispatch(self, _: None, command_buffer: Any, x: int, y: int, z: int) -> None:
        self._use("maxComputeWorkGroupCount", (x, y, z))

    def _see_allocation(self, memory: Any, device: Any, info: Any, *_: Any) -> None:
        self._allocations.add(_number(memory))
        self._use("maxMemoryAllocationCount", len(self._allocations))
        self._use("maxMemoryAllocationSize", info.allocationSize)

    def _see_free(self, _: None, device: Any, memory: Any, *rest: Any) -> None:
        self._allocations.discard(_number(memory))

    def _see_image(self, image: Any, device: Any, info: Any, *_: Any) -> None:
        extent = info.extent
        dimensions = 3 if info.imageType == vk.VK_IMAGE_TYPE_3D else 2
        longest = max(extent.width, extent.height, extent.depth)
        self._use(f"maxImageDimension{dimensions}D", longest)

    def _see_descriptors(self, _: None, device: Any, count: int, writes: Any, *rest: Any) -> None:
        for write in writes:
            if write.descriptorType == vk.VK_DESCRIPTOR_TYPE_STORAGE_BUFFER:
                self._use("maxStorageBufferRange", write.pBufferInfo[0].range)

    def _see_timestamp(self, _: None, *arguments: Any) -> None:
        """Counted, and no more."""


@cache
def _reflect(code: bytes) -> spirv_reflection.Reflection:
    return spirv_reflection.reflect(code)


def _axes(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _number(handle: Any) -> int:
    return int(vk.ffi.cast("uintptr_t", handle))
