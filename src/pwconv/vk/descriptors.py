"""Descriptor sets: the resources behind the bindings of a pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from pwconv.vk import api as vk
from pwconv.vk.core import Core
from pwconv.vk.pipelines import Pipeline
from pwconv.vk.resources import Image, Resource

_STORAGE_IMAGE, _STORAGE_BUFFER = 3, 7


class Bound(Protocol):
    """A pipeline over resources, in binding order: a dispatch."""

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline."""

    @property
    def bound(self) -> tuple[Resource, ...]:
        """The resources."""


def make_sets(core: Core, dispatches: Sequence[Bound], made: ExitStack) -> list[Any]:
    """Return a descriptor set for each dispatch, of a pool that is freed with ``made``.

    The caller holds the lock.
    """
    kinds = Counter[int]()
    for dispatch in dispatches:
        kinds.update(dispatch.pipeline.descriptor_types)
    sizes = vk.ffi.new("VkDescriptorPoolSize[]", list(kinds.items()))
    info = vk.ffi.new(
        "VkDescriptorPoolCreateInfo*",
        {
            "sType": vk.VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
            "maxSets": len(dispatches),
            "poolSizeCount": len(sizes),
            "pPoolSizes": sizes,
        },
    )
    pool = vk.make(made, "DescriptorPool", core.handle, info)
    layouts = vk.ffi.new(
        "VkDescriptorSetLayout[]", [dispatch.pipeline.set_layout for dispatch in dispatches]
    )
    request = vk.ffi.new(
        "VkDescriptorSetAllocateInfo*",
        {
            "sType": vk.VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
            "descriptorPool": pool,
            "descriptorSetCount": len(dispatches),
            "pSetLayouts": layouts,
        },
    )
    sets = vk.ffi.new("VkDescriptorSet[]", len(dispatches))
    vk.vkAllocateDescriptorSets(core.handle, request, sets)
    writes: list[dict[str, Any]] = []
    alive: list[Any] = []  # what the writes point to
    for descriptor_set, dispatch in zip(sets, dispatches, strict=True):
        kinds_in_order = dispatch.pipeline.descriptor_types
        for binding, resource in enumerate(dispatch.bound):
            kind = kinds_in_order[binding]
            write = {
                "sType": vk.VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                "dstSet": descriptor_set,
                "dstBinding": binding,
                "descriptorCount": 1,
                "descriptorType": kind,
            }
            if isinstance(resource, Image) == (kind == _STORAGE_BUFFER):
                raise TypeError(f"binding {binding} cannot take a {type(resource).__name__}")
            if isinstance(resource, Image):
                view = resource.storage_view if kind == _STORAGE_IMAGE else resource.view
                given = {"imageView": view, "imageLayout": vk.VK_IMAGE_LAYOUT_GENERAL}
                write["pImageInfo"] = vk.ffi.new("VkDescriptorImageInfo*", given)
                alive.append(write["pImageInfo"])
            else:
                given = {"buffer": resource.handle, "range": resource.size}
                write["pBufferInfo"] = vk.ffi.new("VkDescriptorBufferInfo*", given)
                alive.append(write["pBufferInfo"])
            writes.append(write)
    array = vk.ffi.new("VkWriteDescriptorSet[]", writes)
    vk.vkUpdateDescriptorSets(core.handle, len(writes), array, 0, vk.ffi.NULL)
    return list(sets)
