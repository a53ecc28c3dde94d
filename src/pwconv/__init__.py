"""Pointwise convolutions and linear layers on any Vulkan device, from numpy."""

from typing import TYPE_CHECKING

from pwconv.device import Device, default_device, devices
from pwconv.errors import (
    BusyError,
    ClosedError,
    DeviceLostError,
    NoDeviceError,
    OutOfMemoryError,
    PwconvError,
    UnsupportedError,
    ValidationError,
)
from pwconv.explanation import Explanation
from pwconv.functional import conv2d_pw, linear, pack_linear_weight
from pwconv.layers import Linear, PointwiseConv2d
from pwconv.tensor import Tensor
from pwconv.version import __version__
from pwconv.vk.physical_device import DeviceInfo
from pwconv.weights import PackedWeight

if TYPE_CHECKING:
    from pwconv import models, reference
    from pwconv.graph import Graph
else:

    def __getattr__(name):
        """Import graphs, models and reference on first use: layers do without them."""
        if name == "Graph":
            from pwconv.graph import Graph

            globals()[name] = Graph
            return Graph
        if name == "models":
            import pwconv.models

            return pwconv.models
        if name == "reference":
            import pwconv.reference

            return pwconv.reference
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BusyError",
    "ClosedError",
    "Device",
    "DeviceInfo",
    "DeviceLostError",
    "Explanation",
    "Graph",
    "Linear",
    "NoDeviceError",
    "OutOfMemoryError",
    "PackedWeight",
    "PointwiseConv2d",
    "PwconvError",
    "Tensor",
    "UnsupportedError",
    "ValidationError",
    "__version__",
    "conv2d_pw",
    "default_device",
    "devices",
    "linear",
    "models",
    "pack_linear_weight",
    "reference",
]


def __dir__() -> list[str]:
    return __all__
