"""PyTorch on CUDA, layer by layer: conv2d and matmul."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pwconv.bench.cuda import CudaStopwatch, set_tf32
from pwconv.bench.report import Run
from pwconv.bench.workloads import Layer
from pwconv.timing.chains import rotation
from pwconv.vk.physical_device import DeviceInfo


class TorchPeer:
    """PyTorch on the CUDA device of the same name.

    Raises
    ------
    UnsupportedError
        There is none.
    """

    name = "PyTorch"

    def __init__(self, info: DeviceInfo) -> None:
        self._stopwatch = CudaStopwatch(info)
        self.version = self._stopwatch.version

    def measure(self, layer: Layer, dtype: str) -> list[Run]:
        """Time conv2d and matmul; float32 with TF32 off and on."""
        runs = []
        for tf32 in (False, True) if dtype == "float32" else (False,):
            for method in ("conv2d", "matmul"):
                name = f"PyTorch {method}" + (" TF32" if tf32 else "")
                try:
                    runs.append(self._measure(layer, dtype, method, tf32, name))
                except Exception as error:
                    runs.append(Run(name, dtype, failure=f"{type(error).__name__}: {error}"))
                torch.cuda.empty_cache()
        return runs

    def close(self) -> None:
        """Free the device's memory."""
        self._stopwatch.close()

    def _measure(self, layer: Layer, dtype: str, method: str, tf32: bool, name: str) -> Run:
        bytes_each = layer.activation_bytes(4 if dtype == "float32" else 2)
        pairs = rotation(bytes_each)
        set_tf32(tf32)
        with torch.inference_mode():
            calls = self._calls(layer, getattr(torch, dtype), method, pairs)
            sample, check = self._stopwatch.measure(calls)
        return Run(name, dtype, sample, check, working_set=pairs * bytes_each)

    def _calls(
        self, layer: Layer, dtype: Any, method: str, pairs: int
    ) -> list[Callable[[], object]]:
        def random(*shape: int) -> Any:
            return torch.randn(*shape, device=self._stopwatch.device, dtype=dtype)

        weight, bias = random(layer.n, layer.k) / layer.k**0.5, random(layer.n)
        if method == "conv2d":
            kernel = weight[:, :, None, None].contiguous()
            xs = [random(layer.batch, layer.k, layer.h, layer.w) for _ in range(pairs)]
            return [
                lambda x=x: torch.nn.functional.conv2d(x, kernel, bias)  # type: ignore[misc]
                for x in xs
            ]
        # Without the bias, which PyTorch adds along the other axis only.
        batch = [layer.batch] if layer.batch > 1 else []
        xs = [random(*batch, layer.k, layer.h * layer.w) for _ in range(pairs)]
        outs = [random(*batch, layer.n, layer.h * layer.w) for _ in range(pairs)]
        return [
            lambda x=x, out=out: torch.matmul(weight, x, out=out)  # type: ignore[misc]
            for x, out in zip(xs, outs, strict=True)
        ]
