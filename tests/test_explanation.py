"""What a layer tells of itself is what it runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pwconv
from pwconv.ops import matmul
from pwconv.vk.commands import Plan
from support import inside

WEIGHT = np.ones((21, 9), np.float32)


def plans_of_a_call(layer: pwconv.PointwiseConv2d, x: object) -> list[Plan]:
    """Return the convolutions that a call submits."""
    context = inside.context(layer.device)
    seen = []
    submit = context.submit

    def spy(*dispatches, **options):
        seen.extend(dispatches)
        return submit(*dispatches, **options)

    inside.recordings(context).clear()  # what was submitted before takes a shorter path
    context.submit = spy
    try:
        layer(x)
    finally:
        del context.submit
    return [d.plan for d in seen if d.plan.variant.family.startswith("conv2d_pw")]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("storage", ["auto", "texture3d", "buffer"])
@pytest.mark.parametrize("layer_storage", ["auto", "texture3d", "buffer"])
@pytest.mark.parametrize("shape", [(9, 5, 7), (2, 9, 40, 41)], ids=str)
def test_it_is_what_the_call_dispatches(device, dtype, storage, layer_storage, shape):
    layer = pwconv.PointwiseConv2d(WEIGHT, dtype=dtype, storage=layer_storage, device=device)
    x = np.ones(shape, dtype)
    if storage != "auto":
        if layer_storage not in ("auto", storage):
            with pytest.raises(ValueError, match=f"x is stored as {storage} and the layer works"):
                layer.explain(shape, storage)
            return
        x = device.tensor(x, storage=storage)
    for explained in (layer.explain(shape, storage), layer.explain(list(shape), storage)):
        (plan,) = plans_of_a_call(layer, x)
        assert explained.variant == plan.variant.name
        assert explained.tile == plan.variant.axes["tile"]
        assert explained.workgroup == plan.workgroup
        assert explained.workgroup_counts == tuple(groups for _, groups in plan.parts)
        assert explained.x_shape == shape
        assert explained.out_shape == layer(x).shape
        assert explained.dtype == dtype
        assert explained.weight_storage == inside.weight(layer).storage
    if storage != "auto":
        assert explained.storage == storage
        assert explained.storage_reason == "as x is"
    elif layer_storage != "auto":
        assert explained.storage == layer_storage
        assert explained.storage_reason == "as the layer was made"
    else:
        assert explained.storage_reason == f"what suits a device of type {device.info.type}"


def test_it_says_why(device):
    layer = pwconv.PointwiseConv2d(WEIGHT, device=device)
    explained = layer.explain((2, 9, 5, 7), "buffer")
    task = inside.task(layer, "buffer", (2, 9, 5, 7), (2, 21, 5, 7))
    choice = matmul.choose(inside.context(device), task.problem, task.weight_storage)
    assert explained.reason == choice.reason
    assert explained.reason.startswith("heuristics.toml, conv2d_pw default 'buffers': ")
    lines = str(explained).splitlines()
    assert lines[0] == "x           (2, 9, 5, 7) → (2, 21, 5, 7), float32"
    assert lines[1] == "storage     buffer: as x is"
    assert lines[2] == f"variant     {explained.variant}"
    assert lines[-1] == f"because     {explained.reason}"
    with pytest.raises(dataclasses.FrozenInstanceError):
        explained.variant = "another"


def test_a_texture_past_a_limit_becomes_a_buffer_and_says_which(own_device):
    limit = own_device.info.limits["maxImageDimension3D"]
    layer = pwconv.PointwiseConv2d(np.ones((4, 4), np.float32), device=own_device)
    shape = (1, 4, 1, limit + 1)
    explained = layer.explain(shape, "texture3d")
    assert explained.storage == "buffer"
    assert explained.storage_reason.startswith("texture3d does not take it: x has shape (1, 4, 1, ")
    assert f"= {limit + 1} is past maxImageDimension3D = {limit}" in explained.storage_reason
    assert layer.explain(shape).storage == "buffer"
    # The output alone may be what does not fit.
    wide = pwconv.PointwiseConv2d(np.ones((4, 4), np.float32), padding=(0, 1), device=own_device)
    x = own_device.tensor(np.ones((1, 4, 1, limit), np.float32), storage="texture3d")
    explained = wide.explain(x.shape, x.storage)
    assert (explained.storage, wide(x).storage) == ("buffer", "buffer")
    assert "the output has shape" in explained.storage_reason
    (plan,) = plans_of_a_call(wide, x)
    assert plan.variant.name == explained.variant


def test_several_dispatches_are_told(own_device, monkeypatch):
    most = (2, 3, 1)
    monkeypatch.setitem(own_device.info.limits, "maxComputeWorkGroupCount", most)
    layer = pwconv.PointwiseConv2d(WEIGHT, device=own_device)
    explained = layer.explain((2, 9, 33, 31), "texture3d")
    assert len(explained.workgroup_counts) > 1
    for counts in explained.workgroup_counts:
        assert all(count <= limit for count, limit in zip(counts, most, strict=True))
    assert " + " in str(explained)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("abcd",), TypeError, "shape is 'abcd'"),
        ((3,), TypeError, "shape is 3"),
        (((9, 5.0, 7),), TypeError, r"shape is \(9, 5.0, 7\)"),
        (((9, 5),), ValueError, r"x has shape \(9, 5\)"),
        (((8, 5, 7),), ValueError, "8 channels; the weight takes C_in = 9"),
        (((9, 0, 7),), ValueError, "only the batch may be 0"),
        (((0, 9, 5, 7),), ValueError, r"shape is \(0, 9, 5, 7\): a batch of 0 runs nothing"),
        (((9, 5, 7), "marble"), ValueError, "storage is 'marble'"),
        (((9, 5, 7), None), ValueError, "storage is None"),
        (((9, 2**20, 2**20), "buffer"), pwconv.UnsupportedError, "maxStorageBufferRange"),
    ],
)
def test_wrong_arguments(device, arguments, error, message):
    layer = pwconv.PointwiseConv2d(WEIGHT, device=device)
    with pytest.raises(error, match=message):
        layer.explain(*arguments)


def test_a_layer_of_a_closed_device(own_device):
    layer = pwconv.PointwiseConv2d(WEIGHT, device=own_device)
    own_device.close()
    with pytest.raises(pwconv.ClosedError, match="was closed"):
        layer.explain((9, 5, 7))
