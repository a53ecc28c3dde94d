"""VkInstance: layers, extensions, and the physical devices that it lists."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
        version = _loader_version()
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
        with _loading():
            self.handle: Any = vk.vkCreateInstance(info, None)
        if self.messenger:
            try:
                self.messenger.attach(self.handle)
            except BaseException:
                vk.vkDestroyInstance(self.handle, None)
                raise

    def physical_devices(self) -> list[Any]:
        """Return the handles of every physical device, in the loader's order."""
        try:
            with _loading():
                return list(vk.vkEnumeratePhysicalDevices(self.handle))
        except NoDeviceError as error:
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
        yield find_resident()


def find_resident() -> Instance:
    """Return the instance of :func:`resident_instance`, inside :func:`process.using_vulkan`."""
    found: Instance = process.resident(lambda: Instance(validate=False))
    return found


def describe_loader() -> str:
    """Return the loader's files and manifests, for an error that the loader fails."""
    return (
        f"The loader is {vk.loader_file()}; drivers' manifests: {_manifests()}. With "
        "VK_LOADER_DEBUG=all in the environment it says what becomes of each."
    )


def _manifests() -> str:
    """Return the files that name drivers to the loader, or the variable that names them."""
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        if os.environ.get(variable):
            return f"{os.environ[variable]} (${variable}, and no others)"
    if sys.platform == "win32":
        return "those in the registry"
    home = os.environ.get("HOME", "")
    roots = [
        os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config",
        *(os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"),
        *("/usr/local/etc", "/etc"),
        os.environ.get("XDG_DATA_HOME") or f"{home}/.local/share",
        *(os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":"),
    ]
    folders = [Path(root, "vulkan", "icd.d") for root in dict.fromkeys(roots)]
    added = os.environ.get("VK_ADD_DRIVER_FILES", "").split(":")
    found = [
        *filter(None, added),
        *(str(f) for each in folders for f in sorted(each.glob("*.json"))),
    ]
    return ", ".join(found) or f"none in {', '.join(map(str, folders))}"


@contextmanager
def _loading() -> Iterator[None]:
    """Add the loader's files to its failure: it says "out of memory" for a bad manifest.

    Raises
    ------
    NoDeviceError
        It finds no driver, or cannot go on.
    """
    try:
        yield
    except PwconvError as error:
        cause = error.__cause__
        if isinstance(cause, vk.VkErrorIncompatibleDriver):
            what = f"the Vulkan loader finds no driver. {vk.INSTALL_HINT}"
        elif isinstance(error, UnsupportedError) or isinstance(cause, vk.VkIncomplete):
            raise
        else:
            # Its own advice is for a device that is open.
            what = (
                f"the Vulkan loader fails, {': '.join(str(error).split(': ')[:2])}: a driver's "
                "manifest is broken, or the driver does not start. Update or remove that driver."
            )
        raise NoDeviceError(f"{what} {describe_loader()}") from cause


def _loader_version() -> int:
    with _loading():
        try:
            return int(vk.vkEnumerateInstanceVersion())
        except (AttributeError, vk.ffi.error):
            return vk.api_version(1, 0)  # which had no such function


def _validation_layer_version() -> int:
    with _loading():
        layers = vk.vkEnumerateInstanceLayerProperties()
    for layer in layers:
        if vk.text(layer, "layerName") == debug.LAYER:
            return int(layer.specVersion)
    raise UnsupportedError(
        f"validation was asked for and the layer {debug.LAYER} is not installed. "
        f"{debug.INSTALL_HINT}"
    )


def _instance_extensions(layer: str | None) -> list[str]:
    with _loading():
        found = vk.vkEnumerateInstanceExtensionProperties(layer)
    return [vk.text(extension, "extensionName") for extension in found]
