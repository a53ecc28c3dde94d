"""Copies and pickles of what is on a device; attributes that say what a thing is."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import pwconv
from pwconv import reference


@pytest.fixture(params=["float32", "float16"])
def problem(request: pytest.FixtureRequest, rng: np.random.Generator):
    dtype = request.param
    x = rng.standard_normal((2, 13, 5, 7)).astype(dtype)
    weight = rng.standard_normal((11, 13)).astype(dtype)
    bias = rng.standard_normal(11).astype(np.float32)
    settings = {"stride": (2, 1), "padding": (1, 0), "activation": ("leaky_relu", 0.25)}
    expected = reference.conv2d_pw(x, weight, bias, **settings)
    bound = reference.conv2d_pw_bound(x, weight, bias, **settings, dtype=dtype)
    return x, weight, bias, settings, expected, bound


def churn(device: pwconv.Device) -> None:
    """Make and drop layers, which take the memory of those that are gone."""
    weight = np.ones((11, 13), np.float32)
    for i in range(9):
        layer = pwconv.PointwiseConv2d(weight, np.full(11, i, np.float32), device=device)
        layer(np.full((1, 13, 1, 1), np.nan, np.float32))
    device.synchronize()


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}


@pytest.mark.parametrize("twin_of", COPIES.values(), ids=COPIES)
def test_a_layer_outlives_what_it_was_copied_from(own_device, problem, twin_of):
    x, weight, bias, settings, expected, bound = problem
    layer = pwconv.PointwiseConv2d(weight, bias, **settings, device=own_device)
    y = layer(x)
    twin = twin_of(layer)
    assert type(twin) is pwconv.PointwiseConv2d
    assert (twin.stride, twin.padding, twin.activation) == ((2, 1), (1, 0), ("leaky_relu", 0.25))
    assert (twin.dtype, twin.storage, twin.accumulate) == (weight.dtype, "auto", "float32")
    np.testing.assert_array_equal(twin.bias, bias)
    del layer
    churn(own_device)
    again = twin(x)
    assert (np.abs(again - expected) <= bound).all()
    np.testing.assert_array_equal(again, y)


@pytest.mark.parametrize("twin_of", COPIES.values(), ids=COPIES)
def test_a_copy_has_the_padding_of_each_side(device, twin_of):
    weight = np.ones((4, 5), np.float32)
    layer = pwconv.PointwiseConv2d(weight, padding=(1, 2, 0, 3), device=device)
    twin = twin_of(layer)
    assert twin.padding == layer.padding == (1, 2, 0, 3)
    assert "padding=(1, 2, 0, 3)" in repr(twin)
    x = np.ones((5, 3, 3), np.float32)
    np.testing.assert_array_equal(twin(x), layer(x))


@pytest.mark.parametrize("twin_of", COPIES.values(), ids=COPIES)
def test_a_linear_layer_outlives_what_it_was_copied_from(own_device, rng, twin_of):
    x = rng.standard_normal((3, 5, 13), np.float32)
    weight = rng.standard_normal((3, 11, 13), np.float32)
    layer = pwconv.Linear(weight, activation="gelu", device=own_device)
    y = layer(x)
    twin = twin_of(layer)
    assert twin.batches == 3
    assert twin.bias is None
    del layer
    churn(own_device)
    np.testing.assert_array_equal(twin(x), y)


@pytest.mark.parametrize("storage", ["texture2d", "buffer"])
@pytest.mark.parametrize("twin_of", COPIES.values(), ids=COPIES)
def test_a_packed_weight_outlives_what_it_was_copied_from(own_device, rng, twin_of, storage):
    weight = rng.standard_normal((2, 11, 13)).astype(np.float16)
    weight[0, 0, :3] = np.inf, -0.0, 6e-8
    packed = pwconv.pack_linear_weight(weight, storage=storage, device=own_device)
    blocks = packed.numpy()
    twin = twin_of(packed)
    del packed
    churn(own_device)
    assert (twin.shape, twin.dtype, twin.storage) == ((2, 11, 13), np.float16, storage)
    np.testing.assert_array_equal(twin.numpy().view(np.uint16), blocks.view(np.uint16))


def test_a_layer_made_of_a_packed_weight_shares_it_with_its_copies(own_device, rng):
    packed = pwconv.pack_linear_weight(np.eye(3, dtype=np.float32), device=own_device)
    layer = pwconv.Linear(packed, device=own_device)
    assert layer.weight is packed
    twin = copy.copy(layer)
    del layer, packed
    churn(own_device)
    np.testing.assert_array_equal(twin(np.arange(3, dtype=np.float32)), np.arange(3))


def test_a_layer_travels_to_another_process(own_device, rng, tmp_path):
    x = rng.standard_normal((1, 13, 4, 4), np.float32)
    layer = pwconv.PointwiseConv2d(
        rng.standard_normal((11, 13), np.float32), dtype="float16", device=own_device
    )
    (tmp_path / "layer").write_bytes(pickle.dumps([layer, x, layer(x)]))
    program = (
        "import pickle, sys, numpy as np\n"
        "layer, x, y = pickle.load(open(sys.argv[1], 'rb'))\n"
        "np.testing.assert_array_equal(layer(x), y)\n"
        "print(layer.device.info.name)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "layer"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.stderr) == (f"{own_device.info.name}\n", "")


def test_a_pickled_layer_of_an_absent_device(own_device, monkeypatch):
    pickled = pickle.dumps(pwconv.Linear(np.eye(3, dtype=np.float32), device=own_device))
    pickled = pickled.replace(own_device.info.name.encode(), b"x" * len(own_device.info.name))
    with pytest.raises(pwconv.NoDeviceError, match="no device matches 'xxx"):
        pickle.loads(pickled)


@pytest.mark.parametrize("twin_of", COPIES.values(), ids=COPIES)
def test_what_cannot_be_copied_says_what_to_do(own_device, twin_of):
    x = np.ones((1, 3, 2, 2), np.float32)
    graph = pwconv.Graph(own_device)
    value = graph.conv2d_pw(graph.input("x", x.shape), np.eye(3, dtype=np.float32))
    graph.output("y", value)
    advice = {
        own_device: r"pwconv\.Device\(name\)",
        own_device.tensor(x): r"tensor\.numpy\(\)",
        graph.run_async(x=x): r"wait\(\) returns",
        graph: "build another",
    }
    for thing, words in advice.items():
        with pytest.raises(TypeError, match=words):
            twin_of(thing)


def test_what_a_thing_is_cannot_be_assigned(own_device):
    weight = np.eye(3, dtype=np.float32)
    graph = pwconv.Graph(own_device)
    things = {
        own_device: ("info", "closed"),
        own_device.tensor(weight): ("shape", "dtype", "storage", "device", "nbytes"),
        pwconv.pack_linear_weight(weight, device=own_device): (
            *("shape", "dtype", "storage", "device"),
        ),
        pwconv.PointwiseConv2d(weight, device=own_device): (
            *("weight", "bias", "activation", "dtype", "accumulate", "storage", "device"),
            *("stride", "padding", "in_channels", "out_channels"),
        ),
        pwconv.Linear(weight, device=own_device): (
            *("weight", "bias", "activation", "dtype", "accumulate", "storage", "device"),
            *("in_features", "out_features", "batches"),
        ),
        graph: ("dtype", "device", "storage"),
        graph.input("x", (3, 2, 2)): ("graph", "name", "shape"),
    }
    for thing, names in things.items():
        for name in names:
            with pytest.raises(AttributeError):
                setattr(thing, name, None)


def test_a_bias_that_is_looked_at_is_a_copy(own_device):
    layer = pwconv.Linear(np.eye(3, dtype=np.float32), np.ones(3, np.float32), device=own_device)
    layer.bias[:] = 7
    np.testing.assert_array_equal(layer(np.zeros(3, np.float32)), 1)


def test_rows_of_a_packed_weight_are_unpacked_once(own_device, rng):
    """By threads that ask for them for the first time at once."""
    packed = pwconv.pack_linear_weight(
        rng.standard_normal((11, 13)).astype(np.float16), device=own_device
    )
    size = packed.size
    barrier = threading.Barrier(8)
    rows = []

    def ask() -> None:
        barrier.wait()
        rows.append(packed.rows())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({row.uid for row in rows}) == 1
    assert packed.size == size + rows[0].size
