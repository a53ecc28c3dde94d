"""Graphs of files against float64: their bound, propagated from node to node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from pwconv import Graph, reference
from pwconv.reference import Approximation
from support.accuracy import assert_within
from support.models import run_elsewhere

_ELSEWHERE = 1e-5  # of the largest number: what float32 there may differ by from float64


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


def assert_as_elsewhere(graph: Graph, model: onnx.ModelProto, inputs: Mapping[str, Any]) -> None:
    """Assert that a run is right, and that ONNX Runtime computes the same in float32."""
    about = assert_right(graph, inputs)
    for name, wanted in run_elsewhere(model, inputs).items():
        assert about[name].shape == wanted.shape
        most = np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
        np.testing.assert_allclose(about[name], wanted, rtol=0, atol=_ELSEWHERE * most)
