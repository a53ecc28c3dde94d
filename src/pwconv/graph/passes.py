"""Passes: rules that make an equivalent network of fewer, or of faster, nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pwconv import heuristics
from pwconv.graph.network import Network, Node, node_shape
from pwconv.ops.base import Epilogue, Operator, Site
from pwconv.ops.convolution import Convolution
from pwconv.ops.depthwise import DepthwiseConvolution
from pwconv.ops.elementwise import Elementwise
from pwconv.ops.grouped import GroupedConvolution
from pwconv.ops.pair import PointwisePair
from pwconv.ops.resize import Subsample
from pwconv.ops.window import POINTWISE, Geometry
from pwconv.tensor import Shape


class Rewriter:
    """A network while rules change it; nodes keep their numbers, new ones come last.

    Attributes
    ----------
    nodes : list of Node
    shapes : list of tuple of int
        Of every node.
    site : Site
    uses : Counter of int
        Uses of each node when the rule began.
    """

    def __init__(self, network: Network, shapes: Sequence[Shape], site: Site) -> None:
        self.nodes = list(network.nodes)
        self.shapes = list(shapes)
        self.site = site
        self.uses = network.uses
        self.added: dict[tuple[int, tuple[int, int]], int] = {}

    def operator(self, i: int) -> Operator | None:
        """Return what a node computes; None for an input."""
        return self.nodes[i].operator

    def input_shapes(self, i: int) -> list[Shape]:
        """Return the shapes that a node takes."""
        return [self.shapes[j] for j in self.nodes[i].inputs]

    def merged(self, before: int, i: int, operator: Operator, inputs: tuple[int, ...]) -> Node:
        """Return the node that computes two of them."""
        return Node(f"{self.nodes[before].name} + {self.nodes[i].name}", operator, inputs)


def apply_rules(
    network: Network, shapes: Sequence[Shape], site: Site, rules: Iterable[Rule]
) -> tuple[Network, list[Shape]]:
    """Return an equivalent network, and the shapes of its nodes: each rule at each node, in order.

    A rule returns what a node becomes, or None.
    """
    extended = list(shapes)
    for rule in rules:
        at = Rewriter(network, extended, site)
        for i in network.order:
            if at.nodes[i].inputs:
                at.nodes[i] = rule(at, i) or at.nodes[i]
        network, extended = replace(network, nodes=tuple(at.nodes)), at.shapes
    return network, extended


def fold_norm(at: Rewriter, i: int) -> Node | None:
    """Have the convolution before do what a multiply-add of each channel does.

    That is how batch norm is computed in no time at all.
    """
    node, norm = at.nodes[i], at.operator(i)
    before = node.inputs[0]
    first = at.operator(before)
    if not isinstance(norm, DepthwiseConvolution) or norm.geometry != POINTWISE:
        return None
    if (
        not isinstance(first, Convolution | DepthwiseConvolution | GroupedConvolution)
        or at.uses[before] != 1
    ):
        return None
    (weights,), (norms,) = first.parameters, norm.parameters
    if weights.on_device or first.epilogue != Epilogue():
        return None
    scaled = weights.scaled(norms, at.site.dtype)
    if not scaled.fits(at.site.dtype):
        return None
    folded = replace(first, epilogue=norm.epilogue, parameters=(scaled,))
    return at.merged(before, i, folded, at.nodes[before].inputs)


def fold_epilogue(at: Rewriter, i: int) -> Node | None:
    """Have the node before compute an activation, or the sum with a residual, too.

    Where one dispatch computes both: an activation after a node without one, and a sum after a node
    without a residual, if nothing else reads that node.
    """
    node, after = at.nodes[i], at.operator(i)
    if not isinstance(after, Elementwise) or after.epilogue.extra_inputs:
        return None
    for taken in sorted(set(node.inputs), reverse=True):
        before, first = at.nodes[taken], at.operator(taken)
        if first is None or at.uses[taken] != 1:
            continue
        epilogue, activation = first.epilogue, after.epilogue.activation
        if "activation" not in first.fuses or epilogue.activation is not None:
            continue
        if after.function == "activation":
            folded = replace(first, epilogue=replace(epilogue, activation=activation))
            if activation is None:
                # One that does nothing adds no name: there may be thousands, one after the other.
                return Node(before.name, folded, before.inputs)
            return at.merged(taken, i, folded, before.inputs)
        if after.function == "add" and "residual" in first.fuses and not epilogue.extra_inputs:
            (other,) = (j for j in node.inputs if j != taken)
            if at.shapes[other] == at.shapes[taken]:
                folded = replace(first, epilogue=Epilogue(activation, residual=True))
                return at.merged(taken, i, folded, (*before.inputs, other))
    return None


def split_stride(at: Rewriter, i: int) -> Node | None:
    """Copy the positions that a strided pointwise convolution reads, and convolve at stride 1.

    Where that is faster; the convolution may then be fused. Those of one value and stride share the
    copy. A convolution with padding keeps its stride.
    """
    node, convolution = at.nodes[i], at.operator(i)
    if not isinstance(convolution, Convolution):
        return None
    if not heuristics.stride_pays(at.site.context.info, at.site.storage):
        return None
    stride = convolution.geometry.stride
    if stride == (1, 1) or convolution.geometry != Geometry(stride):
        return None
    x, *rest = node.inputs
    if (x, stride) not in at.added:
        at.added[x, stride] = len(at.nodes)
        subsample = Node(f"{node.name} (subsample)", Subsample(stride=stride), (x,))
        at.nodes.append(subsample)
        at.shapes.append(node_shape(subsample, at.shapes))
    return Node(node.name, replace(convolution, geometry=POINTWISE), (at.added[x, stride], *rest))


def fuse_pair(at: Rewriter, i: int) -> Node | None:
    """Compute two pointwise convolutions in a row as one, where the device has a faster kernel."""
    node, second = at.nodes[i], at.operator(i)
    before = node.inputs[0]
    first = at.operator(before)
    if not (isinstance(first, Convolution) and isinstance(second, Convolution)):
        return None
    if at.uses[before] != 1:
        return None
    x = at.nodes[before].inputs[0]
    pair = PointwisePair.of(first, second, at.site, at.shapes[x])
    return at.merged(before, i, pair, (x, *node.inputs[1:])) if pair else None


def fold_scale(at: Rewriter, i: int) -> Node | None:
    """Have a pointwise convolution multiply its input by [N, C, 1, 1] as it loads it.

    As squeeze-and-excitation has it before: where its kernel gains by that and nothing else reads
    the product, which is then never stored.
    """
    node, convolution = at.nodes[i], at.operator(i)
    before = node.inputs[0]
    product = at.operator(before)
    if not isinstance(convolution, Convolution) or not isinstance(product, Elementwise):
        return None
    operands = product.scale_of(at.input_shapes(before))
    if "scale" not in convolution.fuses or operands is None or at.uses[before] != 1:
        return None
    x, scale = (at.nodes[before].inputs[operand] for operand in operands)
    inputs = at.input_shapes(i)
    if not convolution.scale_pays(at.site, inputs, at.shapes[i]):
        return None
    scaled = replace(convolution, epilogue=replace(convolution.epilogue, scale=True))
    return at.merged(before, i, scaled, (x, *node.inputs[1:], scale))


Rule = Callable[[Rewriter, int], Node | None]

# Once, on host arrays; then for each set of shapes, on packed weights. A graph that is not to fuse
# leaves fuse_pair out.
WEIGHT_RULES: tuple[Rule, ...] = (fold_norm,)
RULES: tuple[Rule, ...] = (fold_epilogue, split_stride, fuse_pair, fold_scale)
