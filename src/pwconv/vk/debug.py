"""The validation layer's messages, collected so that they can be raised as errors."""

from __future__ import annotations

from collections import deque
from typing import Any

from pwconv.errors import ValidationError
from pwconv.vk import api as vk

LAYER = "VK_LAYER_KHRONOS_validation"
EXTENSION = "VK_EXT_debug_utils"
INSTALL_HINT = (
    "Install it (Debian and Ubuntu: vulkan-validationlayers; Fedora: "
    "vulkan-validation-layers; Arch: vulkan-validation-layers; elsewhere: the Vulkan SDK), or "
    "pass validate=False and unset PWCONV_VALIDATE."
)


class Messenger:
    """Collects one instance's validation messages.

    An exception cannot pass through the driver, so a message is kept until :meth:`check`, which is
    called after each operation that Vulkan judges.
    """

    def __init__(self) -> None:
        self._messages: deque[str] = deque()
        self._user_data = vk.ffi.new_handle(self._messages)
        self._instance: Any = None
        self._handle: Any = None

    def create_info(self) -> Any:
        """Describe the messenger; passed to vkCreateInstance too, it covers that call as well."""
        return vk.VkDebugUtilsMessengerCreateInfoEXT(
            messageSeverity=vk.VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT
            | vk.VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
            messageType=vk.VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
            pfnUserCallback=_on_message,
            pUserData=self._user_data,
        )

    def attach(self, instance: Any) -> None:
        """Listen to an instance."""
        create = vk.instance_function(instance, "vkCreateDebugUtilsMessengerEXT")
        self._instance = instance
        self._handle = create(instance, self.create_info(), None)

    def detach(self) -> None:
        """Stop listening; call before the instance is destroyed."""
        destroy = vk.instance_function(self._instance, "vkDestroyDebugUtilsMessengerEXT")
        destroy(self._instance, self._handle, None)

    def check(self) -> None:
        """Raise the messages received.

        Raises
        ------
        ValidationError
            With every message since the last check.
        """
        if self._messages:
            messages = [self._messages.popleft() for _ in range(len(self._messages))]
            raise ValidationError("\n".join(messages))


def _on_message(_severity: int, _kinds: int, data: Any, user_data: Any) -> int:
    # The vulkan package has one callback for the whole process: the user data says whose it is.
    vk.ffi.from_handle(user_data).append(vk.ffi.string(data.pMessage).decode(errors="replace"))
    return 0
