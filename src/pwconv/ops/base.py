"""Operators: shape, plan, float64 reference and cases of one computation, in one class."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pwconv import shaders
from pwconv.activation import Activation, ActivationLike, parse_activation
from pwconv.context import Context
from pwconv.dtypes import Array, DType, axis_name
from pwconv.heuristics import Choice
from pwconv.layout import sizes
from pwconv.ops.limits import Limits
from pwconv.shaders import Variant
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import OUT, Dispatch
from pwconv.vk.resources import Buffer, Resource
from pwconv.weights import Parameters, upload_parameter

if TYPE_CHECKING:
    from pwconv.reference import Approximation


class Tuner(Protocol):
    """What may know a faster variant for a task than the heuristics do."""

    def choose(self, task: Any) -> Choice:
        """Return the variant; the task is of the operator's kind."""


@dataclass(frozen=True)
class Site:
    """Where dispatches are planned: a device, and storage and type of activations on it.

    Attributes
    ----------
    context : Context
    storage : "texture3d" or "buffer"
    dtype : numpy.dtype
    tuner : Tuner or None
        Asked for variants before the heuristics are.
    """

    context: Context
    storage: str
    dtype: DType
    tuner: Tuner | None = None

    def variant(self, family: str) -> Variant:
        """Return the variant of a family that has one for each storage and type."""
        return shaders.variant(family, storage=self.storage, dtype=axis_name(self.dtype))

    def table(self, array: Array) -> Buffer:
        """Return a buffer of an array that a kernel reads besides its operands.

        It is made with the plan, for numbers that follow from shapes and are too many for push
        constants: specialization constants would compile a pipeline for each.

        Raises
        ------
        UnsupportedError, OutOfMemoryError, ClosedError
        """
        return upload_parameter(self.context, array)

    def dispatch(
        self,
        variant: Variant,
        x: Shape,
        out: Shape,
        operands: Mapping[str, Any] | None = None,
        constants: Mapping[str, int] | None = None,
        *,
        flop: int = 0,
        trips: int = 0,
        **numbers: float,
    ) -> Dispatch:
        """Plan a kernel over planes: see include/planes.glslh.

        Parameters
        ----------
        variant : Variant
        x, out : tuple of int
            Shapes of the first input and of the output.
        operands : Mapping, optional
            Bindings besides ``t_out``; by default ``t_in`` is the first input.
        constants : Mapping, optional
            Specialization constants.
        flop, trips
            As for :meth:`pwconv.context.Context.plan`.
        **numbers : float
            Push constants of its own; those of :func:`pwconv.layout.sizes` it has.
        """
        out4 = shape4(out, "output")
        known = sizes(shape4(x, "x"), out4, self.storage, self.dtype.itemsize)
        if self.storage == "buffer":  # vectors of a row, padding too; neighbours are neighbours
            grid, workgroup = (known["pitch_out"] // 4, known["planes"], 1), (64, 1, 1)
        else:
            grid, workgroup = (known["W_out"], known["H_out"], known["planes"]), (8, 8, 1)
        plan = self.context.plan(
            variant,
            grid,
            {**known, **numbers},
            constants,
            shape=workgroup,
            flop=flop,
            trips=trips,
        )
        return Dispatch(plan, {**(operands or {"t_in": 0}), "t_out": OUT})


@dataclass(frozen=True)
class Epilogue:
    """What a kernel does to its input and to its sums besides: ``act(op(x · scale) + residual)``.

    Attributes
    ----------
    activation : str, tuple or None
        As users name it.
    residual : bool
        The operator has another input after its own, of the output's shape.
    scale : bool
        Its last input is a factor of the first, [N, C, 1, 1].
    """

    activation: ActivationLike | None = None
    residual: bool = False
    scale: bool = False

    def __post_init__(self) -> None:
        self.function  # noqa: B018  # raises for an activation that there is not

    @cached_property
    def function(self) -> Activation:
        """The activation, as shaders have it."""
        return parse_activation(self.activation)

    @property
    def parts(self) -> frozenset[str]:
        """Those that there are of "activation", "residual" and "scale"."""
        given = {
            "activation": self.activation is not None,
            "residual": self.residual,
            "scale": self.scale,
        }
        return frozenset(name for name, there in given.items() if there)

    @property
    def extra_inputs(self) -> int:
        """Count of inputs after the operator's own."""
        return self.residual + self.scale

    def operands(self, own: int) -> dict[str, int]:
        """Return residual and scale by binding name, after so many inputs; x where there is none.

        A binding that is not read must be bound all the same.
        """
        residual = own if self.residual else 0
        return {"t_residual": residual, "t_scale": own + self.residual if self.scale else 0}


@dataclass(frozen=True, eq=False, kw_only=True)
class Operator(ABC):
    """The computation of a layer or of a node.

    It does not change: passes make others of it with :func:`dataclasses.replace`.

    Attributes
    ----------
    kind : str
        The method of :class:`pwconv.Graph` that adds it, or a name that a pass gives.
    families : tuple of str
        The shaders that compute it, by family.
    operands : tuple of str
        Names of its own inputs, for errors.
    images_only : bool
        True if it takes [N, C, H, W] or [C, H, W] only.
    copies : bool
        True if the output's elements are elements of the inputs: nothing is computed or rounded.
    channel_axis : int
        Axis of [N, C, H, W] along which the output's channels lie.
    epilogue : Epilogue
    parameters : tuple of Parameters
        On the host until :meth:`pack` puts them on a device.
    """

    kind: ClassVar[str]
    families: ClassVar[tuple[str, ...]] = ()
    operands: ClassVar[tuple[str, ...]] = ("x",)
    images_only: ClassVar[bool] = True
    copies: ClassVar[bool] = False
    channel_axis: ClassVar[int] = 1

    epilogue: Epilogue = Epilogue()
    parameters: tuple[Parameters, ...] = ()

    @property
    def name(self) -> str:
        """The kind, for the names of nodes; an operator of several functions says which."""
        return self.kind

    @property
    def fuses(self) -> frozenset[str]:
        """What its kernels do besides: "activation", "residual", "scale"."""
        return frozenset()

    @property
    def arity(self) -> int | None:
        """Count of its own inputs; None for one or more."""
        return len(self.operands) or None

    @property
    def weight_bytes(self) -> int:
        """Bytes of its parameters on the device."""
        return sum(each.nbytes for each in self.parameters)

    @abstractmethod
    def shape(self, *inputs: Shape) -> Shape:
        """Return the output's shape, from those of its own inputs.

        Raises
        ------
        ValueError
            It does not take inputs of these shapes.
        """

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the output's shape, from those of all inputs.

        Raises
        ------
        ValueError
            As :meth:`shape`, or the residual is not of the output's shape, or the scale not of
            [N, C, 1, 1].
        """
        own = len(inputs) - self.epilogue.extra_inputs
        out = self.shape(*inputs[:own])
        if self.epilogue.residual and inputs[own] != out:
            raise ValueError(f"residual has shape {inputs[own]}; it must be the output's, {out}")
        if self.epilogue.scale and inputs[-1] != (*inputs[0][:-2], 1, 1):
            raise ValueError(
                f"scale has shape {inputs[-1]}; it must be x's with H = W = 1, "
                f"{(*inputs[0][:-2], 1, 1)}"
            )
        return out

    def check_inputs(self, count: int) -> None:
        """Raise where it does not take so many inputs, or its kernels lack a part of its epilogue.

        Raises
        ------
        ValueError
        """
        lacking = self.epilogue.parts - self.fuses
        if lacking:
            raise ValueError(
                f"epilogue has {' and '.join(sorted(lacking))}; kernels of {self.name} compute "
                f"{' and '.join(sorted(self.fuses)) or 'none'} besides: add a node for it"
            )
        own, extra = self.arity, self.epilogue.extra_inputs
        if count <= extra if own is None else count != own + extra:
            wanted = f"at least {1 + extra}" if own is None else own + extra
            raise ValueError(f"there are {count} values; {self.name} takes {wanted}")

    @abstractmethod
    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the dispatches, which do not depend on each other.

        Parameters
        ----------
        site : Site
        inputs : sequence of tuple of int
            Shapes of all inputs; the dispatches' operands are their numbers, and ``OUT``.
        out : tuple of int
            The output's shape, of at least one element.
        choice : Choice, optional
            The variant, instead of that which tuner or heuristics choose.

        Raises
        ------
        UnsupportedError
            The device cannot compute it.
        """

    def resident(self, site: Site) -> Resource | None:
        """Return what holds the output for good, of an operator for which nothing runs.

        Raises
        ------
        OutOfMemoryError, ClosedError
        """
        return None

    @abstractmethod
    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the output for its own inputs in float64, before epilogue and rounding."""

    def expected(
        self, inputs: Sequence[Approximation], dtype: DType, *, exact: bool = False
    ) -> Approximation:
        """Return what a device's output is about, of that type, epilogue included.

        ``exact`` says that the sums before the epilogue are, in whatever order they are added up.
        """
        own, extra = list(inputs), self.epilogue.extra_inputs
        added = [own.pop() for _ in range(extra)][::-1]
        if self.epilogue.scale:
            # Some kernels round the product, others do not.
            own[0] = own[0].times(added[-1]).stored(dtype)
        found = self.reference(*own)
        if self.epilogue.residual:
            found = found.plus(added[0])
        if exact:
            found = found.exactly()
        if self.epilogue.activation is not None:
            found = found.activated(self.epilogue.activation)
        return found if self.copies else found.stored(dtype)

    def storages(self, inputs: Sequence[Shape], storages: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of some storages of activations in which it can be computed.

        Raises
        ------
        UnsupportedError
            There is none.
        """
        return storages

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return the arithmetic operations; activations and bias are not counted."""
        return 0 if self.copies else math.prod(out)

    def check(self, site: Site) -> None:  # noqa: B027  # most are computed by every device
        """Raise where the device cannot compute it at any shape.

        Raises
        ------
        UnsupportedError
        """

    def pack(self, site: Site, weight_storage: str | None = None) -> Operator:
        """Return the operator with its parameters on the device.

        Parameters
        ----------
        site : Site
            With the storage that activations are expected to have.
        weight_storage : "texture2d" or "buffer", optional
            By default what suits the device.

        Raises
        ------
        UnsupportedError, OutOfMemoryError, ClosedError
        """
        return self

    @classmethod
    @abstractmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield the problems on which ``pwconv verify`` and the tests run a variant."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Numbers of a case: of each input, and the weight and bias of each of the parameters."""

    inputs: Sequence[Array]
    parameters: Sequence[tuple[Array, Array]] = ()


@dataclass(frozen=True, eq=False)
class Case:
    """A problem for an operator; nothing is made before it is needed.

    Attributes
    ----------
    name : str
    operator : Operator
        Its parameters have shapes and no numbers yet.
    inputs : tuple of tuple of int
        Shapes of all inputs.
    make : callable
        Returns the numbers, the same every time.
    exact : bool
        True if the sums before the epilogue must be exact.
    """

    name: str
    operator: Operator
    inputs: tuple[Shape, ...]
    make: Callable[[], Arrays]
    exact: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """What tells its numbers and its output from those of other cases of a family and type."""
        shapes = tuple(each.shape for each in self.operator.parameters)
        return self.name, self.inputs, shapes, self.operator.epilogue

    def with_numbers(self, arrays: Arrays) -> Operator:
        """Return the operator with its parameters on the host."""
        kinds = map(type, self.operator.parameters)
        made = (kind(*given) for kind, given in zip(kinds, arrays.parameters, strict=True))
        return replace(self.operator, parameters=tuple(made))


_T = TypeVar("_T", bound=Operator)
_REGISTRY: dict[str, type[Operator]] = {}


def operator(kind: str) -> Callable[[type[_T]], type[_T]]:
    """Register a class of operators under its kind."""

    def register(cls: type[_T]) -> type[_T]:
        cls.kind = kind
        _REGISTRY[kind] = cls
        return cls

    return register


def operators() -> Mapping[str, type[Operator]]:
    """Return the classes of operators by kind."""
    return _REGISTRY
