"""Graph: nodes added one by one, run as one submission, resized without being rebuilt."""

from __future__ import annotations

import operator
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pwconv.activation import parse_activation
from pwconv.device import Device, resolve_device
from pwconv.dtypes import FLOAT32, Array, DType, as_dtype, as_float_array
from pwconv.errors import UnsupportedError
from pwconv.graph.channels import Concat, Slice
from pwconv.graph.convolutions import (
    DenseConvolution,
    DepthwiseConvolution,
    DepthwiseKernels,
    PointwiseConvolution,
    check_kernel,
    flatten_kernel,
)
from pwconv.graph.dot import draw
from pwconv.graph.elementwise import Elementwise
from pwconv.graph.folding import fold
from pwconv.graph.frames import Frames, Handle
from pwconv.graph.network import Network, Node, node_shape
from pwconv.graph.operations import Operation, Setting
from pwconv.graph.profile import Profile, measure
from pwconv.graph.program import Program
from pwconv.graph.resampling import GlobalAvgPool, Upsample
from pwconv.graph.scratch import Scratch
from pwconv.graph.table import summarize_nodes
from pwconv.kernels.conv2d_pw import Geometry
from pwconv.layer import check_bias
from pwconv.modules import PointwiseConv2d
from pwconv.tensor import (
    Shape,
    Tensor,
    as_pair,
    as_shape,
    check_storage,
    choose_storage,
    shape4,
    storage_order,
)
from pwconv.timing.ceilings import Ceiling

# Sets of shapes that a graph returns to without planning or recording anything.
_PROGRAMS_KEPT = 8

_MOST_SCALE = 1024


@dataclass(frozen=True, eq=False)
class Value:
    """What a node of a graph gives: what the graph's methods take and return.

    Attributes
    ----------
    graph : Graph
    name : str
        Of the node.
    """

    graph: Graph
    name: str
    _number: int

    @property
    def shape(self) -> Shape:
        """[N, C, H, W] or [C, H, W], as the graph is sized now."""
        return self.graph._shapes[self._number]

    def __repr__(self) -> str:
        return f"<pwconv.graph.Value {self.name!r} {self.shape}>"


@dataclass(frozen=True)
class Memory:
    """Device memory of a graph, in bytes; see :meth:`Graph.memory`.

    Attributes
    ----------
    weights : int
        Packed weights and biases.
    inputs, outputs : int
        The tensors that go in and come out.
    scratch : int
        Intermediates, which share memory: the most that is in use at the shapes of now.
    scratch_reserved : int
        What is held for intermediates: the most of all shapes since the graph was made.
    """

    weights: int
    inputs: int
    outputs: int
    scratch: int
    scratch_reserved: int


@dataclass(eq=False)
class _Sized:
    """A program, the frames that take arrays through it, and its times once they are taken."""

    program: Program
    frames: Frames
    profile: Profile | None = None


