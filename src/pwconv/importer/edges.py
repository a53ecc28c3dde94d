"""Graphs whose inputs and outputs have a model's names and axes, whatever they lie as inside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pwconv.device import Device
from pwconv.dtypes import UINT8, Array, DType
from pwconv.graph import Graph
from pwconv.graph.network import Network, printable
from pwconv.importer.view import View, contiguous
from pwconv.lru import LruCache
from pwconv.ops import Operator
from pwconv.tensor import Shape, Tensor, as_shape

_SIZES_KEPT = 8


@dataclass(frozen=True, eq=False)
class Edges:
    """Views of the inputs, and of the outputs with the graph's name of each; constant outputs.

    Of inputs that are in ``measured``, shapes alone are used.
    """

    inputs: dict[str, View]
    outputs: dict[str, tuple[str, View]]
    constants: dict[str, Array]
    measured: frozenset[str] = frozenset()


Build = Callable[[Mapping[str, Shape]], "tuple[ImportedGraph, Edges]"]


class ImportedGraph(Graph):
    """A graph that is built anew, from a model, for each set of shapes of its inputs.

    Weights are packed once: what is equal to what was packed before is that.
    """

    def __init__(self, device: Device, dtype: DType, *, storage: str) -> None:
        super().__init__(device, dtype, storage=storage)
        self._packed: dict[bytes, Operator] = {}
        self._built: LruCache[tuple[Shape, ...], tuple[ImportedGraph, Edges]] = LruCache(
            _SIZES_KEPT
        )
        self._edges = Edges({}, {}, {})
        self.node_name = ""
        """Of the model's node that is being added."""

    def copy_empty(self) -> ImportedGraph:
        """Return a graph of the same settings without nodes, which shares packed weights."""
        copy = ImportedGraph(self.device, self.dtype, storage=self._storage)
        copy._packed = self._packed
        return copy

    def build(self, build: Build, sizes: Mapping[str, Shape], declared: Mapping[str, Any]) -> None:
        """Become what a function builds, for these shapes of inputs."""
        self._build, self._sizes, self._declared = build, dict(sizes), declared
        self._adopt(build(sizes))

    def resize(self, shapes: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Change the shapes of inputs, as :meth:`pwconv.Graph.resize` does."""
        given = {**(shapes or {}), **named}
        self._check_known(given)
        wanted = dict(self._sizes)
        for name, shape in given.items():
            wanted[name] = as_shape(shape)
            self._check_declared(name, wanted[name])
        with self._usable_lock:
            before = self._state()
            key = tuple(wanted.values())
            built = self._built.find(key) or self._built.keep(key, self._build(wanted))
            try:
                self._adopt(built)
                self._current()
            except BaseException:
                self.__dict__.update(before)
                raise
            self._sizes = wanted

    # -- inside -----------------------------------------------------------------------------------

    def leave_out_unused(self) -> frozenset[str]:
        """Take away the inputs that no output depends on, and return their names."""
        network = Network(tuple(self._nodes), self._inputs, self._outputs)
        reached = network.reached
        unused = frozenset(name for name, i in self._inputs.items() if i not in reached)
        self._inputs = {name: i for name, i in self._inputs.items() if name not in unused}
        return unused

    def _check_known(self, names: Iterable[str]) -> None:
        super()._check_known(name for name in names if name not in self._edges.measured)

    def _state(self) -> dict[str, Any]:
        names = ("_nodes", "_shapes", "_names", "_inputs", "_outputs", "_output_names", "_network")
        # Programs too: inputs of different shapes may be of one shape inside.
        return {name: self.__dict__[name] for name in (*names, "_programs", "_edges")}

    def _adopt(self, built: tuple[ImportedGraph, Edges]) -> None:
        graph, edges = built
        graph._edges = edges
        self.__dict__.update(graph._state())

    def _check_declared(self, name: str, shape: Shape) -> None:
        declared = self._declared[name]
        if min(shape, default=1) < 1:
            raise ValueError(f"{printable(name)} is {shape}; no axis may be below 1")
        if declared is not None and (
            len(declared) != len(shape)
            or any(isinstance(n, int) and n != m for n, m in zip(declared, shape, strict=True))
        ):
            shown = ", ".join("?" if n is None else str(n) for n in declared)
            raise ValueError(f"{printable(name)} is {shape}; the model has ({shown})")

    def _check_sized(self, name: str, shape: Shape) -> None:
        wanted = self._edges.inputs[name].shape
        if shape != wanted:
            raise ValueError(
                f"{printable(name)} has shape {shape} and the graph is sized for {wanted}; call "
                f"graph.resize({{{name!r}: {shape}}}) first"
            )

    def _free_name(self, kind: str) -> str:
        """Return a name of a node: that of the model's."""
        return super()._free_name(self.node_name or kind)

    def _pack(self, operator: Operator) -> Operator:
        digest = hashlib.blake2b(repr((operator.kind, self._site.storage)).encode())
        for each in operator.parameters:
            if each.on_device:
                return super()._pack(operator)
            for array in (each.matrices(), each.bias, *(each.norm or (None, None))):
                if array is not None:
                    digest.update(repr((array.shape, array.dtype)).encode())
                    digest.update(np.ascontiguousarray(array).data)
        known = self._packed.get(digest.digest())
        if known is None:
            known = self._packed[digest.digest()] = super()._pack(operator)
        return replace(operator, parameters=known.parameters)

    def _as_arrays(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays as the graph has them inside."""
        self._check_known(inputs)
        converted: dict[str, Any] = {}
        for name, given in inputs.items():
            view = self._edges.inputs[name]
            if name in self._edges.measured:
                self._check_sized(
                    name, given.shape if isinstance(given, Tensor) else np.shape(given)
                )
                continue
            if isinstance(given, Tensor):
                if view.shape != view.value.shape or view.strides != contiguous(view.shape):
                    raise ValueError(
                        f"{printable(name)} is a tensor; the graph has it as {view.value.shape} "
                        f"inside, and not {view.shape}: pass an array"
                    )
                converted[name] = given
                continue
            array = np.asarray(given)
            if array.dtype.kind in "uib":  # the device makes floats of bytes
                of_bytes = array.dtype in (UINT8, np.dtype(bool))
                array = array.astype(UINT8 if of_bytes else np.float32, copy=False)
            if array.dtype != UINT8:
                (array,) = super()._as_arrays({name: array}).values()
            self._check_sized(name, array.shape)
            axes = view.axes
            if axes is not None:
                array = array.transpose(sorted(range(array.ndim), key=lambda i: axes[i]))
            converted[name] = array.reshape(view.value.shape)
        return converted

    def _arranging(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return partial(_arranged, self._edges)


def _arranged(edges: Edges, results: dict[str, Any]) -> dict[str, Any]:
    """Return results with the model's names and axes."""
    arranged: dict[str, Any] = {}
    for name, (inner, view) in edges.outputs.items():
        found = results[inner]
        if isinstance(found, Tensor):
            if view.shape != found.shape or view.strides != contiguous(view.shape):
                raise ValueError(
                    f"output {printable(name)} of shape {view.shape} lies as {found.shape} inside; "
                    "pass arrays, and no tensors"
                )
            arranged[name] = found
            continue
        flat = np.ascontiguousarray(found).reshape(-1)[view.offset :]
        strides = [stride * flat.itemsize for stride in view.strides]
        arranged[name] = np.array(np.lib.stride_tricks.as_strided(flat, view.shape, strides))
    return {**arranged, **{name: array.copy() for name, array in edges.constants.items()}}
