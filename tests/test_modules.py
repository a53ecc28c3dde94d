"""What a convolution promises besides its numbers: shapes, types, reuse, threads, errors."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import pwconv
from pwconv import reference
from pwconv.vk import api as vk
from support import inside, texels
from support.accuracy import assert_within, check_layer, random_problem


def test_arrays_give_arrays_and_tensors_give_tensors(device, rng):
    x, weight, bias = random_problem(rng, 8, 12, (5, 6), "float32", batch=2)
    layer = pwconv.PointwiseConv2d(weight, bias, device=device)
    from_array = layer(x)
    from_tensor = layer(device.tensor(x))
    assert isinstance(from_array, np.ndarray)
    assert isinstance(from_tensor, pwconv.Tensor)
    np.testing.assert_array_equal(from_array, from_tensor.numpy())


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_an_array_into_a_tensor(device, rng, storage):
    x, weight, _ = random_problem(rng, 8, 12, (5, 6), "float32")
    layer = pwconv.PointwiseConv2d(weight, device=device)
    out = texels.poisoned(device, (12, 5, 6), "float32", storage)
    assert layer(x, out=out) is out
    np.testing.assert_array_equal(out.numpy(), layer(device.tensor(x, storage=storage)).numpy())


def test_a_four_dimensional_weight(device, rng):
    x, weight, _ = random_problem(rng, 8, 12, (5, 6), "float32")
    four = pwconv.PointwiseConv2d(weight[:, :, None, None], device=device)
    np.testing.assert_array_equal(four(x), pwconv.PointwiseConv2d(weight, device=device)(x))


def test_one_layer_at_ten_sizes_equals_ten_layers(device, rng):
    weight, bias = random_problem(rng, 13, 9, (1, 1), "float32")[1:]
    layer = pwconv.PointwiseConv2d(weight, bias, activation="silu", device=device)
    shapes = [(1 + i % 3, 13, 3 + 2 * i, 17 - i) for i in range(10)]
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    fresh = [
        pwconv.PointwiseConv2d(weight, bias, activation="silu", device=device)(x) for x in inputs
    ]
    for index in random.Random(7).sample(range(10), 10) * 3:
        np.testing.assert_array_equal(layer(inputs[index]), fresh[index])


def test_layers_chain_without_downloads(device, rng):
    x, first, _ = random_problem(rng, 7, 10, (6, 5), "float32")
    second = rng.standard_normal((3, 10)).astype(np.float32)
    hidden = pwconv.PointwiseConv2d(first, activation="relu", device=device)(device.tensor(x))
    y = pwconv.PointwiseConv2d(second, device=device)(hidden)
    between = hidden.numpy()
    assert_within(
        y.numpy(),
        reference.conv2d_pw(between, second),
        reference.conv2d_pw_bound(between, second),
    )


def test_threads_share_a_device_and_a_layer(device, rng):
    weight, bias = random_problem(rng, 16, 24, (1, 1), "float32")[1:]
    shared = pwconv.PointwiseConv2d(weight, bias, device=device)
    inputs = [rng.standard_normal((1, 16, 4 + i, 9)).astype(np.float32) for i in range(8)]
    expected = [shared(x) for x in inputs]
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            own = pwconv.PointwiseConv2d(weight, bias, device=device)
            for turn in range(12):
                which = (index + turn) % 8
                layer = shared if turn % 2 else own
                np.testing.assert_array_equal(layer(inputs[which]), expected[which])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_threads_share_tensors_and_a_layer(device, rng):
    """Every call overwrites its own thread's output, with and without ``out``."""
    x, weight, bias = random_problem(rng, 16, 24, (4, 9), "float32")
    layer = pwconv.PointwiseConv2d(weight, bias, device=device)
    tensor = device.tensor(x)
    expected = layer(tensor).numpy()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            out = texels.poisoned(device, expected.shape, "float32", tensor.storage)
            for _ in range(100):
                layer(tensor)
                layer(tensor, out=out)
            for result in (out.numpy(), layer(tensor).numpy(), layer(x)):
                np.testing.assert_array_equal(result, expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_tensors_that_are_gone_leave_nothing_behind(own_device, rng, monkeypatch, storage):
    """Their images and buffers come back with other shapes and types, or are destroyed."""
    weights = rng.standard_normal((8, 8)).astype(np.float32)
    layers = {
        dtype: pwconv.PointwiseConv2d(weights, dtype=dtype, storage=storage, device=own_device)
        for dtype in ("float32", "float16")
    }
    # Of float32 and float16, (8, 4, 6) and (8, 4, 12) take buffers of one size.
    cases = [((8, 4, 6), "float32"), ((8, 4, 12), "float16"), ((8, 6, 4), "float32")]
    for kept in (256 << 20, 0):
        monkeypatch.setattr(*inside.slots.kept_bytes, kept)
        for shape, dtype in cases * 4:
            array = rng.standard_normal(shape).astype(dtype)
            x = own_device.tensor(array, storage=storage)
            out = own_device.empty(shape, dtype, storage)
            for _ in range(3):
                texels.fill(out, float("nan"))
                layers[dtype](x, out=out)
            typed = weights.astype(dtype)
            assert_within(
                out.numpy(),
                reference.conv2d_pw(array, typed),
                reference.conv2d_pw_bound(array, typed, dtype=dtype),
            )


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_arrays_pass_through_in_one_submission(device, rng, storage):
    x, weight, bias = random_problem(rng, 7, 10, (5, 6), "float32", batch=2)
    layer = pwconv.PointwiseConv2d(weight, bias, storage=storage, device=device)
    layer(x)
    queue = inside.logical(device).queue
    before = queue.last
    layer(x)
    assert queue.last == before + 1


@pytest.mark.parametrize("limit", [64, 8 << 20])
def test_arrays_in_any_strides_and_byte_order(device, rng, monkeypatch, limit):
    monkeypatch.setattr(*inside.slots.chunk_bytes, limit)
    x, weight, _ = random_problem(rng, 6, 5, (4, 7), "float32")
    layer = pwconv.PointwiseConv2d(weight, device=device)
    for array in (
        x[..., ::-1],
        x.astype(x.dtype.newbyteorder(">")),
        np.asfortranarray(x),
        x[:, ::2],
    ):
        array.flags.writeable = False
        plain = np.ascontiguousarray(array, np.float32)
        np.testing.assert_array_equal(layer(array), layer(device.tensor(plain)).numpy())


@pytest.mark.parametrize("limit", [64, 300, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_arrays_of_many_chunks_give_the_same(device, rng, monkeypatch, limit, dtype, storage):
    x, weight, bias = random_problem(rng, 7, 10, (5, 6), dtype, batch=2)
    layer = pwconv.PointwiseConv2d(weight, bias, storage=storage, device=device)
    whole = check_layer(layer, x, weight, bias)
    np.testing.assert_array_equal(layer(x), whole)
    monkeypatch.setattr(*inside.slots.chunk_bytes, limit)
    before = inside.logical(device).queue.last
    np.testing.assert_array_equal(layer(x), whole)
    assert inside.logical(device).queue.last > before + 2


def test_an_interrupted_call_leaves_a_usable_layer(own_device, rng, monkeypatch):
    x, weight, _ = random_problem(rng, 7, 10, (5, 6), "float32")
    layer = pwconv.PointwiseConv2d(weight, device=own_device)
    expected = layer(x)
    setattr(inside.logical(own_device).queue, inside.SPIN_SECONDS, 0.0)
    with monkeypatch.context() as patch:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(vk, "vkWaitForFences", interrupt)
        with pytest.raises(KeyboardInterrupt):
            layer(x)
    np.testing.assert_array_equal(layer(x), expected)


def test_explicit_dtype_converts_arrays(device, rng):
    x, weight, bias = random_problem(rng, 6, 5, (4, 4), "float32")
    layer = pwconv.PointwiseConv2d(weight, bias, dtype="float16", device=device)
    y = layer(x)
    assert y.dtype == np.float16
    halves = x.astype(np.float16), weight.astype(np.float16), bias
    assert_within(
        y, reference.conv2d_pw(*halves), reference.conv2d_pw_bound(*halves, dtype="float16")
    )


def test_an_empty_batch_gives_an_empty_result(device):
    layer = pwconv.PointwiseConv2d(np.ones((5, 3), np.float32), device=device)
    y = layer(np.empty((0, 3, 4, 6), np.float32))
    assert (y.shape, y.dtype) == ((0, 5, 4, 6), np.float32)
    assert layer(device.empty((0, 3, 4, 6), "float32")).numpy().shape == (0, 5, 4, 6)


def test_in_place_on_another_tensor_is_allowed_twice(device, rng):
    x, weight, bias = random_problem(rng, 6, 6, (4, 4), "float16")
    layer = pwconv.PointwiseConv2d(weight, bias, device=device)
    first = check_layer(layer, x, weight, bias)
    np.testing.assert_array_equal(first, check_layer(layer, x, weight, bias))


def test_layer_describes_itself(device):
    layer = pwconv.PointwiseConv2d(
        np.ones((5, 3), np.float32), stride=2, padding=(1, 0), activation="relu", device=device
    )
    assert (layer.in_channels, layer.out_channels) == (3, 5)
    assert repr(layer) == (
        "pwconv.PointwiseConv2d(3, 5, stride=(2, 2), padding=(1, 0), activation='relu', "
        "dtype=float32)"
    )


WEIGHT = np.ones((5, 3), np.float32)


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((WEIGHT.astype(np.float64),), {}, TypeError, "weight has dtype float64.*float32"),
        ((WEIGHT.astype(int),), {}, TypeError, "weight has dtype int64"),
        ((WEIGHT[0],), {}, ValueError, r"weight has shape \(3,\)"),
        ((np.ones((5, 3, 3, 3), np.float32),), {}, ValueError, "C_out, C_in, 1, 1"),
        ((np.ones((5, 0), np.float32),), {}, ValueError, "length 0"),
        ((WEIGHT, np.ones(4, np.float32)), {}, ValueError, r"bias has shape \(4,\).*\(5,\)"),
        ((WEIGHT, np.ones(5)), {}, TypeError, "bias has dtype float64"),
        ((WEIGHT,), {"stride": 0}, ValueError, "stride is 0"),
        ((WEIGHT,), {"stride": (1, 2, 3)}, ValueError, r"stride is \(1, 2, 3\)"),
        ((WEIGHT,), {"stride": 1.5}, ValueError, "stride is 1.5"),
        ((WEIGHT,), {"padding": -1}, ValueError, "padding is -1"),
        ((WEIGHT,), {"padding": 2**31}, ValueError, "padding is 2147483648"),
        ((WEIGHT,), {"activation": "swish"}, ValueError, "activation is 'swish'.*'silu'"),
        ((WEIGHT,), {"activation": ("clamp", 2, 1)}, ValueError, "clamp"),
        ((WEIGHT,), {"activation": ("clamp", 0, float("nan"))}, ValueError, "clamp"),
        ((WEIGHT,), {"activation": ("leaky_relu",)}, ValueError, "leaky_relu"),
        ((WEIGHT,), {"activation": 3}, ValueError, "activation is 3"),
        ((WEIGHT,), {"activation": ()}, ValueError, "activation is"),
        ((WEIGHT,), {"activation": ([], 1)}, ValueError, "activation is"),
        ((WEIGHT,), {"dtype": "float64"}, TypeError, "dtype is 'float64'"),
        ((WEIGHT,), {"accumulate": "float16"}, ValueError, "accumulate is 'float16'"),
        ((WEIGHT,), {"accumulate": "int8"}, TypeError, "accumulate is 'int8'"),
        ((WEIGHT,), {"storage": "image"}, ValueError, "storage is 'image'"),
    ],
)
def test_wrong_settings(device, arguments, settings, error, message):
    with pytest.raises(error, match=message):
        pwconv.PointwiseConv2d(*arguments, **settings, device=device)


def test_wrong_device():
    with pytest.raises(TypeError, match=r"device is 1\.5; it must be a pwconv\.Device, an index"):
        pwconv.PointwiseConv2d(WEIGHT, device=1.5)
    with pytest.raises(pwconv.NoDeviceError, match="no device matches 'a potato'"):
        pwconv.PointwiseConv2d(WEIGHT, device="a potato")


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((4, 5, 6), np.float32), ValueError, "4 channels.*C_in = 3"),
        (np.ones((3, 5), np.float32), ValueError, r"x has shape \(3, 5\)"),
        (np.ones((1, 3, 0, 5), np.float32), ValueError, "only the batch may be 0"),
        (np.ones((3, 5, 5)), TypeError, "x has dtype float64"),
        (np.ones((3, 5, 5), np.float16), TypeError, "x has dtype float16.*cast x"),
        ([[["a"]]], TypeError, "x has dtype"),
    ],
)
def test_wrong_input(device, x, error, message):
    layer = pwconv.PointwiseConv2d(WEIGHT, device=device)
    with pytest.raises(error, match=message):
        layer(x)


