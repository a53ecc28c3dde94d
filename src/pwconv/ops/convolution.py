"""Convolutions as matrix products: of one tap, which are pointwise, and of several.

On textures conv2d_pw_staged_texture3d.comp or conv2d_pw_tiled.comp; on buffers
conv2d_pw_staged_buffer.comp or, for float16 where the device has matrix units,
conv2d_pw_coopmat.comp or conv2d_pw_coopmat2.comp.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pwconv import heuristics, reference, shaders
from pwconv.activation import ActivationLike
from pwconv.context import Context
from pwconv.dtypes import FLOAT32, Array, DType, as_float_array
from pwconv.errors import UnsupportedError
from pwconv.heuristics import Choice, block_shape
from pwconv.layout import Shape4, ceil_div, row_pitch, sizes, weight_rows_extent
from pwconv.matrix_units import plan_matrices
from pwconv.ops import cases, matmul
from pwconv.ops.base import Arrays, Case, Epilogue, Operator, Site, operator
from pwconv.ops.cases import Maker
from pwconv.ops.limits import Limits
from pwconv.ops.matmul import (
    Product,
    grid,
    most_products,
    preferred_weight_storage,
    rows_fit,
    tiled_variants,
    trips,
)
from pwconv.ops.window import MOST_TAPS, POINTWISE, Geometry, as_geometry, window_shape
from pwconv.reference import Approximation
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import OUT, Dispatch, Plan, Size3
from pwconv.weights import PackedWeight, Parameters, check_bias

# Steps along K; more take long to compile and no longer gain.
_MOST_UNROLLED = 64
# With more positions of a sample at least half of the smallest workgroup's block is put to use.
MOST_SHARED = 16
_FAMILIES = {
    "texture3d": ("conv2d_pw_staged_texture3d", "conv2d_pw_tiled"),
    "buffer": ("conv2d_pw_staged_buffer",),
}


@dataclass(frozen=True)
class Problem(Product):
    """A convolution to be computed."""

    geometry: Geometry = POINTWISE
    kind = "conv2d_pw"

    @cached_property
    def positions(self) -> int:
        """M of one sample."""
        return self.out_shape[2] * self.out_shape[3]

    @cached_property
    def products(self) -> int:
        """K."""
        return self.geometry.products(self.x_shape[1])

    @cached_property
    def shared(self) -> int:
        """Positions that each sample takes of M where the batch's share tiles, and else 0."""
        if self.out_shape[0] == 1 or self.positions > MOST_SHARED:
            return 0
        if self.storage == "texture3d" or self.positions == 1:
            return self.positions
        return row_pitch(self.positions, self.dtype.itemsize)

    @cached_property
    def outputs(self) -> Size3:
        """M and N of one sample, and samples; of all samples where they share tiles, and 1."""
        if self.shared:
            return self.out_shape[0] * self.shared, self.out_shape[1], 1
        return self.outputs_apart

    @cached_property
    def outputs_apart(self) -> Size3:
        """M and N of one sample, and samples, for a variant that shares no tiles."""
        return self.positions, self.out_shape[1], self.out_shape[0]

    @property
    def gathered(self) -> bool:
        """True where x is gathered by a stride, padding or taps."""
        return self.geometry != POINTWISE

    def considered(self, context: Context, weight_storage: str) -> tuple[shaders.Variant, ...]:
        """Return every variant for its storage and types, of matrix units where they suit."""
        families = _FAMILIES[self.storage]
        if self.storage == "buffer" and not _takes_every_buffer(context):
            families = ("conv2d_pw_four_buffers",)
        found = tiled_variants(families, self.dtype, self.accumulate, weight_storage)
        if self._suits_matrices and rows_fit(context, self.out_shape[1], self.x_shape[1]):
            found += _matrix_variants()
        return found

    @property
    def _suits_matrices(self) -> bool:
        """True where cooperative matrices compute it: float16 rows, as they lie in buffers.

        They are of one sample: where few positions share tiles, others compute it.
        """
        return (
            self.storage == "buffer"
            and self.dtype.itemsize == 2
            and self.accumulate.itemsize == 4
            and not self.gathered
            and not self.shared
        )


