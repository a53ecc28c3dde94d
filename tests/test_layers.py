"""What layers promise besides their numbers: shapes, types, reuse, threads, errors."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv import reference
from pwconv.vk import api as vk
from support import inside, texels
from support.accuracy import assert_within, check_linear, random_linear, random_problem

WEIGHT = np.ones((5, 3), np.float32)


@dataclass(frozen=True)
class Kind:
    """A kind of layer, its reference, and where in an input its channels are."""

    layer: type[Any]
    expect: Callable[..., np.ndarray]
    bound: Callable[..., np.ndarray]
    axis: int

    def shape(self, channels: int, *others: int) -> tuple[int, ...]:
        """Return the shape of an input of channels, or of an output, and other axes."""
        axes = list(others)
        axes.insert(len(others) + 1 + self.axis, channels)
        return tuple(axes)

    def check(self, actual: Any, x: np.ndarray, *given: Any, dtype: str = "float32") -> None:
        """Assert that a result is within its bound."""
        assert_within(
            np.asarray(actual), self.expect(x, *given), self.bound(x, *given, dtype=dtype)
        )


KINDS = {
    "PointwiseConv2d": Kind(
        pwconv.PointwiseConv2d, reference.conv2d_pw, reference.conv2d_pw_bound, -3
    ),
    "Linear": Kind(pwconv.Linear, reference.linear, reference.linear_bound, -1),
}
STORAGES = ("texture3d", "buffer")


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def parameters(rng):
    """Draw a weight [N, K] and a bias [N]."""

    def draw(n: int, k: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
        weight = (rng.standard_normal((n, k)) / np.sqrt(k)).astype(dtype)
        return weight, rng.standard_normal(n).astype(dtype)

    return draw


def run_in_threads(*works: Callable[[], None]) -> None:
    """Run functions at once, each in a thread; assert that none raises."""
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_arrays_give_arrays_and_tensors_give_tensors(device, rng, kind, parameters):
    weight, bias = parameters(12, 8)
    layer = kind.layer(weight, bias, device=device)
    x = rng.standard_normal(kind.shape(8, 2, 5, 6), np.float32)
    from_array, from_tensor = layer(x), layer(device.tensor(x))
    assert isinstance(from_array, np.ndarray)
    assert isinstance(from_tensor, pwconv.Tensor)
    assert from_array.shape == from_tensor.shape == kind.shape(12, 2, 5, 6)
    assert from_array.dtype == from_tensor.dtype == np.float32
    for y in (from_array, from_tensor):
        kind.check(y, x, weight, bias)


@pytest.mark.parametrize("storage", STORAGES)
def test_an_array_into_a_tensor(device, rng, kind, parameters, storage):
    weight, bias = parameters(12, 8)
    layer = kind.layer(weight, bias, device=device)
    x = rng.standard_normal(kind.shape(8, 5, 6), np.float32)
    out = texels.poisoned(device, kind.shape(12, 5, 6), "float32", storage)
    assert layer(x, out=out) is out
    np.testing.assert_array_equal(out.numpy(), layer(device.tensor(x, storage=storage)).numpy())


def test_one_layer_at_ten_sizes_equals_ten_layers(device, rng, kind, parameters):
    weight, bias = parameters(9, 13)
    settings = {"activation": "silu", "device": device}
    layer = kind.layer(weight, bias, **settings)
    shapes = [kind.shape(13, 1 + i % 3, 3 + 2 * i, 17 - i) for i in range(10)]
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    fresh = [kind.layer(weight, bias, **settings)(x) for x in inputs]
    for index in random.Random(7).sample(range(10), 10) * 3:
        np.testing.assert_array_equal(layer(inputs[index]), fresh[index])


def test_threads_share_a_device_and_a_layer(device, rng, kind, parameters):
    weight, bias = parameters(24, 16)
    shared = kind.layer(weight, bias, device=device)
    inputs = [rng.standard_normal(kind.shape(16, 1, 4 + i, 9), np.float32) for i in range(8)]
    expected = [shared(x) for x in inputs]

    def work(index: int) -> None:
        own = kind.layer(weight, bias, device=device)
        for turn in range(12):
            which = (index + turn) % 8
            layer = shared if turn % 2 else own
            np.testing.assert_array_equal(layer(inputs[which]), expected[which])

    run_in_threads(*(lambda index=index: work(index) for index in range(8)))


def test_threads_share_tensors_and_a_layer(device, rng, kind, parameters):
    """Every call overwrites its own thread's output, with and without ``out``."""
    weight, bias = parameters(24, 16)
    layer = kind.layer(weight, bias, device=device)
    x = rng.standard_normal(kind.shape(16, 4, 9), np.float32)
    tensor = device.tensor(x)
    expected = layer(tensor).numpy()

    def work() -> None:
        out = texels.poisoned(device, expected.shape, "float32", tensor.storage)
        for _ in range(100):
            layer(tensor)
            layer(tensor, out=out)
        for result in (out.numpy(), layer(tensor).numpy(), layer(x)):
            np.testing.assert_array_equal(result, expected)

    run_in_threads(*[work] * 8)


