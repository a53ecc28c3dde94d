"""The nodes of a program as a drawing, for Graphviz."""

from __future__ import annotations

from pwconv.graph.network import printable
from pwconv.graph.program import Program


def draw(program: Program) -> str:
    """Return a digraph: inputs and outputs as ellipses, nodes as boxes, shapes on the edges."""
    network = program.network
    lines = ["digraph {", "  node [shape=box];"]
    for name, i in network.inputs.items():
        lines.append(f"  n{i} [label={_quoted(name)}, shape=ellipse];")
    for i in program.dispatches:
        node = network.nodes[i]
        assert node.operator is not None
        lines.append(f"  n{i} [label={_quoted(f'{node.name}: {node.operator.name}')}];")
        lines += [f"  n{j} -> n{i} [label={_edge(program, j)}];" for j in node.inputs]
    for position, (name, i) in enumerate(network.outputs.items()):
        lines.append(f"  out{position} [label={_quoted(name)}, shape=ellipse];")
        lines.append(f"  n{i} -> out{position} [label={_edge(program, i)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _edge(program: Program, i: int) -> str:
    return _quoted(" × ".join(map(str, program.shapes[i])))


def _quoted(text: str) -> str:
    """Return a label: Graphviz reads escapes in it, and entities as HTML has them."""
    escaped = printable(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
