"""docs/operators.md: the operators of ONNX that pwconv computes, from the importer's declarations.

    python build_tools/operator_table.py

tests/build_tools/test_operator_table.py holds that the file is what this writes.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from pwconv.importer import operators  # noqa: F401  # fills the registry
from pwconv.importer.network import DECLARATIONS, FOLDED, Declaration

PAGE = Path(__file__).parents[1] / "docs" / "operators.md"
LEAST_OPSET = 7
"""From which on files are read."""


@dataclass(frozen=True)
class NodeTests:
    """How many of ONNX's node tests pass, which tests/importer/test_node_tests.py holds."""

    version: str
    passed: int
    refused: int


NODE_TESTS = NodeTests(version="1.23.2", passed=435, refused=157)

_WIDTH = 100
_PARAGRAPHS = (
    """What `pwconv.from_onnx` computes, for files of opset {least} and newer. Each operator runs in
    float32 and in float16, with activations in textures or in buffers.""",
    """"Computed by" names methods of `pwconv.Graph`, whose activations are those of
    [the guide](guide.md#layers). A view is another reading of a tensor's elements, and moves
    nothing; where a kernel needs them in order, `ops.Rearrange` copies them. "Limits" says what a
    node must be like. Any other node, and any other operator, is refused by one
    `UnsupportedError`: it names each, says why, and at which values to cut the model.""",
    """Where all inputs of a node are known when the model is read, onnx computes it then. So these
    operators are taken too, of constants and shapes: {folded}.""",
    """Of inputs that are whole numbers in the file, Div, Pow, PRelu, ReduceL2, ReduceMean and a
    Resize that is linear are refused, since they round; so are sums, products and Neg of types
    below 32 bits, since they wrap around. After a Cast to floats all are taken.""",
    """Several nodes that are a silu, hardswish, gelu, mish or hardsigmoid become one activation.
    Batch norms, and multiplying and adding by channel, become part of the convolution before
    them.""",
    """Of the {count} node tests of onnx {version} that have these operators alone, {passed} pass
    and {refused} are refused; most of those are constant as a whole, have three axes of space, or
    are for training. Left out are tests of casts, which are of integers and narrow floats, and one
    of Resize, where ONNX Runtime, and pwconv, compute something else.""",
)
_HEADER = """\
| operator | from opset | computed by | limits |
|---|---|---|---|
"""


def page() -> str:
    """Return the text of docs/operators.md."""
    words = {
        "least": LEAST_OPSET,
        "folded": ", ".join(sorted(FOLDED - set(DECLARATIONS))),
        "count": NODE_TESTS.passed + NODE_TESTS.refused,
        **vars(NODE_TESTS),
    }
    paragraphs = [
        textwrap.fill(" ".join(each.format(**words).split()), _WIDTH, break_on_hyphens=False)
        for each in _PARAGRAPHS
    ]
    opsets = first_opsets()
    rows = (
        _row(kind, opsets[kind], DECLARATIONS[kind]) for kind in sorted(DECLARATIONS, key=str.lower)
    )
    return "\n\n".join(("# Operators of ONNX", *paragraphs, _HEADER)) + "".join(rows)


def _row(kind: str, opset: str, declared: Declaration) -> str:
    return f"| {kind} | {opset} | {declared.by} | {declared.limits} |\n"


def first_opsets() -> Mapping[str, str]:
    """Return the opsets that have each operator, in words."""
    versions: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain and schema.name in DECLARATIONS:
            versions[schema.name].append((schema.since_version, schema.deprecated))
    found = {}
    for kind, history in versions.items():
        first = max(min(since for since, _ in history), LEAST_OPSET)
        last = [since - 1 for since, deprecated in history if deprecated]
        found[kind] = f"{first} to {last[0]}" if last else str(first)
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
