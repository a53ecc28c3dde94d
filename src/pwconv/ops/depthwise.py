"""Depthwise convolution, each channel by a kernel of its own: conv2d_dw.comp."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pwconv import reference
from pwconv.activation import ActivationLike
from pwconv.context import Context
from pwconv.dtypes import FLOAT32, Array, DType, as_float_array, convert
from pwconv.heuristics import Choice
from pwconv.layout import Shape4, ceil_div
from pwconv.ops import cases
from pwconv.ops.base import Arrays, Case, Epilogue, Operator, Site, operator
from pwconv.ops.convolution import check_kernel, finish
from pwconv.ops.limits import Limits
from pwconv.ops.window import POINTWISE, Geometry, as_geometry, window_shape
from pwconv.reference import Approximation
from pwconv.shaders import Variant
from pwconv.tensor import Shape
from pwconv.vk.commands import Dispatch
from pwconv.vk.resources import Buffer, Resource
from pwconv.weights import Norm, Parameters, check_bias, check_parameter, upload_parameter

_FEW_TAPS, _MANY_TAPS = Geometry((2, 1), (1, 1), (3, 3)), Geometry((1, 1), (1, 1), (31, 33))


class Kernels(Parameters):
    """A kernel [C, 1, KH, KW] for each channel, and the bias.

    They stay on the host too, where they take little room.
    """

    __slots__ = ("_arranged",)

    def __init__(
        self,
        weight: Array,
        bias: Array | None,
        norm: Norm | None = None,
        buffer: Buffer | None = None,
        arranged: Buffer | None = None,
    ) -> None:
        super().__init__(weight, bias, norm, buffer)
        self._arranged = arranged

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(each.size for each in (self._arranged, self.buffer) if each)

    def pack(self, context: Context, dtype: DType, storage: str = "buffer") -> Kernels:
        """Return them on a device, in float32, rounded to a type before."""
        rounded = convert(self.matrices(), dtype).astype(FLOAT32)
        arranged = upload_parameter(context, self.arrange(rounded))
        of_channels = self._upload_channels(context, len(rounded))
        norm = self.norm and self.norm.rounded()
        return type(self)(rounded, self.bias, norm, of_channels, arranged)

    @staticmethod
    def arrange(weight: Array) -> Array:
        """Return kernels as conv2d_dw.comp reads them: [C4, KH·KW, 4] of float32."""
        c, taps = weight.shape[0], math.prod(weight.shape[2:])
        padded = np.zeros((ceil_div(c, 4) * 4, taps), FLOAT32)
        padded[:c] = weight.reshape(c, taps)
        return np.ascontiguousarray(padded.reshape(-1, 4, taps).swapaxes(1, 2))

    @property
    def on_device(self) -> bool:
        """True once they are packed."""
        return self._arranged is not None

    def bindings(self, variant: Variant, which: str = "") -> dict[str, Resource]:
        """Return weight and bias by the names of a variant's bindings; none while on the host."""
        if self._arranged is None or self.buffer is None:
            return {}
        return {"weight": self._arranged, "bias": self.buffer}


@operator("conv2d_dw")
@dataclass(frozen=True, eq=False, kw_only=True)
class DepthwiseConvolution(Operator):
    """A convolution of each channel by a kernel of its own, summed in float32."""

    geometry: Geometry

    families = ("conv2d_dw",)

    @property
    def fuses(self) -> frozenset[str]:
        """The activation."""
        return frozenset({"activation"})

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C, H_out, W_out], or without N."""
        channels = self.parameters[0].shape[0]
        return window_shape(inputs[0], channels, channels, self.geometry)

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return two for each product."""
        return 2 * math.prod(self.geometry.kernel) * math.prod(out)

    def check(self, site: Site) -> None:
        """Raise where the kernels are past the device's limits."""
        c, _, kh, kw = self.parameters[0].shape
        check_parameter(site.context, ceil_div(c, 4) * 4 * kh * kw * FLOAT32.itemsize)

    def pack(self, site: Site, weight_storage: str | None = None) -> Operator:
        """Return the operator with its kernels on the device."""
        packed = (each.pack(site.context, site.dtype, "buffer") for each in self.parameters)
        return replace(self, parameters=tuple(packed))

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        variant = choice.variant if choice else site.variant("conv2d_dw")
        activation = self.epilogue.function
        dispatch = site.dispatch(
            variant,
            inputs[0],
            out,
            {"t_in": 0, **self.parameters[0].bindings(variant)},
            {"ACTIVATION": activation.number, **self.geometry.constants},
            flop=self.flop(inputs, out),
            trips=math.prod(self.geometry.kernel),
            **self.geometry.push_constants,
            activation_a=activation.a,
            activation_b=activation.b,
        )
        return [dispatch]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the sums of products, with the bias, in float64."""
        (given,) = self.parameters
        weight = given.matrices()
        sums = reference.convolve(
            inputs[0],
            weight,
            stride=self.geometry.stride,
            padding=self.geometry.sides,
            dilation=self.geometry.dilation,
            groups=len(weight),
        )
        return finish(sums, given)

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield whole numbers at several sizes, and many taps."""
        for name, shape in cases.plane_sizes(limits.extent()).items():
            yield _case(limits, name, shape, _FEW_TAPS)
        yield _case(limits, "longest loop", (1, 6, *_MANY_TAPS.kernel), _MANY_TAPS)


