"""Every error that is pwconv's own. Wrong arguments raise ValueError or TypeError, as in numpy."""

from __future__ import annotations


class PwconvError(Exception):
    """Base of pwconv's errors; raised itself for Vulkan failures without a class of their own."""


class NoDeviceError(PwconvError):
    """No Vulkan loader, no device, or none (or several) that match what was asked for."""


class UnsupportedError(PwconvError):
    """The device lacks a feature, or a limit is too low; the message names it."""


class OutOfMemoryError(PwconvError):
    """Device or host memory is exhausted. The device and everything on it stay usable."""


class DeviceLostError(PwconvError):
    """The driver lost the device, now or earlier; the contents of its memory are gone.

    Close it and make a new one. The default device is replaced by the next call that needs one.
    """


class ClosedError(PwconvError):
    """The device, or a tensor or layer on it, was used after the device was closed."""


class BusyError(PwconvError):
    """A signal handler or a finalizer called pwconv while its own thread was inside a call.

    Nothing was changed: the call can be made once the interrupted one has returned.
    """


class ValidationError(PwconvError):
    """The Khronos validation layer found a wrong use of Vulkan; the message is the layer's."""
