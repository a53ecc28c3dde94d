"""A model walked through node by node: constants folded, the rest added to a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper
from onnx.checker import ValidationError
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_node_outputs

from pwconv.dtypes import FLOAT32, Array
from pwconv.errors import UnsupportedError
from pwconv.graph import Value
from pwconv.graph.network import printable
from pwconv.importer.edges import ImportedGraph
from pwconv.importer.model import MOST_CONSTANT_BYTES, Model, Node, check_constant
from pwconv.importer.view import View, contiguous, image_shape, usual_view
from pwconv.ops.rearrange import of_strided
from pwconv.tensor import Shape

Operand = View | Array | None
Convert = Callable[["Importer", Node], "Operand | Sequence[Operand]"]

# Operators over integers and shapes, which onnx.reference computes where all inputs are known.
# Those of float64 weights are among them; convolutions and what is like them are not: see CONVERTS.
FOLDED = {
    *("Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "Cos", "CumSum"),
    *("DepthToSpace", "Div", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather"),
    *("GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity", "IsInf", "IsNaN"),
    *("Less", "LessOrEqual", "Log", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "NonZero", "Not"),
    *("Or", "Pad", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "Relu", "Reshape", "Round", "ScatterND", "Sigmoid", "Sign", "Sin"),
    *("Size", "Slice", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile"),
    *("Transpose", "Trilu", "Unsqueeze", "Where", "Xor"),
}
# Their operands are broadcast.
_BROADCAST = frozenset(
    {
        *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max"),
        *("Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor"),
    }
)
_MOST_FOLDED_BYTES = 2 * MOST_CONSTANT_BYTES  # of all that is folded together

# Of whole numbers these round, or wrap around in narrow types; of floats they do neither.
_ROUNDING = frozenset({"Div", "Pow", "PRelu", "ReduceL2", "ReduceMean"})
_WRAPPING = frozenset({"Add", "Gemm", "MatMul", "Mul", "Neg", "ReduceSum", "Sub", "Sum"})

_MOST_NUMBERS = 1024  # of an array that says a shape
_LONGEST_NAME = 100  # in errors

# Operators of products, of which shapes tell how many.
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_PRODUCTS = _RECURRENT | {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# And of which they do not.
_UNCOUNTED = frozenset(
    {
        *("Attention", "ConvInteger", "DeformConv", "Einsum", "If", "Loop", "MatMulInteger"),
        *("QLinearConv", "QLinearMatMul", "Scan"),
    }
)

CONVERTS: dict[str, Convert] = {}
"""What adds a node to a graph, by operator; importer/operators.py fills it."""


@dataclass(frozen=True)
class Declaration:
    """What docs/operators.md says of an operator.

    Attributes
    ----------
    by : str
        What computes it: methods of :class:`pwconv.Graph`, or in what else it ends.
    limits : str
        What its nodes must be like; others are refused. "" if there is no such limit.
    """

    by: str
    limits: str


DECLARATIONS: dict[str, Declaration] = {}
"""For each operator of :data:`CONVERTS`."""


class MisfitError(ValueError):
    """A node's inputs are not as its operator has them: nothing else computes it either."""


@dataclass(frozen=True)
class Refusal:
    """A node that cannot be computed, and why; ``misfit`` where nothing else could either."""

    node: Node
    why: str
    misfit: bool = False

    def __str__(self) -> str:
        kind, name = (each[:_LONGEST_NAME] for each in (self.node.kind, self.node.name))
        return f"{printable(kind)} {name!r}: {self.why}"


def converts(
    *kinds: str, by: str | Mapping[str, str], limits: str = ""
) -> Callable[[Convert], Convert]:
    """Register the function that adds nodes of some kinds to a graph.

    ``by`` and ``limits`` are those of :class:`Declaration`; a mapping has ``by`` for each kind.
    """

    def register(function: Convert) -> Convert:
        for kind in kinds:
            CONVERTS[kind] = function
            DECLARATIONS[kind] = Declaration(by if isinstance(by, str) else by[kind], limits)
        return function

    return register


