"""Graphs of files against float64: their bound, propagated from node to node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pwconv import Graph, reference
from pwconv.reference import Approximation
from support.accuracy import assert_within


def propagated(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Approximation]:
    """Return what the graph's outputs are about, for these inputs: its own nodes, in float64."""
    given = graph._as_arrays(inputs)
    program = graph._current().program
    site, network = program.site, program.network
    values = {
        i: reference.given(given[name].astype(site.dtype)) for name, i in network.inputs.items()
    }
    for i in network.order:
        node = network.nodes[i]
        values[i] = node.operator.expected([values[j] for j in node.inputs], site.dtype)
    found = {name: values[i] for name, i in network.outputs.items()}
    arrange = graph._arranging()
    about = arrange({name: each.value for name, each in found.items()})
    bounds = arrange({name: each.error for name, each in found.items()})
    return {name: Approximation(about[name], bounds[name]) for name in about}


def assert_right(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Assert that a run is within the propagated bound; return what its outputs are about."""
    results = graph.run(inputs)
    about = propagated(graph, inputs)
    assert results.keys() == about.keys()
    for name, each in about.items():
        assert results[name].shape == each.value.shape
        assert_within(results[name], each.value, each.error)
    return {name: each.value for name, each in about.items()}
