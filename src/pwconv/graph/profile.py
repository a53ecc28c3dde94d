"""Times of nodes, by the device's own clock, and as a trace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pwconv.device import Device
from pwconv.graph.program import Program
from pwconv.tensor import Shape, empty, from_array
from pwconv.timing.ceilings import Ceiling, Roofline, measure_ceilings, roofline
from pwconv.timing.clocks import ClockCheck, Clocks
from pwconv.timing.stopwatch import Sample, summarize
from pwconv.vk.commands import Groups


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
            events.append(
                {
                    "name": node.name,
                    "cat": node.kind,
                    "ph": "X",
                    "ts": start,
                    "dur": duration,
                    "pid": 0,
                    "tid": 0,
                    "args": {
                        "shape": list(node.shape),
                        "variants": list(node.variants),
                        "flop": node.flop,
                        "bytes": node.least_bytes,
                        "share of roofline": node.share,
                    },
                }
            )
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
    network, setting = program.network, program.setting
    rng = np.random.default_rng(0)
    tensors = {
        i: from_array(
            device,
            rng.standard_normal(program.shapes[i], np.float32),
            setting.dtype,
            setting.storage,
        )
        for i in network.inputs.values()
    }
    for i in network.outputs.values():
        tensors[i] = empty(device, program.shapes[i], setting.dtype, setting.storage)
    whole = program.groups({i: tensor.resource for i, tensor in tensors.items()})
    segments: list[Groups] = [[group] for group in whole]
    known = list(ceilings) or list(measure_ceilings(device._context, clocks))
    seconds, check = clocks.time([*segments, whole] * runs)
    *each, total = (summarize(seconds[i :: len(segments) + 1]) for i in range(len(segments) + 1))
    nodes = []
    for i, time in zip(program.dispatches, each, strict=True):
        node, flop, least_bytes = network.nodes[i], program.flop(i), program.least_bytes(i)
        assert node.operation is not None
        nodes.append(
            NodeTime(
                name=node.name,
                kind=node.operation.kind,
                shape=program.shapes[i],
                variants=tuple(dispatch.plan.variant.name for dispatch in program.dispatches[i]),
                flop=flop,
                least_bytes=least_bytes,
                time=time,
                roofline=roofline(flop, least_bytes, setting.dtype.name, known),
            )
        )
    return Profile(tuple(nodes), total, clocks.stopwatch.method, check), known
