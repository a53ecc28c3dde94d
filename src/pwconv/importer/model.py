"""Model files of ONNX: read, checked, and ready to be walked through."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from pwconv.dtypes import Array

# The largest file of Protocol Buffers, whose sizes are signed and of 32 bits.
_MOST_BYTES = 2**31 - 1
MOST_CONSTANT_BYTES = 2**31
"""Of one constant, read or folded: no device takes a larger weight."""
_MOST_AXES = 8
_MOST_NODES = 10**6  # that functions are
_DEEPEST_FUNCTIONS = 100
_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, eq=False)
class Node:
    """A node of a file.

    Attributes
    ----------
    name : str
        As errors call it: its own, or that of its first output.
    kind : str
        The operator, with its domain where that is not ONNX's.
    inputs, outputs : tuple of str
        Names of values; "" is one that is left out.
    attributes : Mapping
    opset : int
        The version of the operator set.
    proto : onnx.NodeProto
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int
    proto: onnx.NodeProto

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or what stands for one that is not there."""
        return self.attributes.get(name, default)


@dataclass(frozen=True, eq=False)
class Model:
    """A file's network.

    Attributes
    ----------
    nodes : list of Node
        Each after those whose outputs it takes.
    inputs : dict
        Shape of each input: a length an axis, or the name of one that is not fixed, or None.
    types : dict
        NumPy type of each input's elements.
    outputs : list of str
    constants : dict
        Arrays by name.
    """

    nodes: list[Node]
    inputs: dict[str, tuple[int | str | None, ...] | None]
    types: dict[str, np.dtype[Any]]
    outputs: list[str]
    constants: dict[str, Array] = field(default_factory=dict)


def read_model(model: Any) -> Model:
    """Read a model.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto

    Raises
    ------
    FileNotFoundError, TypeError
    ValueError
        It is damaged, or not what ONNX lets it be; the message says where.
    """
    proto, folder = _parse(model)
    if proto.functions:
        proto = _inlined(proto)
    graph = proto.graph
    if not graph.node:
        raise ValueError("model has no nodes: it is empty, damaged, or not a model of ONNX")
    opsets = {each.domain: each.version for each in proto.opset_import}
    opset = max((opsets[d] for d in _DOMAINS if d in opsets), default=1)
    constants = _initializers(graph, folder)
    inputs = {each.name: each for each in graph.input if each.name not in constants}
    if "" in inputs:
        raise ValueError("model has an input without a name: the file is damaged")
    shapes = {name: _declared_shape(each) for name, each in inputs.items()}
    types = {name: _declared_type(each) for name, each in inputs.items()}
    nodes = []
    known = {"", *constants, *inputs}
    for i in _in_order(graph.node):
        node = _node(graph.node[i], opset, i)
        for name in node.inputs:
            if name not in known:
                raise ValueError(
                    f"node {node.name!r} takes {name!r}, which no node before it, input or "
                    "initializer gives: the file is damaged, or its nodes are in a circle"
                )
        for name in filter(None, node.outputs):
            if name in known:
                raise ValueError(
                    f"node {node.name!r} gives {name!r}, which there is already; names of values "
                    "must be different"
                )
            known.add(name)
        nodes.append(node)
    outputs = [each.name for each in graph.output]
    missing = [name for name in outputs if not name or name not in known]
    if missing or not outputs:
        raise ValueError(
            f"model's output {missing[0]!r} is given by no node"
            if missing
            else "model has no output"
        )
    return Model(nodes, shapes, types, outputs, constants)


def _parse(model: Any) -> tuple[onnx.ModelProto, Path | None]:
    """Return the model, and the folder of its external data."""
    if isinstance(model, onnx.ModelProto):
        return model, None
    folder = None
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        with path.open("rb") as file:
            size = path.stat().st_size
            data = file.read(_MOST_BYTES + 1) if size <= _MOST_BYTES else b""
        if max(size, len(data)) > _MOST_BYTES:  # a device has no size, and may have no end
            raise ValueError(
                f"model {str(path)!r} has {max(size, len(data)):,} bytes or more; at most "
                f"{_MOST_BYTES:,} can be read: save its weights as external data"
            )
        folder = path.resolve().parent
    elif isinstance(model, (bytes, bytearray, memoryview)):
        data = bytes(model)
    else:
        raise TypeError(
            f"model is {type(model).__name__}; it must be a path, bytes or an onnx.ModelProto"
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # of a type that each version of protobuf has elsewhere
        raise ValueError(f"model cannot be read: {error}") from error
    return proto, folder


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose nodes are none of its own functions.

    Raises
    ------
    ValueError
        Its functions are damaged, in a circle, or too many nodes.
    """
    from onnx import inliner

    bodies = {(each.domain, each.name): each.node for each in model.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        if depth > _DEEPEST_FUNCTIONS:
            raise ValueError(
                f"model's functions are more than {_DEEPEST_FUNCTIONS} deep, or in a circle"
            )
        total = 0
        for node in nodes:
            key = node.domain, node.op_type
            if key in bodies and key not in counts:
                counts[key] = count(bodies[key], depth + 1)
            total += counts.get(key, 1)
            for each in node.attribute:
                for graph in (each.g, *each.graphs):
                    total += count(graph.node, depth + 1)
        return total

    total = count(model.graph.node, 0)
    if total > _MOST_NODES:
        raise ValueError(f"model's functions are {total:,} nodes; at most {_MOST_NODES:,} are read")
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # of any type
        raise ValueError(f"model's functions cannot be inlined: {error}") from error


def _initializers(graph: onnx.GraphProto, folder: Path | None) -> dict[str, Array]:
    if graph.sparse_initializer:
        raise ValueError("model has sparse initializers; save it with dense ones")
    constants: dict[str, Array] = {}
    for each in graph.initializer:
        if not each.name or each.name in constants:
            raise ValueError(f"initializer {each.name!r}: names must be given, and be different")
        constants[each.name] = as_constant(each, f"initializer {each.name!r}", folder)
    return constants


def as_constant(tensor: onnx.TensorProto, what: str, folder: Path | None = None) -> Array:
    """Return a file's tensor as an array.

    Raises
    ------
    ValueError
        Its type, its shape or its data are not right.
    """
    shape = tuple(tensor.dims)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError, TypeError):
        raise ValueError(f"{what} has the element type {tensor.data_type}, which is none") from None
    check_constant(shape, dtype.itemsize, what)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        array = _external(tensor, shape, dtype, what, folder)
    else:
        try:
            array = np.asarray(numpy_helper.to_array(tensor))
        except Exception as error:  # whatever a damaged tensor makes it raise
            raise ValueError(f"{what} of shape {shape} is damaged: {error}") from error
    # Each bfloat16 is a float32; NumPy has none itself.
    of_bfloat16 = tensor.data_type == onnx.TensorProto.BFLOAT16
    return array.astype(np.float32) if of_bfloat16 else array


