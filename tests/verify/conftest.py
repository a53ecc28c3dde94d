"""Devices with a deny list of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import pwconv


@pytest.fixture
def open_device(device: pwconv.Device, cache: Path) -> Iterator[Callable[[], pwconv.Device]]:
    """Open devices as other processes would."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(pwconv.Device(device.info.index, validate=True))
