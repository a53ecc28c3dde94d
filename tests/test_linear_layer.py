"""What a linear layer promises besides its numbers: shapes, types, storages, reuse, errors."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from pwconv import reference
from support import inside, texels
from support.accuracy import assert_within, check_linear, random_linear

WEIGHT = np.ones((5, 3), np.float32)


@pytest.mark.parametrize("shape", [(8,), (6, 8), (2, 6, 8), (2, 3, 1, 2, 8)], ids=str)
def test_arrays_give_arrays_and_tensors_give_tensors(device, rng, shape):
    x, weight, bias = random_linear(rng, shape, (12, 8), "float32")
    layer = pwconv.Linear(weight, bias, device=device)
    from_array = layer(x)
    from_tensor = layer(device.tensor(x))
    assert isinstance(from_array, np.ndarray)
    assert isinstance(from_tensor, pwconv.Tensor)
    assert from_array.shape == from_tensor.shape == (*shape[:-1], 12)
    assert from_array.dtype == from_tensor.dtype == np.float32


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_an_array_into_a_tensor(device, rng, storage):
    x, weight, _ = random_linear(rng, (3, 4, 8), (12, 8), "float32")
    layer = pwconv.Linear(weight, device=device)
    out = texels.poisoned(device, (3, 4, 12), "float32", storage)
    assert layer(x, out=out) is out
    np.testing.assert_array_equal(out.numpy(), layer(device.tensor(x, storage=storage)).numpy())


def test_one_layer_at_many_shapes(device, rng):
    _, weight, bias = random_linear(rng, (13,), (9, 13), "float32")
    layer = pwconv.Linear(weight, bias, activation="silu", device=device)
    shapes = [(13,), (70, 13), (3, 13), (2, 33, 13), (1, 13), (2, 3, 4, 13)]
    for shape in shapes * 2:
        x = rng.standard_normal(shape).astype(np.float32)
        check_linear(layer, x, weight, bias)


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_it_follows_a_convolution_on_the_device(device, rng, storage):
    """A convolution's output [N, C, H, W] is one of [..., W]."""
    x = rng.standard_normal((2, 3, 5, 6)).astype(np.float32)
    first = rng.standard_normal((7, 3)).astype(np.float32)
    second = rng.standard_normal((4, 6)).astype(np.float32)
    hidden = pwconv.conv2d_pw(device.tensor(x, storage=storage), first)
    y = pwconv.linear(hidden, second)
    between = hidden.numpy()
    assert (y.shape, y.storage) == ((2, 7, 5, 4), storage)
    assert_within(
        y.numpy(), reference.linear(between, second), reference.linear_bound(between, second)
    )


def test_the_weight_of_a_convolution_serves(device, rng):
    x, weight, bias = random_linear(rng, (6, 9), (10, 9), "float32")
    packed = pwconv.pack_linear_weight(weight, device=device)
    check_linear(pwconv.Linear(packed, bias), x, weight, bias)
    images = np.ascontiguousarray(x.T[:, :, None])
    convolution = pwconv.PointwiseConv2d(packed, bias)
    assert_within(
        convolution(images),
        reference.conv2d_pw(images, weight, bias),
        reference.conv2d_pw_bound(images, weight, bias),
    )


def test_a_batch_of_one_is_no_batch(device, rng):
    x, weight, bias = random_linear(rng, (6, 9), (1, 10, 9), "float32")
    for given in (weight, pwconv.pack_linear_weight(weight, device=device)):
        check_linear(pwconv.Linear(given, bias, device=device), x, weight[0], bias)


@pytest.mark.parametrize("shape", [(3, 9), (3, 4, 9)], ids=str)
def test_a_texture_whose_texels_mix_batches_becomes_a_buffer(device, rng, shape):
    x, weight, bias = random_linear(rng, shape, (3, 10, 9), "float32")
    layer = pwconv.Linear(weight, bias, device=device)
    texture = device.tensor(x, storage="texture3d")
    y = layer(texture)
    assert y.storage == "buffer"
    assert_within(
        y.numpy(), reference.linear(x, weight, bias), reference.linear_bound(x, weight, bias)
    )
    explained = layer.explain(shape, "texture3d")
    assert explained.storage == "buffer"
    assert explained.storage_reason.startswith("texture3d does not take it: x has shape (3, ")
    textures = pwconv.Linear(weight, bias, storage="texture3d", device=device)
    with pytest.raises(pwconv.UnsupportedError, match="give x four axes"):
        textures(texture)
    # An array is given four axes on its way.
    np.testing.assert_array_equal(textures(x).shape, y.shape)
    whole = np.ascontiguousarray(x.reshape(3, -1, 1, 9))
    assert textures(device.tensor(whole, storage="texture3d")).storage == "texture3d"


