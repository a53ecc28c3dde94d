"""Linear layers: a matrix product over the last axis.

On buffers linear_tiled_buffer.comp or linear_staged_buffer.comp, on textures
linear_tiled_texture3d.comp. The tiled ones come with sliced_matmul.glslh around them too, for few
rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pwconv import reference, shaders
from pwconv.activation import ActivationLike
from pwconv.context import Context
from pwconv.dtypes import FLOAT32, Array, DType, as_float_array
from pwconv.errors import UnsupportedError
from pwconv.heuristics import Choice
from pwconv.layout import ceil_div, sizes
from pwconv.ops import cases, matmul
from pwconv.ops.base import Arrays, Case, Epilogue, Operator, Site, operator
from pwconv.ops.cases import Maker
from pwconv.ops.limits import Limits
from pwconv.ops.matmul import (
    Product,
    grid,
    most_products,
    preferred_weight_storage,
    tiled_variants,
    trips,
)
from pwconv.reference import Approximation
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import OUT, Dispatch, Plan, Size3
from pwconv.vk.resources import Resource
from pwconv.weights import PackedWeight, Parameters, check_bias


@dataclass(frozen=True)
class Problem(Product):
    """A linear layer to be computed: x is [N, C, H, K], and the output [N, C, H, N_out].

    ``batches`` is the count of weights. They divide the rows into equal parts, in order; on
    textures they divide N.
    """

    batches: int = 1
    kind = "linear"

    @cached_property
    def lanes(self) -> int:
        """Rows that lie in the lanes of one texel; the last may be less than full."""
        return 1 if self.storage == "buffer" or self.x_shape[1] == 1 else 4

    @cached_property
    def products(self) -> int:
        """K."""
        return self.x_shape[3]

    @cached_property
    def outputs(self) -> Size3:
        """Rows of one batch, N, and batches."""
        n, c, h, _ = self.x_shape
        rows = n * ceil_div(c, self.lanes) * self.lanes * h
        return rows // self.batches, self.out_shape[3], self.batches

    def considered(self, context: Context, weight_storage: str) -> tuple[shaders.Variant, ...]:
        """Return every variant for its storage, types and lanes."""
        families = tuple(f"linear_{kind}_{self.storage}" for kind in ("staged", "tiled", "sliced"))
        found = tiled_variants(families, self.dtype, self.accumulate, weight_storage)
        return tuple([v for v in found if v.defines.get("LANES", 1) == self.lanes])


@operator("linear")
@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Operator):
    """A matrix product over the last axis; ``accumulate`` is the type of its sums."""

    accumulate: DType = FLOAT32

    families = (
        "linear_tiled_texture3d",
        "linear_sliced_texture3d",
        "linear_tiled_buffer",
        "linear_sliced_buffer",
        "linear_staged_buffer",
    )
    images_only = False
    channel_axis = 3

    @property
    def fuses(self) -> frozenset[str]:
        """The activation."""
        return frozenset({"activation"})

    def shape(self, *inputs: Shape) -> Shape:
        """Return [..., N]."""
        (x,) = inputs
        batches, n, k = self.parameters[0].shape
        if min(x, default=0) < 0:
            raise ValueError(f"x has shape {x}; no axis is shorter than 0")
        if not x or x[-1] != k:
            raise ValueError(f"x has shape {x}; its last axis must be K = {k}, as the weight's")
        if batches > 1 and (len(x) < 2 or x[0] != batches):
            raise ValueError(
                f"x has shape {x}; it must be [B, …, K] with B = {batches}, as the weight's"
            )
        return *x[:-1], n

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return two for each product."""
        return 2 * inputs[0][-1] * math.prod(out)

    def storages(self, inputs: Sequence[Shape], storages: tuple[str, ...]) -> tuple[str, ...]:
        """Return those in which no two batches of x share a texel."""
        (x,) = inputs
        if self.parameters[0].shape[0] == 1 or len(x) >= 4:
            return storages
        able = tuple(storage for storage in storages if storage != "texture3d")
        if not able:
            raise UnsupportedError(
                f"x has shape {x}: a texture has several batches of it in a texel, and each "
                "has a weight of its own; give x four axes, [B, M, 1, K], or use storage='buffer'"
            )
        return able

    def pack(self, site: Site, weight_storage: str | None = None) -> Operator:
        """Return the operator with its weight packed, in the storage that suits the device."""
        (given,) = self.parameters
        wanted = weight_storage or self.weight_storage(site)
        return replace(self, parameters=(given.pack(site.context, site.dtype, wanted),))

    def weight_storage(self, site: Site) -> str:
        """Return what :meth:`pwconv.ops.convolution.Convolution.weight_storage` does."""
        (given,) = self.parameters
        return given.storage_on(
            site.context, site.dtype, lambda: _weight_storage(site, *given.shape)
        )

    def problem(self, site: Site, x: Shape, out: Shape) -> Problem:
        """Return what is to be computed for an x."""
        shapes = shape4(x, "x"), shape4(out, "output")
        batches = self.parameters[0].shape[0]
        return Problem(site.storage, *shapes, site.dtype, self.accumulate, batches)

    def check(self, site: Site) -> None:
        """Raise where the device cannot hold the weight, or runs no variant at all."""
        shapes = (1, 1, 1, self.parameters[0].shape[2]), (1, 1, 1, 1)
        problem = Problem(site.storage, *shapes, site.dtype, self.accumulate)
        matmul.candidates(site.context, problem, self.weight_storage(site))

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch that computes it, bias and activation included."""
        (given,) = self.parameters
        problem = self.problem(site, inputs[0], out)
        choice = choice or matmul.choose(site.context, problem, self.weight_storage(site))
        plan = plan_linear(site.context, choice, problem, self.epilogue)
        bindings: dict[str, Resource | int] = {
            **given.bindings(plan.variant),
            "t_in": 0,
            "t_out": OUT,
        }
        return [Dispatch(plan, bindings, choice.reason)]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the sums of products, with the bias, in float64."""
        (given,) = self.parameters
        matrices = given.matrices()
        weight = matrices if len(matrices) > 1 else matrices[0]
        sums = reference.linear_rows(inputs[0], weight, self.accumulate)
        return sums if given.bias is None else sums.plus(reference.exact(given.bias))

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield ragged and whole sizes, few rows, the largest along each axis, a long loop."""
        yield from _cases(limits)


def _weight_storage(site: Site, b: int, n: int, k: int) -> str:
    """Return how to pack a weight [B, N, K]."""
    shape = b, n, k
    return preferred_weight_storage(site.context, "linear", site.storage, site.dtype, shape)


def make_linear(
    weight: Any,
    bias: Any = None,
    *,
    activation: ActivationLike | None = None,
    accumulate: DType = FLOAT32,
) -> Linear:
    """Return a linear layer by a user's weight [N, K] or [B, N, K].

    Raises
    ------
    TypeError, ValueError
        As :class:`pwconv.Linear`.
    """
    matrices: Array | PackedWeight
    if isinstance(weight, PackedWeight):
        matrices = weight
    else:
        array = as_float_array(weight, "weight")
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise ValueError(
                f"weight has shape {array.shape}; it must be [N, K] or [B, N, K], with no axis of "
                "length 0"
            )
        matrices = array if array.ndim == 3 else array[None]
    return Linear(
        accumulate=accumulate,
        epilogue=Epilogue(activation),
        parameters=(Parameters(matrices, check_bias(bias, matrices.shape[1], "N")),),
    )


def plan_linear(context: Context, choice: Choice, problem: Problem, epilogue: Epilogue) -> Plan:
    """Plan a linear layer over at least one row."""
    variant = choice.variant
    _, _, h, k = problem.x_shape
    rows, n, batches = problem.outputs
    itemsize = problem.dtype.itemsize
    step = variant.defines.get("BLOCK_K", 4 * variant.defines["TILE_K4"])
    activation = epilogue.function
    return context.plan(
        variant,
        grid(variant, problem.outputs),
        {
            **sizes(problem.x_shape, problem.out_shape, problem.storage, itemsize),
            "batches": batches,
            "H": h,
            "M": rows,
            "N": n,
            "K": k,
            "N4": ceil_div(n, 4),
            "K4": ceil_div(k, 4),
            "activation_a": activation.a,
            "activation_b": activation.b,
        },
        {
            "ACTIVATION": activation.number,
            "VECTORS_IN": h == 1 or k % 4 == 0,
            "VECTORS_OUT": h == 1 or n % 4 == 0,
            "WHOLE_STEPS": k % step == 0,
        },
        shape=choice.workgroup,
        flop=2 * rows * n * k * batches,
        trips=trips(variant, k),
    )


# -- cases ----------------------------------------------------------------------------------------

# Chosen as those of convolutions: one pipeline that is plain and ragged, whose rows of K and N are
# whole vec4s of no buffer, and one that has an activation and is whole.
_K, _N = 37, 101
_FEW_N, _FEW_K, _FEW_M = 57, 9, 66
_FEWEST_N = 9
_ACTIVATION = "silu"
_WHOLE_M, _WHOLE = 384, 192
_LARGE_K = 1152


def _cases(limits: Limits) -> Iterator[Case]:
    variant, most = limits.variant, limits.extent()
    # A texture's rows lie one in a texel, or four; those of a buffer one after the other.
    lanes = variant.defines.get("LANES")
    one_lane = lanes == 1
    few_n = _FEW_N if variant.workgroup is None else _FEWEST_N

    def case(name: str, size: Size3, n: int, k: int, make: Maker, **settings: Any) -> Case:
        return _case(limits, name, size, n, k, make, **settings)

    def size(channels: int, height: int) -> Size3:
        return (channels, 1, height) if one_lane else (1, channels, height)

    for name, make in cases.RAGGED.items():
        yield case(name, size(11, 23), _N, _K, make)
    if variant.workgroup is not None:  # or it is another workgroup, and so another pipeline
        yield case("few rows", (1, 3, 1) if lanes == 4 else (1, 1, 3), _N, _K, cases.random)
    batched = (6, 1, 41) if one_lane else (6, 3, 17)
    yield case("batched", batched, _FEW_N, _K, cases.random, batches=2)
    yield case("widest", size(_FEW_M // 3, 3), most, _FEW_K, cases.random)
    yield case("tallest", size(1 if one_lane else 2, most), few_n, _FEW_K, cases.random)
    deepest = (1, 4 * most, 1) if lanes == 4 else size(most, 3)
    yield case("deepest", deepest, few_n, _FEW_K, cases.random)

    large_k = min(_LARGE_K, most // _WHOLE * _WHOLE)
    epilogue = Epilogue(_ACTIVATION)
    yield case("large-K", size(_FEW_M, 1), _WHOLE, large_k, cases.large_k, epilogue=epilogue)
    yield case("random", size(_WHOLE_M, 1), _WHOLE, _WHOLE, cases.random, epilogue=epilogue)
    if limits.is_smallest:
        k = most_products(variant) - 1
        if limits.storage == "texture3d":
            k = min(k, most)
        yield case("longest loop", size(3, 1), 3, min(k, limits.weight), cases.sparse)


def _case(
    limits: Limits,
    name: str,
    size: Size3,
    n: int,
    k: int,
    make: Maker,
    *,
    batches: int = 1,
    epilogue: Epilogue = Epilogue(),  # noqa: B008  # it does not change
) -> Case:
    """Return a case of an input [N, C, H, K]; ``make`` takes the rows of each weight."""
    dtype = limits.dtype
    x: Shape = (*size, k) if batches == 1 else (batches, size[0] // batches, *size[1:], k)
    parameters = (Parameters(cases.no_numbers(batches, n, k), None),)
    linear = Linear(accumulate=limits.accumulate, epilogue=epilogue, parameters=parameters)

    def arrays() -> Arrays:
        made = make(math.prod(size) // batches, n, k, dtype)
        # The second weight has the rows the other way round, and its x too.
        rows = np.concatenate([made.x, made.x[::-1]][:batches])
        weight = np.stack([made.weight, made.weight[::-1]][:batches])
        return Arrays([rows.reshape(x)], [(weight, made.bias.astype(FLOAT32))])

    return Case(name, linear, (x,), arrays, make in cases.EXACT)
