"""A webcam-like loop runs a network on frames; tensors stay on the device.

    python examples/webcam_loop.py [MODEL.onnx]

Any network of one input "x", [N, 3, H, W]; without one, a text detector from the package index. A
second graph smooths the network's output over time: what it takes and gives is never downloaded,
but for the last. It needs ``pip install 'pwconv[onnx]'``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import pwconv
import text_models

HEIGHT, WIDTH = 96, 160


def main(path: str | Path, count: int = 20) -> None:
    """Run so many frames, and print how many a second they were."""
    graph = pwconv.from_onnx(path, shapes={"x": (1, 3, HEIGHT, WIDTH)})
    device = graph.device
    first = next(frames(1))
    (y,) = graph.run({"x": first}).values()  # kernels are compiled here, and not in the loop
    smooth = smoothing(graph, y.shape)
    state = device.tensor(y, storage=graph.storage)
    smooth.run({"y": state, "before": state})["y"].numpy()

    start = time.perf_counter()
    for frame in frames(count):
        x = device.tensor(frame, storage=graph.storage)
        (y,) = graph.run({"x": x}).values()
        (state,) = smooth.run({"y": y, "before": state}).values()
        # No run on tensors waits for the device: it computes while the next frame is made.
    last = state.numpy()  # waits, and downloads
    seconds = time.perf_counter() - start
    print(f"the last output has shape {last.shape}")
    print(f"{count / seconds:.1f} frames a second of {WIDTH} × {HEIGHT} on {device.info.name}")


def smoothing(graph: pwconv.Graph, shape: tuple[int, ...]) -> pwconv.Graph:
    """Return a graph: 0.8 of what was before, and 0.2 of what is new."""
    smooth = pwconv.Graph(graph.device, graph.dtype, storage=graph.storage)
    y, before = smooth.input("y", shape), smooth.input("before", shape)
    old = smooth.activation(before, ("affine", 0.8, 0.0))
    smooth.output("y", smooth.add(old, smooth.activation(y, ("affine", 0.2, 0.0))))
    return smooth


def frames(count: int) -> Iterator[Any]:
    """Yield frames [1, 3, H, W] from -1 to 1: stripes that move, in place of a camera."""
    columns = np.arange(WIDTH, dtype=np.float32)
    for i in range(count):
        stripes = np.sin((columns + 2 * i) / 8)
        yield np.broadcast_to(stripes, (1, 3, HEIGHT, WIDTH))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else text_models.fetch(text_models.DETECTOR))
