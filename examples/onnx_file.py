"""An ONNX file is imported, run, resized and run again.

    python examples/onnx_file.py [MODEL.onnx]

Any network of one input "x", [N, 3, H, W]; without one, a text detector from the package index. It
needs ``pip install 'pwconv[onnx]'``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import pwconv
import text_models


def main(path: str | Path) -> None:
    """Import, run, resize, run again."""
    # H and W are open in the file: shapes says what they are at first.
    graph = pwconv.from_onnx(path, shapes={"x": (1, 3, 96, 160)})
    for size in ((96, 160), (160, 224)):
        shape = (1, 3, *size)
        graph.resize({"x": shape})  # weights and compiled kernels stay
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        for name, y in graph.run({"x": x}).items():  # NumPy in, NumPy out
            print(f"x {shape} -> {name} {y.shape}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else text_models.fetch(text_models.DETECTOR))
