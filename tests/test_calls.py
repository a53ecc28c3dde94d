"""What a call of a layer costs the host: calls of Python, and what it may leave out."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import numpy as np
import pytest

import pwconv
from pwconv.vk import api as vk
from support import inside
from support.accuracy import assert_within

# A lock that is Python's own, from Python 3.14 on: a call more each time that it is taken.
LOCK = int(sys.version_info >= (3, 14))


@pytest.fixture
def layer(own_device, rng) -> pwconv.PointwiseConv2d:
    return pwconv.PointwiseConv2d(
        rng.standard_normal((16, 8), np.float32), device=own_device, storage="buffer"
    )


def python_calls(act: Callable[[], object]) -> int:
    """Return how many functions of Python's a call of act calls, act included."""
    calls = []
    collects = gc.isenabled()
    gc.disable()
    sys.setprofile(lambda frame, event, _: event == "call" and calls.append(frame.f_code.co_name))
    try:
        act()
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()
    return len(calls) - 1  # without act itself


@pytest.fixture
def unvalidated(device, rng) -> pwconv.PointwiseConv2d:
    with pwconv.Device(device.info.index, validate=False) as opened:
        yield pwconv.PointwiseConv2d(
            rng.standard_normal((16, 8), np.float32), device=opened, storage="buffer"
        )


def tensors(layer: pwconv.PointwiseConv2d, width: int) -> tuple[pwconv.Tensor, pwconv.Tensor]:
    x = np.ones((2, 8, 5, width), np.float32)
    out = layer.device.empty((2, 16, 5, width), "float32", "buffer")
    return layer.device.tensor(x, storage="buffer"), out


def test_a_call_that_was_made_before(unvalidated):
    layer = unvalidated
    x, out = tensors(layer, 7)
    for _ in range(3):
        layer(x, out=out)
    layer.device.synchronize()
    layer(x, out=out)  # with a fence, after which there are 15 without
    least = min(python_calls(lambda: layer(x, out=out)) for _ in range(8))
    assert least <= 4 + LOCK


def test_a_call_that_makes_its_output(unvalidated):
    layer = unvalidated
    x, _ = tensors(layer, 7)
    held = [layer(x)]

    def call() -> None:
        held[0] = layer(x)

    for _ in range(5):
        call()
    layer.device.synchronize()
    call()
    assert min(python_calls(call) for _ in range(8)) <= 8 + 2 * LOCK


def test_a_new_shape(unvalidated):
    layer = unvalidated
    every = [tensors(layer, width) for width in range(5, 12)]
    for x, out in every[:3]:  # compiles
        layer(x, out=out)
    layer.device.synchronize()
    counts = [python_calls(lambda x=x, out=out: layer(x, out=out)) for x, out in every[3:]]
    assert min(counts) <= 250


def test_no_two_devices_share_a_uid(device):
    found = []
    for _ in range(2):
        with pwconv.Device(device.info.index) as opened:
            found.append({opened.tensor(np.ones((3, 4), np.float32))._uid for _ in range(4)})
    assert not found[0] & found[1]


def test_what_comes_back_serves_its_own_kind_alone(own_device):
    """Equal bytes, or texels, are no reason to share."""
    kinds = [
        ((1, 8, 4, 6), "float32", "buffer"),
        ((8, 4, 6), "float32", "buffer"),
        ((8, 24), "float32", "buffer"),
        ((1, 8, 4, 12), "float16", "buffer"),
        ((1, 8, 4, 6), "float32", "texture3d"),
        ((1, 7, 4, 6), "float32", "texture3d"),
    ]
    seen: dict[int, tuple[object, ...]] = {}
    for _ in range(3):
        for kind in kinds:
            tensor = own_device.empty(*kind)
            assert seen.setdefault(tensor._uid, kind) == kind
            del tensor
    assert len(seen) == len(kinds)


@pytest.mark.parametrize("made_again", [False, True])
def test_results_are_of_the_call(own_device, rng, made_again):
    """Of several layers over the same tensors, in any order."""
    weights = [rng.standard_normal((8, 8), np.float32) for _ in range(3)]
    layers = [pwconv.PointwiseConv2d(w, device=own_device, storage="buffer") for w in weights]
    arrays = [rng.standard_normal((1, 8, 3, 5), np.float32) for _ in range(3)]
    xs = [own_device.tensor(a, storage="buffer") for a in arrays]
    out = own_device.empty((1, 8, 3, 5), "float32", "buffer")
    for _ in range(30):
        i, j = rng.integers(3, size=2)
        got = layers[i](xs[j]) if made_again else layers[i](xs[j], out=out)
        expected = pwconv.reference.conv2d_pw(arrays[j], weights[i])
        bound = pwconv.reference.conv2d_pw_bound(arrays[j], weights[i])
        assert_within(got.numpy(), expected, bound)


def test_checks_hold_for_what_was_not_called_yet(layer):
    x, out = tensors(layer, 7)
    other = layer.device.empty((2, 16, 5, 8), "float32", "buffer")
    for _ in range(3):
        layer(x, out=out)
    for wrong, error in ((other, ValueError), (x, ValueError), (np.ones(3), TypeError)):
        with pytest.raises(error) as caught:
            layer(x, out=wrong)
        assert caught.value.__context__ is None
    with pytest.raises(ValueError, match="x has shape"):
        layer(other, out=out)


def test_a_closed_device(layer):
    x, out = tensors(layer, 7)
    for _ in range(3):
        layer(x, out=out)
    layer.device.close()
    with pytest.raises(pwconv.ClosedError):
        layer(x, out=out)
    with pytest.raises(pwconv.ClosedError):
        layer(x)


def test_a_lost_device(unvalidated, monkeypatch):
    layer = unvalidated
    x, out = tensors(layer, 7)
    for _ in range(3):
        layer(x, out=out)
    real = vk.vkQueueSubmit

    def lose(*_: object) -> None:
        raise pwconv.DeviceLostError("vkQueueSubmit: lost")

    monkeypatch.setattr(vk, "vkQueueSubmit", lose)
    with pytest.raises(pwconv.DeviceLostError):
        layer(x, out=out)
    monkeypatch.setattr(vk, "vkQueueSubmit", real)
    with pytest.raises(pwconv.DeviceLostError, match="in an earlier call"):
        layer(x, out=out)


def test_a_call_inside_another(layer):
    """As a signal's handler makes one."""
    x, out = tensors(layer, 7)
    for _ in range(3):
        layer(x, out=out)
    context = inside.context(layer.device)
    done = []

    def handler(frame, event, _):
        if event == "call" and frame.f_code.co_name == "settle" and not done:
            sys.setprofile(None)
            done.append(1)
            with pytest.raises(pwconv.BusyError):
                layer(x, out=out)

    sys.setprofile(handler)
    try:
        layer.device.synchronize()
    finally:
        sys.setprofile(None)
    assert done
    assert not inside.is_owned(context.lock)
