"""An exception before any line of pwconv, as of Ctrl-C: nothing hangs, leaks or is wrong."""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv import reference
from support import inside

PACKAGE = str(Path(pwconv.__file__).parent)

Line = tuple[str, int]


class Stop(BaseException):
    """What Ctrl-C would raise."""


def lines_of(act: Callable[[], object], stop_at: Line | None = None) -> set[Line]:
    """Return the lines of pwconv that an act runs, which is stopped before one of them."""
    seen: set[Line] = set()

    def local(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            line = (frame.f_code.co_filename, frame.f_lineno)
            seen.add(line)
            if line == stop_at:
                sys.settrace(None)
                raise Stop
        return local

    def tracer(frame: FrameType, _event: str, _argument: object) -> Any:
        return local if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        act()
    except Stop:
        pass
    finally:
        sys.settrace(before)
    return seen


class Bench:
    """A device with a layer and a graph on it, and what they should give."""

    def __init__(self, index: int, rng: np.random.Generator) -> None:
        self.device = pwconv.Device(index, validate=False)
        self.x = rng.standard_normal((1, 13, 7, 5), np.float32)
        self.weight = rng.standard_normal((11, 13), np.float32)
        self.layer = pwconv.PointwiseConv2d(self.weight, device=self.device)
        self.graph = pwconv.Graph(self.device)
        x = self.graph.input("x", self.x.shape)
        self.graph.output("y", self.graph.conv2d_pw(x, self.weight))
        self.tensor = self.device.tensor(self.x)
        self.out = self.device.empty((1, 11, 7, 5), "float32", self.tensor.storage)
        self.expected = reference.conv2d_pw(self.x, self.weight)
        self.bound = reference.conv2d_pw_bound(self.x, self.weight)

    def check(self) -> None:
        for y in (self.layer(self.x), self.graph.run(x=self.x)["y"], self.layer(self.tensor)):
            assert (np.abs(np.asarray(y) - self.expected) <= self.bound).all()

    def check_in_thread(self) -> None:
        done = threading.Event()

        def check() -> None:
            self.check()
            done.set()

        threading.Thread(target=check, daemon=True).start()
        assert done.wait(20), "another thread hangs, or fails"

    def first_call(self) -> None:
        """Call the layer on tensors as if it had not been called on them."""
        inside.recordings(inside.context(self.device)).clear()
        self.layer(self.tensor, out=self.out)

    @property
    def live(self) -> int:
        """Vulkan objects but for recordings, of which there may be some hundred."""
        gc.collect()
        self.device.empty_cache()
        self.device.synchronize()
        return len(inside.context(self.device).live)


ACTS: dict[str, Callable[[Bench], object]] = {
    "layer on an array": lambda bench: bench.layer(bench.x),
    "layer on tensors": lambda bench: bench.layer(bench.tensor, out=bench.out),
    "layer on a tensor": lambda bench: bench.layer(bench.tensor),
    "first call on tensors": lambda bench: bench.first_call(),
    "download": lambda bench: bench.tensor.numpy(),
    "upload": lambda bench: bench.device.tensor(bench.x),
    "new layer": lambda bench: pwconv.PointwiseConv2d(bench.weight, device=bench.device)(bench.x),
    "graph": lambda bench: bench.graph.run(x=bench.x),
    "graph on tensors": lambda bench: bench.graph.run(x=bench.tensor),
    "handle": lambda bench: bench.graph.run_async(x=bench.x).wait(),
    "synchronize": lambda bench: bench.device.synchronize(),
    "empty cache": lambda bench: bench.device.empty_cache(),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_an_exception_before_any_line(device, rng, act):
    bench = Bench(device.info.index, rng)
    for _ in range(3):
        act(bench)
    lines = sorted(lines_of(lambda: act(bench)))
    assert len(lines) > 10
    for position, line in enumerate(lines):
        lines_of(lambda: act(bench), stop_at=line)
        bench.check()
        if position % 7 == 0:
            bench.check_in_thread()
    before = bench.live
    for _ in range(40):  # what the exceptions left does not keep anything from being freed
        pwconv.PointwiseConv2d(bench.weight, device=bench.device)(bench.x)
        act(bench)
    assert bench.live < before + 20  # of a graph's recordings over tensors 16 are kept
    start = time.monotonic()
    bench.device.close()
    assert time.monotonic() - start < 5
    with pytest.raises(pwconv.ClosedError):
        bench.layer(bench.x)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_closing_ends_after_an_exception_before_any_of_its_lines(device, rng):
    bench = Bench(device.info.index, rng)
    bench.check()
    lines = sorted(lines_of(bench.device.close))
    assert len(lines) > 20
    for line in lines:
        bench = Bench(device.info.index, rng)
        bench.check()
        lines_of(bench.device.close, stop_at=line)
        bench.device.close()
        with pytest.raises(pwconv.ClosedError):
            bench.layer(bench.x)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a signal that comes later")
@pytest.mark.usefixtures("untraced")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_exceptions_of_a_signal_handler_at_random_moments(device, rng):
    """Between any two steps of the interpreter, which lines are made of."""
    bench = Bench(device.info.index, rng)
    bench.check()
    moments = random.Random(7)
    armed = False

    def handler(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Stop

    def act_until_stopped() -> None:
        nonlocal armed
        act = moments.choice(list(ACTS.values()))
        armed = True
        signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 2e-3))
        while armed:  # a finalizer may have swallowed what the handler raised
            act(bench)

    stop = threading.Event()
    wrong: list[object] = []

    def work() -> None:
        while not stop.is_set():
            try:
                bench.check()
            except BaseException as error:
                wrong.append(error)

    old = signal.signal(signal.SIGALRM, handler)
    thread = threading.Thread(target=work)
    thread.start()
    stopped = 0
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            try:
                act_until_stopped()
            except Stop:
                stopped += 1
            armed = False
            bench.check()
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert not wrong
    assert stopped > 100
    bench.device.close()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a signal that comes later")
@pytest.mark.usefixtures("untraced")
def test_a_lock_is_not_left_held_by_a_signal_handler():
    lock = inside.SignalSafeLock()
    moments = random.Random(7)
    armed = False

    def handler(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Stop

    def enter_and_leave() -> None:
        nonlocal armed
        armed = True
        signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 2e-4))
        while True:
            with lock, lock:
                pass

    old = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(3000):
            with pytest.raises(Stop):
                enter_and_leave()
            assert not inside.is_owned(lock)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