@operator("conv2d")
@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Operator):
    """A convolution by a kernel of one tap or, the input gathered for it, of several.

    Attributes
    ----------
    geometry : Geometry
    in_channels : int
        The parameters' K are taps and channels; see :func:`flatten_kernel`.
    accumulate : numpy.dtype
        Of sums.
    """

    geometry: Geometry
    in_channels: int
    accumulate: DType = FLOAT32

    families = (
        "conv2d_pw_tiled",
        "conv2d_pw_staged_texture3d",
        "conv2d_pw_staged_buffer",
        "conv2d_pw_four_buffers",
        "conv2d_pw_coopmat",
        "conv2d_pw_coopmat2",
    )

    @property
    def name(self) -> str:
        """The kind; "conv2d_pw" where there is one tap."""
        return "conv2d_pw" if self.is_pointwise else "conv2d"

    @property
    def fuses(self) -> frozenset[str]:
        """Activation and residual; a scale where there is one tap."""
        also = {"scale"} if self.is_pointwise else set()
        return frozenset({"activation", "residual"} | also)

    @property
    def is_pointwise(self) -> bool:
        """True for one tap."""
        return self.geometry.kernel == (1, 1)

    @property
    def out_channels(self) -> int:
        """C_out."""
        return self.parameters[0].shape[1]

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C_out, H_out, W_out], or without N."""
        return window_shape(inputs[0], self.in_channels, self.out_channels, self.geometry)

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return two for each product."""
        return 2 * self.in_channels * math.prod(self.geometry.kernel) * math.prod(out)

    def pack(self, site: Site, weight_storage: str | None = None) -> Operator:
        """Return the operator with its weight packed, in the storage that suits the device."""
        (given,) = self.parameters
        wanted = weight_storage or self.weight_storage(site)
        return replace(self, parameters=(given.pack(site.context, site.dtype, wanted),))

    def weight_storage(self, site: Site) -> str:
        """Return the storage that the weight has, or will have once it is packed.

        Raises
        ------
        UnsupportedError
            The device cannot hold it.
        """
        (given,) = self.parameters
        return given.storage_on(
            site.context, site.dtype, lambda: _weight_storage(site, *given.shape[1:])
        )

    def problem(self, site: Site, x: Shape, out: Shape) -> Problem:
        """Return what is to be computed for an x."""
        shapes = shape4(x, "x"), shape4(out, "output")
        return Problem(site.storage, *shapes, site.dtype, self.accumulate, self.geometry)

    def check(self, site: Site) -> None:
        """Raise where the device cannot hold the weight, or runs no variant at all."""
        problem = self.problem(site, (1, self.in_channels, 1, 1), (1, self.out_channels, 1, 1))
        matmul.candidates(site.context, problem, self.weight_storage(site))

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch that computes it, bias, residual and activation included."""
        task = Task(self, site, inputs[0], out)
        choice = choice or task.choose()
        plan = plan_convolution(site.context, choice, task.problem, self.epilogue)
        bindings = {
            **self.parameters[0].bindings(plan.variant),
            "t_in": 0,
            **self.epilogue.operands(1),
            "t_out": OUT,
        }
        return [Dispatch(plan, bindings, choice.reason)]

    def scale_pays(self, site: Site, inputs: Sequence[Shape], out: Shape) -> bool:
        """Return whether it should multiply x by a scale, and not take their product.

        conv2d_pw_coopmat2.comp cannot at all: a matrix is loaded as it lies in memory.
        """
        variant = Task(self, site, inputs[0], out).choose().variant
        return takes_scale(variant) and heuristics.scale_pays(site.context.info, variant)

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the sums of products, with the bias, in float64."""
        (x,), (given,) = inputs, self.parameters
        kernel = unflatten_kernel(given.matrices()[0], self.in_channels, self.geometry.kernel)
        sums = reference.convolve(
            x,
            kernel,
            stride=self.geometry.stride,
            padding=self.geometry.sides,
            dilation=self.geometry.dilation,
            accumulate=self.accumulate,
        )
        return finish(sums, given)

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield ragged and whole sizes, the largest along each axis, tiny images, long loops."""
        yield from _cases(limits)


@dataclass(frozen=True)
class Task:
    """A convolution at a shape, for which there is a variant to choose."""

    operator: Convolution
    site: Site
    x: Shape
    out: Shape

    @cached_property
    def problem(self) -> Problem:
        """What is to be computed."""
        return self.operator.problem(self.site, self.x, self.out)

    @cached_property
    def weight_storage(self) -> str:
        """Storage of the weight."""
        return self.operator.weight_storage(self.site)

    def choose(self) -> Choice:
        """Return the variant: the tuner's, where it is asked, or that of the heuristics."""
        site, problem = self.site, self.problem
        if site.tuner and self.operator.is_pointwise:
            return site.tuner.choose(self)
        return matmul.choose(site.context, problem, self.weight_storage)

    def dispatch(self, choice: Choice) -> Dispatch:
        """Plan it by a variant, without residual and scale; the input is operand 0."""
        epilogue = Epilogue(self.operator.epilogue.activation)
        plain = replace(self.operator, epilogue=epilogue)
        (dispatch,) = plain.plan(self.site, (self.x,), self.out, choice=choice)
        return dispatch


