"""VkInstance: layers, extensions, and the physical devices that it lists."""

from __future__ import annotations

import atexit
import functools
import os
from typing import Any

from pwconv.errors import NoDeviceError, PwconvError, UnsupportedError
from pwconv.vk import api as vk
from pwconv.vk import debug

_PORTABILITY = "VK_KHR_portability_enumeration"
_PORTABILITY_BIT = 1

# How a forked child is to be started instead.
FORK_HINT = 'Start children with multiprocessing.get_context("spawn").'

_forked_after_use = False  # whether this process was forked off one that had an instance


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
    PwconvError
        This process was forked off one that had used Vulkan. No driver promises to go on then:
        lavapipe does, NVIDIA's makes no device (580.159), SwiftShader hangs.
    """

    def __init__(self, *, validate: bool) -> None:
        if _forked_after_use:
            raise PwconvError(
                "this process was forked off one that had used pwconv's devices, and drivers need "
                f"not survive that. {FORK_HINT}"
            )
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


@functools.cache
def resident_instance() -> Instance:
    """Return an instance that lives as long as the process, and with it the drivers' libraries.

    Without one the loader unloads them with the last instance, and NVIDIA's (seen with 580.159)
    cannot be loaded more than 30 times: "cannot allocate memory in static TLS block".
    """
    instance = Instance(validate=False)
    atexit.register(instance.close)
    return instance


def _leave_to_parent() -> None:
    """In a forked child: the instance is the parent's, and not to be destroyed at exit."""
    global _forked_after_use
    if resident_instance.cache_info().currsize:
        _forked_after_use = True
        atexit.unregister(resident_instance().close)
        resident_instance.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


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
