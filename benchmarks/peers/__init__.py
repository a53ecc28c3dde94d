"""Who else runs each graph in the same run, each only where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol

from pwconv.bench.cases import Case
from pwconv.bench.report import Report, Run
from pwconv.errors import UnsupportedError
from pwconv.timing.clocks import Clocks
from pwconv.vk.physical_device import DeviceInfo


class Peer(Protocol):
    """Someone else's way to run graphs on the device."""

    version: str

    def measure(self, case: Case, dtype: str) -> list[Run]:
        """Time a graph in each of the peer's ways; a failure is a run without a sample."""

    def close(self) -> None:
        """Free the peer's device memory."""


def open_peers(info: DeviceInfo, clocks: Clocks, report: Report) -> list[Peer]:
    """Return the peers that can run on a device; the report gets their versions, or why not."""
    peers = []
    for name, (module, factory) in PEERS.items():
        try:
            importlib.import_module(module)
        except ImportError:
            report.notes.append(f"{name} is not installed (the package {module})")
            continue
        try:
            peer = factory(info, clocks)
        except UnsupportedError as error:
            report.notes.append(f"{name} is not measured: {error}")
        except Exception as error:
            # Someone else's code: whatever it raises must not cost the run.
            report.notes.append(f"{name} failed: {type(error).__name__}: {error}")
        else:
            report.versions[name] = peer.version
            peers.append(peer)
    return peers


def _torch(info: DeviceInfo, _: Clocks) -> Peer:
    from peers.torch_peer import TorchPeer

    return TorchPeer(info)


def _ncnn(info: DeviceInfo, clocks: Clocks) -> Peer:
    from peers.ncnn_peer import NcnnPeer

    return NcnnPeer(info, clocks)


PEERS: dict[str, tuple[str, Callable[[DeviceInfo, Clocks], Peer]]] = {
    "PyTorch": ("torch", _torch),
    "ncnn": ("ncnn", _ncnn),
}