def make_pointwise(
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    activation: ActivationLike | None = None,
    accumulate: DType = FLOAT32,
) -> Convolution:
    """Return a pointwise convolution by a user's weight [C_out, C_in] or [C_out, C_in, 1, 1].

    Raises
    ------
    TypeError, ValueError
        As :class:`pwconv.PointwiseConv2d`.
    """
    geometry = as_geometry(stride, padding)
    if isinstance(weight, PackedWeight):
        if weight.shape[0] != 1:
            raise ValueError(f"weight is {weight!r}; a convolution takes a batch of one")
        matrices: Array | PackedWeight = weight
    else:
        matrices = _as_matrix(as_float_array(weight, "weight"))[None]
    _, c_out, c_in = matrices.shape
    return Convolution(
        geometry=geometry,
        in_channels=c_in,
        accumulate=accumulate,
        epilogue=Epilogue(activation),
        parameters=(Parameters(matrices, check_bias(bias, c_out, "C_out")),),
    )


def make_dense(
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    activation: ActivationLike | None = None,
    most: Callable[[tuple[int, int, int]], object] = lambda _: None,
) -> Convolution:
    """Return a convolution by a user's weight [C_out, C_in, KH, KW].

    ``most`` is told the shape of the packed weight, and raises for one that is too large, before a
    view that repeats its elements becomes as large as it looks.

    Raises
    ------
    TypeError, ValueError
        As :meth:`pwconv.Graph.conv2d`.
    """
    array = check_kernel(weight, "[C_out, C_in, KH, KW]")
    c_out, c_in, kh, kw = array.shape
    geometry = as_geometry(stride, padding, (kh, kw), dilation)
    if geometry.kernel == (1, 1):  # One tap has no distance to another: it is pointwise.
        geometry = replace(geometry, dilation=(1, 1))
    most((1, c_out, geometry.products(c_in)))
    return Convolution(
        geometry=geometry,
        in_channels=c_in,
        epilogue=Epilogue(activation),
        parameters=(Parameters(flatten_kernel(array)[None], check_bias(bias, c_out, "C_out")),),
    )


