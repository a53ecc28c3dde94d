"""Physical devices: properties, limits and features, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from pwconv.errors import UnsupportedError
from pwconv.vk import api as vk
from pwconv.vk import features
from pwconv.vk.cooperative_matrix import Matrix
from pwconv.vk.cooperative_matrix import query as query_matrices

_TYPES = {1: "integrated", 2: "discrete", 3: "virtual", 4: "cpu"}
_DRIVER_PROPERTIES = "VK_KHR_driver_properties"
_MEASURED_PRODUCT = ("float16", "float32")


class DeviceKey(NamedTuple):
    """What measurements on one device are carried over to another by.

    Attributes
    ----------
    vendor_id, driver_id : int
    type : str
    subgroup_size : int
    matrices : tuple of str
        Shapes M×N×K and scopes of the products of float16 matrices summed in float32.
    """

    vendor_id: int
    driver_id: int
    type: str
    subgroup_size: int
    matrices: tuple[str, ...]


@dataclass(frozen=True)
class DeviceInfo:
    """A Vulkan device, as :func:`pwconv.devices` lists it.

    Attributes
    ----------
    index : int
        Position in the loader's list; selects the device.
    name : str
        The device's name; any part of it selects the device too.
    type : str
        "discrete", "integrated", "virtual", "cpu" or "other".
    driver : str
        The driver's name and version.
    api_version : str
        The Vulkan version the device implements.
    limits : Mapping
        Every member of VkPhysicalDeviceLimits, ``maxMemoryAllocationSize`` and ``subgroupSize``, by
        Vulkan's names. Sizes are in bytes, ``timestampPeriod`` in nanoseconds.
    features : frozenset of str
        Vulkan's names of the features the device has.
    extensions : frozenset of str
        Names of the device extensions.
    matrices : tuple of Matrix
        The matrix products that it computes in hardware.
    identity : str
        Tells this device and driver build from any other: what is cached on disk is keyed by it.
    problem : str or None
        Reason why pwconv cannot use the device, or None.
    vendor_id, device_id : int
        Of VkPhysicalDeviceProperties: a PCI id, or a VkVendorId.
    driver_id : int
        VkDriverId; 0 where the device does not tell it.
    uuid : str
        deviceUUID of VkPhysicalDeviceIDProperties in hexadecimal; "" before Vulkan 1.1.
    """

    index: int
    name: str
    type: str
    driver: str
    api_version: str
    limits: Mapping[str, Any] = field(repr=False)
    features: frozenset[str] = field(repr=False)
    extensions: frozenset[str] = field(repr=False)
    matrices: tuple[Matrix, ...] = field(repr=False)
    identity: str = field(repr=False)
    problem: str | None = field(default=None, repr=False)
    vendor_id: int = field(default=0, repr=False)
    device_id: int = field(default=0, repr=False)
    driver_id: int = field(default=0, repr=False)
    uuid: str = field(default="", repr=False)

    @cached_property
    def key(self) -> DeviceKey:
        """The key that measurements go by."""
        products = [m for m in self.matrices if (m.operand, m.accumulator) == _MEASURED_PRODUCT]
        shapes = {f"{m.m}x{m.n}x{m.k} {m.scope}" for m in products}
        return DeviceKey(
            self.vendor_id,
            self.driver_id,
            self.type,
            self.limits["subgroupSize"],
            tuple(sorted(shapes)),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.type}, {self.driver}, Vulkan {self.api_version})"


@dataclass(frozen=True)
class MemoryType:
    """One of the device's memory types; ``flags`` are VkMemoryPropertyFlagBits."""

    index: int
    flags: int
    heap: int


class ImageLimit(NamedTuple):
    """The largest image of a format: extent in texels, and ``maxResourceSize`` in bytes."""

    extent: tuple[int, int, int]
    size: int


