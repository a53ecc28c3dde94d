"""What a network is held to: float32 beside ONNX Runtime, float16 node by node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from support.float64 import evaluate
from support.models import run_elsewhere
from support.networks import assert_right

# Times ONNX Runtime's error, both against float64.
MOST_TIMES = 4
# Each storage once in `make test`; every way in `make test-all`.
FLOAT32, FLOAT16 = ("float32", "texture3d"), ("float16", "buffer")
WAYS = (FLOAT32, FLOAT16, ("float32", "buffer"), ("float16", "texture3d"))

Arrays = Mapping[str, np.ndarray]


def ways(quick: Mapping[str, Any]) -> list[Any]:
    """Return parameters ``name, dtype, storage``: of each name, the one way of ``make test``.

    A name with None is for ``make test-all`` alone.
    """
    return [
        pytest.param(
            *(name, *way),
            id=f"{name}-{'-'.join(way)}",
            marks=() if way == quick[name] else pytest.mark.exhaustive,
        )
        for name in quick
        for way in WAYS
    ]


def prove(graph: Any, model: onnx.ModelProto, inputs: Arrays) -> None:
    """Assert that a graph computes a model."""
    if graph.dtype == np.float32:
        prove_float32(graph, model, inputs)
    else:
        prove_float16(graph, inputs)


def prove_float32(graph: Any, model: onnx.ModelProto, inputs: Arrays) -> None:
    """Assert that errors, against float64, are at most 4 times those of ONNX Runtime.

    Where ONNX Runtime's own is less than the rounding of a result, which a few numbers may happen
    to meet, that rounding stands for it.
    """
    results, others = graph.run(inputs), run_elsewhere(model, inputs)
    for name, exact in evaluate(model, inputs).items():
        largest = np.abs(exact).max()
        assert np.ptp(exact) > 1e-3 * largest, f"{name} is constant: it shows nothing"
        assert results[name].shape == exact.shape
        error, theirs = (np.abs(each[name] - exact).max() for each in (results, others))
        rounding = np.finfo(np.float32).eps / 2 * largest
        print(f"{name} {exact.shape}: {error / largest:.2g}, ONNX Runtime {theirs / largest:.2g}")
        assert error <= MOST_TIMES * max(theirs, rounding)


def prove_float16(graph: Any, inputs: Arrays) -> None:
    """Assert that every node is within its bound, and the outputs within that of them all.

    Carried through many nodes a bound may be infinite; node by node it is not. What runs as a whole
    gives the same numbers.
    """
    check = graph.check(inputs)
    assert check.passed, str(check)
    assert all(np.isfinite(node.bound) for node in check.nodes)
    assert_right(graph, inputs)
    for name, output in graph.run(inputs).items():
        assert np.ptp(output.astype(float)) > 0, f"{name} is constant: it shows nothing"
        assert np.array_equal(np.sort(output, axis=None), np.sort(check.outputs[name], axis=None))
