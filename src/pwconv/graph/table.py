"""The nodes of a program as a table."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pwconv.graph.network import printable
from pwconv.graph.profile import Profile
from pwconv.graph.program import Program

# Wide enough for every column of the longest names: what is printed elsewhere is cut there.
_WIDTH = 200


def summarize_nodes(program: Program, profile: Profile | None) -> str:
    """Return a line a node, and one of all; with times where there are some."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_footer=True)
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
        variants = dict.fromkeys(dispatch.plan.variant.name for dispatch in program.dispatches[i])
        times = []
        if profile is not None:
            node = profile.nodes[position]
            times = [f"{node.time.median * 1e6:.1f}", f"{node.share:.0%}"]
        table.add_row(
            Text(printable(program.network.nodes[i].name)),
            " × ".join(map(str, program.shapes[i])),
            ", ".join(variants),
            _scaled(flop[position]),
            _scaled(moved[position]),
            *times,
        )
    text = io.StringIO()
    Console(file=text, width=_WIDTH, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")


def _scaled(value: int) -> str:
    """Return a number with a prefix, three figures or so."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{prefix}"
    return str(value)