def test_wrong_tensors(device, own_device):
    layer = pwconv.PointwiseConv2d(WEIGHT, device=device)
    x = device.empty((3, 4, 4), "float32")
    with pytest.raises(ValueError, match="two openings of one physical device"):
        layer(own_device.empty((3, 4, 4), "float32"))
    with pytest.raises(ValueError, match="two openings of one physical device"):
        layer(x, out=own_device.empty((5, 4, 4), "float32"))
    with pytest.raises(TypeError, match="a tensor of float16"):
        layer(device.empty((3, 4, 4), "float16"))
    with pytest.raises(ValueError, match=r"out has shape \(5, 4, 5\)"):
        layer(x, out=device.empty((5, 4, 5), "float32"))
    with pytest.raises(TypeError, match="out is a ndarray"):
        layer(x, out=np.empty((5, 4, 4), np.float32))
    texture = pwconv.PointwiseConv2d(WEIGHT, storage="texture3d", device=device)
    with pytest.raises(ValueError, match="x is stored as buffer and the layer works on texture3d"):
        texture(device.empty((3, 4, 4), "float32", "buffer"))
    x = device.empty((3, 4, 4), "float32", "texture3d")
    with pytest.raises(ValueError, match="out is stored as buffer; the result is, as x, texture3d"):
        layer(x, out=device.empty((5, 4, 4), "float32", "buffer"))
    square = pwconv.PointwiseConv2d(np.ones((3, 3), np.float32), device=device)
    with pytest.raises(ValueError, match="out is x"):
        square(x, out=x)


