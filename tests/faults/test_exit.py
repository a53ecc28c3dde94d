"""The end of the process: what still uses pwconv then gets an error, and nothing crashes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from pwconv import PwconvError
from pwconv.vk import process
from support import inside

PROGRAM = """
import atexit, sys, threading, time
import numpy as np

def last():
    for name, use in uses.items():
        try:
            use()
            print(name, "is no error")
        except pwconv.ClosedError:
            pass
    print("last")

atexit.register(last)  # before pwconv's first use, so that it runs after pwconv has ended
import pwconv

x = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
identity = np.eye(3, dtype=np.float32)
device = pwconv.Device({index}, validate={validate})
layer = pwconv.PointwiseConv2d(identity, device=device)
tensor = device.tensor(x)
graph = pwconv.Graph(device)
graph.output("y", graph.conv2d_pw(graph.input("x", x.shape), identity))
handle = graph.run_async(x=x)
layer(x)
uses = {{
    "devices": pwconv.devices,
    "Device": pwconv.Device,
    "default device": pwconv.default_device,
    "function": lambda: pwconv.conv2d_pw(x, identity),
    "layer": lambda: layer(x),
    "new layer": lambda: pwconv.PointwiseConv2d(identity, device=device),
    "tensor": tensor.numpy,
    "upload": lambda: device.tensor(x),
    "graph": lambda: graph.run(x=x),
    "handle": handle.wait,
    "synchronize": device.synchronize,
}}
"""

THREADS = """
def work(use):
    while True:
        try:
            y = use()
        except pwconv.ClosedError:
            return
        if not np.array_equal(y, x):
            print("wrong", y, flush=True)

for use in (
    lambda: layer(x),
    lambda: layer(tensor).numpy(),
    lambda: graph.run(x=x)["y"],
    lambda: pwconv.PointwiseConv2d(identity, device=device)(x),
    lambda: pwconv.devices() and x,
    lambda: pwconv.Device({index}) and x,
):
    threading.Thread(target=work, args=(use,), daemon=True).start()
time.sleep({seconds})
"""


def run(program: str) -> tuple[int, str, str]:
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("validate", [False, True])
def test_functions_registered_before_the_first_use(device, validate):
    program = PROGRAM.format(index=device.info.index, validate=validate)
    assert run(program) == (0, "last\n", "")


def test_a_function_registered_after_the_first_use_still_computes(device):
    program = PROGRAM.format(index=device.info.index, validate=True)
    program += 'atexit.register(lambda: print("sum", layer(x).sum() == x.sum()))\n'
    assert run(program) == (0, "sum True\nlast\n", "")


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("seconds", [0.05, 0.2])
def test_daemon_threads_at_work(device, validate, seconds):
    program = PROGRAM + THREADS
    program = program.format(index=device.info.index, validate=validate, seconds=seconds)
    assert run(program) == (0, "last\n", "")


def test_a_thread_that_stays_at_work_is_named(own_device, monkeypatch):
    monkeypatch.setattr(process, "CLOSE_SECONDS", 0.05)
    entered, leave = threading.Event(), threading.Event()

    context = inside.context(own_device)

    def work() -> None:
        setattr(context.queue, inside.SPIN_SECONDS, 0.0)
        setattr(context.queue, inside.WAIT_SLICE, lambda _fence: entered.set() or leave.wait())
        context.queue.wait(context.queue.run_once(lambda _: None))

    thread = threading.Thread(target=work, name="the busy one")
    thread.start()
    assert entered.wait(10)
    try:
        with pytest.raises(PwconvError, match=r"'the busy one'.*close it again"):
            own_device.close()
        assert own_device.closed
    finally:
        leave.set()
        thread.join()
    delattr(context.queue, inside.WAIT_SLICE)
    own_device.close()