class Importer:
    """Adds a model's nodes to a graph.

    Parameters
    ----------
    model : Model
    graph : ImportedGraph
        Without inputs yet.
    shapes : Mapping
        Of every input, complete.

    Attributes
    ----------
    values : dict
        A view of a graph's value, or an array where it is known, by name.
    producers : dict
        The node that gives each value.
    positions : dict
        Each node's place in the file.
    refusals : list of Refusal
    outputs : frozenset of str
        Values that are asked for.
    assumed : set of str
        Values that come after a refused node: of a known shape, so that what takes them is looked
        at too.
    whole : dict
        The types of values that are whole numbers in the file, by name.
    """

    def __init__(self, model: Model, graph: ImportedGraph, shapes: Mapping[str, Shape]) -> None:
        self.model = model
        self.graph = graph
        self.producers = {name: node for node in model.nodes for name in node.outputs if name}
        self.positions = {node: i for i, node in enumerate(model.nodes)}
        self.values: dict[str, Operand] = dict(model.constants)
        self.refusals: list[Refusal] = []
        self.assumed: set[str] = set()
        self.outputs: frozenset[str] = frozenset()
        self.sizes = dict(shapes)
        self.whole = {n: t for n, t in model.types.items() if n in shapes and t.kind in "iub"}
        self._folded_bytes = 0
        for name, shape in shapes.items():
            self.values[name] = self._input(name, shape)

    def walk(self, outputs: Iterable[str]) -> None:
        """Add the nodes that some values depend on; those that cannot be are in ``refusals``."""
        self.outputs = frozenset(outputs)
        needed, pending = set(), list(self.outputs)
        while pending:
            name = pending.pop()
            node = self.producers.get(name)
            if name not in self.values and node and node not in needed:
                needed.add(node)
                pending += filter(None, node.inputs)
        for node in self.model.nodes:
            if node in needed:
                self._add(node)

    # -- what operators ask for -------------------------------------------------------------------

    def operand(self, node: Node, i: int) -> Operand:
        """Return an input of a node; None if it is left out."""
        return self.values[node.inputs[i]] if len(node.inputs) > i and node.inputs[i] else None

    def view(self, node: Node, i: int = 0) -> View:
        """Return an input that is computed, or becomes a constant on the device."""
        value = self.operand(node, i)
        if value is None:
            raise ValueError(f"input {i} is missing")
        return value if isinstance(value, View) else self.resident(value)

    def resident(self, array: Array) -> View:
        """Return a constant on the device."""
        shape = array.shape
        value = self.graph.constant(array.astype(FLOAT32).reshape(image_shape(shape)))
        return usual_view(value, shape)

    def constant(self, node: Node, i: int, what: str) -> Array | None:
        """Return an input that must be known now; None if it is left out.

        Raises
        ------
        UnsupportedError
            It is computed.
        """
        value = self.operand(node, i)
        if isinstance(value, View):
            raise UnsupportedError(f"{what} is computed by the network; it must be a constant")
        return value

    def setting(self, node: Node, i: int, name: str) -> Array | None:
        """Return what newer opsets have as an input and older ones as an attribute."""
        if len(node.inputs) > i:
            return self.constant(node, i, name)
        return None if node.get(name) is None else np.asarray(node.get(name))

    def place(self, view: View, axes: Sequence[int]) -> Value:
        """Return a value in which each axis of a tensor is one of [N, C, H, W]; others have 1."""
        lengths = dict(zip(axes, view.shape, strict=True))
        shape = tuple(lengths.get(a, 1) for a in range(4))
        steps = contiguous(shape)
        if view.offset == 0 and view.value.shape == shape:
            pairs = zip(view.shape, view.strides, axes, strict=True)
            if all(n == 1 or stride == steps[a] for n, stride, a in pairs):
                return view.value
        by_axis = sorted(range(len(axes)), key=lambda i: axes[i])
        return self.copied(view.transposed(by_axis), shape)

    def copied(self, view: View, shape: Shape) -> Value:
        """Return a tensor's elements, in order, as a value of some shape."""
        whole = view.is_permutation and view.strides == contiguous(view.shape)
        if whole and view.value.shape == shape:
            return view.value
        channels = self._channels(view, shape)
        if channels is not None:
            return channels
        source = view.value
        copy = of_strided(source.shape, view.shape, view.strides, view.offset, shape)
        return self.graph.add_op(copy, source)

    def usual(self, view: View) -> Value:
        """Return a tensor of any rank as a value that has its elements in order."""
        return self.copied(view, image_shape(view.shape))

    def images(self, view: View) -> Value:
        """Return a tensor [N, C, H, W], or [N, C, L] with H = 1, as a value."""
        if len(view.shape) not in (3, 4):
            raise UnsupportedError(f"x has shape {view.shape}; it must be [N, C, H, W]")
        return self.place(view, (0, 1, 3) if len(view.shape) == 3 else (0, 1, 2, 3))

    def each(self, view: View, make: Callable[[Value], Value]) -> View:
        """Apply what works element by element, to the elements as they lie."""
        if view.is_permutation:
            return view.over(make(view.value))
        return usual_view(make(self.usual(view)), view.shape)

    def producer(self, node: Node, i: int, *kinds: str) -> Node | None:
        """Return the node that gives an input, if it is of one of some kinds."""
        found = self.producers.get(node.inputs[i]) if len(node.inputs) > i else None
        return found if found is not None and found.kind in kinds else None

    # -- inside -----------------------------------------------------------------------------------

    def _input(self, name: str, shape: Shape) -> View:
        """Declare an input; where it is only transposed, it lies as what takes it wants it."""
        axes: tuple[int, ...] | None = None
        readers = [node for node in self.model.nodes if name in node.inputs]
        orders = {
            tuple(node.get("perm", ())) if node.kind == "Transpose" else () for node in readers
        }
        if len(shape) == 4 and len(orders) == 1 and sorted(*orders) == [0, 1, 2, 3]:
            (order,) = orders
            axes = tuple(order.index(a) for a in range(4))
        if axes is None:
            return usual_view(self.graph.input(name, image_shape(shape)), shape)
        placed = dict(zip(axes, shape, strict=True))
        return View.of(self.graph.input(name, tuple(placed[a] for a in range(4))), axes)

    def _channels(self, view: View, shape: Shape) -> Value | None:
        """Return channels that lie one after the other by the operator that copies such."""
        of = view.value.shape
        steps = contiguous(of)
        if len(view.shape) != 4 or view.shape != shape or view.offset % steps[1]:
            return None
        start = view.offset // steps[1]
        if (of[0], of[2:]) != (shape[0], shape[2:]) or start + shape[1] > of[1]:
            return None
        lengths = zip(view.shape, view.strides, steps, strict=True)
        if any(n > 1 and stride != step for n, stride, step in lengths):
            return None
        return self.graph.slice(view.value, start, start + shape[1])

    def _add(self, node: Node) -> None:
        given = [self.values.get(name) for name in node.inputs if name]
        lacking = [name for name in node.inputs if name and name not in self.values]
        known = all(not isinstance(value, View) for value in given)
        self.graph.node_name = node.name
        try:
            if node.kind not in CONVERTS and not (known and node.kind in FOLDED):
                if lacking and node.kind in FOLDED:
                    return
                raise UnsupportedError(
                    "it is folded where all its inputs are constants; here the network computes one"
                    if node.kind in FOLDED
                    else "there is no such operator"
                )
            if lacking:  # it comes after one that is refused
                return
            folds = known and node.kind in FOLDED
            if not folds:
                self._check_whole(node)
                self._infer(node)  # as ONNX's rules have it: what follows need not look again
            found = self._fold(node) if folds else CONVERTS[node.kind](self, node)
        except (UnsupportedError, ValueError, TypeError, OverflowError, IndexError) as error:
            self.refusals.append(Refusal(node, str(error), isinstance(error, MisfitError)))
            self._assume(node)
            return
        if not self.assumed.isdisjoint(node.inputs):
            self.assumed.update(filter(None, node.outputs))
        results = [found] if isinstance(found, (View, np.ndarray)) else list(found or ())
        names = [name for name in node.outputs if name] if folds else node.outputs
        # What is cast is of floats from there on, or of another's type.
        typed = {"Cast": (), "CastLike": node.inputs[1:]}.get(node.kind, node.inputs)
        of = next((n for n in typed if n in self.whole), "")
        for name, value in zip(names, results, strict=False):
            if name and value is not None:
                self.values[name] = value
                if of and isinstance(value, View):
                    self.whole[name] = self.whole[of]

    def _check_whole(self, node: Node) -> None:
        """Raise for a node that computes otherwise with whole numbers than with floats."""
        for name in node.inputs:
            kind = self.whole.get(name)
            if kind is None:
                continue
            blends = node.kind == "Resize" and node.get("mode", "nearest") != "nearest"
            if blends or node.kind in _ROUNDING:
                raise UnsupportedError(
                    f"{name!r} is {kind}, of which it rounds; cast it to float32 before"
                )
            if kind.itemsize < 4 and node.kind in _WRAPPING:
                raise UnsupportedError(
                    f"{name!r} is {kind}, of which it wraps around; cast it to float32 before"
                )

    def _assume(self, node: Node) -> None:
        """Give a refused node's outputs a place in the graph, which will never be run."""
        try:
            shapes = self._infer(node)
        except ValueError:
            return
        for name, shape in shapes.items():
            self.values[name] = usual_view(self.graph.input(name, image_shape(shape)), shape)
            self.assumed.add(name)

    def _infer(self, node: Node) -> dict[str, Shape]:
        """Return the shapes of a node's outputs of floats, as far as ONNX's own rules tell them.

        Raises
        ------
        MisfitError
            The node's inputs or attributes are not as its operator has them.
        """
        if node.kind == "SequenceAt":  # its sequence is known as a tensor
            return {}
        types, data = {}, {}
        for name in filter(None, node.inputs):
            value = self.values.get(name)
            if value is None:
                return {}
            array = value if isinstance(value, np.ndarray) else None
            kind = TensorProto.FLOAT  # of views, and so of all floats
            whole = self.whole.get(name) if array is None else array.dtype
            if whole is not None and whole.kind != "f":
                kind = helper.np_dtype_to_tensor_dtype(whole)
            if array is not None and array.size <= _MOST_NUMBERS:  # sizes, axes
                numbers = array.astype(helper.tensor_dtype_to_np_dtype(kind))
                data[name] = numpy_helper.from_array(numbers, name)
            types[name] = helper.make_tensor_type_proto(kind, value.shape)
        try:
            schema = defs.get_schema(node.proto.op_type, node.opset, node.proto.domain)
        except defs.SchemaError:
            return {}
        opsets = [helper.make_opsetid(node.proto.domain, node.opset)]
        try:
            found = infer_node_outputs(schema, node.proto, types, data, opset_imports=opsets)
        except (InferenceError, ValidationError) as error:
            given = ", ".join(
                str(tuple(axis.dim_value for axis in each.tensor_type.shape.dim))
                for each in types.values()
            )
            raise MisfitError(f"{str(error).strip()}; its inputs have shapes {given}") from error
        shapes = {}
        for name, each in found.items():
            tensor = each.tensor_type
            lengths = tuple(axis.dim_value for axis in tensor.shape.dim)
            of_floats = tensor.elem_type == TensorProto.FLOAT and tensor.HasField("shape")
            if of_floats and min(lengths, default=1) > 0:
                shapes[name] = lengths
        return shapes

    def _fold(self, node: Node) -> list[Array]:
        """Compute a node whose inputs are all known."""
        arrays: dict[str, Array] = {}
        for name in filter(None, node.inputs):
            value = self.values[name]
            assert isinstance(value, np.ndarray)
            arrays[name] = value
        check_growth(node, [arrays[name] for name in node.inputs if name])
        with np.errstate(all="ignore"):
            try:
                found = compute(node, arrays)
            except Exception as error:  # of any type: what a node lacks, the evaluator stumbles on
                raise ValueError(f"its constants do not fit it: {error}") from error
        self._folded_bytes += sum(each.nbytes for each in found)
        if self._folded_bytes > _MOST_FOLDED_BYTES:
            raise ValueError(
                f"with its output, constants that nodes give are {self._folded_bytes:,} bytes; at "
                f"most {_MOST_FOLDED_BYTES:,} are kept"
            )
        return found


