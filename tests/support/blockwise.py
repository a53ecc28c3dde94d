"""Models against float64, part by part.

A bound carried through forty layers in float16 says nothing. The parts of a model are the stretches
that end in a residual, and each is checked from what the device gave for the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pwconv import reference
from support.accuracy import assert_within
from support.mirror import Mirror, Pair


class Unnamed:
    """A mirror as a model sees it: its nodes' names are dropped, residuals are outputs too."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def __getattr__(self, kind: str) -> Callable[..., Pair]:
        def add(*operands: Any, name: str, **settings: Any) -> Pair:
            pair: Pair = getattr(self.mirror, kind)(*operands, **settings)
            if settings.get("residual") is not None:
                self.mirror.output(name, pair)
            return pair

        return add


def check_parts(mirror: Mirror, x: np.ndarray) -> dict[str, np.ndarray]:
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
