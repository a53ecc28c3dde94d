"""Networks of torchvision and timm, as export.py wrote them, with weights from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import pwconv
from networks.images import draw
from networks.proof import FLOAT16, FLOAT32, prove, ways
from networks.refill import fill

FILES = Path(__file__).parent / "files"
QUICK = {
    "mobilenet_v2": FLOAT32,
    "mobilenet_v3_large": FLOAT32,
    "efficientnet_b0": None,
    "mobilenetv4_conv_small": FLOAT32,
    "resnet18": FLOAT32,
    "regnet_y_400mf": FLOAT32,
    "lraspp_mobilenet_v3_large": FLOAT32,
    "unet": FLOAT16,
    "repvit_m1": FLOAT32,
    "edgetam_encoder": FLOAT32,
}
SMALL = (1, 3, 32, 32)
LARGE = (3, 3, 97, 131)
# They add or join maps that were halved and doubled: multiples of so much.
MULTIPLE = {"unet": 4, "edgetam_encoder": 32}


def images(shape: tuple[int, ...]) -> np.ndarray:
    """Return an image for each of a batch."""
    drawn = [draw(*shape[2:], seed).transpose(2, 0, 1) for seed in range(shape[0])]
    return np.stack(drawn).astype(np.float32)


def load(name: str) -> onnx.ModelProto:
    """Return a network with weights."""
    return fill(onnx.load(FILES / f"{name}.onnx"))


def test_every_file_is_tried():
    assert {path.stem for path in FILES.glob("*.onnx")} == QUICK.keys()


@pytest.mark.parametrize(("name", "dtype", "storage"), ways(QUICK))
def test_a_small_image(device, name, dtype, storage):
    model = load(name)
    graph = pwconv.from_onnx(
        model, device=device, dtype=dtype, storage=storage, shapes={"image": SMALL}
    )
    prove(graph, model, {"image": images(SMALL)})


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "dtype", "storage"), ways(QUICK))
def test_a_batch_of_larger_images(device, name, dtype, storage):
    """By resizing: weights and shape arithmetic are those of the file."""
    model = load(name)
    graph = pwconv.from_onnx(
        model, device=device, dtype=dtype, storage=storage, shapes={"image": SMALL}
    )
    n, c, *size = LARGE
    multiple = MULTIPLE.get(name, 1)
    shape = (n, c, *(length // multiple * multiple for length in size))
    graph.resize({"image": shape})
    prove(graph, model, {"image": images(shape)})