def compute(node: Node, inputs: Mapping[str, Array]) -> list[Array]:
    """Return a node's outputs, but for those left out, by onnx.reference.

    Raises
    ------
    Exception
        Of any type: onnx.reference lacks the operator, or the inputs do not fit it.
    """
    # A node by itself would be taken for one of the newest opset, whatever is said of it.
    graph = onnx.GraphProto(name=node.name, node=[node.proto])
    graph.node[0].domain = ""
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in inputs)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in filter(None, node.outputs))
    evaluator = ReferenceEvaluator(graph, opsets={"": node.opset})
    return [np.asarray(each) for each in evaluator.run(None, dict(inputs))]


def check_growth(node: Node, arrays: Sequence[Array]) -> None:
    """Raise for a folded node whose output is much larger than its inputs, before it is made.

    Raises
    ------
    ValueError
    """
    what = "its output"
    if node.kind in ("ConstantOfShape", "Expand", "Tile") and arrays:
        shape = [int(n) for n in np.ravel(arrays[-1])]
        if node.kind == "Tile":
            shape = [n * length for n, length in zip(shape, arrays[0].shape, strict=False)]
        check_constant(shape, 8, what)
    elif node.kind == "Range":
        start, limit, delta = (float(each) for each in arrays)
        count = math.ceil((limit - start) / delta) if delta else math.inf
        if not count * 8 <= MOST_CONSTANT_BYTES:
            raise ValueError(f"its range from {start:g} to {limit:g} by {delta:g} is too long")
    elif node.kind == "Pad" and len(arrays) > 1:
        check_constant([int(np.abs(arrays[1]).sum()) + n for n in arrays[0].shape], 8, what)
    elif node.kind == "MatMul" and min(each.ndim for each in arrays) > 1:
        check_constant([*arrays[0].shape[:-1], arrays[1].shape[-1]], 8, what)
    elif node.kind in _BROADCAST:
        check_constant(np.broadcast_shapes(*(each.shape for each in arrays)), 8, what)
    elif node.kind == "Concat":
        check_constant([sum(each.size for each in arrays)], 8, what)
    elif node.kind == "Gather" and len(arrays) > 1 and arrays[0].ndim:
        taken = arrays[0].size // max(arrays[0].shape[node.get("axis", 0)], 1)
        check_constant([taken, arrays[1].size], 8, what)


