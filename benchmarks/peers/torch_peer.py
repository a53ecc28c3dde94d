"""PyTorch on CUDA: graphs as they are written, and compiled; single layers by matmul too."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from peers.cuda import CudaStopwatch, set_tf32
from peers.torch_network import TorchNetwork
from pwconv.bench.cases import Case, Shape
from pwconv.bench.report import Run
from pwconv.dtypes import as_dtype
from pwconv.timing.clocks import rotation
from pwconv.vk.physical_device import DeviceInfo

Calls = tuple[list[Callable[[], Any]], int]

# Contenders, each with the memory layout of its activations and weights.
_METHODS = {
    "PyTorch eager": torch.contiguous_format,
    "PyTorch eager NHWC": torch.channels_last,
    "PyTorch compiled": torch.contiguous_format,
}
_MATMUL = "PyTorch matmul"


class TorchPeer:
    """PyTorch on the CUDA device of the same name.

    Raises
    ------
    UnsupportedError
        There is none.
    """

    def __init__(self, info: DeviceInfo) -> None:
        self._stopwatch = CudaStopwatch(info)
        self.version = self._stopwatch.version

    def measure(self, case: Case, dtype: str) -> list[Run]:
        """Time each method; float32 with TF32 off and on."""
        runs = []
        for tf32 in (False, True) if dtype == "float32" else (False,):
            for method in (*_METHODS, *((_MATMUL,) if case.layer else ())):
                name = method + (" TF32" if tf32 else "")
                try:
                    runs.append(self._measure(case, dtype, method, tf32, name))
                except Exception as error:  # a compiler may be missing, or fail
                    first_line = str(error).strip().partition("\n")[0]
                    runs.append(Run(name, dtype, failure=f"{type(error).__name__}: {first_line}"))
                torch.cuda.empty_cache()
        return runs

    def close(self) -> None:
        """Free the device's memory."""
        self._stopwatch.close()

    def _measure(self, case: Case, dtype: str, method: str, tf32: bool, name: str) -> Run:
        set_tf32(tf32)
        device = self._stopwatch.device
        with torch.no_grad():
            if method == _MATMUL:
                assert case.layer is not None
                calls, bytes_each = matmul_calls(case.layer, dtype, device)
            else:
                compiled = method == "PyTorch compiled"
                calls, bytes_each = network_calls(
                    case, dtype, _METHODS[method], device, compiled=compiled
                )
            sample, check = self._stopwatch.measure(calls)
        return Run(name, dtype, sample, check, working_set=len(calls) * bytes_each)


def network_calls(
    case: Case, dtype: str, memory_format: Any, device: Any, *, compiled: bool
) -> Calls:
    """Return calls on several sets of inputs, and the bytes of a set with what comes of it."""
    network = TorchNetwork(dtype)
    case.define(network)
    module = network.module().to(device=device).to(memory_format=memory_format)
    if compiled:
        torch.compiler.reset()  # a limit of compilations counts those of the case before
        module = torch.compile(module, dynamic=False)

    def inputs() -> list[Any]:
        return [
            torch.randn(*shape, device=device, dtype=getattr(torch, dtype)).to(
                memory_format=memory_format
            )
            for shape in network.inputs.values()
        ]

    first = inputs()
    bytes_each = sum(
        math.prod(tensor.shape) * tensor.element_size() for tensor in (*first, *module(*first))
    )
    sets = [first, *(inputs() for _ in range(rotation(bytes_each) - 1))]
    return [partial(module, *tensors) for tensors in sets], bytes_each


def matmul_calls(layer: Shape, dtype: str, device: Any) -> Calls:
    """Do as :func:`network_calls`; without the bias, which PyTorch adds along the other axis."""

    def random(*shape: int) -> Any:
        return torch.randn(*shape, device=device, dtype=getattr(torch, dtype))

    batch = [layer.batch] if layer.batch > 1 else []
    weight = random(layer.n, layer.k) / layer.k**0.5
    positions = layer.h * layer.w
    bytes_each = (layer.k + layer.n) * layer.batch * positions * as_dtype(dtype).itemsize
    calls: list[Callable[[], Any]] = [
        partial(
            torch.matmul,
            weight,
            random(*batch, layer.k, positions),
            out=random(*batch, layer.n, positions),
        )
        for _ in range(rotation(bytes_each))
    ]
    return calls, bytes_each