def make_depthwise(
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    activation: ActivationLike | None = None,
) -> DepthwiseConvolution:
    """Return a depthwise convolution by a user's weight [C, 1, KH, KW].

    Raises
    ------
    TypeError, ValueError
        As :meth:`pwconv.Graph.conv2d_dw`.
    """
    array = check_kernel(weight, "[C, 1, KH, KW]")
    if array.shape[1] != 1:
        raise ValueError(
            f"weight has shape {array.shape}; it must be [C, 1, KH, KW]: each channel has "
            "a kernel of its own; graph.conv2d takes [C_out, C_in, KH, KW]"
        )
    return DepthwiseConvolution(
        geometry=as_geometry(stride, padding, (array.shape[2], array.shape[3]), dilation),
        epilogue=Epilogue(activation),
        parameters=(Kernels(array, check_bias(bias, array.shape[0], "C_out")),),
    )


def make_batch_norm(
    mean: Any,
    variance: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    eps: float = 1e-5,
    activation: ActivationLike | None = None,
) -> DepthwiseConvolution:
    """Return batch norm [C] as a depthwise convolution of one tap, its numbers in float64.

    Raises
    ------
    TypeError, ValueError
        As :meth:`pwconv.Graph.batch_norm`.
    """
    given = {"mean": mean, "variance": variance, "weight": weight, "bias": bias}
    known = {k: as_float_array(v, k).astype(float) for k, v in given.items() if v is not None}
    channels = known["mean"].shape
    for name, array in known.items():
        if array.ndim != 1 or array.shape != channels or not array.size:
            raise ValueError(f"{name} has shape {array.shape}; it must be [C], as mean: {channels}")
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps is {eps!r}; it must be 0 or more, and finite")
    spread = known["variance"] + eps
    if not (spread > 0).all():
        raise ValueError(
            f"variance has {known['variance'].min():g}; with eps = {eps:g} it must be above 0"
        )
    scale = known.get("weight", 1.0) / np.sqrt(spread)
    shift = known.get("bias", 0.0) - known["mean"] * scale
    return make_scale(scale, shift, activation=activation)


def make_scale(
    scale: Array, shift: Array, *, activation: ActivationLike | None = None
) -> DepthwiseConvolution:
    """Return ``scale·x + shift`` by channel, both [C], as a depthwise convolution of one tap."""
    return DepthwiseConvolution(
        geometry=POINTWISE,
        epilogue=Epilogue(activation),
        parameters=(Kernels(scale[:, None, None, None], shift),),
    )


def _case(limits: Limits, name: str, shape: Shape4, geometry: Geometry) -> Case:
    c, dtype = shape[1], limits.dtype
    weights = (c, 1, *geometry.kernel)
    kernels = Kernels(cases.no_numbers(*weights), None)

    def arrays() -> Arrays:
        rng = np.random.default_rng(3)
        weight = rng.integers(-3, 4, weights).astype(dtype)
        bias = rng.integers(-9, 10, c).astype(FLOAT32)
        return Arrays([cases.integers(shape, dtype)], [(weight, bias)])

    made = DepthwiseConvolution(geometry=geometry, parameters=(kernels,))
    return Case(name, made, (shape,), arrays, exact=True)
