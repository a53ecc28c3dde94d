"""The network of a graph in PyTorch: the same nodes, over the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pwconv.dtypes import Array, as_dtype
from pwconv.tensor import Shape

_ACTIVATIONS = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "sigmoid": torch.sigmoid,
}


class TorchNetwork:
    """Takes the calls that build a :class:`pwconv.Graph`, and builds a PyTorch module.

    It has the nodes that the benchmark's networks have, written as one would write them in PyTorch.

    Parameters
    ----------
    dtype : "float32" or "float16"
        Of weights and activations.

    Attributes
    ----------
    dtype : numpy.dtype
    inputs, outputs : dict
        Shapes of inputs, and values of outputs, by name.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = as_dtype(dtype)
        self.inputs: dict[str, Shape] = {}
        self.outputs: dict[str, Any] = {}
        self._parameters = torch.nn.Module()
        self._graph = torch.fx.Graph()

    def module(self) -> Any:
        """Return a module from the inputs to the outputs, each in the order they were named."""
        self._graph.output(tuple(self.outputs.values()))
        return torch.fx.GraphModule(self._parameters, self._graph)

    def input(self, name: str, shape: Shape) -> Any:
        """Declare an input."""
        self.inputs[name] = shape
        return self._graph.placeholder(name)

    def output(self, name: str, value: Any) -> None:
        """Name an output."""
        self.outputs[name] = value

    def conv2d_pw(self, x: Any, weight: Array, *rest: Any, **settings: Any) -> Any:
        """Add a pointwise convolution."""
        return self.conv2d(x, weight[:, :, None, None], *rest, **settings)

    def conv2d_dw(self, x: Any, weight: Array, *rest: Any, **settings: Any) -> Any:
        """Add a depthwise convolution."""
        return self.conv2d(x, weight, *rest, groups=len(weight), **settings)

    def conv2d(
        self,
        x: Any,
        weight: Array,
        bias: Array,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        activation: str | None = None,
        residual: Any = None,
        name: str = "",
    ) -> Any:
        """Add a convolution."""
        parameters = self._parameter(weight), self._parameter(bias)
        y = self._call(
            functional.conv2d, x, *parameters, stride=stride, padding=padding, groups=groups
        )
        if residual is not None:
            y = self._call(torch.add, y, residual)
        return y if activation is None else self._call(_ACTIVATIONS[activation], y)

    def mul(self, x: Any, y: Any, *, name: str = "") -> Any:
        """Add a product, element by element."""
        return self._call(torch.mul, x, y)

    def global_avg_pool(self, x: Any, *, name: str = "") -> Any:
        """Add the mean of each channel."""
        return self._call(torch.mean, x, (2, 3), keepdim=True)

    def upsample(self, x: Any, scale: int = 2, *, name: str = "") -> Any:
        """Add nearest upsampling."""
        return self._call(functional.interpolate, x, scale_factor=float(scale), mode="nearest")

    def _call(self, function: Any, *operands: Any, **settings: Any) -> Any:
        return self._graph.call_function(function, operands, settings)

    def _parameter(self, array: Array) -> Any:
        name = f"parameter_{len(list(self._parameters.buffers()))}"
        # A buffer: nothing here is trained.
        contiguous = np.ascontiguousarray(array, self.dtype)
        self._parameters.register_buffer(name, torch.from_numpy(contiguous))
        return self._graph.get_attr(name)