def count_flop(nodes: Iterable[Node], values: Mapping[str, Operand]) -> int | None:
    """Return the arithmetic operations of the products in some nodes; None if they are not known.

    Parameters
    ----------
    nodes : iterable of Node
    values : Mapping
        Of which the shapes are needed.
    """
    shapes = {name: value.shape for name, value in values.items() if value is not None}
    total = 0
    for node in nodes:
        if node.kind in _UNCOUNTED:
            return None
        if node.kind in _PRODUCTS:
            last = node.inputs[2:3] if node.kind in _RECURRENT else node.outputs[:1]
            known = [shapes[name] for name in (*node.inputs[:2], *last) if name in shapes]
            if len(known) < 3:
                return None
            total += 2 * _count_products(node.kind, *known)
    return total


def _count_products(kind: str, x: Shape, weight: Shape, other: Shape) -> int:
    """Return how many an operator takes; ``other`` is the shape of R, or else of its output."""
    if kind in _RECURRENT:
        return math.prod(x[:2]) * (math.prod(weight) + math.prod(other))
    if kind == "Conv":
        return math.prod(weight[1:]) * math.prod(other)
    if kind == "ConvTranspose":
        return math.prod(weight[1:]) * math.prod(x)
    if kind == "Gemm":
        return math.prod(weight) * math.prod(other[:1])
    return math.prod(x[-1:]) * math.prod(other)
