"""Who else is measured in the same run, each only where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from pwconv.bench.graphs import GraphCase
from pwconv.bench.report import Run
from pwconv.bench.workloads import Layer
from pwconv.errors import UnsupportedError
from pwconv.timing.clocks import Clocks
from pwconv.vk.physical_device import DeviceInfo


class AnyPeer(Protocol):
    """Another way to compute on the same device.

    Attributes
    ----------
    name, version : str
    """

    name: str
    version: str

    def close(self) -> None:
        """Free what the peer holds."""


class Peer(AnyPeer, Protocol):
    """Another way to compute a layer."""

    def measure(self, layer: Layer, dtype: str) -> list[Run]:
        """Time a layer in each way that the peer has; raises nothing: a run may be a failure."""


class GraphPeer(AnyPeer, Protocol):
    """Another way to run a graph."""

    def measure(self, case: GraphCase, dtype: str) -> list[Run]:
        """Time a graph in each way that the peer has; raises nothing: a run may be a failure."""


_P = TypeVar("_P", bound=AnyPeer)


def open_peers(info: DeviceInfo, clocks: Clocks) -> tuple[list[Peer], dict[str, str]]:
    """Return the peers that can run on a device, and each peer's version or why it cannot."""
    return _open_all((("PyTorch", "torch", _torch), ("ncnn", "ncnn", _ncnn)), info, clocks)


def open_graph_peers(info: DeviceInfo, clocks: Clocks) -> tuple[list[GraphPeer], dict[str, str]]:
    """Do as :func:`open_peers`, for peers that run graphs."""
    return _open_all((("PyTorch", "torch", _torch_graphs),), info, clocks)


def _open_all(
    known: Sequence[tuple[str, str, Callable[[DeviceInfo, Clocks], _P]]],
    info: DeviceInfo,
    clocks: Clocks,
) -> tuple[list[_P], dict[str, str]]:
    peers: list[_P] = []
    outcomes = {}
    for name, module, factory in known:
        peer, outcomes[name] = _open(module, factory, info, clocks)
        peers += [peer] if peer else []
    return peers, outcomes


def _open(
    module: str,
    factory: Callable[[DeviceInfo, Clocks], _P],
    info: DeviceInfo,
    clocks: Clocks,
) -> tuple[_P | None, str]:
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


def _torch_graphs(info: DeviceInfo, _: Clocks) -> GraphPeer:
    from pwconv.bench.peer_torch_graphs import TorchGraphPeer

    return TorchGraphPeer(info)


def _ncnn(info: DeviceInfo, clocks: Clocks) -> Peer:
    from pwconv.bench.peer_ncnn import NcnnPeer

    return NcnnPeer(info, clocks)
