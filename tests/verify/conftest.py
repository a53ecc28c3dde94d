"""Devices with a deny list of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import pwconv
from pwconv import deny_list
from pwconv.tuning import store


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for deny lists and tuning; compiled pipelines stay where the suite finds them."""
    for module in (deny_list, store):
        monkeypatch.setattr(module, "cache_folder", lambda kind: tmp_path / kind)
    return tmp_path


@pytest.fixture
def open_device(device: pwconv.Device, cache: Path) -> Iterator[Callable[[], pwconv.Device]]:
    """Open devices as other processes would."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(pwconv.Device(device.info.index, validate=True))