@pytest.mark.parametrize("storage", STORAGES)
def test_tensors_that_are_gone_leave_nothing_behind(own_device, rng, kind, monkeypatch, storage):
    """Their images and buffers come back with other shapes and types, or are destroyed."""
    weights = rng.standard_normal((8, 8)).astype(np.float32)
    layers = {
        dtype: kind.layer(weights, dtype=dtype, storage=storage, device=own_device)
        for dtype in ("float32", "float16")
    }
    # Of float32 and float16, 8 channels of 4 × 6 and of 4 × 12 take buffers of one size.
    cases = [((4, 6), "float32"), ((4, 12), "float16"), ((6, 4), "float32")]
    for kept in (256 << 20, 0):
        monkeypatch.setattr(*inside.slots.kept_bytes, kept)
        for size, dtype in cases * 4:
            shape = kind.shape(8, *size)
            array = rng.standard_normal(shape).astype(dtype)
            x = own_device.tensor(array, storage=storage)
            out = own_device.empty(shape, dtype, storage)
            for _ in range(3):
                texels.fill(out, float("nan"))
                layers[dtype](x, out=out)
            kind.check(out.numpy(), array, weights.astype(dtype), dtype=dtype)


@pytest.mark.parametrize("storage", STORAGES)
def test_arrays_pass_through_in_one_submission(device, rng, kind, parameters, storage):
    weight, bias = parameters(10, 7)
    layer = kind.layer(weight, bias, storage=storage, device=device)
    x = rng.standard_normal(kind.shape(7, 2, 5, 6), np.float32)
    layer(x)
    queue = inside.context(device).queue
    before = queue.last
    layer(x)
    assert queue.last == before + 1


@pytest.mark.parametrize("limit", [64, 300, 8 << 20])
def test_arrays_in_any_strides_and_byte_order(device, rng, kind, parameters, monkeypatch, limit):
    monkeypatch.setattr(*inside.slots.chunk_bytes, limit)
    weight, bias = parameters(5, 6)
    layer = kind.layer(weight, bias, device=device)
    x = rng.standard_normal(kind.shape(6, 4, 7), np.float32)
    for array in (
        x[..., ::-1],
        x.swapaxes(-1, -2).copy().swapaxes(-1, -2),
        x.astype(x.dtype.newbyteorder(">")),
        np.asfortranarray(x),
    ):
        array.flags.writeable = False
        plain = np.ascontiguousarray(array, np.float32)
        np.testing.assert_array_equal(layer(array), layer(device.tensor(plain)).numpy())


