"""CUDA's own clock: calls captured in CUDA graphs, timed with events, the clocks held and checked.

What is captured costs the host nothing when it is run: in PyTorch's favour.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pwconv.errors import UnsupportedError
from pwconv.timing.clocks import SPIN_SECONDS, ClockCheck, chain_lengths, until_settled
from pwconv.timing.stopwatch import Sample, summarize
from pwconv.vk.physical_device import DeviceInfo

Call = Callable[[], object]

_CALIBRATIONS = 5
# A sample is one graph: so long that its launch does not count against PyTorch.
_GRAPH_SECONDS = 1e-3
# A spin is in the device's cycles: with the clock down it takes the longer.
_FASTEST_CLOCK_HZ = 2e9


class CudaStopwatch:
    """Times calls on the CUDA device of the same name.

    Parameters
    ----------
    info : DeviceInfo

    Attributes
    ----------
    device : torch.device
    version : str
        Of PyTorch and its CUDA.

    Raises
    ------
    UnsupportedError
        There is no such device.
    """

    def __init__(self, info: DeviceInfo) -> None:
        self.version = f"{torch.__version__}, CUDA {torch.version.cuda}"
        names = (
            [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            if torch.cuda.is_available()
            else []
        )
        if info.name not in names:
            raise UnsupportedError(f"PyTorch has no CUDA device {info.name!r}: it has {names}")
        self.device = torch.device("cuda", names.index(info.name))
        torch.cuda.set_device(self.device)
        torch.backends.cudnn.benchmark = True
        self._calibration = torch.randn(2048, 2048, device=self.device)

    def measure(self, calls: Sequence[Call]) -> tuple[Sample, ClockCheck]:
        """Time one call, going round calls that do the same on other tensors."""
        for call in calls:  # compiles, picks algorithms, makes workspaces, ahead of the capture
            call()
        repetitions, samples = chain_lengths(self._estimate(calls), _GRAPH_SECONDS)
        return self._sample(self._capture(calls, repetitions), repetitions, samples)

    def close(self) -> None:
        """Free the device's memory."""
        del self._calibration
        torch.cuda.empty_cache()

    def _capture(self, calls: Sequence[Call], repetitions: int) -> list[Any]:
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

    def _estimate(self, calls: Sequence[Call]) -> float:
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

    def _time(self, works: list[Call]) -> list[float]:
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


def set_tf32(on: bool) -> None:
    """Let float32 be multiplied in TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
