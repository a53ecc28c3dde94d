"""Two pointwise convolutions as one, which stores nothing between them.

By conv2d_pw_pair_staged_texture3d.comp or conv2d_pw_pair_staged_buffer.comp; or, for float16 on
buffers where the device has matrix units, by conv2d_pw_pair_coopmat.comp or
conv2d_pw_pair_coopmat2.comp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pwconv import heuristics, reference, shaders
from pwconv.activation import Activation, ActivationLike, parse_activation
from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.dtypes import FLOAT32, Array, DType, axis_name
from pwconv.errors import UnsupportedError
from pwconv.heuristics import Choice
from pwconv.layout import Shape4, ceil_div, row_pitch, weight_rows_extent
from pwconv.matrix_units import flexible_pair_matrix, plan_pair_matrices
from pwconv.ops import cases
from pwconv.ops.base import Arrays, Case, Epilogue, Operator, Site, operator
from pwconv.ops.convolution import MOST_SHARED, Convolution, finish
from pwconv.ops.limits import Limits
from pwconv.ops.matmul import rows_fit
from pwconv.ops.window import POINTWISE, window_shape
from pwconv.reference import Approximation
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import OUT, Dispatch, Plan
from pwconv.vk.resources import Resource
from pwconv.weights import Parameters


@dataclass(frozen=True)
class PairProblem:
    """A pointwise convolution of another one's output, at stride 1 and without padding.

    Attributes
    ----------
    storage : str
        Of the activations.
    x_shape : tuple of int
        [N, C_in, H, W].
    hidden : int
        Channels of what lies between.
    out_channels : int
    dtype : numpy.dtype
        Of activations and weights; sums are float32.
    """

    storage: str
    x_shape: Shape4
    hidden: int
    out_channels: int
    dtype: DType

    @property
    def out_shape(self) -> Shape4:
        """[N, C_out, H, W]."""
        n, _, h, w = self.x_shape
        return n, self.out_channels, h, w

    @property
    def positions(self) -> int:
        """M of one sample."""
        return self.x_shape[2] * self.x_shape[3]


# Most input and output channels in a workgroup's registers, where a variant leaves it open.
_MOST_FLEXIBLE = 192


def most_channels(variant: shaders.Variant) -> tuple[float, float]:
    """Return the most input and output channels that a variant computes."""
    if variant.family == "conv2d_pw_pair_coopmat2":
        return _MOST_FLEXIBLE, _MOST_FLEXIBLE
    # The staged ones take the input in steps.
    keeps_input = variant.family == "conv2d_pw_pair_coopmat"
    return variant.defines["BLOCK_K"] if keeps_input else math.inf, variant.defines["BLOCK_N"]


def pair_trips(variant: shaders.Variant, k: int, hidden: int) -> int:
    """Return how often an invocation's loops go round, over K and the channels between."""
    block_h = variant.defines["BLOCK_H"]
    slices = ceil_div(hidden, block_h)
    if "SLICES" not in variant.defines:  # matrix units take all of K at once
        return slices
    block_k = variant.defines["BLOCK_K"]
    # A loop that ends has looked once more whether to go on: some drivers count that.
    tile_n4: int = variant.defines["TILE_N4"]
    return slices * (4 + ceil_div(k, block_k) + ceil_div(block_h, block_k) + tile_n4)