@pytest.mark.parametrize("limit", [64, 300, 1000])
@pytest.mark.parametrize(("dtype", "storage"), [("float32", "texture3d"), ("float16", "buffer")])
def test_arrays_of_many_chunks_give_the_same(
    device, rng, kind, parameters, monkeypatch, limit, dtype, storage
):
    weight, bias = parameters(10, 7, dtype)
    layer = kind.layer(weight, bias, storage=storage, device=device)
    x = rng.standard_normal(kind.shape(7, 2, 5, 6)).astype(dtype)
    whole = layer(x)
    kind.check(whole, x, weight, bias, dtype=dtype)
    monkeypatch.setattr(*inside.slots.chunk_bytes, limit)
    before = inside.context(device).queue.last
    np.testing.assert_array_equal(layer(x), whole)
    assert inside.context(device).queue.last > before + 2


def test_an_interrupted_call_leaves_a_usable_layer(own_device, rng, kind, parameters, monkeypatch):
    weight, bias = parameters(10, 7)
    layer = kind.layer(weight, bias, device=own_device)
    x = rng.standard_normal(kind.shape(7, 5, 6), np.float32)
    expected = layer(x)
    setattr(inside.context(own_device).queue, inside.SPIN_SECONDS, 0.0)
    with monkeypatch.context() as patch:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(vk, "vkWaitForFences", interrupt)
        with pytest.raises(KeyboardInterrupt):
            layer(x)
    np.testing.assert_array_equal(layer(x), expected)


def test_explicit_dtype_converts_arrays(device, rng, kind, parameters):
    weight, bias = parameters(5, 6)
    x = rng.standard_normal(kind.shape(6, 4, 4), np.float32)
    y = kind.layer(weight, bias, dtype="float16", device=device)(x)
    assert y.dtype == np.float16
    kind.check(y, x.astype(np.float16), weight.astype(np.float16), bias, dtype="float16")


