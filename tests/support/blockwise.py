"""Models against float64, part by part.

A bound carried through forty layers in float16 says nothing. The parts of a model are the stretches
that end in a residual, and each is checked from what the device gave for the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import pwconv
from pwconv import reference
from support.accuracy import assert_within
from support.mirror import Mirror, Pair


class Parts:
    """A mirror as a model sees it: nodes have no names, residuals are outputs too, by theirs.

    Attributes
    ----------
    maps : dict
        The model's outputs.
    """

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.dtype, self.input = mirror.dtype, mirror.input
        self.maps: dict[str, Pair] = {}

    def output(self, name: str, pair: Pair) -> None:
        self.maps[name] = pair
        if pair not in self.mirror.outputs.values():
            self.mirror.output(name, pair)

    def check(self, graph: pwconv.Graph, x: np.ndarray) -> None:
        """Check each part, and that a graph of the same model gives what they do, bit by bit."""
        parts = _check_parts(self.mirror, x)
        names = {pair: name for name, pair in self.mirror.outputs.items()}
        results = graph.run(x=x)
        assert list(results) == list(self.maps)
        for name, result in results.items():
            np.testing.assert_array_equal(result, parts[names[self.maps[name]]])

    def __getattr__(self, kind: str) -> Callable[..., Pair]:
        def add(*operands: Any, name: str, **settings: Any) -> Pair:
            pair: Pair = getattr(self.mirror, kind)(*operands, **settings)
            if settings.get("residual") is not None:
                self.mirror.output(name, pair)
            return pair

        return add


def _check_parts(mirror: Mirror, x: np.ndarray) -> dict[str, np.ndarray]:
    """Run a mirror whose input is x; assert each output from the outputs before it."""
    results = mirror.graph.run(x=x)
    known = {"x": reference.exact(x)}
    for name, pair in mirror.outputs.items():
        expected = pair.compute(known)
        # Well below the values themselves: the bound could fail.
        assert expected.error.max() < 0.2 * np.abs(expected.value).max()
        assert_within(results[name], expected.value, expected.error)
        known[f"node {pair.value.name}"] = reference.exact(results[name])
    return results
