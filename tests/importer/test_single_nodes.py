"""Single nodes: forms that were wrong or crashed, and any, as ONNX Runtime has them."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import pwconv  # noqa: E402
from importer.random_nodes import draw_node  # noqa: E402
from support.models import make_model, node  # noqa: E402
from support.networks import assert_as_elsewhere  # noqa: E402

FORMS = {
    "mean of one channel": (node("ReduceMean", "x", "y", axes=[1]), (4, 1, 4, 1), {}),
    "mean over H": (node("ReduceMean", "x", "y", axes=[2], keepdims=0), (2, 3, 5, 4), {}),
    "norm of one": (node("ReduceL2", "x", "y", axes=[0]), (1, 5, 4), {}),
    "one wide exponent": (node("Pow", "x c", "y"), (2, 4), {"c": np.full((3, 2, 4), 2.0)}),
    "a detector's anchors": (node("Mul", "x c", "y"), (2, 3, 5, 4, 2), {"c": (1, 3, 1, 1, 2)}),
    "a detector's grid": (node("Sub", "c x", "y"), (1, 3, 5, 4, 2), {"c": (5, 4, 2)}),
    "more axes": (node("Div", "x c", "y"), (3, 5, 2), {"c": (1, 1, 3, 1, 2)}),
    "a stride past the kernel": (
        node("ConvTranspose", "x c", "y", strides=[1, 3], auto_pad="SAME_UPPER"),
        (1, 3, 6, 5),
        {"c": (3, 2, 2, 2)},
    ),
}


@pytest.mark.parametrize(("made", "shape", "constants"), FORMS.values(), ids=FORMS)
def test_a_form(device, rng, made, shape, constants):
    arrays = {
        name: c.astype(np.float32) if isinstance(c, np.ndarray) else rng.uniform(0.5, 2, c)
        for name, c in constants.items()
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    model = make_model([made], {"x": shape}, ["y"], arrays, opset=13)
    x = rng.standard_normal(shape, np.float32)
    assert_as_elsewhere(pwconv.from_onnx(model, device=device), model, {"x": x})


MALFORMED = {
    "of 5 axes": (node("BatchNormalization", "x c c c c", "y"), (2, 3, 4, 5, 6), {"c": (3,)}),
    "no blocks": (node("DepthToSpace", "x", "y", blocksize=0), (1, 4, 2, 2), {}),
    "blocks backwards": (node("SpaceToDepth", "x", "y", blocksize=-1), (1, 4, 2, 2), {}),
    "an output that is none": (node("Dropout", "x", "z mask y"), (1, 3), {}),
    "a number times a matrix": (node("Gemm", "x c", "y"), (), {"c": (3, 3)}),
    "no neighbours": (node("LRN", "x", "y", size=0), (1, 3, 2, 2), {}),
    "a scale of no channels": (node("InstanceNormalization", "x c c", "y"), (1, 3, 2), {"c": (0,)}),
    "an axis twice": (node("Unsqueeze", "x", "y", axes=[1, 1]), (2, 3), {}),
    "a size past all": (
        node("Resize", "x _ c", "y"),
        (1, 2, 3, 4),
        {"c": np.array([1, 1, np.inf, 1])},
    ),
    "an axis past all, of constants": (
        node("Gather", "c i", "y", axis=5),
        (1,),
        {"c": (2,), "i": ()},
    ),
    "a product of one": (node("MatMul", "c", "y"), (1,), {"c": (2, 2)}),
    "more neighbours than fit": (node("LRN", "x", "y", size=3), (1, 60000, 1, 1), {}),
    "a matrix of three axes": (node("MatMul", "x c", "y"), (), {"c": (1,)}),
}


@pytest.mark.parametrize(("made", "shape", "constants"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_node(device, made, shape, constants):
    arrays = {
        name: c.astype(np.float32) if isinstance(c, np.ndarray) else np.ones(c, np.float32)
        for name, c in constants.items()
    }
    model = make_model([made], {"x": shape}, ["y"], arrays, opset=11)
    with pytest.raises((pwconv.UnsupportedError, ValueError)) as error:
        pwconv.from_onnx(model, device=device)
    assert made.op_type in str(error.value)


@pytest.mark.parametrize("seed", range(60))
def test_any_node(device, seed):
    check_any(device, seed)


@pytest.mark.exhaustive
def test_many_nodes(device):
    for seed in range(60, 2000):
        check_any(device, seed)


def check_any(device: pwconv.Device, seed: int) -> None:
    model, x = draw_node(seed)
    storage = ("texture3d", "buffer", "auto")[seed % 3]
    assert_as_elsewhere(pwconv.from_onnx(model, device=device, storage=storage), model, {"x": x})
