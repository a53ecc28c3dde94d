"""Devices with a tuning file of their own, and measuring that is over at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import pwconv
from pwconv.timing import clocks
from pwconv.tune import tuner
from support import inside


@pytest.fixture
def open_device(
    device: pwconv.Device, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], pwconv.Device]]:
    """Open devices as other processes would, with PWCONV_TUNE set."""
    with ExitStack() as stack:

        def open_device(mode: str) -> pwconv.Device:
            monkeypatch.setenv("PWCONV_TUNE", mode)
            return stack.enter_context(pwconv.Device(device.info.index, validate=True))

        yield open_device


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure few and briefly, and let it count whatever the clocks do; who wins is chance."""
    monkeypatch.setattr(clocks, "MAX_DRIFT", math.inf)
    monkeypatch.setattr(*inside.slots.workgroups, ((8, 8, 1), (16, 2, 1)))
    candidates = tuner.candidates
    monkeypatch.setattr(tuner, "candidates", lambda *task: candidates(*task)[:5])
    monkeypatch.setattr(*inside.slots.first_rounds, (1, 1))
    monkeypatch.setattr(*inside.slots.final_rounds, (2, 2))
