"""Convolutions as nodes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pwconv.activation import Activation
from pwconv.device import Device
from pwconv.dtypes import FLOAT32, Array, as_float_array
from pwconv.graph.operations import Operation, Setting
from pwconv.kernels import conv2d_pw_choice
from pwconv.kernels.conv2d_dw import arrange_weight, plan_conv2d_dw
from pwconv.kernels.conv2d_pw import Geometry, Problem, plan_conv2d_pw
from pwconv.layout import ceil_div
from pwconv.modules import PointwiseConv2d, conv_output_shape
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import OUT, Dispatch, Plan
from pwconv.weights import upload_parameter

_MOST_TAPS = 2**10  # of a kernel: products are counted in 32 bits


@dataclass(frozen=True, eq=False)
class MatrixConvolution(Operation):
    """A convolution that is a matrix product, over the tiles and the epilogue of pointwise ones.

    Input 1, where there is one, is its residual. Activation and geometry are the node's and not the
    layer's: a later node's may be folded into it, and its stride may become a node before it.
    """

    layer: PointwiseConv2d
    activation: Activation
    geometry: Geometry

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weight and the bias."""
        return self.layer._parameters.nbytes

    def dispatches(
        self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape
    ) -> list[Dispatch]:
        """Plan the one dispatch that computes it, bias, residual and activation included."""
        added = self._added(len(shapes))
        plan, reason = self._plan(setting, shapes[0], out_shape, added)
        bindings = {
            **self.layer._parameters.bindings(plan.variant),
            "t_in": 0,
            "t_residual": 0,
            "t_scale": 0,
            **added,
            "t_out": OUT,
        }
        return [Dispatch(plan, bindings, reason)]

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return two for each product."""
        return 2 * shapes[0][-3] * math.prod(out_shape)

    def _added(self, operands: int) -> dict[str, int]:
        """Return the operands besides x: their numbers by binding name."""
        return {"t_residual": 1} if operands > 1 else {}

    @abstractmethod
    def _plan(
        self, setting: Setting, x_shape: Shape, out_shape: Shape, added: Container[str]
    ) -> tuple[Plan, str]:
        """Return the plan with a residual or a scale, and the reason for its variant."""


@dataclass(frozen=True, eq=False)
class PointwiseConvolution(MatrixConvolution):
    """A convolution by a kernel of one tap.

    If ``scaled``, its last input is no residual but a factor of x, [N, C_in, 1, 1].
    """

    scaled: bool = False
    kind = "conv2d_pw"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [N, C_out, H_out, W_out], or without N."""
        unscaled = shapes[:-1] if self.scaled else shapes
        layer = self.layer
        out_shape = conv_output_shape(
            shapes[0], layer.in_channels, layer.out_channels, self.geometry
        )
        return _with_residual(out_shape, unscaled)

    def scale_pays(self, setting: Setting, x_shape: Shape, out_shape: Shape) -> bool:
        """Return whether it should multiply x by a scale, and not take their product."""
        variant = self.layer._variant(setting.storage, x_shape, out_shape, self.geometry)
        return conv2d_pw_choice.scale_pays(setting.context, variant)

    def _added(self, operands: int) -> dict[str, int]:
        if not self.scaled:
            return super()._added(operands)
        return {**super()._added(operands - 1), "t_scale": operands - 1}

    def _plan(
        self, setting: Setting, x_shape: Shape, out_shape: Shape, added: Container[str]
    ) -> tuple[Plan, str]:
        return self.layer._plan_with(
            setting.storage,
            x_shape,
            out_shape,
            self.activation,
            geometry=self.geometry,
            residual="t_residual" in added,
            scale="t_scale" in added,
        )


