"""pwconv called by a signal handler or a finalizer, while its own thread is inside pwconv."""

from __future__ import annotations

import gc
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import pwconv
from pwconv import reference
from support import inside

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a signal that comes later"),
    pytest.mark.usefixtures("untraced"),
]


@pytest.fixture
def ticking() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Have something called by a signal handler again and again, never inside itself."""

    def start(act: Callable[[], object]) -> None:
        def tick(*_: object) -> None:
            act()
            signal.setitimer(signal.ITIMER_REAL, 0.001)

        signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    old = signal.getsignal(signal.SIGALRM)
    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


class Problem:
    """A layer and a graph of one weight, and whether what they give is right."""

    def __init__(self, device: pwconv.Device, rng: np.random.Generator) -> None:
        self.x = rng.standard_normal((1, 16, 9, 7), np.float32)
        weight = rng.standard_normal((16, 16), np.float32)
        self.layer = pwconv.PointwiseConv2d(weight, device=device)
        self.graph = pwconv.Graph(device)
        x = self.graph.input("x", self.x.shape)
        self.graph.output("y", self.graph.conv2d_pw(x, weight))
        self.tensor = device.tensor(self.x)
        self.expected = reference.conv2d_pw(self.x, weight)
        self.bound = reference.conv2d_pw_bound(self.x, weight)

    def check(self) -> None:
        handle = self.graph.run_async(x=self.x)
        for y in (
            self.layer(self.x),
            self.layer(self.tensor).numpy(),
            self.graph.run(x=self.x)["y"],
            handle.wait()["y"],
        ):
            assert (np.abs(y - self.expected) <= self.bound).all()


def tried(act: Callable[[], object], outcomes: Counter[str]) -> Callable[[], None]:
    """Return an act that counts how it ends."""

    def attempt() -> None:
        try:
            act()
            outcomes["right"] += 1
        except pwconv.BusyError:
            outcomes["busy"] += 1

    return attempt


def test_a_signal_handler(own_device, rng, ticking):
    problem, other = Problem(own_device, rng), Problem(own_device, rng)
    problem.check()
    other.check()
    outcomes: Counter[str] = Counter()
    ticking(tried(other.check, outcomes))
    while outcomes.total() < 150:
        problem.check()
    assert outcomes["right"], "some come while the thread only waits, or is between two calls"


def test_a_signal_handler_on_the_same_graph_and_layer(own_device, rng, ticking):
    problem = Problem(own_device, rng)
    problem.check()
    outcomes: Counter[str] = Counter()
    ticking(tried(problem.check, outcomes))
    while outcomes.total() < 100:
        problem.check()


def test_finalizers(own_device, rng):
    problem, other = Problem(own_device, rng), Problem(own_device, rng)
    outcomes: Counter[str] = Counter()
    attempt = tried(other.check, outcomes)

    class Node:
        """In a circle, so that the collector ends it at whatever moment it runs."""

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            attempt()

    thresholds = gc.get_threshold()
    gc.set_threshold(5)
    try:
        for _ in range(60):
            Node()
            problem.check()
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()
    assert outcomes.total() == 60


def test_closing_from_a_signal_handler(device, rng, ticking):
    for _ in range(10):
        opened = pwconv.Device(device.info.index)
        problem = Problem(opened, rng)
        outcomes: Counter[str] = Counter()
        ticking(tried(opened.close, outcomes))
        while not outcomes["right"]:
            try:
                problem.check()
            except pwconv.ClosedError:
                break
        with pytest.raises(pwconv.ClosedError):
            problem.check()


def test_the_default_device_while_it_opens(ticking):
    outcomes: Counter[str] = Counter()
    pwconv.default_device().close()
    ticking(tried(pwconv.default_device, outcomes))
    while outcomes.total() < 20:
        pwconv.default_device().close()
    assert outcomes["busy"]


def test_listing_devices_while_they_are_listed(ticking):
    outcomes: Counter[str] = Counter()
    ticking(tried(pwconv.devices, outcomes))
    while outcomes.total() < 20:
        pwconv.devices()


def test_a_busy_call_changes_nothing(own_device, rng):
    """The lock is held, as in the middle of a call that a handler interrupted."""
    problem = Problem(own_device, rng)
    problem.check()

    uses: list[Callable[[], object]] = [
        lambda: problem.layer(problem.x),
        lambda: problem.layer(problem.tensor),
        lambda: own_device.tensor(problem.x),
        lambda: own_device.empty((1, 2, 3, 4), "float32"),
        problem.tensor.numpy,
        problem.layer.weight.numpy,
        lambda: problem.graph.run(x=problem.x),
        lambda: problem.graph.resize(x=(1, 16, 2, 2)),
        own_device.synchronize,
        own_device.memory,
        own_device.empty_cache,
        own_device.close,
        lambda: pwconv.PointwiseConv2d(np.eye(3, dtype=np.float32), device=own_device),
    ]
    out = own_device.empty((1, 16, 9, 7), "float32", problem.tensor.storage)
    answers: list[str] = []

    def interrupt(_device: object) -> None:
        for use in uses:
            try:
                use()
                answers.append("no error")
            except pwconv.BusyError as error:
                answers.append(str(error))

    check = inside.context(own_device).check
    inside.context(own_device).check = lambda: (
        check(),
        interrupt(own_device),
    )  # called under the lock
    try:
        inside.context(own_device).submit(inside.dispatch_of(problem.layer, problem.tensor, out))
    finally:
        inside.context(own_device).check = check
    assert len(answers) >= len(uses)
    assert all("is in the middle of a call of this same thread" in answer for answer in answers)
    problem.check()