def _as_matrix(weight: Array) -> Array:
    """Return a weight [C_out, C_in, 1, 1] as [C_out, C_in]."""
    matrix = weight
    if matrix.ndim == 4 and matrix.shape[2:] == (1, 1):
        matrix = matrix[:, :, 0, 0]
    if matrix.ndim != 2 or 0 in matrix.shape:
        kernels = "; pwconv.Graph has conv2d and conv2d_dw for kernels of several taps"
        raise ValueError(
            f"weight has shape {matrix.shape}; it must be [C_out, C_in] or [C_out, C_in, 1, "
            f"1], with no axis of length 0{kernels if matrix.ndim == 4 else ''}"
        )
    return matrix


def flatten_kernel(weight: Array) -> Array:
    """Return a weight [C_out, C_in, KH, KW] as the [C_out, K] of include/kernel_taps.glslh."""
    c_out, c_in, kh, kw = weight.shape
    if kh * kw == 1:
        return weight.reshape(c_out, c_in)
    padded = np.zeros((c_out, ceil_div(c_in, 4) * 4, kh * kw), weight.dtype)
    padded[:, :c_in] = weight.reshape(c_out, c_in, kh * kw)
    return padded.reshape(c_out, -1, 4, kh * kw).swapaxes(2, 3).reshape(c_out, -1)


def unflatten_kernel(matrix: Array, c_in: int, kernel: tuple[int, int]) -> Array:
    """Return a weight [C_out, K] as the [C_out, C_in, KH, KW] that it was flattened from."""
    taps = math.prod(kernel)
    if taps > 1:
        blocks = matrix.reshape(len(matrix), -1, taps, 4).swapaxes(2, 3)
        matrix = blocks.reshape(len(matrix), -1, taps)[:, :c_in]
    return matrix.reshape(len(matrix), c_in, *kernel)


def finish(sums: Approximation, parameters: Parameters) -> Approximation:
    """Return sums [N, C, H, W] with the bias and the norm of their channels."""
    if parameters.bias is not None:
        sums = sums.plus(reference.exact(parameters.bias[:, None, None]))
    if parameters.norm is None:
        return sums
    scale, shift = (reference.exact(each[:, None, None]) for each in parameters.norm)
    return sums.times(scale).plus(shift)


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
    if array.ndim != 4 or 0 in array.shape or math.prod(array.shape[2:]) > MOST_TAPS:
        raise ValueError(
            f"weight has shape {array.shape}; it must be {axes}, with no axis of length 0 and at "
            f"most {MOST_TAPS} taps KH·KW"
        )
    return array


@functools.cache
def _matrix_variants() -> tuple[shaders.Variant, ...]:
    return (*shaders.variants("conv2d_pw_coopmat"), *shaders.variants("conv2d_pw_coopmat2"))


def _takes_every_buffer(context: Context) -> bool:
    """Return whether the device binds all that a convolution of buffers may have.

    They are output, input, weight, bias, residual and scale.
    """
    return bool(context.limits["maxPerStageDescriptorStorageBuffers"] >= 6)


def _weight_storage(site: Site, n: int, k: int) -> str:
    """Return how to pack a weight [N, K]."""
    if site.storage == "buffer" and not _takes_every_buffer(site.context):
        return "auto"  # a texture where it fits one: it leaves a buffer to a residual
    shape = 1, n, k
    return preferred_weight_storage(site.context, "conv2d_pw", site.storage, site.dtype, shape)


def takes_scale(variant: shaders.Variant) -> bool:
    """Return whether a variant can multiply its input by a scale as it loads it."""
    return "t_scale" in variant.binding_names


