"""Check of a program: each node on the device against float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pwconv import reference, transfer
from pwconv.device import Device
from pwconv.dtypes import Array
from pwconv.graph.inspect import as_text, make_table, variants
from pwconv.graph.network import printable
from pwconv.graph.program import Program
from pwconv.tensor import Shape, Tensor, empty


@dataclass(frozen=True)
class CheckedNode:
    """Output of a node against float64.

    Attributes
    ----------
    name, kind : str
    shape : tuple of int
        Of its output.
    variants : tuple of str
        The compiled shader of each of its dispatches.
    wrong : int
        Count of elements outside their bounds.
    position : tuple of int
        Of the worst element, that which is farthest from the exact value in terms of its bound.
    value, expected, bound : float
        Of the worst element: the device's, the exact one for the inputs that the device gave the
        node, and how far the device may be from it. The bound is infinite where it may overflow.
    """

    name: str
    kind: str
    shape: Shape
    variants: tuple[str, ...]
    wrong: int
    position: tuple[int, ...]
    value: float
    expected: float
    bound: float

    @property
    def passed(self) -> bool:
        """True if every element is within its bound."""
        return not self.wrong


@dataclass(frozen=True)
class Check:
    """Nodes against float64, as :meth:`pwconv.Graph.check` returns them; ``str()`` to read.

    Attributes
    ----------
    nodes : tuple of CheckedNode
        In the order in which they ran.
    outputs : Mapping of str to numpy.ndarray
        What the device computed.
    """

    nodes: tuple[CheckedNode, ...]
    outputs: Mapping[str, Array]

    @property
    def passed(self) -> bool:
        """True if every node is right."""
        return all(node.passed for node in self.nodes)

    def __str__(self) -> str:
        table = make_table()
        table.add_column("node", overflow="fold")
        table.add_column("variant", overflow="fold")
        for name in ("wrong", "worst", "expected", "bound"):
            table.add_column(name, justify="right")
        table.add_column("at")
        for node in self.nodes:
            table.add_row(
                printable(node.name),
                ", ".join(node.variants),
                f"{node.wrong:,}" if node.wrong else "",
                f"{node.value:.7g}",
                f"{node.expected:.7g}",
                f"{node.bound:.2g}",
                str(list(node.position)),
            )
        failed = sum(not node.passed for node in self.nodes)
        return f"{as_text(table)}\n{len(self.nodes)} nodes, {failed} wrong"


def check_nodes(device: Device, program: Program, inputs: Mapping[str, Tensor]) -> Check:
    """Run the nodes one by one into poisoned outputs, each on what the device gave for its inputs.

    Tensors and arrays of a value are kept until its last reader has run.
    """
    network, site = program.network, program.site
    tensors: dict[int, Tensor] = {}
    arrays: dict[int, Array] = {}
    for name, i in network.inputs.items():
        tensors[i] = inputs[name]
        arrays[i] = tensors[i].numpy()
    resources = dict(program.constants)
    for i in program.constants:
        operator = network.nodes[i].operator
        assert operator is not None
        arrays[i] = operator.reference().value.astype(site.dtype)
    readers = Counter(j for i in program.dispatches for j in set(network.nodes[i].inputs))
    readers.update(network.outputs.values())
    nodes = []
    for i, dispatches in program.dispatches.items():
        node = network.nodes[i]
        out = tensors[i] = empty(device, program.shapes[i], site.dtype, site.storage)
        transfer.fill(site.context, out.resource, site.dtype, float("nan"))
        resources.update((j, tensors[j].resource) for j in node.inputs if j in tensors)
        given = [resources[j] for j in node.inputs]
        for dispatch in dispatches:
            site.context.submit(dispatch.bind(given, out.resource))
        arrays[i] = out.numpy()
        assert node.operator is not None
        expected = node.operator.expected(
            [reference.given(arrays[j]) for j in node.inputs], site.dtype
        )
        nodes.append(
            _compared(node.name, node.operator.name, variants(program, i), arrays[i], expected)
        )
        for j in set(node.inputs):
            readers[j] -= 1
            if not readers[j]:
                tensors.pop(j, None)
                resources.pop(j)
                del arrays[j]
    return Check(tuple(nodes), {name: arrays[i] for name, i in network.outputs.items()})


def _compared(
    name: str, kind: str, variants: tuple[str, ...], found: Array, about: reference.Approximation
) -> CheckedNode:
    value = found.astype(np.float64)
    with np.errstate(all="ignore"):
        distance = np.abs(value - about.value)
        same = (value == about.value) | (np.isnan(value) & np.isnan(about.value))
        share = np.where(same | np.isinf(about.error), 0.0, distance / about.error)
    share[np.isnan(share)] = np.inf
    worst = np.unravel_index(int(share.argmax()), share.shape)
    position = tuple(int(axis) for axis in worst)
    return CheckedNode(
        name=name,
        kind=kind,
        shape=found.shape,
        variants=variants,
        wrong=int((share > 1).sum()),
        position=position,
        value=float(value[position]),
        expected=float(about.value[position]),
        bound=float(about.error[position]),
    )
