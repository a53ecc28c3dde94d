"""Activations that exporters write as several nodes, recognized by what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np

from pwconv import reference
from pwconv.dtypes import Array
from pwconv.importer.model import Node
from pwconv.importer.network import Importer, compute
from pwconv.importer.view import View

_KNOWN: tuple[Any, ...] = (
    "silu",
    "hardswish",
    "gelu",
    "gelu_tanh",
    "mish",
    ("hardsigmoid", 1 / 6, 0.5),
)
_PARTS = {
    *("Add", "Sub", "Mul", "Div", "Clip", "Erf", "Sigmoid", "HardSigmoid", "Tanh", "Relu", "Pow"),
    *("Softplus", "Exp", "Log", "Sqrt"),
}
_MOST_PARTS = 12
# Where the functions differ from each other, and from their like with other constants.
_POINTS = np.linspace(-7.3, 7.9, 61)
_TOLERANCE = 1e-5


def recognize(at: Importer, node: Node) -> tuple[View, Any] | None:
    """Return the tensor of which a node is an activation, and that activation; None if of none.

    A node and those before it whose other operands are numbers are one function of one argument; it
    is computed at some points, in float64, and compared.
    """
    whole = _parts(at, node, "")
    if whole is None:
        return None
    for source in dict.fromkeys(name for part in whole[0] for name in part.inputs):
        found = _parts(at, node, source)
        value = at.values.get(source)
        if found and found[1] == {source} and len(found[0]) > 1 and isinstance(value, View):
            computed = _computed(at, node, found[0], source)
            if computed is None:
                continue
            for name in _KNOWN:
                expected = reference.activate(_POINTS, name)
                if np.allclose(computed, expected, _TOLERANCE, _TOLERANCE):
                    return value, name
    return None


def _parts(at: Importer, node: Node, source: str) -> tuple[list[Node], set[str]] | None:
    """Return the nodes from a source to a node, last first, and what goes into them."""
    parts: dict[Node, None] = {}
    sources: set[str] = set()
    pending = [node]
    while pending:
        part = pending.pop()
        parts[part] = None
        if len(parts) > _MOST_PARTS:
            return None
        for name in filter(None, part.inputs):
            value, before = at.values.get(name), at.producers.get(name)
            if isinstance(value, np.ndarray):
                if value.size != 1:
                    return None
            elif name == source or before is None or before.kind not in _PARTS:
                sources.add(name)
            elif before not in parts:
                pending.append(before)
    return list(parts), sources


def _computed(at: Importer, node: Node, parts: list[Node], source: str) -> Array | None:
    known: dict[str, Array] = {source: _POINTS}
    for part in sorted(parts, key=at.positions.__getitem__):
        for name in filter(None, part.inputs):
            value = at.values.get(name)
            if isinstance(value, np.ndarray):
                known[name] = value.astype(float).reshape(())
        try:
            (found,) = compute(part, {n: known[n] for n in part.inputs if n})
        except Exception:  # it is no function of numbers in float64
            return None
        known[part.outputs[0]] = np.asarray(found, float)
    found = known[node.outputs[0]]
    return found if found.shape == _POINTS.shape else None