def test_packed_weights_that_do_not_fit(device):
    batched = pwconv.pack_linear_weight(np.ones((2, 5, 3), np.float32), device=device)
    with pytest.raises(ValueError, match="batch of one"):
        pwconv.PointwiseConv2d(batched)
    packed = pwconv.pack_linear_weight(WEIGHT, device=device)
    with pytest.raises(ValueError, match="packed as float32"):
        pwconv.PointwiseConv2d(packed, dtype="float16")
    assert pwconv.PointwiseConv2d(packed).device is device


def test_a_layer_of_a_closed_device(own_device):
    layer = pwconv.PointwiseConv2d(WEIGHT, device=own_device)
    x = own_device.empty((3, 4, 4), "float32")
    own_device.close()
    for call in (lambda: layer(x), lambda: layer(np.ones((3, 4, 4), np.float32))):
        with pytest.raises(pwconv.ClosedError, match="was closed"):
            call()


def test_closing_a_device_that_threads_are_calling(own_device, rng):
    """Each call ends as ever, or with ClosedError."""
    weight = rng.standard_normal((5, 3)).astype(np.float32)
    layer = pwconv.PointwiseConv2d(weight, device=own_device)
    array = rng.standard_normal((3, 64, 64)).astype(np.float32)
    expected = layer(array)
    x, out = own_device.tensor(array), own_device.empty((5, 64, 64), "float32")
    calls = (
        lambda: layer(x, out=out),
        lambda: layer(x).numpy(),
        lambda: np.testing.assert_array_equal(layer(array), expected),
        own_device.synchronize,
    )
    started = threading.Barrier(len(calls) + 1)
    ends: list[BaseException] = []

    def work(call: Callable[[], object]) -> None:
        started.wait()
        try:
            while True:
                call()
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(0.1)
    own_device.close()
    for thread in threads:
        thread.join(30)
    assert [type(end) for end in ends] == [pwconv.ClosedError] * len(calls)
