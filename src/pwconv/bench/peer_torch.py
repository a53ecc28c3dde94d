"""PyTorch on CUDA: conv2d and matmul in CUDA graphs, timed with CUDA's events."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import torch

from pwconv.bench.report import Run
from pwconv.bench.workloads import Layer
from pwconv.errors import UnsupportedError
from pwconv.timing.chains import chain_lengths, rotation
from pwconv.timing.clocks import SPIN_SECONDS, ClockCheck, until_settled
from pwconv.timing.samples import Sample, summarize
from pwconv.vk.physical_device import DeviceInfo

_CALIBRATIONS = 5
# A sample is one graph: so long that its launch does not count against PyTorch.
_GRAPH_SECONDS = 1e-3
# A spin is in the device's cycles: with the clock down it takes the longer.
_FASTEST_CLOCK_HZ = 2e9


class TorchPeer:
    """PyTorch on the CUDA device of the same name.

    Raises
    ------
    UnsupportedError
        There is none.
    """

    name = "PyTorch"

    def __init__(self, info: DeviceInfo) -> None:
        self.version = f"{torch.__version__}, CUDA {torch.version.cuda}"
        names = (
            [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            if torch.cuda.is_available()
            else []
        )
        if info.name not in names:
            raise UnsupportedError(f"PyTorch has no CUDA device {info.name!r}: it has {names}")
        self._device = torch.device("cuda", names.index(info.name))
        torch.cuda.set_device(self._device)
        torch.backends.cudnn.benchmark = True
        self._calibration = torch.randn(2048, 2048, device=self._device)

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
        del self._calibration
        torch.cuda.empty_cache()

    def _measure(self, layer: Layer, dtype: str, method: str, tf32: bool, name: str) -> Run:
        bytes_each = layer.activation_bytes(4 if dtype == "float32" else 2)
        pairs = rotation(bytes_each)
        with torch.inference_mode():
            calls = self._calls(layer, getattr(torch, dtype), method, pairs)
            self._set_tf32(tf32)
            for call in calls:  # picks algorithms, and makes workspaces, ahead of the capture
                call()
            estimate = self._estimate(calls)
            repetitions, samples = chain_lengths(estimate, _GRAPH_SECONDS)
            graphs = self._capture(calls, repetitions)
            sample, check = self._sample(graphs, repetitions, samples)
        return Run(name, dtype, sample, check, working_set=pairs * bytes_each)

    def _calls(
        self, layer: Layer, dtype: Any, method: str, pairs: int
    ) -> list[Callable[[], object]]:
        def random(*shape: int) -> Any:
            return torch.randn(*shape, device=self._device, dtype=dtype)

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

    def _set_tf32(self, on: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = on
        torch.backends.cudnn.allow_tf32 = on

    def _capture(self, calls: list[Callable[[], object]], repetitions: int) -> list[Any]:
        """Return graphs of so many calls each, that together go round every call at least once."""
        endless = itertools.cycle(calls)
        graphs = []
        for _ in range(-(-len(calls) // repetitions)):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                # Held until the end: a freed output's memory would be the next one's.
                held = [call() for call in itertools.islice(endless, repetitions)]
            graphs.append((graph, held))
        return graphs

    def _estimate(self, calls: list[Callable[[], object]]) -> float:
        (graph,) = self._capture(calls[:1], 8)
        self._spin()
        seconds = self._time([graph[0].replay] * 3)
        return max(seconds[-1] / 8, 1e-7)

    def _sample(
        self, graphs: list[Any], repetitions: int, samples: int
    ) -> tuple[Sample, ClockCheck]:
        replays = [graph.replay for graph, _ in graphs]
        chain = list(itertools.islice(itertools.cycle(replays), samples))
        calibration = [self._calibrate] * _CALIBRATIONS

        def take() -> tuple[float, list[float], float]:
            self._spin()
            seconds = self._time([*calibration, *chain, *calibration])
            before, after = seconds[:_CALIBRATIONS], seconds[-_CALIBRATIONS:]
            return (
                statistics.median(before),
                seconds[_CALIBRATIONS:-_CALIBRATIONS],
                statistics.median(after),
            )

        taken, check = until_settled(take)
        return summarize(taken, repetitions), check

    def _calibrate(self) -> None:
        torch.matmul(self._calibration, self._calibration)

    def _spin(self) -> None:
        """Keep the device busy; returns at once, and what follows is queued behind."""
        torch.cuda._sleep(round(SPIN_SECONDS * _FASTEST_CLOCK_HZ))

    def _time(self, works: list[Callable[[], object]]) -> list[float]:
        events = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in works
        ]
        for work, (start, end) in zip(works, events, strict=True):
            start.record()
            work()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) * 1e-3 for start, end in events]