def plan_convolution(
    context: Context, choice: Choice, problem: Problem, epilogue: Epilogue
) -> Plan:
    """Plan a convolution over at least one output.

    A variant's ``t_residual`` and ``t_scale`` are read only where the epilogue has them.

    Raises
    ------
    UnsupportedError
        The device lacks a feature or a limit that the variant, or the residual with it, needs.
    """
    variant, geometry = choice.variant, problem.geometry
    _, c_out, k = *problem.out_shape[:2], problem.products
    if epilogue.residual and "t_residual" not in variant.binding_names:
        most = context.limits["maxPerStageDescriptorStorageBuffers"]
        raise UnsupportedError(
            f"a convolution of buffers with its weight in a buffer and a residual binds 5 of them, "
            f"and maxPerStageDescriptorStorageBuffers of {context.info.name} is {most}; "
            "use storage='texture3d', or add the residual on its own"
        )
    shared = problem.shared if variant.has_constant("SHARED") else 0
    outputs = problem.outputs if shared else problem.outputs_apart
    tile_m, tile_n = block_shape(variant)
    steps = k // variant.defines.get("BLOCK_K", 1)
    activation = epilogue.function
    return context.plan(
        variant,
        grid(variant, outputs),
        {
            **sizes(problem.x_shape, problem.out_shape, problem.storage, problem.dtype.itemsize),
            "batches": outputs[2],
            "M": outputs[0],
            "C": problem.x_shape[1],
            "K": k,
            "K4": -(-k // 4),
            "pitch_weight": weight_rows_extent(c_out, k)[1],
            **geometry.push_constants,
            "activation_a": activation.a,
            "activation_b": activation.b,
        },
        {
            "ACTIVATION": activation.number,
            # A row of one position is gathered by itself.
            "POINTWISE_GRID": geometry == POINTWISE
            and not (shared == 1 and problem.storage == "buffer"),
            "SHARED": shared,
            "STEPS": steps if steps <= _MOST_UNROLLED else 0,
            "WHOLE_STEPS": k % variant.defines.get("BLOCK_K", 1) == 0,
            "RESIDUAL": epilogue.residual,
            "SCALE": epilogue.scale,
            **geometry.constants,
            "WHOLE_BLOCKS": problem.positions % tile_m == 0 and c_out % tile_n == 0,
            **_matrix_constants(context, variant),
        },
        shape=choice.workgroup,
        flop=2 * k * math.prod(problem.out_shape),
        trips=trips(variant, k),
    )


def _matrix_constants(context: Context, variant: shaders.Variant) -> dict[str, int]:
    if variant.family != "conv2d_pw_coopmat":
        return {}
    plan = plan_matrices(variant, context.info)
    if plan is None:
        context.require(variant)
    assert plan is not None
    return plan.constants("SUBGROUPS_N")


# -- cases ----------------------------------------------------------------------------------------

# Compiling takes most of the time, so that two pipelines serve nearly all cases, and between them
# both values of whatever they are specialized by. The one is plain, and K and N are whole numbers
# of no block; M and N let a kernel without a workgroup of its own have eight invocations along
# either. Nor is any size of a texture a power of two.
_K, _N = 37, 101
_SIZE = (2, 17, 19)
# The other: K is whole blocks; the input is strided, padded and scaled, and something is added.
_ACTIVATION = "silu"
_WHOLE = 192
# A K of more steps than any kernel unrolls.
_LARGE_K = 2304
# Small sizes along the other axes of the largest outputs, all of which the host checks.
_FEW_N, _FEW_K, _FEW_M = 57, 9, (5, 13)
_FEWEST_N, _FEWEST_M = 9, (1, MOST_SHARED + 1)
_STRIDED = Geometry((2, 1), (1, 2))


def _cases(limits: Limits) -> Iterator[Case]:
    variant, most = limits.variant, limits.extent()
    for name, make in cases.RAGGED.items():
        yield _case(limits, name, _SIZE, _N, _K, make)
    fixed = variant.workgroup is not None
    few_n, few_m = (_FEWEST_N, _FEWEST_M) if fixed else (_FEW_N, _FEW_M)
    # The depth of a texture is N·ceil(C/4): input and output have the same. Kernels over buffers
    # may be specialized by the steps along K.
    few_k, deep_k = (_FEW_K, _FEW_N) if limits.storage == "texture3d" else (_K, _K)
    deep = most // ceil_div(_FEW_N, 4)
    yield _case(limits, "widest", (1, 3, most), few_n, few_k, cases.random)
    yield _case(limits, "tallest", (1, most, 3), few_n, few_k, cases.random)
    yield _case(limits, "deepest", (deep, *few_m), _FEW_N, deep_k, cases.random)

    _, block_n = block_shape(variant)
    whole_n = math.lcm(_WHOLE, block_n)
    whole_k = math.lcm(_WHOLE, variant.defines.get("BLOCK_K", 1))
    plain = variant.family.startswith("conv2d_pw_coopmat")
    # Outputs are 16 × 16 or, strided, 24 × 48.
    size = (1, 16, 16) if plain else (1, 46, 44)
    epilogue = Epilogue(_ACTIVATION, "t_residual" in variant.binding_names, takes_scale(variant))
    if not epilogue.residual:
        epilogue = replace(epilogue, scale=False)
    more: dict[str, Any] = {"geometry": POINTWISE if plain else _STRIDED, "epilogue": epilogue}
    large_k = whole_k * ceil_div(_LARGE_K, whole_k)
    yield _case(limits, "large-K", (2, 15, 9), _FEW_N, large_k, cases.large_k, **more)
    name = f"random {whole_n}×{whole_k}"
    yield _case(limits, name, size, whole_n, whole_k, cases.random, **more)
    if variant.has_constant("SHARED"):  # outputs are 3 × 5, and 1 × 1
        yield _case(limits, "tiny images", (19, 4, 1), _N, whole_k, cases.random, **more)
        if limits.storage == "buffer":
            more["geometry"] = Geometry((3, 3), (1, 1))
            yield _case(limits, "single positions", (67, 2, 2), _N, whole_k, cases.random, **more)
    if limits.is_smallest:
        k = min(most_products(variant), limits.weight)
        if limits.storage == "buffer":
            yield _case(limits, "longest loop", (1, 1, 3), 3, k - 1, cases.sparse)
        else:  # a texture's depth is less, but each of its channels may have many taps
            # Of eight channels at least: a texture of weights may hold a K of 4,096 and no more.
            taps = Geometry(kernel=(32, min(32, k // (8 * 32))))
            channels = k // math.prod(taps.kernel) // 4 * 4
            size = (1, 32, 34)
            yield _case(limits, "longest loop", size, 3, channels, cases.sparse, geometry=taps)


def _case(
    limits: Limits,
    name: str,
    size: tuple[int, int, int],
    n: int,
    channels: int,
    make: Maker,
    *,
    geometry: Geometry = POINTWISE,
    epilogue: Epilogue = Epilogue(),  # noqa: B008  # it does not change
) -> Case:
    """Return a case of an input [N, H, W] of some channels; its positions are rows."""
    dtype, k = limits.dtype, geometry.products(channels)
    exact = make in cases.EXACT
    convolution = Convolution(
        geometry=geometry,
        in_channels=channels,
        accumulate=limits.accumulate,
        epilogue=epilogue,
        parameters=(Parameters(cases.no_numbers(1, n, k), None),),
    )
    x: Shape4 = (size[0], channels, *size[1:])
    inputs = [x]
    if epilogue.residual:
        inputs.append(geometry.output_shape(x, n))
    if epilogue.scale:
        inputs.append((*x[:2], 1, 1))

    def arrays() -> Arrays:
        made = make(math.prod(size), n, channels, dtype)
        weight = made.weight if k == channels else make(1, n, k, dtype).weight
        numbers = [np.ascontiguousarray(made.x.reshape(*size, -1).transpose(0, 3, 1, 2))]
        rng = np.random.default_rng(0)
        if epilogue.residual:  # zeros where sums are rounded before they come to them
            most = 10 if exact else 1
            numbers.append(rng.integers(1 - most, most, inputs[1]).astype(dtype))
        if epilogue.scale:
            numbers.append(rng.choice([-1, 1], inputs[-1]).astype(dtype))
        return Arrays(numbers, [(weight[None], made.bias.astype(FLOAT32))])

    return Case(name, convolution, tuple(inputs), arrays, exact)
