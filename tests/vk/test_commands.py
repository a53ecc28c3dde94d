"""Order, waiting and freeing on the queue."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time

import numpy as np
import pytest

import pwconv
from pwconv.vk import api as vk
from support import inside
from support.accuracy import random_problem


def nothing(_command_buffer: object) -> None:
    pass


def test_serials_count_up_and_complete(own_device):
    queue = inside.context(own_device).queue
    first = queue.run_once(nothing)
    second = queue.run_once(nothing)
    assert second == first + 1
    queue.wait(first)
    assert queue.completed() >= first
    queue.wait()
    assert queue.completed() == second
    queue.wait(first)  # long done


def test_retired_objects_go_when_the_device_is_done(own_device):
    queue = inside.context(own_device).queue
    gone: list[str] = []
    queue.run_once(nothing)
    queue.core.retire(lambda: gone.append("early"))
    queue.collect()
    queue.wait()
    queue.collect()
    assert gone == ["early"]
    queue.core.retire(lambda: gone.append("at close"))
    own_device.close()
    assert gone == ["early", "at close"]


def test_submissions_in_flight_are_bounded(own_device, rng):
    x, weight, _ = random_problem(rng, 8, 8, (4, 4), "float32")
    layer = pwconv.PointwiseConv2d(weight, device=own_device)
    tensor, out = own_device.tensor(x), own_device.empty((8, 4, 4), "float32")
    queue = inside.context(own_device).queue
    for _ in range(300):
        layer(tensor, out=out)
        assert queue.last - queue.done <= 64
    own_device.synchronize()
    assert queue.completed() == queue.last
    assert len(inside.idle_fences(queue)) <= 16


def test_few_submissions_have_a_fence(own_device, rng):
    x, weight, _ = random_problem(rng, 8, 8, (4, 4), "float32")
    layer = pwconv.PointwiseConv2d(weight, device=own_device)
    tensor, out = own_device.tensor(x), own_device.empty((8, 4, 4), "float32")
    layer(tensor, out=out)
    own_device.synchronize()
    queue = inside.context(own_device).queue
    for _ in range(inside.FENCE_EVERY - 1):
        layer(tensor, out=out)
    assert not inside.fences(queue)
    queue.wait(queue.last - 3)
    assert queue.completed() == queue.last
    for _ in range(inside.FENCE_EVERY):
        layer(tensor, out=out)
    assert [fence.serial for fence in inside.fences(queue)] == [queue.last]


def test_what_is_retired_goes_without_waiting(own_device):
    queue = inside.context(own_device).queue
    made = contextlib.ExitStack()
    command_buffer = queue.record(nothing, made)
    gone: list[int] = []
    queue.submit(command_buffer)
    queue.core.retire(lambda: gone.append(1))
    deadline = time.monotonic() + 10
    while not gone and time.monotonic() < deadline:
        queue.submit(command_buffer)
    assert gone
    queue.core.retire(made.close)


def test_a_wait_is_cut_into_slices(own_device, monkeypatch):
    """So that Ctrl-C is noticed: the wait goes on after each, and leaves a usable device."""
    queue = inside.context(own_device).queue
    setattr(queue, inside.SPIN_SECONDS, 0.0)
    real = vk.vkWaitForFences
    answers = [vk.VkTimeout, vk.VkTimeout, KeyboardInterrupt]

    def wait(*arguments: object) -> object:
        if answers:
            raise answers.pop(0)
        return real(*arguments)

    monkeypatch.setattr(vk, "vkWaitForFences", wait)
    serial = queue.run_once(nothing)
    with pytest.raises(KeyboardInterrupt):
        queue.wait(serial)
    queue.wait(serial)
    assert queue.completed() == serial


def test_a_short_wait_is_not_left_to_the_driver(own_device, monkeypatch):
    queue = inside.context(own_device).queue
    setattr(queue, inside.SPIN_SECONDS, 60.0)
    monkeypatch.setattr(vk, "vkWaitForFences", None)
    serial = queue.run_once(nothing)
    queue.wait(serial)
    assert queue.completed() == serial


def test_a_long_wait_is_left_to_the_driver(own_device, monkeypatch):
    queue = inside.context(own_device).queue
    setattr(queue, inside.SPIN_SECONDS, 1e-3)
    asked = itertools.count()

    def not_ready(*_: object) -> None:
        next(asked)
        raise vk.VkNotReady

    serial = queue.run_once(nothing)
    with monkeypatch.context() as patch:
        patch.setattr(vk, "vkGetFenceStatus", not_ready)
        queue.wait(serial)
    assert next(asked) > 0
    assert queue.completed() == serial


def test_a_fence_someone_waits_for_is_not_reused(own_device, monkeypatch):
    queue = inside.context(own_device).queue
    setattr(queue, inside.SPIN_SECONDS, 0.0)
    serial = queue.run_once(nothing)
    started, resume = threading.Event(), threading.Event()
    real = vk.vkWaitForFences

    def wait(*arguments: object) -> object:
        started.set()
        assert resume.wait(10)
        return real(*arguments)

    monkeypatch.setattr(vk, "vkWaitForFences", wait)
    waiter = threading.Thread(target=queue.wait, args=(serial,))
    waiter.start()
    assert started.wait(10)
    fence = inside.fences(queue)[0].handle
    vk.vkDeviceWaitIdle(inside.context(own_device).handle)
    assert queue.completed() == serial
    assert fence not in inside.returned_fences(queue)
    resume.set()
    waiter.join()
    queue.completed()
    assert fence in inside.returned_fences(queue)


def test_a_full_queue_goes_on_while_another_thread_waits(own_device, monkeypatch):
    """The oldest submission is done, and whoever waited for it has not yet said so."""
    queue = inside.context(own_device).queue
    setattr(queue, inside.SPIN_SECONDS, 0.0)
    serial = queue.run_once(nothing)
    started, resume = threading.Event(), threading.Event()
    real = vk.vkWaitForFences

    waits = itertools.count()

    def wait(*arguments: object) -> object:
        if threading.current_thread() is waiter:
            started.set()
            assert resume.wait(60)
        else:
            assert next(waits) < 1000, "the queue waits for ever"
        return real(*arguments)

    monkeypatch.setattr(vk, "vkWaitForFences", wait)
    waiter = threading.Thread(target=queue.wait, args=(serial,))
    waiter.start()
    assert started.wait(10)
    try:
        for _ in range(150):
            queue.run_once(nothing)
    finally:
        resume.set()
        waiter.join()
    queue.wait()
    assert not inside.fences(queue)


def test_a_failed_submission_can_be_repeated(own_device, monkeypatch):
    layer = pwconv.PointwiseConv2d(np.eye(3, dtype=np.float32), device=own_device)
    x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    real = vk.vkQueueSubmit

    def fail(*_: object) -> None:
        raise pwconv.OutOfMemoryError("vkQueueSubmit: VkErrorOutOfHostMemory")

    monkeypatch.setattr(vk, "vkQueueSubmit", fail)
    with pytest.raises(pwconv.OutOfMemoryError):
        layer(x)
    failed = inside.context(own_device).queue.last
    monkeypatch.setattr(vk, "vkQueueSubmit", real)
    inside.context(own_device).queue.wait(failed)
    np.testing.assert_array_equal(layer(x), x)


def test_a_full_queue_does_not_keep_others_out(own_device, rng, monkeypatch):
    """Who waits for room holds no lock."""
    x, weight, _ = random_problem(rng, 8, 8, (4, 4), "float32")
    layer = pwconv.PointwiseConv2d(weight, device=own_device)
    tensor, out = own_device.tensor(x), own_device.empty((8, 4, 4), "float32")
    queue = inside.context(own_device).queue
    layer(tensor, out=out)
    own_device.synchronize()
    waits, resume = threading.Event(), threading.Event()
    monkeypatch.setattr(queue, inside.SPIN, lambda _fence: waits.set() or not resume.wait(60))
    monkeypatch.setattr(queue, inside.SIGNALED, lambda _fence: False)

    def fill() -> None:
        for _ in range(100):
            layer(tensor, out=out)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        assert waits.wait(20)
        assert inside.context(own_device).lock.acquire(timeout=10)
        inside.context(own_device).lock.release()
        assert own_device.memory().allocated > 0
    finally:
        monkeypatch.undo()
        resume.set()
        thread.join(20)
    assert not thread.is_alive()
