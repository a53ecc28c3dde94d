"""A process that is forked off does not touch its parent's devices, and says so."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# The parent opens a device with everything on it, and forks with a thread in the middle of a call.
PARENT = """
import gc, os, sys, threading, time
import numpy as np, pwconv
from support.injector import injected

injection = injected()
vulkan = injection.__enter__()
device = pwconv.Device({index}, validate=True)
x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
identity = np.eye(3, dtype=np.float32)
layer = pwconv.PointwiseConv2d(identity, device=device)
tensor = device.tensor(x)
packed = pwconv.pack_linear_weight(identity, device=device)
graph = pwconv.Graph(device)
graph.output("y", graph.conv2d_pw(graph.input("x", x.shape), identity))
graph.run(x=x)
handle = graph.run_async(x=x)
default = pwconv.conv2d_pw(x, identity)

held, done = threading.Event(), threading.Event()

def hold():
    with device._context.lock, graph._lock, handle._lock, pwconv.device._default_lock:
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child:
    done.set()
    thread.join()
    deadline = time.monotonic() + 60
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            sys.exit("the child hangs")
        time.sleep(0.01)
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(handle.wait()["y"], x)
    device.close()
    sys.exit(os.waitstatus_to_exitcode(status[1]))

vulkan.expect(None)
existing = vulkan.existing()
"""


def run(index: int, child: str) -> subprocess.CompletedProcess[str]:
    """Fork, run this in the child, and the parent's own checks after it."""
    # It ends as multiprocessing has its children end: at exit() lavapipe joins threads that it had
    # before the fork, and crashes.
    ending = "sys.stdout.flush()\nos._exit(0)\n"
    return execute(index, PARENT.format(index=index) + textwrap.dedent(child) + ending)


def execute(index: int, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, whose default device is the one of this index."""
    # That the driver has threads, Python 3.12 warns of.
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        env={
            **os.environ,
            "PWCONV_DEVICE": str(index),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_use_in_the_child_is_an_error(device):
    result = run(
        device.info.index,
        """
        uses = {
            "array": lambda: layer(x),
            "tensor": lambda: layer(tensor),
            "out": lambda: layer(tensor, out=tensor),
            "upload": lambda: device.tensor(x),
            "empty": lambda: device.empty((3, 2, 2), "float32"),
            "download": tensor.numpy,
            "packed": packed.numpy,
            "graph": lambda: graph.run(x=x),
            "graph on a tensor": lambda: graph.run(x=tensor),
            "resize": lambda: graph.resize(x=(3, 5, 5)),
            "profile": graph.profile,
            "handle": handle.wait,
            "synchronize": device.synchronize,
            "new layer": lambda: pwconv.PointwiseConv2d(identity, device=device),
        }
        new_uses = {
            "default device": lambda: pwconv.conv2d_pw(x, identity),
            "new device": pwconv.Device,
            "list of devices": pwconv.devices,
        }
        for name, use in {**uses, **new_uses}.items():
            said = (
                "this process was forked off one that had used pwconv's devices"
                if name in new_uses
                else f"the device {device.info.name} was opened before this process was forked"
            )
            try:
                use()
            except pwconv.PwconvError as error:
                assert said in str(error), (name, error)
                assert 'multiprocessing.get_context("spawn")' in str(error), (name, error)
            else:
                print(name, "is no error")
        print("used")
        """,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "used\n", "")


@pytest.mark.parametrize("ending", ["close", "garbage collection", "exit"])
def test_nothing_of_the_parent_is_freed_by_the_child(device, ending):
    endings = {
        "close": "device.close(); assert device.closed; device.close()",
        "garbage collection": "del device, layer, tensor, packed, graph, handle; gc.collect()",
        "exit": "import atexit; atexit._run_exitfuncs()",
    }
    result = run(
        device.info.index,
        f"""
        {endings[ending]}
        assert vulkan.existing() == existing
        assert not vulkan.calls, vulkan.calls
        print("ended")
        """,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "ended\n", "")


def test_a_child_of_a_parent_without_devices_opens_its_own(device):
    program = """
        import os, sys
        import numpy as np, pwconv

        x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
        if child := os.fork():
            os.waitpid(child, 0)
        layer = pwconv.PointwiseConv2d(np.eye(3, dtype=np.float32))
        np.testing.assert_array_equal(layer(x), x)
        print("parent" if child else "child")
    """
    result = execute(device.info.index, textwrap.dedent(program))
    assert (result.returncode, result.stdout, result.stderr) == (0, "child\nparent\n", "")
