"""Features in structures of their own: query them, and enable them on a device."""

from __future__ import annotations

from typing import Any, NamedTuple

from pwconv.vk import api as vk


class _Group(NamedTuple):
    """One feature structure.

    ``members`` are the structure's VkBool32s in order. ``core`` is the Vulkan version that has it
    without the extension, ``known`` the version of the validation layer from which it knows the
    extension's SPIR-V.
    """

    structure_type: int
    members: tuple[str, ...]
    extension: str
    core: int | None = None
    known: int = 0


_GROUPS = (
    _Group(1000083000, ("storageBuffer16BitAccess",), "VK_KHR_16bit_storage", vk.API_1_1),
    _Group(1000082000, ("shaderFloat16", "shaderInt8"), "VK_KHR_shader_float16_int8", vk.API_1_2),
    _Group(
        1000211000,
        ("vulkanMemoryModel", "vulkanMemoryModelDeviceScope"),
        "VK_KHR_vulkan_memory_model",
        vk.API_1_2,
    ),
    _Group(
        1000141000,
        ("shaderBFloat16Type", "shaderBFloat16DotProduct", "shaderBFloat16CooperativeMatrix"),
        "VK_KHR_shader_bfloat16",
        known=vk.api_version(1, 4, 311),
    ),
    _Group(
        1000506000,
        ("cooperativeMatrix",),
        "VK_KHR_cooperative_matrix",
        known=vk.api_version(1, 3, 255),
    ),
    _Group(
        1000593000,
        (
            "cooperativeMatrixWorkgroupScope",
            "cooperativeMatrixFlexibleDimensions",
            "cooperativeMatrixReductions",
            "cooperativeMatrixConversions",
            "cooperativeMatrixPerElementOperations",
            "cooperativeMatrixTensorAddressing",
            "cooperativeMatrixBlockLoads",
        ),
        "VK_NV_cooperative_matrix2",
        known=vk.api_version(1, 4, 304),
    ),
)

# Room for the members that follow the ones we name, in the longest of these structures.
_MOST_MEMBERS = 12


def query(device: Any, version: int, extensions: frozenset[str]) -> frozenset[str]:
    """Return the names of the features that a physical device has."""
    names: set[str] = set()
    for group in _GROUPS:
        if group.extension in extensions or (group.core and version >= group.core):
            words = _structure(group, None)
            chain = vk.VkPhysicalDeviceFeatures2(pNext=words)
            vk.vkGetPhysicalDeviceFeatures2(device, chain)
            first = vk.first_member()
            names |= {name for i, name in enumerate(group.members) if words[first + i]}
    # With the memory model turned on, the atomics of other shaders need its device scope.
    if "vulkanMemoryModelDeviceScope" not in names:
        names.discard("vulkanMemoryModel")
    return frozenset(names)


def known_to_layer(features: frozenset[str], layer_version: int) -> frozenset[str]:
    """Return the features that a validation layer of this version can judge."""
    unknown = {name for group in _GROUPS if layer_version < group.known for name in group.members}
    return features - unknown


def enable(
    features: frozenset[str], version: int, extensions: frozenset[str]
) -> tuple[Any, list[str], list[Any]]:
    """Return the structures and extensions that enable features in vkCreateDevice.

    Returns
    -------
    chain
        For ``pNext``; None where there is nothing to ask for.
    names : list of str
        Extensions to enable.
    alive : list
        To keep until the device is made.
    """
    chain: Any = None
    names: list[str] = []
    alive: list[Any] = []
    for group in _GROUPS:
        if not features.intersection(group.members):
            continue
        words = _structure(group, chain)
        for i, name in enumerate(group.members):
            words[vk.first_member() + i] = name in features
        chain = words
        alive.append(words)
        if not group.core or version < group.core:
            names.append(group.extension)
    return chain, names, alive


def _structure(group: _Group, following: Any) -> Any:
    """Return a feature structure as words: type, padding, pNext, members."""
    words = vk.ffi.new("uint32_t[]", vk.first_member() + _MOST_MEMBERS)
    words[0] = group.structure_type
    if following is not None:
        vk.ffi.cast("void**", words)[1] = following
    return words