@dataclass(frozen=True, eq=False)
class DenseConvolution(MatrixConvolution):
    """A convolution by a kernel of several taps, which the input is gathered for.

    The layer is the one whose K are taps and channels; see :func:`flatten_kernel`.
    """

    in_channels: int
    kind = "conv2d"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [N, C_out, H_out, W_out], or without N."""
        out_shape = conv_output_shape(
            shapes[0], self.in_channels, self.layer.out_channels, self.geometry
        )
        return _with_residual(out_shape, shapes)

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return two for each product."""
        return math.prod(self.geometry.kernel) * super().flop(shapes, out_shape)

    def _plan(
        self, setting: Setting, x_shape: Shape, out_shape: Shape, added: Container[str]
    ) -> tuple[Plan, str]:
        problem = Problem(
            setting.storage,
            shape4(x_shape, "x"),
            shape4(out_shape, "output"),
            setting.dtype,
            FLOAT32,
            self.geometry,
        )
        choice = conv2d_pw_choice.choose(setting.context, problem, self.layer._weight.storage)
        plan = plan_conv2d_pw(
            setting.context,
            choice.variant,
            problem,
            self.activation,
            choice.workgroup,
            residual="t_residual" in added,
        )
        return plan, choice.reason


def flatten_kernel(weight: Array) -> Array:
    """Return a weight [C_out, C_in, KH, KW] as the [C_out, K] of include/kernel_taps.glslh."""
    c_out, c_in, kh, kw = weight.shape
    padded = np.zeros((c_out, ceil_div(c_in, 4) * 4, kh * kw), weight.dtype)
    padded[:, :c_in] = weight.reshape(c_out, c_in, kh * kw)
    return padded.reshape(c_out, -1, 4, kh * kw).swapaxes(2, 3).reshape(c_out, -1)


class DepthwiseKernels:
    """A kernel for each channel, and the bias, on a device.

    Parameters
    ----------
    device : Device
    weight : numpy.ndarray
        [C, KH, KW] of float32, rounded to the activations' type before.
    bias : numpy.ndarray or None
        [C] of float32.
    """

    def __init__(self, device: Device, weight: Array, bias: Array | None) -> None:
        self.channels = weight.shape[0]
        padded = np.zeros(ceil_div(self.channels, 4) * 4, FLOAT32)
        padded[: self.channels] = 0.0 if bias is None else bias
        self.weight = upload_parameter(device, arrange_weight(weight))
        self.bias = upload_parameter(device, padded)


@dataclass(frozen=True, eq=False)
class DepthwiseConvolution(Operation):
    """A convolution of each channel by a kernel of its own."""

    kernels: DepthwiseKernels
    geometry: Geometry
    activation: Activation
    kind = "conv2d_dw"

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight and the bias."""
        return self.kernels.weight.size + self.kernels.bias.size

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [N, C, H_out, W_out], or without N."""
        channels = self.kernels.channels
        return conv_output_shape(shapes[0], channels, channels, self.geometry)

    def dispatches(
        self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        plan = plan_conv2d_dw(
            setting.context,
            setting.storage,
            shape4(shapes[0], "x"),
            setting.dtype,
            self.geometry,
            self.activation,
        )
        parameters = {"weight": self.kernels.weight, "bias": self.kernels.bias}
        return [Dispatch(plan, {**parameters, "t_in": 0, "t_out": OUT})]

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return two for each product."""
        return 2 * math.prod(self.geometry.kernel) * math.prod(out_shape)


def check_kernel(weight: Any, axes: str) -> Array:
    """Return the weight of a convolution with a kernel; nothing is converted.

    Raises
    ------
    TypeError, ValueError
        Another element type, or a shape that is not as ``axes`` says.
    """
    array = as_float_array(weight, "weight")
    if array.ndim == 2:
        raise ValueError(
            f"weight has shape {array.shape}; it must be {axes}: graph.conv2d_pw and graph.linear "
            "take weights without a kernel"
        )
    if array.ndim != 4 or 0 in array.shape or math.prod(array.shape[2:]) > _MOST_TAPS:
        raise ValueError(
            f"weight has shape {array.shape}; it must be {axes}, with no axis of length 0 and at "
            f"most {_MOST_TAPS} taps KH·KW"
        )
    return array


def _with_residual(out_shape: Shape, shapes: Sequence[Shape]) -> Shape:
    if len(shapes) > 1 and shapes[1] != out_shape:
        raise ValueError(f"residual has shape {shapes[1]}; it must be the output's, {out_shape}")
    return out_shape