@operator("conv2d_pw_pair")
@dataclass(frozen=True, eq=False, kw_only=True)
class PointwisePair(Operator):
    """A pointwise convolution of another one's output, both at stride 1 and without padding.

    Attributes
    ----------
    dtype : numpy.dtype
        Of what lies between.
    hidden_activation : str, tuple or None
        Of what lies between.
    choice : Choice or None
        The variant.
    """

    dtype: DType
    hidden_activation: ActivationLike | None = None
    choice: Choice | None = None

    families = (
        "conv2d_pw_pair_staged_texture3d",
        "conv2d_pw_pair_staged_buffer",
        "conv2d_pw_pair_coopmat",
        "conv2d_pw_pair_coopmat2",
    )

    @property
    def fuses(self) -> frozenset[str]:
        """Activation and residual."""
        return frozenset({"activation", "residual"})

    @classmethod
    def of(
        cls, first: Convolution, second: Convolution, site: Site, x: Shape
    ) -> PointwisePair | None:
        """Return what computes two convolutions in a row, where a kernel does so faster."""
        plain = first.geometry == second.geometry == POINTWISE
        if not plain or first.epilogue.extra_inputs or second.epilogue.scale:
            return None
        storages = {each.weight_storage(site) for each in (first, second)}
        if len(storages) > 1:
            return None
        pair = cls(
            dtype=site.dtype,
            hidden_activation=first.epilogue.activation,
            epilogue=second.epilogue,
            parameters=(*first.parameters, *second.parameters),
        )
        choice = choose_pair(site.context, pair.problem(site, x), storages.pop())
        return replace(pair, choice=choice) if choice else None

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C_out, H, W], or without N."""
        (_, hidden, c_in), (_, c_out, between) = (each.shape for each in self.parameters)
        if hidden != between:
            raise ValueError(f"the first gives {hidden} channels and the second takes {between}")
        return window_shape(inputs[0], c_in, c_out, POINTWISE)

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return two for each product."""
        hidden = self.parameters[0].shape[1]
        return 2 * hidden * (math.prod(inputs[0]) + math.prod(out))

    def pack(self, site: Site, weight_storage: str | None = None) -> Operator:
        """Return the operator with its weights packed."""
        storage = weight_storage or "buffer"
        packed = (each.pack(site.context, site.dtype, storage) for each in self.parameters)
        return replace(self, parameters=tuple(packed))

    def problem(self, site: Site, x: Shape) -> PairProblem:
        """Return what is to be computed for an x."""
        hidden, channels = (each.shape[1] for each in self.parameters)
        return PairProblem(site.storage, shape4(x, "x"), hidden, channels, site.dtype)

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        problem = self.problem(site, inputs[0])
        choice = choice or self.choice
        if choice is None:
            storage = self.parameters[0].packed.storage
            choice = choose_pair(site.context, problem, storage)
        if choice is None:
            raise UnsupportedError(
                f"no kernel computes both convolutions faster on {site.context.info.name}; add one "
                "after the other, which graphs fuse where it pays"
            )
        activation = parse_activation(self.hidden_activation)
        plan = _plan(site.context, choice.variant, problem, activation, self.epilogue)
        first, second = self.parameters
        bindings: dict[str, Resource | int] = {
            **first.bindings(plan.variant, "first"),
            **second.bindings(plan.variant, "second"),
            "t_in": 0,
            "t_residual": self.epilogue.operands(1)["t_residual"],
            "t_out": OUT,
        }
        return [Dispatch(plan, bindings, choice.reason)]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the sums of products of the second, with its bias, in float64."""
        first, second = self.parameters
        hidden = _multiply(inputs[0], first).activated(self.hidden_activation)
        return _multiply(hidden.stored(self.dtype), second)

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield ragged sizes, whole blocks with all that it fuses, and a long loop."""
        yield from _cases(limits)


def _multiply(x: Approximation, parameters: Parameters) -> Approximation:
    weight = parameters.matrices()[0][:, :, None, None]
    return finish(reference.convolve(x, weight), parameters)


def _plan(
    context: Context,
    variant: shaders.Variant,
    problem: PairProblem,
    hidden_activation: Activation,
    epilogue: Epilogue,
) -> Plan:
    """Plan a pair over at least one output.

    Raises
    ------
    UnsupportedError
        The problem has more channels than the variant's block, or the device lacks something that
        the variant needs.
    """
    activation = epilogue.function
    batches, k, _, width = problem.x_shape
    m, n, h = problem.positions, problem.out_channels, problem.hidden
    most_k, most_n = most_channels(variant)
    if k > most_k or n > most_n:
        raise UnsupportedError(
            f"{variant.name} takes at most {most_k} input and {most_n} output channels; these are "
            f"{k} and {n}"
        )
    pitch = row_pitch(m, problem.dtype.itemsize)
    block_m = variant.defines["BLOCK_M"]
    assert variant.workgroup is not None
    constants = {
        "ACTIVATION": activation.number,
        "HIDDEN_ACTIVATION": hidden_activation.number,
        "RESIDUAL": epilogue.residual,
        "WHOLE_STEPS": k % variant.defines.get("BLOCK_K", 1) == 0
        and h % variant.defines["BLOCK_H"] == 0,
        "SHARED": 0,
    }
    return context.plan(
        variant,
        (ceil_div(m, block_m) * variant.workgroup[0], 1, batches),
        {
            "M": m,
            "N": n,
            "K": k,
            "H": h,
            "N4": ceil_div(n, 4),
            "K4": ceil_div(k, 4),
            "H4": ceil_div(h, 4),
            "pitch_out": pitch,
            "pitch_in": pitch,
            "pitch_first": weight_rows_extent(h, k)[1],
            "pitch_second": weight_rows_extent(n, h)[1],
            "W_out": width,
            "hidden_a": hidden_activation.a,
            "hidden_b": hidden_activation.b,
            "activation_a": activation.a,
            "activation_b": activation.b,
        },
        constants | _matrix_constants(context, variant, problem),
        flop=2 * h * (k + n) * m * batches,
        trips=pair_trips(variant, k, h),
    )