def test_past_the_largest_image(device, rng):
    limit = device.info.limits["maxImageDimension3D"]
    x, weight, _ = random_linear(rng, (2, limit + 1), (3, limit + 1), "float32")
    layer = pwconv.Linear(weight, device=device)
    check_linear(layer, x, weight, None, storage="buffer")
    with pytest.raises(pwconv.UnsupportedError, match=r"x has shape.*maxImageDimension3D"):
        pwconv.Linear(weight, storage="texture3d", device=device)(x)
    wide = np.ones((limit + 1, 2), np.float32)
    y = pwconv.Linear(wide, device=device)(device.tensor(x[:, :2].copy(), storage="texture3d"))
    assert y.storage == "buffer"


@pytest.mark.parametrize("shape", [(0, 3), (4, 0, 3), (0, 2, 3)], ids=str)
def test_no_rows(device, shape):
    layer = pwconv.Linear(WEIGHT, device=device)
    y = layer(np.empty(shape, np.float32))
    assert (y.shape, y.dtype) == ((*shape[:-1], 5), np.float32)
    if 0 not in shape[1:]:
        assert layer(device.empty(shape, "float32")).numpy().shape == (*shape[:-1], 5)
    with pytest.raises(ValueError, match="a batch of 0 runs nothing"):
        layer.explain(shape)


@pytest.mark.parametrize("limit", [64, 300])
def test_arrays_in_any_strides(device, rng, monkeypatch, limit):
    monkeypatch.setattr(*inside.slots.chunk_bytes, limit)
    x, weight, _ = random_linear(rng, (4, 6, 5), (7, 5), "float32")
    layer = pwconv.Linear(weight, device=device)
    for array in (x[::-1], x.swapaxes(0, 1), x.astype(">f4"), np.asfortranarray(x)):
        plain = np.ascontiguousarray(array, np.float32)
        assert_within(
            layer(array), reference.linear(plain, weight), reference.linear_bound(plain, weight)
        )


def test_explicit_dtype_converts_arrays(device, rng):
    x, weight, bias = random_linear(rng, (6, 5), (4, 5), "float32")
    y = pwconv.Linear(weight, bias, dtype="float16", device=device)(x)
    assert y.dtype == np.float16
    halves = x.astype(np.float16), weight.astype(np.float16), bias
    assert_within(y, reference.linear(*halves), reference.linear_bound(*halves, dtype="float16"))


@pytest.mark.parametrize("storage", ["auto", "texture3d", "buffer"])
@pytest.mark.parametrize("shape", [(9,), (40, 9), (2, 5, 9), (2, 3, 5, 9)], ids=str)
def test_it_explains_what_the_call_dispatches(device, storage, shape):
    layer = pwconv.Linear(np.ones((21, 9), np.float32), device=device)
    explained = layer.explain(shape, storage)
    x = np.ones(shape, np.float32)
    seen = []
    submit = inside.dispatcher(device).submit

    def spy(*dispatches, **options):
        seen.extend(d.plan for d in dispatches if d.plan.variant.family.startswith("linear"))
        return submit(*dispatches, **options)

    inside.dispatcher(device).submit = spy
    try:
        y = layer(x if storage == "auto" else device.tensor(x, storage=storage))
    finally:
        del inside.dispatcher(device).submit
    (plan,) = seen
    assert explained.variant == plan.variant.name
    assert explained.workgroup == plan.workgroup
    assert explained.workgroup_counts == tuple(groups for _, groups in plan.parts)
    assert (explained.x_shape, explained.out_shape) == (shape, y.shape)
    assert storage in ("auto", explained.storage)


