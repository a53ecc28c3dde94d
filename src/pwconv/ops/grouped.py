"""Convolutions in groups, and transposed ones: conv2d_grouped.comp."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pwconv import reference
from pwconv.activation import ActivationLike
from pwconv.dispatch import MOST_TRIPS
from pwconv.dtypes import FLOAT32, Array
from pwconv.heuristics import Choice
from pwconv.layout import ceil_div
from pwconv.ops import cases
from pwconv.ops.base import Arrays, Case, Epilogue, Operator, Site, operator
from pwconv.ops.convolution import check_kernel, finish
from pwconv.ops.depthwise import Kernels
from pwconv.ops.limits import Limits
from pwconv.ops.window import Geometry, Sides, as_geometry, as_sides, window_shape
from pwconv.reference import Approximation
from pwconv.tensor import Shape, as_pair
from pwconv.vk.commands import Dispatch
from pwconv.weights import check_bias, check_parameter

_MANY_TAPS, _FEW = (31, 33), 256
_RUN = 128  # channels that conv2d_grouped.comp sums in one loop


class GroupKernels(Kernels):
    """Kernels [C_out, C_in / groups, KH, KW], and the bias."""

    __slots__ = ()

    @staticmethod
    def arrange(weight: Array) -> Array:
        """Return kernels as conv2d_grouped.comp reads them: [N4, KH·KW, C_in / groups, 4]."""
        c_out, each, kh, kw = weight.shape
        padded = np.zeros((ceil_div(c_out, 4) * 4, each, kh * kw), FLOAT32)
        padded[:c_out] = weight.reshape(c_out, each, kh * kw)
        return np.ascontiguousarray(padded.reshape(-1, 4, each, kh * kw).transpose(0, 3, 2, 1))


@operator("conv2d_grouped")
@dataclass(frozen=True, eq=False, kw_only=True)
class GroupedConvolution(Operator):
    """A convolution of channels in groups, summed in float32; also transposed.

    Attributes
    ----------
    geometry : Geometry
        Transposed, its sides are what is left away; below 0, what is added.
    groups : int
    transposed : bool
    output_padding : (int, int)
        Positions more at the bottom and at the right, of a transposed one.
    """

    geometry: Geometry
    groups: int
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)

    families = ("conv2d_grouped",)

    @property
    def name(self) -> str:
        """The method of a graph that adds it."""
        return "conv2d_transposed" if self.transposed else "conv2d_grouped"

    @property
    def fuses(self) -> frozenset[str]:
        """The activation."""
        return frozenset({"activation"})

    @property
    def channels(self) -> tuple[int, int]:
        """C_in and C_out."""
        c_out, each = self.parameters[0].shape[:2]
        return each * self.groups, c_out

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C_out, H_out, W_out], or without N."""
        (x,) = inputs
        c_in, c_out = self.channels
        if not self.transposed:
            return window_shape(x, c_in, c_out, self.geometry)
        window_shape(x, c_in, c_out, Geometry())  # for what is wrong with x
        of = self.geometry
        begin, end = of.sides[:2], of.sides[2:]
        h, w = (
            (length - 1) * stride + reach + more - before - after
            for length, stride, reach, more, before, after in zip(
                x[-2:], of.stride, of.reach, self.output_padding, begin, end, strict=True
            )
        )
        if min(h, w) < 1:
            raise ValueError(
                f"x has shape {x}: padding {of.sides} leaves nothing of the output, {h}x{w}; use "
                "less padding, or a larger image"
            )
        return (*x[:-3], c_out, h, w)

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return two for each product."""
        products = 2 * math.prod(self.parameters[0].shape[1:])
        positions = inputs[0][-2:] if self.transposed else out[-2:]
        return products * math.prod(out[:-2]) * math.prod(positions)

    def check(self, site: Site) -> None:
        """Raise where the kernels are past the device's limits."""
        c_out, *products = self.parameters[0].shape
        vectors = ceil_div(c_out, 4) * math.prod(products)
        check_parameter(site.context, 4 * vectors * FLOAT32.itemsize)

    def pack(self, site: Site, weight_storage: str | None = None) -> Operator:
        """Return the operator with its kernels on the device."""
        packed = (each.pack(site.context, site.dtype, "buffer") for each in self.parameters)
        return replace(self, parameters=tuple(packed))

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        variant = choice.variant if choice else site.variant("conv2d_grouped")
        activation = self.epilogue.function
        c_out, each = self.parameters[0].shape[:2]
        dispatch = site.dispatch(
            variant,
            inputs[0],
            out,
            {"t_in": 0, **self.parameters[0].bindings(variant)},
            {
                "ACTIVATION": activation.number,
                **self.geometry.constants,
                "TRANSPOSED": self.transposed,
                "EACH_IN": each,
                "EACH_OUT": c_out // self.groups,
            },
            flop=self.flop(inputs, out),
            trips=math.prod(self.geometry.kernel) * (each + ceil_div(each, _RUN) + 1),
            **self.geometry.push_constants,
            activation_a=activation.a,
            activation_b=activation.b,
        )
        return [dispatch]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the sums of products, with the bias, in float64."""
        (given,) = self.parameters
        settings: dict[str, Any] = {
            "stride": self.geometry.stride,
            "padding": self.geometry.sides,
            "dilation": self.geometry.dilation,
            "groups": self.groups,
        }
        if self.transposed:
            sums = reference.convolve_transposed(
                inputs[0], given.matrices(), output_padding=self.output_padding, **settings
            )
        else:
            sums = reference.convolve(inputs[0], given.matrices(), **settings)
        return finish(sums, given)

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield two groups and transposed ones at several sizes, and many taps."""
        few = Geometry((2, 1), (1, 0), (2, 3), (1, 2), end=(0, 1))
        for name, (n, c, h, w) in cases.plane_sizes(limits.extent()).items():
            c = max(c // 2, 1)
            yield _case(limits, name, (n, 2 * c, max(h, 3), max(w, 5)), few, 2, 3)
        small = (2, 6, 7, 5)
        yield _case(limits, "transposed", small, few, 2, 3, transposed=True)
        each = MOST_TRIPS // math.prod(_MANY_TAPS) - 2
        many = Geometry(kernel=_MANY_TAPS)
        yield _case(limits, "longest loop", (1, 2 * each, *_MANY_TAPS), many, 2, 1)


def make_grouped(
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int,
    activation: ActivationLike | None = None,
) -> GroupedConvolution:
    """Return a convolution in groups by a user's weight [C_out, C_in / groups, KH, KW].

    Raises
    ------
    TypeError, ValueError
        As :meth:`pwconv.Graph.conv2d`.
    """
    array = check_kernel(weight, "[C_out, C_in / groups, KH, KW]")
    c_out, _, kh, kw = array.shape
    if groups < 1 or c_out % groups:
        raise ValueError(
            f"groups is {groups}; it must divide C_out = {c_out}, as the weight's shape "
            f"{array.shape} says"
        )
    return GroupedConvolution(
        geometry=as_geometry(stride, padding, (kh, kw), dilation),
        groups=groups,
        epilogue=Epilogue(activation),
        parameters=(GroupKernels(array, check_bias(bias, c_out, "C_out")),),
    )


def make_transposed(
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    activation: ActivationLike | None = None,
) -> GroupedConvolution:
    """Return a transposed convolution by a user's weight [C_in, C_out / groups, KH, KW].

    Raises
    ------
    TypeError, ValueError
        As :meth:`pwconv.Graph.conv2d_transposed`.
    """
    array = check_kernel(weight, "[C_in, C_out / groups, KH, KW]")
    c_in, each_out, kh, kw = array.shape
    if groups < 1 or c_in % groups:
        raise ValueError(
            f"groups is {groups}; it must divide C_in = {c_in}, as the weight's shape "
            f"{array.shape} says"
        )
    geometry = as_geometry(stride, 0, (kh, kw), dilation)
    more = as_pair(output_padding, "output_padding", least=0)
    most = [max(s, d) for s, d in zip(geometry.stride, geometry.dilation, strict=True)]
    if more[0] >= most[0] or more[1] >= most[1]:
        raise ValueError(
            f"output_padding is {output_padding!r}; it must be below stride or dilation, "
            f"{tuple(most)} along H and W"
        )
    sides: Sides = as_sides(padding, least=-(2**20))
    by_group = array.reshape(groups, c_in // groups, each_out, kh, kw).swapaxes(1, 2)
    kernels = by_group.reshape(groups * each_out, c_in // groups, kh, kw)
    return GroupedConvolution(
        geometry=replace(geometry, padding=sides[:2], end=sides[2:]),
        groups=groups,
        transposed=True,
        output_padding=more,
        epilogue=Epilogue(activation),
        parameters=(GroupKernels(kernels, check_bias(bias, len(kernels), "C_out")),),
    )


def _case(
    limits: Limits,
    name: str,
    shape: tuple[int, int, int, int],
    geometry: Geometry,
    groups: int,
    each_out: int,
    *,
    transposed: bool = False,
) -> Case:
    weights = (groups * each_out, shape[1] // groups, *geometry.kernel)

    def arrays() -> Arrays:
        rng = np.random.default_rng(5)
        weight = rng.integers(-2, 3, weights).astype(limits.dtype)
        bias = rng.integers(-9, 10, len(weight)).astype(FLOAT32)
        # Of many products most are zeros: float16 holds the sum of the others.
        weight[rng.random(weights) > _FEW / math.prod(weights[1:])] = 0
        return Arrays([cases.integers(shape, limits.dtype)], [(weight, bias)])

    made = GroupedConvolution(
        geometry=geometry,
        groups=groups,
        transposed=transposed,
        parameters=(GroupKernels(cases.no_numbers(*weights), None),),
    )
    return Case(name, made, (shape,), arrays, exact=True)
