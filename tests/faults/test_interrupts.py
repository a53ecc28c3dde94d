"""Ctrl-C while the device works: the call ends soon, its result is lost, and the next is right."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from vulkan import _vulkan

import pwconv
from pwconv import reference, shaders
from pwconv.timing.clocks import ArithmeticKernel
from pwconv.vk.commands import Recording
from support import inside
from support.accuracy import assert_within, random_problem
from support.injector import UNDONE_BY, injected

pytestmark = [
    pytest.mark.skipif(
        not hasattr(signal, "setitimer"), reason="needs a signal that comes after a while"
    ),
    pytest.mark.usefixtures("untraced"),
]

# How long the device is at work, when the signal comes, and how soon it must be answered then.
BUSY_SECONDS, SIGNAL_SECONDS, ANSWER_SECONDS = 2.0, 0.3, 1.0


ONCE_A_PROCESS = {"vkCreateInstance", "vkCreateDebugUtilsMessengerEXT"}
POOLED = {"vkAllocateCommandBuffers"}  # a pool's end is theirs


@pytest.fixture
def interrupted() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Do something that Ctrl-C ends."""
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)

    def interrupted(act: Callable[[], object]) -> None:
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, SIGNAL_SECONDS)
        try:
            with pytest.raises(KeyboardInterrupt):
                act()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert time.monotonic() - start < SIGNAL_SECONDS + ANSWER_SECONDS

    yield interrupted
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


def keep_busy(device: pwconv.Device) -> None:
    """Submit work for some seconds, in pieces that no driver takes for a hang."""
    queue = inside.context(device).queue
    fma = shaders.variant("bench_fma", dtype="fp32")
    kernel = ArithmeticKernel(inside.context(device), fma, 2**14)
    iterations, seconds = 64, 0.0
    while seconds < BUSY_SECONDS / 30:
        iterations *= 2
        recording = Recording(queue, [[kernel.dispatch(iterations)]])
        times = []
        for _ in range(2):
            start = time.monotonic()
            queue.wait(recording.submit(awaited=True))
            times.append(time.monotonic() - start)
        seconds = min(times)
    recording = Recording(queue, [[kernel.dispatch(iterations)]])
    for _ in range(round(BUSY_SECONDS / seconds)):
        recording.submit()


@pytest.mark.parametrize(
    "call", ["layer on an array", "tensor to array", "array to tensor", "graph", "synchronize"]
)
def test_a_call_is_interrupted(own_device, rng, interrupted, call):
    x, weight, bias = random_problem(rng, 13, 7, (9, 11), "float32")
    expected = reference.conv2d_pw(x, weight, bias)
    bound = reference.conv2d_pw_bound(x, weight, bias, dtype="float32")
    layer = pwconv.PointwiseConv2d(weight, bias, device=own_device)
    tensor = own_device.tensor(x)
    graph = pwconv.Graph(own_device)
    graph.output("y", graph.conv2d_pw(graph.input("x", x.shape), weight, bias))
    acts: dict[str, Callable[[], object]] = {
        "layer on an array": lambda: layer(x),
        "tensor to array": lambda: layer(tensor).numpy(),
        # More uploads than there are staging buffers.
        "array to tensor": lambda: [own_device.tensor(x) for _ in range(10)][-1].numpy(),
        "graph": lambda: graph.run(x=x)["y"],
        "synchronize": own_device.synchronize,
    }
    keep_busy(own_device)
    interrupted(acts[call])
    # Right behind the work that is still going on, and again when all is done.
    for _ in range(2):
        assert_within(layer(x), expected, bound)
        assert_within(layer(tensor).numpy(), expected, bound)
        assert_within(graph.run(x=x)["y"], expected, bound)
        own_device.synchronize()
    np.testing.assert_array_equal(tensor.numpy(), x)


def test_a_handle_is_waited_for_again(own_device, rng, interrupted):
    x, weight, _ = random_problem(rng, 13, 7, (9, 11), "float32")
    graph = pwconv.Graph(own_device)
    graph.output("y", graph.conv2d_pw(graph.input("x", x.shape), weight))
    expected = graph.run(x=x)["y"]
    keep_busy(own_device)
    handle = graph.run_async(x=x)
    interrupted(handle.wait)
    np.testing.assert_array_equal(handle.wait()["y"], expected)


@pytest.mark.parametrize("again", ["close", "garbage collection"])
def test_closing_is_interrupted(device, interrupted, again):
    pwconv.devices()
    with injected() as vulkan:
        opened = pwconv.Device(device.info.index, validate=True)
        layer = pwconv.PointwiseConv2d(np.eye(3, dtype=np.float32), device=opened)
        keep_busy(opened)
        interrupted(opened.close)
        assert opened.closed
        with pytest.raises(pwconv.ClosedError):
            layer(np.ones((3, 2, 2), np.float32))
        assert vulkan.existing()["vkCreateDevice"] == 1
        if again == "close":
            opened.close()
        else:
            opened = layer = None
            gc.collect()
        assert vulkan.existing() == {}


@pytest.mark.parametrize(
    "name", sorted(UNDONE_BY.keys() - ONCE_A_PROCESS - POOLED - {"vkCreateQueryPool"})
)
def test_what_an_interrupted_call_has_made_is_destroyed(device, rng, name):
    x, weight, bias = random_problem(rng, 13, 7, (9, 11), "float32")
    pwconv.devices()
    with injected() as vulkan:
        library = _vulkan.lib
        real = getattr(library, name)

        def interrupt(*arguments):
            real(*arguments)
            setattr(library, name, real)
            raise KeyboardInterrupt

        interrupt.real = real.real
        setattr(library, name, interrupt)

        def run():
            with pwconv.Device(device.info.index, validate=True) as opened:
                layer = pwconv.PointwiseConv2d(weight, bias, device=opened)
                return layer(opened.tensor(x, storage="texture3d")).numpy()

        with pytest.raises(KeyboardInterrupt):
            run()
        assert vulkan.existing() == {}
        assert_within(
            run(),
            reference.conv2d_pw(x, weight, bias),
            reference.conv2d_pw_bound(x, weight, bias, dtype="float32"),
        )
