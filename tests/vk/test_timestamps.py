"""GPU timestamps around segments of dispatches."""

from __future__ import annotations

import pytest

import pwconv
from pwconv import shaders
from pwconv.timing.clocks import ArithmeticKernel
from pwconv.vk.timestamps import TimedRecording, TimestampClock, timestamp_clock
from support import inside


def test_timestamps_wrap():
    clock = TimestampClock(bits=36, period=2.0)
    assert clock.seconds(100, 600) == pytest.approx(1000e-9)
    assert clock.seconds(2**36 - 100, 400) == pytest.approx(1000e-9)
    assert TimestampClock(bits=64, period=1.0).seconds(2**64 - 1, 1) == pytest.approx(2e-9)


def test_more_work_takes_longer(own_device):
    context = inside.context(own_device)
    kernel = ArithmeticKernel(context, shaders.variant("bench_fma", dtype="fp32"), 4096)
    group = [kernel.dispatch(200)]
    recording = TimedRecording(context.queue, [[group], [], [group] * 20, [group]])
    for _ in range(2):  # a recording can be submitted again
        context.queue.wait(context.queue.submit(recording.command_buffer))
        one, nothing, twenty, _ = recording.seconds()
        assert 0 <= nothing < one < twenty < 60


def test_a_device_without_timestamps(own_device, monkeypatch):
    assert timestamp_clock(inside.context(own_device)).period > 0
    monkeypatch.setitem(own_device.info.limits, "timestampPeriod", 0.0)
    with pytest.raises(pwconv.UnsupportedError, match="has no timestamps"):
        TimedRecording(inside.context(own_device).queue, [])
