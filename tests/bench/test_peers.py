"""Peers that are absent, broken, or not on this device."""

from __future__ import annotations

import sys
import types

import pwconv
from pwconv.bench import peers
from pwconv.bench.report import Run
from support import inside


class Fine:
    name = "Fine"
    version = "1.0"

    def measure(self, layer: object, dtype: str) -> list[Run]:
        return []

    def close(self) -> None:
        pass


def test_absent_peers_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "ncnn", None)
    found, outcomes = peers.open_peers(None, None)
    assert found == []
    assert outcomes == {
        "PyTorch": "not installed (the package torch)",
        "ncnn": "not installed (the package ncnn)",
    }


def test_a_broken_peer_costs_nothing_but_itself(monkeypatch):
    for name in ("torch", "ncnn"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def broken(info: object, clocks: object) -> Fine:
        raise RuntimeError("no such driver")

    monkeypatch.setattr(*inside.slots.torch, broken)
    monkeypatch.setattr(*inside.slots.ncnn, lambda info, clocks: Fine())
    found, outcomes = peers.open_peers(None, None)
    assert [peer.name for peer in found] == ["Fine"]
    assert outcomes == {"PyTorch": "failed: RuntimeError: no such driver", "ncnn": "1.0"}


def test_a_peer_without_the_device(monkeypatch):
    for name in ("torch", "ncnn"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def elsewhere(info: object, clocks: object) -> Fine:
        raise pwconv.UnsupportedError("it has no such device")

    monkeypatch.setattr(*inside.slots.torch, elsewhere)
    monkeypatch.setattr(*inside.slots.ncnn, elsewhere)
    found, outcomes = peers.open_peers(None, None)
    assert found == []
    assert set(outcomes.values()) == {"not measured: it has no such device"}
