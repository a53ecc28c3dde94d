"""Builder of a graph: its methods add nodes, one by one, over the values before."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pwconv.activation import parse_activation
from pwconv.device import Device
from pwconv.dtypes import FLOAT32, Array, DType, convert
from pwconv.graph.channels import Concat, Slice
from pwconv.graph.convolutions import (
    DenseConvolution,
    DepthwiseConvolution,
    DepthwiseKernels,
    PointwiseConvolution,
    check_kernel,
    flatten_kernel,
)
from pwconv.graph.elementwise import Elementwise
from pwconv.graph.linear import LinearLayer
from pwconv.graph.network import Network, Node, naming, node_shape
from pwconv.graph.operations import Operation
from pwconv.graph.resampling import GlobalAvgPool, Upsample
from pwconv.kernels.conv2d_dw import depthwise_bytes
from pwconv.kernels.conv2d_pw import Geometry
from pwconv.kernels.pack_linear_weight import packed_storage
from pwconv.modules import Linear, PointwiseConv2d
from pwconv.tensor import Shape, as_pair, as_shape, shape4
from pwconv.vk import process
from pwconv.weights import check_bias, check_parameter

_MOST_SCALE = 1024


@dataclass(frozen=True, eq=False)
class Value:
    """The output of a node; a graph's methods take and return values.

    Attributes
    ----------
    graph : Graph
    name : str
        Of the node.
    """

    graph: Builder
    name: str
    _number: int

    @property
    def shape(self) -> Shape:
        """[N, C, H, W] or [C, H, W] of images, [..., K] of rows; as the graph is sized now."""
        return self.graph._shapes[self._number]

    def __reduce__(self) -> str:
        raise TypeError("a value cannot be copied or pickled: it is one of its graph's")

    def __repr__(self) -> str:
        return f"<pwconv.graph.Value {self.name!r} {self.shape}>"


class Builder:
    """Methods of :class:`pwconv.Graph` that add nodes, and the nodes added.

    Parameters
    ----------
    device : Device
    dtype : numpy.dtype
    storage : "auto", "texture3d" or "buffer"
        As for :class:`pwconv.Graph`.
    """

    def __init__(self, device: Device, dtype: DType, storage: str) -> None:
        self._device = device
        self._dtype = dtype
        self._storage = storage
        self._lock = process.make_lock()
        self._nodes: list[Node] = []
        self._shapes: list[Shape] = []
        self._names: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._inputs: dict[str, int] = {}
        self._outputs: dict[str, int] = {}
        self._output_names: dict[int, str] = {}
        self._network: Network | None = None

    def __reduce__(self) -> str:
        raise TypeError(
            "a graph cannot be copied or pickled; build another by the same calls, and pickle the "
            "arrays of its weights"
        )

    @property
    def device(self) -> Device:
        """The device that it runs on."""
        return self._device

    @property
    def dtype(self) -> DType:
        """Of the activations and the weights on the device: float32 or float16."""
        return self._dtype

    def input(self, name: str, shape: Any) -> Value:
        """Declare an input.

        Parameters
        ----------
        name : str
            Its keyword in :meth:`run`.
        shape : tuple of int
            [N, C, H, W] or [C, H, W] of images; for :meth:`linear` and what works element by
            element any axes, stored as :class:`pwconv.Tensor` tells.

        Raises
        ------
        TypeError, ValueError
            No such shape, an axis of length 0, or a name that is taken.
        """
        wanted = input_shape(name, shape)
        with self._lock:
            value = self._add(name, None, (), lambda: wanted)
            self._inputs[name] = value._number
        return value

    def conv2d_pw(
        self,
        x: Value,
        weight: Any,
        bias: Any = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        activation: Any = None,
        residual: Value | None = None,
        name: str | None = None,
    ) -> Value:
        """Add a pointwise convolution: ``activation(weight·x + bias + residual)``.

        Parameters
        ----------
        x : Value
        weight, bias, stride, padding, activation
            As for :class:`pwconv.PointwiseConv2d`; arrays are converted to the graph's dtype.
        residual : Value, optional
            Of the output's shape; added in float32, before the activation.
        name : str, optional

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError
            As for :class:`pwconv.PointwiseConv2d`; the message names the node.
        """
        inputs = (x,) if residual is None else (x, residual)

        def make() -> Operation:
            layer = PointwiseConv2d(
                weight,
                bias,
                stride=stride,
                padding=padding,
                activation=activation,
                dtype=self.dtype,
                storage=self._storage,
                device=self.device,
            )
            return PointwiseConvolution(layer, parse_activation(activation), layer._geometry)

        return self._add_operation(
            "conv2d_pw", name, inputs, make, ("x", "residual")[: len(inputs)]
        )

    def conv2d(
        self,
        x: Value,
        weight: Any,
        bias: Any = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        activation: Any = None,
        residual: Value | None = None,
        name: str | None = None,
    ) -> Value:
        """Add a convolution with a kernel of several taps, as a network's stem has.

        Parameters
        ----------
        x : Value
        weight : array_like
            [C_out, C_in, KH, KW], float32 or float16.
        bias, stride, padding, activation, residual, name
            As for :meth:`conv2d_pw`.

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError
            As for :meth:`conv2d_pw`.
        """
        inputs = (x,) if residual is None else (x, residual)

        def make() -> Operation:
            array = check_kernel(weight, "[C_out, C_in, KH, KW]")
            geometry = _geometry(stride, padding, array)
            # Before a view that repeats its elements becomes as large as it looks.
            shape = (1, array.shape[0], geometry.products(array.shape[1]))
            packed_storage(self.device._context, shape, self.dtype, "auto")
            layer = PointwiseConv2d(
                flatten_kernel(convert(array, self.dtype)),
                bias,
                storage=self._storage,
                device=self.device,
            )
            return DenseConvolution(layer, parse_activation(activation), geometry, array.shape[1])

        return self._add_operation("conv2d", name, inputs, make, ("x", "residual")[: len(inputs)])

    def conv2d_dw(
        self,
        x: Value,
        weight: Any,
        bias: Any = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        activation: Any = None,
        name: str | None = None,
    ) -> Value:
        """Add a depthwise convolution: each channel by a kernel of its own, summed in float32.

        Parameters
        ----------
        x : Value
        weight : array_like
            [C, 1, KH, KW], float32 or float16.
        bias : array_like, optional
            [C].
        stride, padding, activation, name
            As for :meth:`conv2d_pw`.

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError
            The message names the node.
        """

        def make() -> Operation:
            array = check_kernel(weight, "[C, 1, KH, KW]")
            if array.shape[1] != 1:
                raise ValueError(
                    f"weight has shape {array.shape}; it must be [C, 1, KH, KW]: each channel has "
                    "a kernel of its own; graph.conv2d takes [C_out, C_in, KH, KW]"
                )
            check_parameter(self.device, depthwise_bytes(array.shape))
            rounded = convert(array[:, 0], self.dtype).astype(FLOAT32)
            kernels = DepthwiseKernels(
                self.device, rounded, check_bias(bias, array.shape[0], "C_out")
            )
            return DepthwiseConvolution(
                kernels, _geometry(stride, padding, array), parse_activation(activation)
            )

        return self._add_operation("conv2d_dw", name, (x,), make)

    def linear(
        self,
        x: Value,
        weight: Any,
        bias: Any = None,
        *,
        activation: Any = None,
        name: str | None = None,
    ) -> Value:
        """Add a linear layer, over the last axis: ``activation(weight·x + bias)``.

        Parameters
        ----------
        x : Value
            [..., K]: any axes before the last, or none. Of images that is W; their channels are
            what :meth:`conv2d_pw` works over.
        weight, bias, activation
            As for :class:`pwconv.Linear`; arrays are converted to the graph's dtype.
        name : str, optional

        Returns
        -------
        Value
            [..., N].

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError
            As for :class:`pwconv.Linear`; the message names the node.

        Notes
        -----
        With a batched weight and an x of fewer than four axes, the graph's activations are buffers:
        a texture has several batches in a texel.
        """

        def make() -> Operation:
            layer = Linear(
                weight,
                bias,
                activation=activation,
                dtype=self.dtype,
                storage=self._storage,
                device=self.device,
            )
            return LinearLayer(layer, parse_activation(activation))

        return self._add_operation("linear", name, (x,), make)

    def activation(self, x: Value, activation: Any, *, name: str | None = None) -> Value:
        """Add an activation; it is fused into the node of x where that has an epilogue.

        Parameters
        ----------
        x : Value
        activation : str or tuple
            As for :class:`pwconv.PointwiseConv2d`.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self._elementwise("activation", (x,), activation, name)

    def add(self, x: Value, y: Value, *, activation: Any = None, name: str | None = None) -> Value:
        """Add ``activation(x + y)``; where it can be it becomes part of a convolution before it.

        Parameters
        ----------
        x, y : Value
            Of one shape, of any axes; or images, one of them with H = W = 1.
        activation : str or tuple, optional
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self._elementwise("add", (x, y), activation, name)

    def mul(self, x: Value, y: Value, *, activation: Any = None, name: str | None = None) -> Value:
        """Add ``activation(x · y)``, element by element.

        With a y of [N, C, 1, 1] it is the scale of squeeze-and-excitation; where it gains by that,
        it becomes part of a pointwise convolution after it.

        Parameters
        ----------
        x, y : Value
            Of one shape, of any axes; or images, one of them with H = W = 1.
        activation : str or tuple, optional
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self._elementwise("mul", (x, y), activation, name)

    def concat(self, values: Iterable[Value], *, name: str | None = None) -> Value:
        """Add the concatenation of values along their channels.

        Parameters
        ----------
        values : iterable of Value
            At least one; they may differ in channels only.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        inputs = tuple(values)

        def make() -> Operation:
            if not inputs:
                raise ValueError("values is empty; there must be at least one")
            return Concat()

        return self._add_operation(
            "concat", name, inputs, make, tuple(f"values[{i}]" for i in range(len(inputs)))
        )

    def slice(self, x: Value, start: int, stop: int, *, name: str | None = None) -> Value:
        """Add channels ``start`` … ``stop − 1`` of a value.

        Parameters
        ----------
        x : Value
        start, stop : int
            0 ≤ start < stop ≤ C.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """

        def make() -> Operation:
            first, after = operator.index(start), operator.index(stop)
            if not 0 <= first < after:
                raise ValueError(
                    f"start is {first} and stop is {after}; it must be 0 ≤ start < stop"
                )
            return Slice(first, after)

        return self._add_operation("slice", name, (x,), make)

    def global_avg_pool(self, x: Value, *, name: str | None = None) -> Value:
        """Add the mean of each channel over H and W, summed in float32: [N, C, 1, 1].

        Parameters
        ----------
        x : Value
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self._add_operation("global_avg_pool", name, (x,), GlobalAvgPool)

    def upsample(self, x: Value, scale: int = 2, *, name: str | None = None) -> Value:
        """Add nearest upsampling: each element repeated along H and along W.

        Parameters
        ----------
        x : Value
        scale : int
            1 to 1024.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """

        def make() -> Operation:
            factor = operator.index(scale)
            if not 1 <= factor <= _MOST_SCALE:
                raise ValueError(f"scale is {factor}; it must be 1 to {_MOST_SCALE}")
            return Upsample(factor)

        return self._add_operation("upsample", name, (x,), make)

    def output(self, name: str, value: Value) -> None:
        """Name a value as an output.

        Raises
        ------
        TypeError, ValueError
            A name that is taken, an input, or a value that is an output already.
        """
        with self._lock:
            self._require_building()
            (number,) = self._numbers((value,), (f"output {name!r}",))
            if not isinstance(name, str) or not name:
                raise TypeError(f"name is {name!r}; it must be a string")
            if name in self._outputs:
                raise ValueError(f"output {name!r}: there is one of this name already")
            if self._nodes[number].operation is None:
                raise ValueError(
                    f"output {name!r} is the input {value.name!r} itself; nothing is computed"
                )
            if number in self._output_names:
                raise ValueError(
                    f"output {name!r}: node {value.name!r} is the output "
                    f"{self._output_names[number]!r} already"
                )
            self._outputs[name] = number
            self._output_names[number] = name

    # -- inside -----------------------------------------------------------------------------------

    def _elementwise(
        self, kind: str, inputs: tuple[Value, ...], activation: Any, name: str | None
    ) -> Value:
        def make() -> Operation:
            return Elementwise(kind, parse_activation(activation))

        return self._add_operation(kind, name, inputs, make, ("x", "y")[: len(inputs)])

    def _add_operation(
        self,
        kind: str,
        name: str | None,
        inputs: tuple[Any, ...],
        make: Callable[[], Operation],
        operands: tuple[str, ...] = ("x",),
    ) -> Value:
        """Add a node; errors of ``make()`` name it, and those of its inputs its operands."""
        with self._lock:
            if name is None:
                name = self._free_name(kind)
            with naming(name):
                self._require_building()
                self._check_name(name)
                numbers = self._numbers(inputs, operands)
                operation = make()
            node = Node(name, operation, numbers)
            return self._add(name, operation, numbers, lambda: node_shape(node, self._shapes))

    def _add(
        self,
        name: str,
        operation: Operation | None,
        inputs: tuple[int, ...],
        shape: Callable[[], Shape],
    ) -> Value:
        with self._lock:
            self._require_building()
            self._check_name(name)
            found = shape()
            self._names.add(name)
            self._nodes.append(Node(name, operation, inputs))
            self._shapes.append(found)
            return Value(self, name, len(self._nodes) - 1)

    def _check_name(self, name: Any) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"name is {name!r}; it must be a string")
        if name in self._names:
            raise ValueError(f"name is {name!r}, which another node or input has")

    def _free_name(self, kind: str) -> str:
        while True:
            self._counts[kind] += 1
            name = f"{kind}_{self._counts[kind]}"
            if name not in self._names:
                return name

    def _numbers(self, values: tuple[Any, ...], names: tuple[str, ...]) -> tuple[int, ...]:
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, Value):
                raise TypeError(
                    f"{name} is {_with_article(value)}; it must be a pwconv.graph.Value, as "
                    "graph.input(...) returns"
                )
            if value.graph is not self:
                raise ValueError(f"{name}, {value!r}, is of another graph")
        return tuple(value._number for value in values)

    def _require_building(self) -> None:
        if self._network is not None:
            raise ValueError(
                "the graph was run, resized or measured before, which ended its building; make "
                "another"
            )

    def _finish(self) -> Network:
        """Return the network, and refuse further nodes."""
        with self._lock:
            if self._network is None:
                if not self._outputs:
                    raise ValueError("the graph has no output; name one with graph.output")
                network = Network(tuple(self._nodes), dict(self._inputs), dict(self._outputs))
                reached = network.reached
                unused = [x for x, i in self._inputs.items() if i not in reached]
                if unused:
                    raise ValueError(f"input {unused[0]!r} is not used: no output depends on it")
                self._network = network
            return self._network


def _with_article(value: Any) -> str:
    """Return a value's type, with the value where it is a number, for an error."""
    if value is None:
        return "None"
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIOU" or kind == "ndarray" else "a"
    number = f" ({value!r})" if isinstance(value, (int, float)) else ""
    return f"{article} {kind}{number}"


def _geometry(stride: Any, padding: Any, weight: Array) -> Geometry:
    """Return the geometry of a convolution by a weight [C_out, C_in, KH, KW]."""
    return Geometry(
        as_pair(stride, "stride", least=1),
        as_pair(padding, "padding", least=0),
        (weight.shape[2], weight.shape[3]),
    )


def input_shape(name: str, shape: Any) -> Shape:
    """Return an input's shape, checked.

    Raises
    ------
    TypeError, ValueError
    """
    wanted = as_shape(shape)
    if not all(shape4(wanted, f"input {name!r}")):
        raise ValueError(f"input {name!r} has shape {wanted}; no axis may be of length 0")
    return wanted