def test_the_same_output_twice(device, rng, kind, parameters):
    weight, bias = parameters(6, 6)
    layer = kind.layer(weight, bias, device=device)
    x = device.tensor(rng.standard_normal(kind.shape(6, 4, 4), np.float32))
    out = device.empty(x.shape, "float32", x.storage)
    first = layer(x, out=out).numpy()
    np.testing.assert_array_equal(layer(x, out=out).numpy(), first)


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((WEIGHT.astype(np.float64),), {}, TypeError, "weight has dtype float64.*float32"),
        ((WEIGHT.astype(int),), {}, TypeError, "weight has dtype int64"),
        ((WEIGHT[0],), {}, ValueError, r"weight has shape \(3,\)"),
        ((np.ones((5, 0), np.float32),), {}, ValueError, "length 0"),
        ((WEIGHT, np.ones(4, np.float32)), {}, ValueError, r"bias has shape \(4,\).*\(5,\)"),
        ((WEIGHT, np.ones(5)), {}, TypeError, "bias has dtype float64"),
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
def test_wrong_settings(device, kind, arguments, settings, error, message):
    with pytest.raises(error, match=message):
        kind.layer(*arguments, **settings, device=device)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((np.ones((5, 3, 3, 3), np.float32),), {}, "C_out, C_in, 1, 1"),
        ((WEIGHT,), {"stride": 0}, "stride is 0"),
        ((WEIGHT,), {"stride": (1, 2, 3)}, r"stride is \(1, 2, 3\)"),
        ((WEIGHT,), {"stride": 1.5}, "stride is 1.5"),
        ((WEIGHT,), {"padding": -1}, "padding is -1"),
        ((WEIGHT,), {"padding": 2**31}, "padding is 2147483648"),
    ],
)
def test_wrong_settings_of_a_convolution(device, arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        pwconv.PointwiseConv2d(*arguments, **settings, device=device)


def test_wrong_shapes_of_a_linear_layer(device):
    for weight, message in (
        (WEIGHT[0], r"it must be \[N, K\] or"),
        (np.ones((1, 1, 5, 3), np.float32), r"\[B, N, K\]"),
    ):
        with pytest.raises(ValueError, match=message):
            pwconv.Linear(weight, device=device)


def test_wrong_device(kind):
    with pytest.raises(TypeError, match=r"device is 1\.5; it must be a pwconv\.Device, an index"):
        kind.layer(WEIGHT, device=1.5)
    with pytest.raises(pwconv.NoDeviceError, match="no device matches 'a potato'"):
        kind.layer(WEIGHT, device="a potato")


def test_wrong_tensors(device, own_device, kind):
    layer = kind.layer(WEIGHT, device=device)
    x_shape, out_shape = kind.shape(3, 4, 4), kind.shape(5, 4, 4)
    x = device.empty(x_shape, "float32")
    with pytest.raises(ValueError, match="two openings of one physical device"):
        layer(own_device.empty(x_shape, "float32"))
    with pytest.raises(ValueError, match="two openings of one physical device"):
        layer(x, out=own_device.empty(out_shape, "float32"))
    with pytest.raises(TypeError, match="a tensor of float16"):
        layer(device.empty(x_shape, "float16"))
    with pytest.raises(ValueError, match=r"out has shape \((5, 4, 6|4, 6, 5)\)"):
        layer(x, out=device.empty(kind.shape(5, 4, 6), "float32"))
    with pytest.raises(TypeError, match="out is a ndarray"):
        layer(x, out=np.empty(out_shape, np.float32))
    texture = kind.layer(WEIGHT, storage="texture3d", device=device)
    with pytest.raises(ValueError, match="x is stored as buffer and the layer works on texture3d"):
        texture(device.empty(x_shape, "float32", "buffer"))
    x = device.empty(x_shape, "float32", "texture3d")
    with pytest.raises(ValueError, match="out is stored as buffer; the result is, as x, texture3d"):
        layer(x, out=device.empty(out_shape, "float32", "buffer"))
    square = kind.layer(np.ones((3, 3), np.float32), device=device)
    with pytest.raises(ValueError, match="out is x"):
        square(x, out=x)


def test_packed_weights_that_do_not_fit(device, kind):
    packed = pwconv.pack_linear_weight(WEIGHT, device=device)
    with pytest.raises(ValueError, match="packed as float32"):
        kind.layer(packed, dtype="float16")
    assert kind.layer(packed).device is device
    batched = pwconv.pack_linear_weight(np.ones((2, 5, 3), np.float32), device=device)
    with pytest.raises(ValueError, match="batch of one"):
        pwconv.PointwiseConv2d(batched)


def test_a_layer_of_a_closed_device(own_device, kind):
    layer = kind.layer(WEIGHT, device=own_device)
    x = own_device.empty(kind.shape(3, 4, 4), "float32")
    own_device.close()
    for call in (lambda: layer(x), lambda: layer(np.ones(x.shape, np.float32))):
        with pytest.raises(pwconv.ClosedError, match="was closed"):
            call()


def test_closing_a_device_that_threads_are_calling(own_device, rng, kind, parameters):
    """Each call ends as ever, or with ClosedError."""
    weight, _ = parameters(5, 3)
    layer = kind.layer(weight, device=own_device)
    array = rng.standard_normal(kind.shape(3, 64, 64), np.float32)
    x = own_device.tensor(array)
    out = own_device.empty(kind.shape(5, 64, 64), "float32", x.storage)
    expected = layer(array)
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


# -- convolutions ----------------------------------------------------------------------------------


def test_a_four_dimensional_weight(device, rng):
    x, weight, _ = random_problem(rng, 8, 12, (5, 6), "float32")
    four = pwconv.PointwiseConv2d(weight[:, :, None, None], device=device)
    np.testing.assert_array_equal(four(x), pwconv.PointwiseConv2d(weight, device=device)(x))


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


def test_an_empty_batch_gives_an_empty_result(device):
    layer = pwconv.PointwiseConv2d(np.ones((5, 3), np.float32), device=device)
    y = layer(np.empty((0, 3, 4, 6), np.float32))
    assert (y.shape, y.dtype) == ((0, 5, 4, 6), np.float32)
    assert layer(device.empty((0, 3, 4, 6), "float32")).numpy().shape == (0, 5, 4, 6)


def test_a_convolution_describes_itself(device):
    layer = pwconv.PointwiseConv2d(
        np.ones((5, 3), np.float32), stride=2, padding=(1, 0), activation="relu", device=device
    )
    assert (layer.in_channels, layer.out_channels) == (3, 5)
    assert repr(layer) == (
        "pwconv.PointwiseConv2d(3, 5, stride=(2, 2), padding=(1, 0), activation='relu', "
        "dtype=float32)"
    )


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
def test_wrong_input_of_a_convolution(device, x, error, message):
    layer = pwconv.PointwiseConv2d(WEIGHT, device=device)
    with pytest.raises(error, match=message):
        layer(x)


# -- linear layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8,), (6, 8), (2, 6, 8), (2, 3, 1, 2, 8)], ids=str)
def test_rows_on_any_axes(device, rng, shape):
    x, weight, bias = random_linear(rng, shape, (12, 8), "float32")
    layer = pwconv.Linear(weight, bias, device=device)
    check_linear(layer, x, weight, bias)
    from_array = layer(x)
    from_tensor = layer(device.tensor(x))
    assert isinstance(from_array, np.ndarray)
    assert isinstance(from_tensor, pwconv.Tensor)
    assert from_array.shape == from_tensor.shape == (*shape[:-1], 12)
    assert from_array.dtype == from_tensor.dtype == np.float32


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


@pytest.mark.parametrize("storage", ["auto", "texture3d", "buffer"])
@pytest.mark.parametrize("shape", [(9,), (40, 9), (2, 5, 9), (2, 3, 5, 9)], ids=str)
def test_it_explains_what_the_call_dispatches(device, storage, shape):
    layer = pwconv.Linear(np.ones((21, 9), np.float32), device=device)
    explained = layer.explain(shape, storage)
    x = np.ones(shape, np.float32)
    seen = []
    submit = inside.context(device).submit

    def spy(*dispatches, **options):
        seen.extend(d.plan for d in dispatches if d.plan.variant.family.startswith("linear"))
        return submit(*dispatches, **options)

    inside.context(device).submit = spy
    try:
        y = layer(x if storage == "auto" else device.tensor(x, storage=storage))
    finally:
        del inside.context(device).submit
    (plan,) = seen
    assert explained.variant == plan.variant.name
    assert explained.workgroup == plan.workgroup
    assert explained.workgroup_counts == tuple(groups for _, groups in plan.parts)
    assert (explained.x_shape, explained.out_shape) == (shape, y.shape)
    assert storage in ("auto", explained.storage)


def test_a_linear_layer_describes_itself(device):
    layer = pwconv.Linear(WEIGHT, activation="relu", device=device)
    assert (layer.in_features, layer.out_features, layer.batches) == (3, 5, 1)
    assert repr(layer) == "pwconv.Linear(3, 5, activation='relu', dtype=float32)"
    batched = pwconv.Linear(np.ones((2, 5, 3), np.float16), device=device)
    assert batched.batches == 2
    assert repr(batched) == "pwconv.Linear(3, 5, batches=2, activation=None, dtype=float16)"


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((3, 4), np.float32), ValueError, r"x has shape \(3, 4\); its last axis.*K = 3"),
        (np.float32(1), ValueError, r"x has shape \(\); its last axis must be K = 3"),
        (np.ones((2, 3)), TypeError, "x has dtype float64"),
        (np.ones((2, 3), np.float16), TypeError, "x has dtype float16.*cast x"),
    ],
)
def test_wrong_input_of_a_linear_layer(device, x, error, message):
    with pytest.raises(error, match=message):
        pwconv.Linear(WEIGHT, device=device)(x)


@pytest.mark.parametrize("shape", [(3,), (3, 3), (1, 2, 3)], ids=str)
def test_another_batch_than_the_weights(device, shape):
    layer = pwconv.Linear(np.ones((2, 5, 3), np.float32), device=device)
    with pytest.raises(ValueError, match=r"it must be \[B, …, K\] with B = 2"):
        layer(np.ones(shape, np.float32))
