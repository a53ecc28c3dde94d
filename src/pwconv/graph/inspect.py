"""Inspection of a program: its nodes timed, as a trace, as a table, and as a drawing."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pwconv.device import Device
from pwconv.graph.network import printable
from pwconv.graph.program import Program
from pwconv.tensor import Shape, empty, from_array
from pwconv.timing.ceilings import Ceiling, Roofline, measure_ceilings, roofline
from pwconv.timing.clocks import ClockCheck, Clocks
from pwconv.timing.stopwatch import Sample, summarize
from pwconv.vk.commands import Groups

if TYPE_CHECKING:
    from rich.table import Table

# Wide enough for every column of the longest names: what is printed elsewhere is cut there.
_WIDTH = 200


@dataclass(frozen=True)
class NodeTime:
    """Time of a node, and the least that the device allows.

    Attributes
    ----------
    name, kind : str
    shape : tuple of int
        Of its output.
    variants : tuple of str
        The compiled shader of each of its dispatches.
    flop, least_bytes : int
    time : Sample
        In seconds; the wait for the dispatch before is part of it.
    roofline : Roofline
        The least that the device's measured ceilings allow.
    """

    name: str
    kind: str
    shape: Shape
    variants: tuple[str, ...]
    flop: int
    least_bytes: int
    time: Sample
    roofline: Roofline

    @property
    def share(self) -> float:
        """The roofline's share of the time: 1 is as fast as the device's ceilings allow."""
        return self.roofline.seconds / self.time.median


@dataclass(frozen=True)
class Profile:
    """Times of a graph's nodes, as :meth:`pwconv.Graph.profile` returns them.

    Attributes
    ----------
    nodes : tuple of NodeTime
        In the order in which they run.
    total : Sample
        Of all of them in one go, in seconds: less than the sum, since only what depends waits.
    method : str
        The way of timing, in words.
    clocks : ClockCheck
        Check that the device's clocks held meanwhile.
    """

    nodes: tuple[NodeTime, ...]
    total: Sample
    method: str
    clocks: ClockCheck

    def chrome_trace(self) -> dict[str, Any]:
        """Return the nodes, one after the other, in Chrome's trace event format."""
        events: list[dict[str, Any]] = []
        start = 0.0
        for node in self.nodes:
            duration = node.time.median * 1e6
            arguments = {
                "shape": list(node.shape),
                "variants": list(node.variants),
                "flop": node.flop,
                "bytes": node.least_bytes,
                "share of roofline": node.share,
            }
            event = {"name": node.name, "cat": node.kind, "ph": "X", "pid": 0, "tid": 0}
            events.append({**event, "ts": start, "dur": duration, "args": arguments})
            start += duration
        return {"traceEvents": events, "displayTimeUnit": "ns"}

    def save_chrome_trace(self, path: Any) -> None:
        """Write :meth:`chrome_trace` as JSON, for chrome://tracing or ui.perfetto.dev.

        Raises
        ------
        OSError
        """
        Path(path).write_text(json.dumps(self.chrome_trace()), encoding="utf-8")


def measure(
    device: Device, program: Program, runs: int, ceilings: Sequence[Ceiling]
) -> tuple[Profile, list[Ceiling]]:
    """Time a program's nodes; return the device's ceilings too, measured unless given."""
    clocks = Clocks(device._context)
    network, site = program.network, program.site
    dtype, storage = site.dtype, site.storage
    rng = np.random.default_rng(0)
    tensors = {}
    for i in network.inputs.values():
        noise = rng.standard_normal(program.shapes[i], np.float32)
        tensors[i] = from_array(device, noise, dtype, storage)
    for i in network.outputs.values():
        tensors[i] = empty(device, program.shapes[i], dtype, storage)
    whole = program.groups({i: tensor.resource for i, tensor in tensors.items()})
    segments: list[Groups] = [[group] for group in whole]
    known = list(ceilings) or list(measure_ceilings(device._context, clocks))
    seconds, check = clocks.time([*segments, whole] * runs)
    *each, total = (summarize(seconds[i :: len(segments) + 1]) for i in range(len(segments) + 1))
    nodes = []
    for i, time in zip(program.dispatches, each, strict=True):
        node, flop, least_bytes = network.nodes[i], program.flop(i), program.least_bytes(i)
        assert node.operator is not None
        nodes.append(
            NodeTime(
                name=node.name,
                kind=node.operator.name,
                shape=program.shapes[i],
                variants=variants(program, i),
                flop=flop,
                least_bytes=least_bytes,
                time=time,
                roofline=roofline(flop, least_bytes, dtype.name, known),
            )
        )
    return Profile(tuple(nodes), total, clocks.stopwatch.method, check), known


