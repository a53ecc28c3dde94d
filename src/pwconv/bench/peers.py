"""Who else is measured in the same run, each only where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol

from pwconv.bench.report import Run
from pwconv.bench.workloads import Layer
from pwconv.errors import UnsupportedError
from pwconv.timing.clocks import Clocks
from pwconv.vk.physical_device import DeviceInfo


class Peer(Protocol):
    """Another way to compute a layer on the same device.

    Attributes
    ----------
    name, version : str
    """

    name: str
    version: str

    def measure(self, layer: Layer, dtype: str) -> list[Run]:
        """Time a layer in each way that the peer has; raises nothing: a run may be a failure."""

    def close(self) -> None:
        """Free what the peer holds."""


def open_peers(info: DeviceInfo, clocks: Clocks) -> tuple[list[Peer], dict[str, str]]:
    """Return the peers that can run on a device, and each peer's version or why it cannot."""
    peers: list[Peer] = []
    outcomes = {}
    for name, module, factory in (
        ("PyTorch", "torch", _torch),
        ("ncnn", "ncnn", _ncnn),
    ):
        peer, outcome = _open(name, module, factory, info, clocks)
        outcomes[name] = outcome
        peers += [peer] if peer else []
    return peers, outcomes


def _open(
    name: str,
    module: str,
    factory: Callable[[DeviceInfo, Clocks], Peer],
    info: DeviceInfo,
    clocks: Clocks,
) -> tuple[Peer | None, str]:
    try:
        importlib.import_module(module)
    except ImportError:
        return None, f"not installed (the package {module})"
    try:
        peer = factory(info, clocks)
    except UnsupportedError as error:
        return None, f"not measured: {error}"
    except Exception as error:
        # Someone else's code: whatever it raises must not cost the run.
        return None, f"failed: {type(error).__name__}: {error}"
    return peer, peer.version


def _torch(info: DeviceInfo, _: Clocks) -> Peer:
    from pwconv.bench.peer_torch import TorchPeer

    return TorchPeer(info)


def _ncnn(info: DeviceInfo, clocks: Clocks) -> Peer:
    from pwconv.bench.peer_ncnn import NcnnPeer

    return NcnnPeer(info, clocks)
