"""A model of ONNX as a graph: sizes, cuts, edges, and the error of what cannot be computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pwconv.device import DeviceLike, resolve_device
from pwconv.dtypes import as_dtype
from pwconv.errors import UnsupportedError
from pwconv.graph import Graph, Value
from pwconv.importer import operators  # noqa: F401  # fills the registry
from pwconv.importer.edges import Edges, ImportedGraph
from pwconv.importer.model import Model, Node, read_model
from pwconv.importer.network import Importer, count_flop
from pwconv.importer.view import View
from pwconv.tensor import Shape, as_shape

_LISTED = 20  # refusals, in errors


def import_model(
    model: Any,
    *,
    device: DeviceLike | None,
    dtype: Any,
    storage: str,
    shapes: Mapping[str, Any] | None,
    inputs: Iterable[str] | None,
    outputs: Iterable[str] | None,
) -> Graph:
    """Do what :func:`pwconv.from_onnx` says."""
    read = read_model(model)
    cut_inputs = list(read.inputs) if inputs is None else _names(inputs, "inputs", read)
    cut_outputs = list(read.outputs) if outputs is None else _names(outputs, "outputs", read)
    given = {} if shapes is None else dict(shapes)
    for name in given:
        if name not in cut_inputs:
            raise ValueError(f"shapes has {name!r}; inputs are {', '.join(map(repr, cut_inputs))}")
    used = reached(read, cut_inputs, cut_outputs)
    sizes = {name: input_shape(read, name, given.get(name)) for name in cut_inputs if name in used}
    if dtype is None:
        types = {read.types.get(name, np.dtype(np.float32)) for name in sizes}
        dtype = "float16" if types == {np.dtype(np.float16)} else "float32"

    def build(wanted: Mapping[str, Shape]) -> tuple[ImportedGraph, Edges]:
        return build_graph(read, graph.copy_empty(), wanted, cut_outputs)

    graph = ImportedGraph(resolve_device(device), as_dtype(dtype), storage=storage)
    graph.build(build, sizes, {name: read.inputs.get(name) for name in sizes})
    return graph


def build_graph(
    model: Model, graph: ImportedGraph, sizes: Mapping[str, Shape], outputs: Sequence[str]
) -> tuple[ImportedGraph, Edges]:
    """Add a model's nodes to a graph, and return it with what is known of its edges.

    Raises
    ------
    UnsupportedError
    """
    at = Importer(model, graph, sizes)
    readings = {name: at.values[name] for name in sizes}
    at.walk(outputs)
    if at.refusals:
        raise UnsupportedError(_refused(at, outputs))
    edges = Edges({name: view for name, view in readings.items() if isinstance(view, View)}, {}, {})
    named: dict[Value, str] = {}
    taken = {view.value for view in edges.inputs.values()}
    for name in outputs:
        if name not in at.values:
            if name not in at.producers:
                raise ValueError(f"model's output {name!r} is given by no node")
            kind = at.producers[name].kind
            raise UnsupportedError(
                f"outputs has {name!r}, an output of {kind} that is not computed"
            )
        value = at.values[name]
        if not isinstance(value, View):
            assert value is not None
            edges.constants[name] = value
            continue
        if value.value in taken:  # an input itself
            value = value.over(graph.activation(value.value, None))
        if value.value not in named:
            named[value.value] = name
            graph.output(name, value.value)
        edges.outputs[name] = named[value.value], value
    if not edges.outputs:
        raise ValueError("model's outputs are all constant; there is nothing to compute")
    return graph, replace(edges, measured=graph.leave_out_unused())


def input_shape(model: Model, name: str, given: Any) -> Shape:
    """Return an input's shape: what is given, where the model leaves it open.

    Raises
    ------
    TypeError, ValueError
    """
    declared = model.inputs.get(name)
    if given is not None:
        shape = as_shape(given)
        if min(shape, default=1) < 1:
            raise ValueError(f"shapes[{name!r}] is {shape}; no axis may be below 1")
        fits = declared is None or (
            len(declared) == len(shape)
            and all(
                not isinstance(length, int) or length == wanted
                for length, wanted in zip(declared, shape, strict=True)
            )
        )
        if not fits:
            raise ValueError(f"shapes[{name!r}] is {shape}; the model has {_shown(declared)}")
        return shape
    if declared is None:
        raise ValueError(f"the model says no shape of {name!r}; give shapes={{{name!r}: (…)}}")
    lengths = [1 if i == 0 and not isinstance(n, int) else n for i, n in enumerate(declared)]
    if not all(isinstance(n, int) for n in lengths):
        raise ValueError(
            f"input {name!r} has shape {_shown(declared)}, which is not fixed; give "
            f"shapes={{{name!r}: (…)}}"
        )
    return tuple(int(n) for n in lengths if n is not None)


def _shown(declared: Sequence[int | str | None] | None) -> str:
    return f"({', '.join('?' if n is None else str(n) for n in declared or ())})"


def _names(names: Iterable[str], what: str, model: Model) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"{what} is {names!r}; it must be a list of names")
    found = list(names)
    given = (name for node in model.nodes for name in node.outputs if name)
    known = {*model.inputs, *model.constants, *given}
    for name in found:
        if name not in known:
            raise ValueError(f"{what} has {name!r}, which no node of the model gives")
    if not found:
        raise ValueError(f"{what} is empty; it must have at least one name")
    return found


def reached(model: Model, inputs: Sequence[str], outputs: Sequence[str]) -> set[str]:
    """Return the names that outputs depend on; those of inputs end the walk."""
    producers = {name: node for node in model.nodes for name in node.outputs if name}
    reached: set[str] = set()
    pending = list(outputs)
    while pending:
        name = pending.pop()
        if not name or name in reached:
            continue
        reached.add(name)
        if name not in inputs and name in producers:
            pending += producers[name].inputs
    missing = [n for n in model.inputs if n in reached and n not in inputs]
    if missing:
        raise ValueError(
            f"inputs leaves out {missing[0]!r}, which outputs depend on besides; name it too"
        )
    return reached


def _refused(at: Importer, outputs: Sequence[str]) -> str:
    """Return the error of a model with nodes that cannot be computed."""
    refusals = at.refusals
    computed = at.values.keys() - at.assumed
    done = [node for node in at.model.nodes if node.outputs and node.outputs[0] in computed]
    rest = [node for node in at.model.nodes if not node.outputs or node.outputs[0] not in computed]
    frontier = dict.fromkeys(
        name
        for node in rest
        for name in node.inputs
        if name in computed and isinstance(at.values[name], View) and name in at.producers
    )
    lines = [
        f"{len(refusals)} of the model's {len(at.model.nodes)} nodes cannot be computed:",
        *(f"  {each}" for each in refusals[:_LISTED]),
    ]
    if len(refusals) > _LISTED:
        lines.append(f"  and {len(refusals) - _LISTED} more")
    if any(each.misfit for each in refusals):
        given = ", ".join(f"{name!r} is {shape}" for name, shape in at.sizes.items())
        lines.append(
            f"ONNX's own rules refuse such nodes, where {given}: give the inputs other shapes, or "
            "repair the file"
        )
    if frontier and not all(each.misfit for each in refusals):
        share = _share(at, done, rest)
        lines.append(
            f"what is before them can be computed{share}: cut the model by "
            f"outputs={[*frontier][:_LISTED]}, and compute the rest elsewhere"
        )
    return "\n".join(lines)


def _share(at: Importer, done: Sequence[Node], rest: Sequence[Node]) -> str:
    """Return the share of products that some nodes have, in words; "" where it is not known."""
    before, after = (count_flop(nodes, at.values) for nodes in (done, rest))
    if not before or after is None:
        return ""
    return f", {100 * before / (before + after):.0f} % of the arithmetic"