def check_constant(shape: Sequence[int], itemsize: int, what: str) -> None:
    """Raise for a constant that would be too large, before it is made.

    Raises
    ------
    ValueError
    """
    size = itemsize
    for length in shape:
        if length < 0:
            raise ValueError(f"{what} has shape {tuple(shape)}; no axis may be negative")
        size *= int(length)
    if size > MOST_CONSTANT_BYTES or len(shape) > _MOST_AXES:
        raise ValueError(
            f"{what} has shape {tuple(shape)}, {size:,} bytes; at most {MOST_CONSTANT_BYTES:,} "
            f"and {_MOST_AXES} axes are read"
        )


def _external(
    tensor: onnx.TensorProto, shape: tuple[int, ...], dtype: Any, what: str, folder: Path | None
) -> Array:
    """Read a tensor from a file of its own, which must lie in the model's folder."""
    keys = {each.key: each.value for each in tensor.external_data}
    if folder is None:
        raise ValueError(f"{what} lies in another file; give the model's path, not its bytes")
    location = keys.get("location", "")
    path = folder / location
    # Links too: resolved, it must be the very path that the file names.
    try:
        itself, exists = path.resolve() == path.absolute(), path.is_file()
    except (OSError, RuntimeError) as error:  # the name is too long, or of links in a circle
        raise ValueError(f"{what} lies in {location[:100]!r}: {error}"[:300]) from None
    if not location or Path(location).is_absolute() or not itself:
        raise ValueError(
            f"{what} lies in {location!r}; it must be a file in the model's folder, and no link"
        )
    if not exists:
        raise ValueError(f"{what} lies in {location!r}, which is not there")
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    try:
        offset, length = int(keys.get("offset", 0)), int(keys.get("length", wanted))
    except ValueError:
        raise ValueError(f"{what} has an offset or length that is no number") from None
    if offset < 0 or length != wanted or offset + length > path.stat().st_size:
        raise ValueError(
            f"{what} of {wanted:,} bytes lies at {offset:,} in {location!r}, {length:,} long; the "
            f"file has {path.stat().st_size:,}"
        )
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape).astype(dtype)


def _in_order(nodes: Sequence[onnx.NodeProto]) -> Iterable[int]:
    """Return positions of nodes, each after those whose outputs it takes, where there is no circle.

    ONNX wants files to be so. Some tools append the casts that they add, and ONNX Runtime sorts.
    """
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waits = {i: [makers[n] for n in node.input if n in makers] for i, node in enumerate(nodes)}
    if all(j < i for i, before in waits.items() for j in before):
        return waits
    try:
        return list(TopologicalSorter(waits).static_order())
    except CycleError:
        return waits


def _declared_shape(value: onnx.ValueInfoProto) -> tuple[int | str | None, ...] | None:
    if value.type.WhichOneof("value") != "tensor_type":
        raise ValueError(f"input {value.name!r} is no tensor")
    if not value.type.tensor_type.HasField("shape"):
        return None
    lengths: list[int | str | None] = []
    for axis in value.type.tensor_type.shape.dim:
        if axis.WhichOneof("value") == "dim_value" and axis.dim_value >= 0:
            lengths.append(axis.dim_value or None)
        else:
            lengths.append(axis.dim_param or None)
    return tuple(lengths)


def _declared_type(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    kind = value.type.tensor_type.elem_type
    try:
        found = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    except (KeyError, ValueError, TypeError):
        raise ValueError(f"input {value.name!r} has the element type {kind}") from None
    if found.kind in "cOSU":
        raise ValueError(f"input {value.name!r} is of {onnx.TensorProto.DataType.Name(kind)}")
    return found


def _node(proto: onnx.NodeProto, opset: int, position: int) -> Node:
    outputs = tuple(proto.output)
    name = proto.name or next(filter(None, outputs), "") or f"{proto.op_type} {position}"
    domain = "" if proto.domain in _DOMAINS else f"{proto.domain}."
    attributes: dict[str, Any] = {}
    for each in proto.attribute:
        if each.type == onnx.AttributeProto.TENSOR:
            attributes[each.name] = as_constant(each.t, f"node {name!r}: {each.name}")
        elif each.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            attributes[each.name] = None
        else:
            attributes[each.name] = _plain(onnx.helper.get_attribute_value(each))
    return Node(name, domain + proto.op_type, tuple(proto.input), outputs, attributes, opset, proto)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