class PhysicalDevice:
    """A VkPhysicalDevice and its properties, limits, features and memory types.

    With ``layer_version``, features that a validation layer so old would take for mistakes are left
    out.
    """

    def __init__(
        self, instance: Any, handle: Any, index: int, layer_version: int | None = None
    ) -> None:
        self.handle = handle
        properties = vk.vkGetPhysicalDeviceProperties(handle)
        extensions = frozenset(
            vk.text(extension, "extensionName")
            for extension in vk.vkEnumerateDeviceExtensionProperties(handle, None)
        )
        version = properties.apiVersion
        self.api_version = version
        # Asked once: a layer looks at it in every call.
        self.image_limits: dict[tuple[int, int], ImageLimit | None] = {}
        available = _features(handle, version, extensions)
        if layer_version is not None:
            available = features.known_to_layer(available, layer_version)
        limits = _members(properties.limits)
        limits["maxMemoryAllocationSize"] = _max_allocation_size(handle, version)
        limits["subgroupSize"] = _subgroup_size(handle, version)
        self._queue_family = _compute_queue_family(handle)
        driver, driver_id = _driver(handle, properties, extensions)
        self.info = DeviceInfo(
            index=index,
            name=vk.text(properties, "deviceName"),
            type=_TYPES.get(properties.deviceType, "other"),
            driver=driver,
            api_version=_version(version),
            limits=limits,
            features=available,
            extensions=extensions,
            matrices=query_matrices(instance, handle, available),
            identity="-".join(
                f"{part:08x}"
                for part in (properties.vendorID, properties.deviceID, properties.driverVersion)
            )
            + "-"
            + bytes(properties.pipelineCacheUUID).hex(),
            problem=_problem(_version(version), self._queue_family),
            vendor_id=properties.vendorID,
            device_id=properties.deviceID,
            driver_id=driver_id,
            uuid=_uuid(handle, version),
        )
        memory = vk.vkGetPhysicalDeviceMemoryProperties(handle)
        self.heap_sizes = [memory.memoryHeaps[i].size for i in range(memory.memoryHeapCount)]
        self.memory_types = [
            MemoryType(i, memory.memoryTypes[i].propertyFlags, memory.memoryTypes[i].heapIndex)
            for i in range(memory.memoryTypeCount)
        ]

    def compute_queue_family(self) -> int:
        """Return the first queue family that can run compute shaders.

        Raises
        ------
        UnsupportedError
            There is none, or the device's Vulkan is older than 1.1.
        """
        if self.info.problem or self._queue_family is None:
            raise UnsupportedError(f"{self.info.name} {self.info.problem}; choose another device")
        return self._queue_family


def _compute_queue_family(handle: Any) -> int | None:
    families = vk.vkGetPhysicalDeviceQueueFamilyProperties(handle)
    for index, family in enumerate(families):
        if family.queueFlags & vk.VK_QUEUE_COMPUTE_BIT and family.queueCount:
            return index
    return None


def _problem(version: str, queue_family: int | None) -> str | None:
    if tuple(map(int, version.split("."))) < (1, 1):
        return f"has Vulkan {version}; pwconv needs 1.1: update its driver"
    if queue_family is None:
        return "has no queue that runs compute shaders"
    return None


def _members(structure: Any) -> dict[str, Any]:
    """Turn a C structure of numbers and arrays into a dict."""
    members = {}
    for name, _ in vk.ffi.typeof(structure).fields:
        value = getattr(structure, name)
        members[name] = tuple(value) if isinstance(value, vk.ffi.CData) else value
    return members


def _max_allocation_size(handle: Any, version: int) -> int:
    if version < vk.API_1_1:
        return 2**30  # the least that the limit may be, where it cannot be asked for
    maintenance = vk.VkPhysicalDeviceMaintenance3Properties()
    properties = vk.VkPhysicalDeviceProperties2(pNext=maintenance)
    vk.vkGetPhysicalDeviceProperties2(handle, properties)
    return int(maintenance.maxMemoryAllocationSize)


def _subgroup_size(handle: Any, version: int) -> int:
    if version < vk.API_1_1:
        return 1
    subgroup = vk.VkPhysicalDeviceSubgroupProperties()
    properties = vk.VkPhysicalDeviceProperties2(pNext=subgroup)
    vk.vkGetPhysicalDeviceProperties2(handle, properties)
    return int(subgroup.subgroupSize)


def _features(handle: Any, version: int, extensions: frozenset[str]) -> frozenset[str]:
    core = vk.vkGetPhysicalDeviceFeatures(handle)
    names = frozenset(name for name, value in _members(core).items() if value)
    if version < vk.API_1_1:
        return names
    return names | features.query(handle, version, extensions)


def _uuid(handle: Any, version: int) -> str:
    if version < vk.API_1_1:
        return ""
    identifiers = vk.VkPhysicalDeviceIDProperties()
    properties = vk.VkPhysicalDeviceProperties2(pNext=identifiers)
    vk.vkGetPhysicalDeviceProperties2(handle, properties)
    return bytes(identifiers.deviceUUID).hex()


def _driver(handle: Any, properties: Any, extensions: frozenset[str]) -> tuple[str, int]:
    """Return the driver's name and version, and its VkDriverId."""
    version = properties.driverVersion
    if properties.apiVersion < vk.API_1_2 and _DRIVER_PROPERTIES not in extensions:
        return f"version {_version(version)}", 0
    driver = vk.VkPhysicalDeviceDriverProperties()
    chain = vk.VkPhysicalDeviceProperties2(pNext=driver)
    vk.vkGetPhysicalDeviceProperties2(handle, chain)
    name, details = vk.text(driver, "driverName"), vk.text(driver, "driverInfo")
    return f"{name} {details or _version(version)}", int(driver.driverID)


def _version(number: int) -> str:
    return f"{number >> 22 & 0x7F}.{number >> 12 & 0x3FF}.{number & 0xFFF}"
