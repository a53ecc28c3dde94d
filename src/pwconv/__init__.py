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
from pwconv.tensor import Tensor
from pwconv.version import __version__
from pwconv.vk.physical_device import DeviceInfo
from pwconv.weights import PackedWeight

if TYPE_CHECKING:
    from pwconv import reference
    from pwconv.explanation import Explanation
    from pwconv.functional import conv2d_pw, linear, pack_linear_weight
    from pwconv.graph import Graph
    from pwconv.importer import from_onnx, from_torch
    from pwconv.layers import Linear, PointwiseConv2d
else:
    _MODULES = {
        "Explanation": "explanation",
        "Graph": "graph",
        "Linear": "layers",
        "PointwiseConv2d": "layers",
        "conv2d_pw": "functional",
        "from_onnx": "importer",
        "from_torch": "importer",
        "linear": "functional",
        "pack_linear_weight": "functional",
    }

    def __getattr__(name):
        """Import what computes on first use: listing devices and moving tensors do without it."""
        from importlib import import_module

        if name == "reference":
            return import_module("pwconv.reference")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"pwconv.{_MODULES[name]}"), name)
        return found


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
    "from_onnx",
    "from_torch",
    "linear",
    "pack_linear_weight",
    "reference",
]


def __dir__() -> list[str]:
    return __all__