def summarize_nodes(program: Program, profile: Profile | None) -> str:
    """Return a line a node, and one of all; with times where there are some."""
    table = make_table(show_footer=True)
    order = list(program.dispatches)
    flop, moved = [program.flop(i) for i in order], [program.least_bytes(i) for i in order]
    table.add_column("node", "total", overflow="fold")
    table.add_column("shape")
    table.add_column("variant", overflow="fold")
    table.add_column("FLOP", _scaled(sum(flop)), justify="right")
    table.add_column("bytes", _scaled(sum(moved)), justify="right")
    if profile is not None:
        table.add_column("µs", f"{profile.total.median * 1e6:.1f}", justify="right")
        table.add_column("of roofline", justify="right")
    for position, i in enumerate(order):
        times = []
        if profile is not None:
            node = profile.nodes[position]
            times = [f"{node.time.median * 1e6:.1f}", f"{node.share:.0%}"]
        table.add_row(
            printable(program.network.nodes[i].name),
            _shape(program, i),
            ", ".join(dict.fromkeys(variants(program, i))),
            _scaled(flop[position]),
            _scaled(moved[position]),
            *times,
        )
    return as_text(table)


def make_table(*, show_footer: bool = False) -> Table:
    """Return a table without rows."""
    # Not above: who runs a graph prints no table.
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE, pad_edge=False, show_footer=show_footer)


def as_text(table: Table) -> str:
    """Return the lines of a table, as wide as it needs, and its texts as they are."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=_WIDTH, color_system=None, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")


def variants(program: Program, i: int) -> tuple[str, ...]:
    """Return the compiled shader of each dispatch of a node."""
    return tuple(dispatch.plan.variant.name for dispatch in program.dispatches[i])


def _scaled(value: int) -> str:
    """Return a number with a prefix, three figures or so."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{prefix}"
    return str(value)


def draw(program: Program) -> str:
    """Return a digraph: inputs and outputs as ellipses, nodes as boxes, shapes on the edges."""
    network = program.network
    lines = ["digraph {", "  node [shape=box];"]
    for name, i in network.inputs.items():
        lines.append(f"  n{i} [label={_quoted(name)}, shape=ellipse];")
    edges = {i: _quoted(_shape(program, i)) for i, _ in enumerate(program.shapes)}
    for i in (*program.constants, *program.dispatches):
        node = network.nodes[i]
        assert node.operator is not None
        lines.append(f"  n{i} [label={_quoted(f'{node.name}: {node.operator.name}')}];")
        lines += [f"  n{j} -> n{i} [label={edges[j]}];" for j in node.inputs]
    for position, (name, i) in enumerate(network.outputs.items()):
        lines.append(f"  out{position} [label={_quoted(name)}, shape=ellipse];")
        lines.append(f"  n{i} -> out{position} [label={edges[i]}];")
    return "\n".join([*lines, "}"]) + "\n"


def _shape(program: Program, i: int) -> str:
    return " × ".join(map(str, program.shapes[i]))


def _quoted(text: str) -> str:
    """Return a label: Graphviz reads escapes in it, and entities as HTML has them."""
    escaped = printable(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