def test_layer_describes_itself(device):
    layer = pwconv.Linear(WEIGHT, activation="relu", device=device)
    assert (layer.in_features, layer.out_features, layer.batches) == (3, 5, 1)
    assert repr(layer) == "pwconv.Linear(3, 5, activation='relu', dtype=float32)"
    batched = pwconv.Linear(np.ones((2, 5, 3), np.float16), device=device)
    assert batched.batches == 2
    assert repr(batched) == "pwconv.Linear(3, 5, batches=2, activation=None, dtype=float16)"


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((WEIGHT.astype(np.float64),), {}, TypeError, "weight has dtype float64.*float32"),
        ((WEIGHT[0],), {}, ValueError, r"weight has shape \(3,\); it must be \[N, K\] or"),
        ((np.ones((1, 1, 5, 3), np.float32),), {}, ValueError, r"\[B, N, K\]"),
        ((np.ones((5, 0), np.float32),), {}, ValueError, "length 0"),
        ((WEIGHT, np.ones(4, np.float32)), {}, ValueError, r"it must be \[N\] = \(5,\)"),
        ((WEIGHT, np.ones(5)), {}, TypeError, "bias has dtype float64"),
        ((WEIGHT,), {"activation": "swish"}, ValueError, "activation is 'swish'.*'silu'"),
        ((WEIGHT,), {"dtype": "float64"}, TypeError, "dtype is 'float64'"),
        ((WEIGHT,), {"accumulate": "float16"}, ValueError, "accumulate is 'float16'"),
        ((WEIGHT,), {"storage": "image"}, ValueError, "storage is 'image'"),
    ],
)
def test_wrong_settings(device, arguments, settings, error, message):
    with pytest.raises(error, match=message):
        pwconv.Linear(*arguments, **settings, device=device)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((3, 4), np.float32), ValueError, r"x has shape \(3, 4\); its last axis.*K = 3"),
        (np.float32(1), ValueError, r"x has shape \(\); its last axis must be K = 3"),
        (np.ones((2, 3)), TypeError, "x has dtype float64"),
        (np.ones((2, 3), np.float16), TypeError, "x has dtype float16.*cast x"),
    ],
)
def test_wrong_input(device, x, error, message):
    with pytest.raises(error, match=message):
        pwconv.Linear(WEIGHT, device=device)(x)


@pytest.mark.parametrize("shape", [(3,), (3, 3), (1, 2, 3)], ids=str)
def test_another_batch_than_the_weights(device, shape):
    layer = pwconv.Linear(np.ones((2, 5, 3), np.float32), device=device)
    with pytest.raises(ValueError, match=r"it must be \[B, …, K\] with B = 2"):
        layer(np.ones(shape, np.float32))


def test_wrong_tensors(device, own_device):
    layer = pwconv.Linear(WEIGHT, device=device)
    x = device.empty((4, 3), "float32")
    with pytest.raises(ValueError, match="two openings of one physical device"):
        layer(own_device.empty((4, 3), "float32"))
    with pytest.raises(TypeError, match="a tensor of float16"):
        layer(device.empty((4, 3), "float16"))
    with pytest.raises(ValueError, match=r"out has shape \(4, 6\)"):
        layer(x, out=device.empty((4, 6), "float32"))
    with pytest.raises(TypeError, match="out is a ndarray"):
        layer(x, out=np.empty((4, 5), np.float32))
    texture = device.empty((4, 3), "float32", "texture3d")
    with pytest.raises(ValueError, match="out is stored as buffer; the result is, as x, texture3d"):
        layer(texture, out=device.empty((4, 5), "float32", "buffer"))
    square = pwconv.Linear(np.ones((3, 3), np.float32), device=device)
    with pytest.raises(ValueError, match="out is x"):
        square(x, out=x)
    packed = pwconv.pack_linear_weight(WEIGHT, device=device)
    with pytest.raises(ValueError, match="packed as float32"):
        pwconv.Linear(packed, dtype="float16")


def test_a_layer_of_a_closed_device(own_device):
    layer = pwconv.Linear(WEIGHT, device=own_device)
    x = own_device.empty((4, 3), "float32")
    own_device.close()
    for call in (lambda: layer(x), lambda: layer(np.ones((4, 3), np.float32))):
        with pytest.raises(pwconv.ClosedError, match="was closed"):
            call()
