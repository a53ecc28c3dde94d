"""Peers that are absent, broken, or not on this device."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

import peers
import pwconv
from pwconv.bench.report import Report, Run
from support.reports import make_report


class Fine:
    version = "1.0"

    def measure(self, case: object, dtype: str) -> list[Run]:
        return []

    def close(self) -> None:
        pass


def broken(info: object, clocks: object) -> Fine:
    raise RuntimeError("no such driver")


def elsewhere(info: object, clocks: object) -> Fine:
    raise pwconv.UnsupportedError("it has no such device")


def open_with(monkeypatch: pytest.MonkeyPatch, **factories: Any) -> tuple[list[Any], Report]:
    """Open peers that are made by these."""
    for name in factories:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    known = {name: (name, factory) for name, factory in factories.items()}
    monkeypatch.setattr(peers, "PEERS", known)
    report = make_report()
    report.versions.clear()
    report.notes.clear()
    return peers.open_peers(None, None, report), report


def test_absent_peers_are_named(monkeypatch):
    for module in ("torch", "ncnn"):
        monkeypatch.setitem(sys.modules, module, None)
    report = make_report()
    assert peers.open_peers(None, None, report) == []
    assert report.notes[-2:] == [
        "PyTorch is not installed (the package torch)",
        "ncnn is not installed (the package ncnn)",
    ]


def test_a_broken_peer_costs_nothing_but_itself(monkeypatch):
    found, report = open_with(
        monkeypatch, bad=broken, good=lambda info, clocks: Fine(), none=elsewhere
    )
    assert [peer.version for peer in found] == ["1.0"]
    assert report.versions == {"good": "1.0"}
    assert report.notes == [
        "bad failed: RuntimeError: no such driver",
        "none is not measured: it has no such device",
    ]
