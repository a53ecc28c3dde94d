"""Samples taken while the clocks changed are thrown away; chains are long enough, and end."""

from __future__ import annotations

import pytest

from pwconv.errors import UnsupportedError
from pwconv.timing.clocks import (
    ATTEMPTS,
    ClockCheck,
    Clocks,
    chain,
    chain_lengths,
    rotation,
    until_settled,
)
from pwconv.vk import timestamps
from support import inside


def fake(*calibrations: tuple[float, float]):
    """Return a function that gives these times before and after, and a list of its calls."""
    calls: list[int] = []

    def take() -> tuple[float, str, float]:
        before, after = calibrations[min(len(calls), len(calibrations) - 1)]
        calls.append(len(calls))
        return before, f"samples {len(calls)}", after

    return take, calls


def test_settled_samples_are_kept():
    take, calls = fake((1.0, 1.049))
    samples, check = until_settled(take)
    assert samples == "samples 1"
    assert check == ClockCheck(1.0, 1.049, 1)
    assert check.settled
    assert len(calls) == 1


@pytest.mark.parametrize("unsettled", [(5.0, 1.0), (1.0, 1.06)])
def test_unsettled_samples_are_taken_again(unsettled):
    take, calls = fake(unsettled, unsettled, (1.0, 1.0))
    samples, check = until_settled(take)
    assert samples == "samples 3"
    assert check.attempts == len(calls) == 3
    assert check.settled


def test_what_never_settles_is_said():
    take, calls = fake((2.0, 1.0))
    samples, check = until_settled(take)
    assert len(calls) == check.attempts == ATTEMPTS
    assert samples == f"samples {ATTEMPTS}"
    assert not check.settled
    assert check.drift == pytest.approx(1.0)


def test_calibration_on_a_device(device):
    clocks = Clocks(inside.context(device))
    assert clocks.stopwatch.note is None
    assert clocks.calibrate() > 0


def test_without_timestamps_the_host_times(device, monkeypatch):
    real = timestamps.timestamp_clock

    def none(context: object) -> object:
        monkeypatch.setitem(device.info.limits, "timestampPeriod", 0.0)
        return real(context)

    monkeypatch.setattr("pwconv.timing.stopwatch.timestamp_clock", none)
    clocks = Clocks(inside.context(device))
    assert clocks.stopwatch.method.startswith("host clock")
    assert "timestampPeriod = 0.0 ns; times are the host's" in clocks.stopwatch.note
    with pytest.raises(UnsupportedError, match="has no timestamps"):
        real(inside.context(device))
    assert clocks.calibrate() > 0


def test_chains_are_long_enough_and_end():
    assert chain_lengths(10e-6) == (20, 50)
    assert chain_lengths(1e-3) == (1, 50)
    assert chain_lengths(0.1) == (1, 5)
    repetitions, samples = chain_lengths(1e-7)
    assert repetitions * samples <= 5000


def test_rotation_passes_the_cache():
    assert rotation(10 << 20) == 10
    assert rotation(500 << 20) == 2
    assert rotation(100) == 256
    assert rotation(100, is_cpu=True) == 2


def test_a_chain_goes_round_its_items():
    barrier = ()
    found = chain([["a"], ["b", "B"], ["c"]], 2, 3)
    assert found == [
        [barrier, "a", barrier, "b", "B"],
        [barrier, "c", barrier, "a"],
        [barrier, "b", "B", barrier, "c"],
    ]
