"""Descriptor sets: what tells a pipeline which resources its bindings are."""

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
        """What is bound."""

    @property
    def bound(self) -> tuple[Resource, ...]:
        """The resources."""


def make_sets(core: Core, dispatches: Sequence[Bound], made: ExitStack) -> list[Any]:
    """Return a descriptor set for each dispatch, of a pool that is freed with ``made``.

    The caller holds the lock.
    """
    kinds = Counter(kind for dispatch in dispatches for kind in dispatch.pipeline.descriptor_types)
    sizes = [
        vk.VkDescriptorPoolSize(type=kind, descriptorCount=count) for kind, count in kinds.items()
    ]
    info = vk.VkDescriptorPoolCreateInfo(maxSets=len(dispatches), pPoolSizes=sizes)
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
    alive: list[Any] = []  # what the writes point to
    writes = [
        _write(sets[position], binding, kind, resource, alive)
        for position, dispatch in enumerate(dispatches)
        for binding, (kind, resource) in enumerate(
            zip(dispatch.pipeline.descriptor_types, dispatch.bound, strict=True)
        )
    ]
    array = vk.ffi.new("VkWriteDescriptorSet[]", writes)
    vk.vkUpdateDescriptorSets(core.handle, len(writes), array, 0, vk.ffi.NULL)
    return list(sets)


def _write(
    descriptor_set: Any, binding: int, kind: int, resource: Resource, alive: list[Any]
) -> dict[str, Any]:
    image = resource if isinstance(resource, Image) else None
    if (image is None) != (kind == _STORAGE_BUFFER):
        raise TypeError(f"binding {binding} cannot take a {type(resource).__name__}")
    write = {
        "sType": vk.VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
        "dstSet": descriptor_set,
        "dstBinding": binding,
        "descriptorCount": 1,
        "descriptorType": kind,
    }
    if image is None:
        found = {"buffer": resource.handle, "range": resource.size}
        write["pBufferInfo"] = target = vk.ffi.new("VkDescriptorBufferInfo*", found)
    else:
        view = image.storage_view if kind == _STORAGE_IMAGE else image.view
        found = {"imageView": view, "imageLayout": vk.VK_IMAGE_LAYOUT_GENERAL}
        write["pImageInfo"] = target = vk.ffi.new("VkDescriptorImageInfo*", found)
    alive.append(target)
    return write