def _matrix_constants(
    context: Context, variant: shaders.Variant, problem: PairProblem
) -> dict[str, int]:
    info = context.info
    if variant.family == "conv2d_pw_pair_coopmat":
        plan = plan_pair_matrices(variant, info)
        if plan is None:
            context.require(variant)
        assert plan is not None
        return plan.constants("SUBGROUPS_H")
    if variant.family == "conv2d_pw_pair_coopmat2":
        matrix = flexible_pair_matrix(variant, info)
        if matrix is None:
            context.require(variant)
        assert matrix is not None
        k, n = problem.x_shape[1], problem.out_channels
        block_k, block_n = ceil_div(k, matrix.k) * matrix.k, ceil_div(n, matrix.n) * matrix.n
        return {
            "SLICES": ceil_div(problem.hidden, variant.defines["BLOCK_H"]),
            "WHOLE_SLICES": problem.hidden % variant.defines["BLOCK_H"] == 0,
            "BLOCK_K": block_k,
            "BLOCK_N": block_n,
            "WHOLE_STEPS": k == block_k,
            "WHOLE_BLOCKS": n == block_n and problem.positions % variant.defines["BLOCK_M"] == 0,
        }
    return {}


def candidates(
    context: Context, problem: PairProblem, weight_storage: str
) -> list[shaders.Variant]:
    """Return every variant that the device can run on the problem."""
    considered = shaders.variants(
        f"conv2d_pw_pair_staged_{problem.storage}",
        dtype=axis_name(problem.dtype),
        weight=weight_storage,
    )
    rows = (
        (problem.hidden, problem.x_shape[1]),
        (problem.out_channels, problem.hidden),
    )
    if (
        problem.storage == "buffer"
        and problem.dtype.itemsize == 2
        and all(rows_fit(context, n, k) for n, k in rows)
    ):
        for family in ("conv2d_pw_pair_coopmat", "conv2d_pw_pair_coopmat2"):
            considered += shaders.variants(family)
    return [
        v
        for v in considered
        if context.can_run(v)
        and pair_trips(v, problem.x_shape[1], problem.hidden) <= MOST_TRIPS
        and problem.x_shape[1] <= most_channels(v)[0]
        and problem.out_channels <= most_channels(v)[1]
    ]


def choose_pair(context: Context, problem: PairProblem, weight_storage: str) -> Choice | None:
    """Return a variant expected to be faster than two dispatches, or None.

    Where images are so small that two dispatches share their tiles among samples, nothing is.
    """
    if problem.x_shape[0] > 1 and problem.positions <= MOST_SHARED:
        return None
    return heuristics.pair(
        context.info,
        candidates(context, problem, weight_storage),
        storage=problem.storage,
        dtype=problem.dtype,
        outputs=(problem.positions, problem.out_channels, problem.x_shape[0]),
        k=problem.x_shape[1],
        hidden=problem.hidden,
    )


# -- cases ----------------------------------------------------------------------------------------

# Parts of every variant's blocks. Whole numbers so small that every result, and what lies between,
# is exact.
_K, _H, _N = 37, 43, 29
_SIZE = (2, 13, 17)


@dataclass(frozen=True, eq=False)
class _Operands:
    """x [N, C, H, W], two weights [N, K] and two biases."""

    x: Array
    weights: tuple[Array, Array]
    biases: tuple[Array, Array]


