"""VkInstance: layers, extensions, and the physical devices that it lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pwconv.errors import NoDeviceError, PwconvError, UnsupportedError
from pwconv.vk import api as vk
from pwconv.vk import debug, process

_PORTABILITY = "VK_KHR_portability_enumeration"
_PORTABILITY_BIT = 1


class Instance:
    """A Vulkan instance.

    Parameters
    ----------
    validate : bool
        Turn the Khronos validation layer on, its synchronization checks included.

    Raises
    ------
    NoDeviceError
        No loader, or a loader that finds no driver.
    UnsupportedError
        Validation was asked for and the layer is not installed, or the loader is older than 1.1.
    """

    def __init__(self, *, validate: bool) -> None:
        version = vk.vkEnumerateInstanceVersion()
        if version < vk.API_1_1:
            raise UnsupportedError(
                "the Vulkan loader is version 1.0; pwconv needs 1.1: update the loader"
            )
        extensions = [_PORTABILITY] if _PORTABILITY in _instance_extensions(None) else []
        flags = _PORTABILITY_BIT if extensions else 0
        layers = []
        chain = None
        self.messenger: debug.Messenger | None = None
        self.layer_version: int | None = None
        if validate:
            self.layer_version = _validation_layer_version()
            self.messenger = debug.Messenger()
            messenger_info = self.messenger.create_info()
            synchronization = [vk.VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT]
            chain = vk.VkValidationFeaturesEXT(
                pNext=messenger_info, pEnabledValidationFeatures=synchronization
            )
            layers.append(debug.LAYER)
            extensions += [debug.EXTENSION, "VK_EXT_validation_features"]
        application = vk.VkApplicationInfo(
            pApplicationName="pwconv", apiVersion=min(version, vk.API_1_3)
        )
        info = vk.VkInstanceCreateInfo(
            pNext=chain,
            flags=flags,
            pApplicationInfo=application,
            ppEnabledLayerNames=layers,
            ppEnabledExtensionNames=extensions,
        )
        try:
            self.handle: Any = vk.vkCreateInstance(info, None)
        except PwconvError as error:
            if isinstance(error.__cause__, vk.VkErrorIncompatibleDriver):
                raise NoDeviceError(
                    f"the Vulkan loader finds no driver. {vk.INSTALL_HINT}"
                ) from None
            raise
        if self.messenger:
            try:
                self.messenger.attach(self.handle)
            except BaseException:
                vk.vkDestroyInstance(self.handle, None)
                raise

    def physical_devices(self) -> list[Any]:
        """Return the handles of every physical device, in the loader's order."""
        try:
            return list(vk.vkEnumeratePhysicalDevices(self.handle))
        except PwconvError as error:
            # A driver that fails to start on this machine, with no other beside it.
            if isinstance(error.__cause__, vk.VkErrorInitializationFailed):
                return []
            raise

    def close(self) -> None:
        """Destroy the instance; every device made from it must be gone."""
        if self.messenger:
            self.messenger.detach()
        vk.vkDestroyInstance(self.handle, None)


@contextmanager
def resident_instance() -> Iterator[Instance]:
    """Lend an instance that lives as long as the process, and with it the drivers' libraries.

    Without one the loader unloads them with the last instance, and NVIDIA's (seen with 580.159)
    cannot be loaded more than 30 times: "cannot allocate memory in static TLS block".

    Raises
    ------
    ClosedError
        The process is ending.
    PwconvError
        It was forked off one that had used Vulkan.
    """
    with process.using_vulkan():
        yield process.resident(lambda: Instance(validate=False))


def _validation_layer_version() -> int:
    for layer in vk.vkEnumerateInstanceLayerProperties():
        if layer.layerName == debug.LAYER:
            return int(layer.specVersion)
    raise UnsupportedError(
        f"validation was asked for and the layer {debug.LAYER} is not installed. "
        f"{debug.INSTALL_HINT}"
    )


def _instance_extensions(layer: str | None) -> list[str]:
    return [p.extensionName for p in vk.vkEnumerateInstanceExtensionProperties(layer)]