class Graph:
    """Nodes that run on the device one after the other, in one submission.

    Inputs are declared, nodes added, outputs named; then the graph runs at the inputs' shapes, and
    after :meth:`resize` at others. Calls may come from several threads.

    Parameters
    ----------
    device : Device, optional
        By default the default device.
    dtype : "float32" or "float16"
        Of the activations and the weights on the device; arrays are converted to it.
    storage : "auto", "texture3d" or "buffer"
        How activations are stored on the device; "auto" is what suits the device, and what they
        fit.

    Raises
    ------
    TypeError, ValueError
        Another dtype or storage.
    NoDeviceError

    Notes
    -----
    A float16 graph sums in float32 and rounds each node's output once, to nearest even.

    Every method that adds a node takes its ``name``, which errors and tables then show. A node
    takes values that there are already, so that there are no cycles; one that no output depends on
    is not run.

    What is recorded at a set of shapes is kept, and submitted again when they come back: going to
    and fro costs the host some microseconds.

    Examples
    --------
    >>> g = pwconv.Graph(dtype="float16")
    >>> x = g.input("x", (1, 48, 256, 256))
    >>> h = g.conv2d_pw(x, w1, b1, activation="gelu")
    >>> g.output("y", g.conv2d_pw(h, w2, b2, residual=x))
    >>> y = g.run(x=array)["y"]
    """

    def __init__(
        self,
        device: Device | None = None,
        dtype: Any = "float32",
        *,
        storage: str = "auto",
    ) -> None:
        check_storage(storage)
        self.device = resolve_device(device)
        self.dtype: DType = as_dtype(dtype)
        self._storage = storage
        self._lock = threading.RLock()
        self._nodes: list[Node] = []
        self._shapes: list[Shape] = []
        self._names: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._inputs: dict[str, int] = {}
        self._outputs: dict[str, int] = {}
        self._network: Network | None = None
        self._scratch = Scratch(self.device._logical)
        self._programs: OrderedDict[tuple[Shape, ...], _Sized] = OrderedDict()
        self._ceilings: list[Ceiling] = []

    # -- building ---------------------------------------------------------------------------------

    def input(self, name: str, shape: Any) -> Value:
        """Declare an input.

        Parameters
        ----------
        name : str
            What :meth:`run` takes it as.
        shape : tuple of int
            [N, C, H, W] or [C, H, W].

        Raises
        ------
        TypeError, ValueError
            No such shape, an axis of length 0, or a name that is taken.
        """
        wanted = _input_shape(name, shape)
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
            return PointwiseConvolution(layer, parse_activation(activation))

        return self._add_operation("conv2d_pw", name, inputs, make)

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
            array = check_kernel(weight, "[C_out, C_in, KH, KW]", self.dtype)
            geometry = _geometry(stride, padding, array)
            layer = PointwiseConv2d(
                flatten_kernel(array), bias, storage=self._storage, device=self.device
            )
            return DenseConvolution(layer, parse_activation(activation), array.shape[1], geometry)

        return self._add_operation("conv2d", name, inputs, make)

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
        TypeError, ValueError, OutOfMemoryError
            The message names the node.
        """

        def make() -> Operation:
            array = check_kernel(weight, "[C, 1, KH, KW]", self.dtype)
            if array.shape[1] != 1:
                raise ValueError(
                    f"weight has shape {array.shape}; it must be [C, 1, KH, KW]: each channel has "
                    "a kernel of its own"
                )
            kernels = DepthwiseKernels(
                self.device, array[:, 0].astype(FLOAT32), check_bias(bias, array.shape[0], "C_out")
            )
            return DepthwiseConvolution(
                kernels, _geometry(stride, padding, array), parse_activation(activation)
            )

        return self._add_operation("conv2d_dw", name, (x,), make)

    def activation(self, x: Value, activation: Any, *, name: str | None = None) -> Value:
        """Add an activation; where it can be it becomes part of the node that gives x.

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
            Of one shape, or one of them with H = W = 1.
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

        With a y of [N, C, 1, 1] it is the scale of squeeze-and-excitation.

        Parameters
        ----------
        x, y : Value
            Of one shape, or one of them with H = W = 1.
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

        return self._add_operation("concat", name, inputs, make)

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
            (number,) = self._numbers(f"output {name!r}", (value,))
            if not isinstance(name, str) or not name:
                raise TypeError(f"name is {name!r}; it must be a string")
            if name in self._outputs:
                raise ValueError(f"output {name!r}: there is one of this name already")
            if self._nodes[number].operation is None:
                raise ValueError(
                    f"output {name!r} is the input {value.name!r} itself; nothing is computed"
                )
            for other, taken in self._outputs.items():
                if taken == number:
                    raise ValueError(
                        f"output {name!r}: node {value.name!r} is the output {other!r} already"
                    )
            self._outputs[name] = number

    # -- running ----------------------------------------------------------------------------------

    @property
    def storage(self) -> str:
        """How activations are stored at the shapes of now: "texture3d" or "buffer"."""
        return self._current().program.setting.storage

    def run(self, /, **inputs: Any) -> dict[str, Any]:
        """Run the graph.

        The first run ends the building: no nodes can be added after it.

        Parameters
        ----------
        **inputs : array_like or Tensor
            Every input, by name, of the shape that the graph is sized for. Tensors are of the
            graph's dtype and :attr:`storage`.

        Returns
        -------
        dict
            The outputs, by name: arrays, or tensors where an input is one, which then may not be
            computed yet.

        Raises
        ------
        TypeError, ValueError
            An input is missing, unknown, or of another type or shape; or the graph has no output,
            or an input that no output depends on.
        UnsupportedError
            A value is past the device's limits.
        OutOfMemoryError, ClosedError, DeviceLostError
        """
        if any(isinstance(value, Tensor) for value in inputs.values()):
            return self._run_tensors(inputs)[0]
        return self.run_async(**inputs).wait()

    def run_async(self, /, **inputs: Any) -> Handle:
        """Run the graph without waiting for it.

        Two runs of arrays are in flight at most: a third waits until the first is done, whose
        results its handle then keeps.

        Parameters
        ----------
        **inputs : array_like or Tensor
            As for :meth:`run`; they are free again when this returns.

        Returns
        -------
        Handle
            ``handle.wait()`` returns what :meth:`run` does, computed.

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError, ClosedError, DeviceLostError
            As for :meth:`run`.
        """
        if any(isinstance(value, Tensor) for value in inputs.values()):
            results, serial = self._run_tensors(inputs)
            return Handle(self.device, serial, results, None)
        with self._usable_lock:
            sized = self._current()
            self._check_names(inputs)
            arrays = {
                name: self._check_shape(name, as_float_array(value, name))
                for name, value in inputs.items()
            }
            return sized.frames.run(arrays)

    def resize(self, /, **shapes: Any) -> None:
        """Change the shapes of inputs; those of all other values follow.

        Weights and compiled kernels stay. Returning to one of the last eight sets of shapes costs
        nothing; memory for intermediates grows to the largest and is not given back.

        Parameters
        ----------
        **shapes : tuple of int
            By input; the others keep theirs.

        Raises
        ------
        TypeError, ValueError
            No such input, no such shape, or one that a node does not take, which the message
            names. The graph is then sized as before.
        UnsupportedError
            A value is past the device's limits.
        OutOfMemoryError, ClosedError
        """
        with self._usable_lock:
            network = self._finish()
            unknown = [name for name in shapes if name not in self._inputs]
            if unknown:
                raise ValueError(f"there is no input {unknown[0]!r}; there are {self._listed()}")
            wanted = {name: self._shapes[i] for name, i in self._inputs.items()}
            wanted.update((name, _input_shape(name, shape)) for name, shape in shapes.items())
            propagated = network.propagate(wanted)
            self._sized(propagated)
            self._shapes = propagated

    def memory(self) -> Memory:
        """Return the device memory that the graph takes, sized as it is.

        Raises
        ------
        ValueError, UnsupportedError, OutOfMemoryError, ClosedError
            As for :meth:`run`.
        """
        with self._usable_lock:
            program = self._current().program

            def tensors(numbers: Mapping[str, int]) -> int:
                setting = program.setting
                return sum(
                    self._scratch.requirements(
                        setting.storage, program.shape4(i), setting.dtype
                    ).size
                    for i in numbers.values()
                )

            weights = 0
            for i in program.launches:
                operation = program.network.nodes[i].operation
                weights += operation.weight_bytes if operation else 0
            return Memory(
                weights=weights,
                inputs=tensors(self._inputs),
                outputs=tensors(self._outputs),
                scratch=program.scratch_bytes,
                scratch_reserved=self._scratch.reserved,
            )

    def profile(self, runs: int = 20) -> Profile:
        """Time every node at the shapes of now, on noise.

        Parameters
        ----------
        runs : int
            How often each node is timed; at least 1.

        Returns
        -------
        Profile
            :meth:`summary` shows it from then on.

        Raises
        ------
        TypeError, ValueError
            ``runs`` is not such a number.
        UnsupportedError, OutOfMemoryError, ClosedError, DeviceLostError
        """
        count = operator.index(runs)
        if count < 1:
            raise ValueError(f"runs is {count}; it must be at least 1")
        with self._usable_lock:
            sized = self._current()
            with self.device._logical.lock:
                sized.profile, self._ceilings = measure(
                    self.device, sized.program, count, self._ceilings
                )
            return sized.profile

    def summary(self) -> str:
        """Return a table of the nodes that are run, at the shapes of now.

        Shape, compiled variant, arithmetic operations, bytes read and written; and where
        :meth:`profile` has measured them at these shapes, times and the share of the roofline.

        Raises
        ------
        ValueError, UnsupportedError, OutOfMemoryError, ClosedError
            As for :meth:`run`.
        """
        with self._usable_lock:
            sized = self._current()
            return summarize_nodes(sized.program, sized.profile)

    def to_dot(self) -> str:
        """Return the graph that is run in the language of Graphviz: ``dot -Tsvg`` draws it.

        Raises
        ------
        ValueError, UnsupportedError, OutOfMemoryError, ClosedError
            As for :meth:`run`.
        """
        with self._usable_lock:
            return draw(self._current().program)

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={self._shapes[i]}" for name, i in self._inputs.items())
        return f"<pwconv.Graph({listed}) of {len(self._nodes)} nodes, {self.dtype}>"

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _usable_lock(self) -> threading.RLock:
        """The lock, of a graph whose device can be used: a forked child may have it locked."""
        self.device._logical.require_open()
        return self._lock

    def _elementwise(
        self, kind: str, inputs: tuple[Value, ...], activation: Any, name: str | None
    ) -> Value:
        def make() -> Operation:
            return Elementwise(kind, parse_activation(activation))

        return self._add_operation(kind, name, inputs, make)

    def _add_operation(
        self,
        kind: str,
        name: str | None,
        inputs: tuple[Any, ...],
        make: Callable[[], Operation],
    ) -> Value:
        """Add a node; what ``make()`` raises names it."""
        with self._lock:
            if name is None:
                name = self._free_name(kind)
            with _naming(name):
                self._require_building()
                self._check_name(name)
                numbers = self._numbers("an operand", inputs)
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

    def _numbers(self, what: str, values: tuple[Any, ...]) -> tuple[int, ...]:
        for value in values:
            if not isinstance(value, Value):
                raise TypeError(
                    f"{what} is a {type(value).__name__}; it must be a value of the graph, which "
                    "graph.input and the nodes' methods return"
                )
            if value.graph is not self:
                raise ValueError(f"{what}, {value!r}, is of another graph")
        return tuple(value._number for value in values)

    def _require_building(self) -> None:
        if self._network is not None:
            raise ValueError(
                "the graph was run, resized or measured before, which ended its building; make "
                "another"
            )

    def _finish(self) -> Network:
        """Return the network; there is nothing to be added any more."""
        with self._lock:
            if self._network is None:
                if not self._outputs:
                    raise ValueError("the graph has no output; name one with graph.output")
                network = Network(tuple(self._nodes), dict(self._inputs), dict(self._outputs))
                unused = [x for x, i in self._inputs.items() if i not in network.reached]
                if unused:
                    raise ValueError(f"input {unused[0]!r} is not used: no output depends on it")
                self._network = network
            return self._network

    def _current(self) -> _Sized:
        with self._lock:
            self._finish()
            return self._sized(self._shapes)

    def _sized(self, shapes: list[Shape]) -> _Sized:
        """Return the program for these shapes of all nodes."""
        network = self._finish()
        key = tuple(shapes[i] for i in self._inputs.values())
        known = self._programs.get(key)
        if known is not None:
            self._programs.move_to_end(key)
            return known
        logical = self.device._logical
        named = {self._nodes[i].name: shapes[i] for i in range(len(shapes))}
        storage = choose_storage(logical, named, self.dtype, storage_order(logical, self._storage))
        setting = Setting(self.device._dispatcher, storage, self.dtype)
        program = Program(setting, fold(network, shapes), tuple(shapes), self._scratch)
        new = self._programs[key] = _Sized(program, Frames(self.device, program))
        if len(self._programs) > _PROGRAMS_KEPT:
            self._programs.popitem(last=False)
        return new

    def _run_tensors(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """Run on tensors, and on arrays that become some; return the outputs, and the serial."""
        with self._usable_lock:
            program = self._current().program
            self._check_names(inputs)
            logical, storage = self.device._logical, program.setting.storage
            tensors = {
                name: self._check_tensor(name, inputs[name], storage) for name in self._inputs
            }
            results = {
                name: self.device._empty(program.shapes[i], self.dtype, storage)
                for name, i in self._outputs.items()
            }
            given = {self._inputs[name]: tensor.resource for name, tensor in tensors.items()}
            given.update((self._outputs[name], t.resource) for name, t in results.items())
            with logical.lock:
                recording = program.recording(given)
                serial = logical.queue.submit(recording.command_buffer)
            return results, serial

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        if inputs.keys() == self._inputs.keys():
            return
        for name in inputs:
            if name not in self._inputs:
                raise ValueError(f"there is no input {name!r}; there are {self._listed()}")
        missing = next(name for name in self._inputs if name not in inputs)
        raise ValueError(f"input {missing!r} is missing; the graph takes {self._listed()}")

    def _listed(self) -> str:
        return ", ".join(map(repr, self._inputs))

    def _check_shape(self, name: str, value: Any) -> Any:
        wanted = self._shapes[self._inputs[name]]
        if value.shape != wanted:
            raise ValueError(
                f"{name} has shape {value.shape} and the graph is sized for {wanted}; call "
                f"graph.resize({name}={value.shape}) first"
            )
        return value

    def _check_tensor(self, name: str, value: Any, storage: str) -> Tensor:
        if not isinstance(value, Tensor):
            array: Array = self._check_shape(name, as_float_array(value, name))
            return self.device.tensor(array, self.dtype, storage)
        resolve_device(self.device, value)
        self._check_shape(name, value)
        if value.dtype != self.dtype or value.storage != storage:
            raise ValueError(
                f"{name} is a tensor of {value.dtype} stored as {value.storage}; the graph takes "
                f"{self.dtype} and {storage}: make it with device.tensor(…, dtype='{self.dtype}', "
                f"storage='{storage}')"
            )
        return value


@contextmanager
def _naming(name: Any) -> Iterator[None]:
    """Have errors say of which node they are."""
    try:
        yield
    except (TypeError, ValueError, UnsupportedError) as error:
        # Not the error's own type: one that derives from these may take other arguments.
        kinds = (TypeError, ValueError, UnsupportedError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(f"node {name!r}: {error}") from error


def _geometry(stride: Any, padding: Any, weight: Array) -> Geometry:
    """Return the geometry of a convolution by a weight [C_out, C_in, KH, KW]."""
    return Geometry(
        as_pair(stride, "stride", least=1),
        as_pair(padding, "padding", least=0),
        (weight.shape[2], weight.shape[3]),
    )


def _input_shape(name: str, shape: Any) -> Shape:
    wanted = as_shape(shape)
    if len(wanted) not in (3, 4):
        raise ValueError(
            f"input {name!r} has shape {wanted}; it must be [N, C, H, W] or [C, H, W]: use reshape"
        )
    if not all(shape4(wanted, f"input {name!r}")):
        raise ValueError(f"input {name!r} has shape {wanted}; no axis may be of length 0")
    return wanted