_Maker = Callable[[Shape4, int, int, DType], _Operands]


def _cases(limits: Limits) -> Iterator[Case]:
    variant, (n, h, w) = limits.variant, _SIZE
    for name, make in (
        ("identity", _identity),
        ("zero", _zero),
        ("constant", _constant),
        ("one-hot", _one_hot),
        ("ragged", _whole_numbers),
        ("not a number", _not_a_number),
    ):
        yield _case(limits, name, (n, _K, h, w), _H, _N, make)
    most_k, most_n = most_channels(variant)
    shape = 1, int(min(most_k, 96)), 16, 16
    whole_h = 2 * variant.defines["BLOCK_H"]
    yield _case(limits, "whole blocks", shape, whole_h, int(most_n), _whole_numbers, residual=True)
    if limits.is_smallest:
        hidden = MOST_TRIPS // pair_trips(variant, 5, 1) * variant.defines["BLOCK_H"]
        hidden = min(hidden, limits.weight) - 1
        yield _case(limits, "longest loop", (1, 5, 1, 3), hidden, 3, _sparse)


def _case(
    limits: Limits,
    name: str,
    shape: Shape4,
    hidden: int,
    channels: int,
    make: _Maker,
    *,
    residual: bool = False,
) -> Case:
    """Return a case; with a residual the first has an activation too."""
    dtype = limits.dtype
    weights = (1, hidden, shape[1]), (1, channels, hidden)
    pair = PointwisePair(
        dtype=dtype,
        hidden_activation="relu" if residual else None,
        epilogue=Epilogue(residual=residual),
        parameters=tuple(Parameters(cases.no_numbers(*each), None) for each in weights),
    )
    added: Shape4 = (shape[0], channels, *shape[2:])

    def arrays() -> Arrays:
        made = make(shape, hidden, channels, dtype)
        inputs = [made.x]
        if residual:
            inputs.append(cases.integers(added, dtype, channels))
        biases = (bias.astype(FLOAT32) for bias in made.biases)
        return Arrays(inputs, [(w[None], b) for w, b in zip(made.weights, biases, strict=True)])

    return Case(name, pair, (shape, added) if residual else (shape,), arrays, exact=True)


def _identity(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    k = shape[1]
    units = np.eye(h, k, dtype=dtype), np.eye(n, h, dtype=dtype)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return _Operands(x, units, (np.zeros(h, dtype), np.zeros(n, dtype)))


def _zero(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    ones = _constant(shape, h, n, dtype).weights
    return _Operands(np.zeros(shape, dtype), ones, (np.zeros(h, dtype), np.zeros(n, dtype)))


def _constant(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    ones = np.ones((h, shape[1]), dtype), np.ones((n, h), dtype)
    return _Operands(np.ones(shape, dtype), ones, (np.ones(h, dtype), np.ones(n, dtype)))


def _one_hot(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    lit = np.zeros(shape, dtype)
    lit[-1, -1, shape[2] // 2, shape[3] // 3] = 1
    return _Operands(lit, *_signs(shape[1], h, n, dtype))


def _not_a_number(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    spoilt = _whole_numbers(shape, h, n, dtype)
    spoilt.x[:, :, ::4, ::5] = np.nan
    return spoilt


def _whole_numbers(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    x = np.random.default_rng(shape).integers(-2, 3, shape).astype(dtype)
    return _Operands(x, *_signs(shape[1], h, n, dtype))


def _sparse(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    made = _whole_numbers(shape, h, n, dtype)
    return replace(made, weights=(made.weights[0], cases.sparse(1, n, h, dtype).weight))


def _signs(k: int, h: int, n: int, dtype: DType) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return weights of a few −1 and 1 each row, and biases of small integers."""
    rng = np.random.default_rng((k, h, n))

    def weight(rows: int, columns: int) -> Array:
        few = rng.random((rows, columns)) < min(1.0, 8 / columns)
        return (rng.choice([-1, 1], (rows, columns)) * few).astype(dtype)

    def bias(length: int) -> Array:
        return rng.integers(-9, 10, length).astype(dtype)

    return (weight(h, k), weight(n, h)), (bias(h), bias(n))
