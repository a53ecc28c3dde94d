"""Graph: its nodes run as one submission, resized without being rebuilt."""

from __future__ import annotations

import itertools
import operator as builtin
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from pwconv.device import DeviceLike, resolve_device
from pwconv.dtypes import Array, as_dtype, as_float_array
from pwconv.graph.builder import Builder, input_shape
from pwconv.graph.check import Check, check_nodes
from pwconv.graph.inspect import Profile, draw, measure, summarize_nodes
from pwconv.graph.memory import Scratch
from pwconv.graph.network import Network, printable
from pwconv.graph.passes import RULES, apply_rules, fuse_pair
from pwconv.graph.program import Program, planning
from pwconv.graph.runs import Frames, Handle
from pwconv.lru import LruCache
from pwconv.ops.base import Site
from pwconv.tensor import (
    Shape,
    Tensor,
    check_storage,
    choose_storage,
    empty,
    storage_order,
    uploaded,
)
from pwconv.timing.ceilings import Ceiling
from pwconv.vk import process
from pwconv.vk.pipelines import OnProgress, compile_ahead

# Sets of shapes that a graph returns to without planning or recording anything.
_PROGRAMS_KEPT = 8
_LISTED = 20  # inputs, in errors


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
        Intermediates, which share memory: the most that is in use at the current shapes.
    scratch_reserved : int
        Memory held for intermediates: the most of all shapes since the graph was made.
    """

    weights: int
    inputs: int
    outputs: int
    scratch: int
    scratch_reserved: int


@dataclass(eq=False)
class _Sized:
    """A program, the frames that take arrays through it, and its times once they are taken.

    ``shapes`` are of the nodes that were added by the user: passes may add others.
    """

    shapes: tuple[Shape, ...]
    program: Program
    frames: Frames
    profile: Profile | None = None


class Graph(Builder):
    """Nodes that run on the device one after the other, in one submission.

    Inputs are declared, nodes added, outputs named; then the graph runs at the inputs' shapes, and
    after :meth:`resize` at others. Calls may come from several threads.

    Parameters
    ----------
    device : Device, int or str, optional
        By default the default device.
    dtype : "float32" or "float16"
        Of the activations and the weights on the device; arrays are converted to it.
    storage : "auto", "texture3d" or "buffer"
        Storage of activations on the device; "auto" is the faster one on that kind of device,
        within its limits.
    fuse : bool
        Compute two pointwise convolutions in a row as one dispatch where the device has a kernel
        that was measured to be faster. The intermediate, which nothing else may take, is then not
        stored.

    Raises
    ------
    TypeError, ValueError
        Another dtype or storage.
    NoDeviceError

    Notes
    -----
    A float16 graph sums in float32 and rounds each node's output once, to nearest even.

    Every method that adds a node takes its ``name``, for errors and tables. A node takes earlier
    values only, so that there are no cycles. Nodes without an effect on outputs are not run.

    On buffers the stride of a pointwise convolution that does not pad is a node of its own before
    it, "subsample": the convolution is then as fast as one without.

    Recordings are kept for each set of shapes and submitted again when it comes back: going to
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
        device: DeviceLike | None = None,
        dtype: Any = "float32",
        *,
        storage: str = "auto",
        fuse: bool = True,
    ) -> None:
        check_storage(storage)
        super().__init__(resolve_device(device), as_dtype(dtype), storage)
        self._fuse = bool(fuse)
        self._scratch = Scratch(self.device._context)
        self._programs: LruCache[tuple[Shape, ...], _Sized] = LruCache(_PROGRAMS_KEPT)
        self._ceilings: list[Ceiling] = []

    @property
    def storage(self) -> str:
        """Storage of activations at the current shapes: "texture3d" or "buffer"."""
        return self._current().program.site.storage

    def run(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Any]:
        """Run the graph.

        The first run ends the building: no nodes can be added after it.

        Parameters
        ----------
        inputs : Mapping, optional
            Of inputs by name, as the keywords: for names that are no Python identifiers.
        **named : array_like or Tensor
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
            A value is past the device's limits, or no storage serves every node.
        OutOfMemoryError, ClosedError, DeviceLostError
        """
        given = {**(inputs or {}), **named}
        if any(isinstance(value, Tensor) for value in given.values()):
            return self._run_tensors(given)[0]
        return self.run_async(given).wait()

    def run_async(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> Handle:
        """Run the graph without waiting for it.

        Two runs of arrays are in flight at most: a third waits until the first is done, whose
        results its handle then keeps.

        Parameters
        ----------
        inputs, **named
            As for :meth:`run`; arrays are free again when this returns.

        Returns
        -------
        Handle
            ``handle.wait()`` returns what :meth:`run` does, computed.

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError, ClosedError, DeviceLostError
            As for :meth:`run`.
        """
        given = {**(inputs or {}), **named}
        if any(isinstance(value, Tensor) for value in given.values()):
            results, serial = self._run_tensors(given)
            return Handle(self.device, serial, results, None)
        arrays = self._as_arrays(given)
        with self._usable_lock:
            sized = self._current()
            self._check_names(arrays)
            for name, array in arrays.items():
                self._check_shape(name, array)
            handle = sized.frames.run(arrays)
            handle._arrange = self._arranging()
            return handle

    def resize(self, shapes: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Change the shapes of inputs; those of all other values follow.

        Weights and compiled kernels stay. Returning to one of the last eight sets of shapes costs
        nothing; memory for intermediates grows to the largest and is not given back.

        Parameters
        ----------
        shapes : Mapping, optional
            By input, as the keywords.
        **named : tuple of int
            By input; the others keep theirs.

        Raises
        ------
        TypeError, ValueError
            No such input, no such shape, or one that a node does not take, which the message
            names. The graph is then sized as before.
        UnsupportedError
            A value is past the device's limits, or no storage serves every node.
        OutOfMemoryError, ClosedError
        """
        wanted_shapes = {**(shapes or {}), **named}
        self._check_known(wanted_shapes)
        # Before the lock: what a caller gives may be objects, whose methods use the graph.
        given = {name: input_shape(name, shape) for name, shape in wanted_shapes.items()}
        with self._usable_lock:
            network = self._finish()
            wanted = {name: self._shapes[i] for name, i in self._inputs.items()} | given
            known = self._programs.get(tuple(wanted.values()))
            propagated = list(known.shapes) if known else network.propagate(wanted)
            self._sized(propagated)
            self._shapes = propagated

    def compile(self, on_progress: OnProgress = lambda *_: None) -> None:
        """Compile what the current shapes need, in threads; else the first run does it.

        Parameters
        ----------
        on_progress : callable
            Told, in this thread, how many kernels were compiled, and of how many that were not yet
            when weights were packed.

        Raises
        ------
        ValueError, UnsupportedError, OutOfMemoryError, ClosedError
            As for :meth:`run`.
        """
        with self._usable_lock:
            self._current(on_progress)

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
                site = program.site
                return sum(
                    self._scratch.requirements(site.storage, program.shape4(i), site.dtype).size
                    for i in numbers.values()
                )

            weights = 0
            for i in (*program.dispatches, *program.constants):
                operator = program.network.nodes[i].operator
                weights += operator.weight_bytes if operator else 0
            return Memory(
                weights=weights,
                inputs=tensors(self._inputs),
                outputs=tensors(self._outputs),
                scratch=program.scratch_bytes,
                scratch_reserved=self._scratch.reserved,
            )

    def check(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> Check:
        """Run every node on the device and in float64, and compare each with its bound.

        For a wrong result: it says at which node it begins. Nodes run one by one, each on what the
        device gave for its inputs, so that no error hides another.

        Parameters
        ----------
        inputs, **named
            As for :meth:`run`.

        Returns
        -------
        Check
            A report, node by node; ``print`` it.

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError, ClosedError, DeviceLostError
            As for :meth:`run`.
        """
        given = self._as_arrays({**(inputs or {}), **named})
        with self._usable_lock:
            program = self._current().program
            self._check_names(given)
            storage = program.site.storage
            tensors = {
                name: self._check_tensor(name, given[name], storage) for name in self._inputs
            }
            return check_nodes(self.device, program, tensors)

    def profile(self, runs: int = 20) -> Profile:
        """Time every node at the current shapes, on noise.

        Parameters
        ----------
        runs : int
            Times of each node; at least 1.

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
        count = builtin.index(runs)
        if count < 1:
            raise ValueError(f"runs is {count}; it must be at least 1")
        with self._usable_lock:
            sized = self._current()
            with self.device._context.lock:
                sized.profile, self._ceilings = measure(
                    self.device, sized.program, count, self._ceilings
                )
            return sized.profile

    def summary(self) -> str:
        """Return a table of the nodes that are run, at the current shapes.

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
        listed = ", ".join(
            f"{printable(name)}={self._shapes[i]}" for name, i in self._inputs.items()
        )
        return f"<pwconv.Graph({listed}) of {len(self._nodes)} nodes, {self.dtype}>"

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _usable_lock(self) -> Any:
        """The lock, for a call that may begin: a forked child may have it locked."""
        self.device._context.enter()
        process.enter(self._lock, "the graph")
        return self._lock

    def _current(self, on_progress: OnProgress = lambda *_: None) -> _Sized:
        with self._lock:
            self._finish(self._compiling)
            return self._sized(self._shapes, on_progress)

    def _compiling(self, network: Network) -> AbstractContextManager[object]:
        """Have threads compile, in the block, what a network at the current shapes needs."""
        site, network, shapes = self._ruled(network, self._shapes)
        return compile_ahead(planning(site, network, shapes), network.order)

    def _sized(self, shapes: list[Shape], on_progress: OnProgress = lambda *_: None) -> _Sized:
        """Return the program for these shapes of all nodes that were added."""
        network = self._finish()
        key = tuple(shapes[i] for i in self._inputs.values())
        known = self._programs.find(key)
        if known is not None:
            return known
        program = Program(*self._ruled(network, shapes), self._scratch, on_progress)
        return self._programs.keep(
            key, _Sized(tuple(shapes), program, Frames(self.device, program))
        )

    def _ruled(
        self, network: Network, shapes: Sequence[Shape]
    ) -> tuple[Site, Network, tuple[Shape, ...]]:
        """Return where nodes of these shapes run, the network after passes, and its shapes."""
        context = self.device._context
        named = {f"node {self._nodes[i].name!r}": shape for i, shape in enumerate(shapes)}
        storages = network.storages(shapes, storage_order(context, self._storage))
        storage = choose_storage(context, named, self.dtype, storages)
        site = replace(self._site, storage=storage)
        rules = [rule for rule in RULES if self._fuse or rule is not fuse_pair]
        network, extended = apply_rules(network, shapes, site, rules)
        return site, network, tuple(extended)

    def _run_tensors(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """Run on tensors, and on arrays that become some; return the outputs, and the serial."""
        given_inputs = self._as_arrays(inputs)
        with self._usable_lock:
            program = self._current().program
            self._check_names(given_inputs)
            context, storage = self.device._context, program.site.storage
            tensors = {
                name: self._check_tensor(name, given_inputs[name], storage) for name in self._inputs
            }
            results = {
                name: empty(self.device, program.shapes[i], self.dtype, storage)
                for name, i in self._outputs.items()
            }
            given = {self._inputs[name]: tensor.resource for name, tensor in tensors.items()}
            given.update((self._outputs[name], t.resource) for name, t in results.items())
            context.queue.make_room()
            with context.lock:
                recording = program.recording(given)
                # A run takes long enough to be waited for: a fence of its own saves a submission.
                serial = recording.submit(awaited=True)
            return self._arranging()(results), serial

    def _arranging(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Return what makes a run's results those of the caller, at the current shapes."""
        return dict

    def _as_arrays(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arrays and tensors of a call.

        Before the lock is taken and shapes are looked at: what is converted may be objects, whose
        methods use the graph.
        """
        self._check_known(inputs)
        return {
            name: value if isinstance(value, Tensor) else as_float_array(value, printable(name))
            for name, value in inputs.items()
        }

    def _check_known(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._inputs:
                raise ValueError(f"there is no input {name!r}; there are {self._listed()}")

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        if inputs.keys() == self._inputs.keys():
            return
        self._check_known(inputs)
        missing = next(name for name in self._inputs if name not in inputs)
        raise ValueError(f"input {missing!r} is missing; the graph takes {self._listed()}")

    def _listed(self) -> str:
        shown = ", ".join(map(repr, itertools.islice(self._inputs, _LISTED)))
        more = len(self._inputs) - _LISTED
        return f"{shown} and {more} more" if more > 0 else shown

    def _check_shape(self, name: str, value: Array | Tensor) -> None:
        wanted = self._shapes[self._inputs[name]]
        if value.shape == wanted:
            return
        shown = printable(name)
        axes = (0, 3, 1, 2) if len(wanted) == 4 else (2, 0, 1)
        if len(wanted) in (3, 4) and value.shape == (*wanted[:-3], *wanted[-2:], wanted[-3]):
            advice = f"pass {shown}.transpose{axes}: channels come before H and W"
        else:
            advice = f"call graph.resize({shown}={value.shape}) first"
        raise ValueError(
            f"{shown} has shape {value.shape} and the graph is sized for {wanted}; {advice}"
        )

    def _check_tensor(self, name: str, value: Array | Tensor, storage: str) -> Tensor:
        self._check_shape(name, value)
        if not isinstance(value, Tensor):
            return uploaded(self.device, value, self.dtype, storage)
        resolve_device(self.device, value)
        if value.dtype != self.dtype or value.storage != storage:
            raise ValueError(
                f"{printable(name)} is a tensor of {value.dtype} stored as {value.storage}; the "
                f"graph takes {self.dtype} and {storage}: make it with device.tensor(…, "
                f"dtype='{self.dtype}', storage='{storage}')"
            )
        return value
