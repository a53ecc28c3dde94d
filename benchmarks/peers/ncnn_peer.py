"""ncnn on Vulkan: chains of layers, a long one minus a short one.

ncnn times nothing on the device, and a network's input and output cross to and from the host. A
chain K→N→K→N→… is run at two lengths; what the longer takes more is the layers' own. A figure is
therefore the mean of K→N and N→K. Its activations come from ncnn's own pool, a few buffers in turn,
so they are in the cache where they fit it: in ncnn's favour.
"""

from __future__ import annotations

import itertools
import time

import ncnn
import numpy as np

from pwconv.bench.cases import Case, Shape
from pwconv.bench.report import Run
from pwconv.dtypes import Array
from pwconv.errors import PwconvError, UnsupportedError
from pwconv.timing.clocks import SPIN_SECONDS, Clocks, until_settled
from pwconv.timing.stopwatch import summarize
from pwconv.vk.physical_device import DeviceInfo

# Pairs of layers that the long chain has more than the short one.
_PAIRS, _PAIRS_CPU = 50, 1
_SAMPLES, _SAMPLES_CPU = 9, 2
_WEIGHT_BUDGET = 256 << 20

_NAME = "ncnn Vulkan"
_MAGIC = 7767517
_RAW_FLOAT32 = np.zeros(1, np.uint32).tobytes()


class NcnnPeer:
    """ncnn on the Vulkan device of the same name.

    Raises
    ------
    UnsupportedError
        There is none.
    """

    def __init__(self, info: DeviceInfo, clocks: Clocks) -> None:
        self.version = str(ncnn.__version__)
        self._clocks = clocks
        names = [ncnn.get_gpu_info(i).device_name() for i in range(ncnn.get_gpu_count())]
        if info.name not in names:
            raise UnsupportedError(f"ncnn has no Vulkan device {info.name!r}: it has {names}")
        self._index = names.index(info.name)
        self._pairs: dict[tuple[object, ...], Run] = {}

    def measure(self, case: Case, dtype: str) -> list[Run]:
        """Time a single layer and its mirror image; the other of the two is not measured again."""
        layer = case.layer
        if layer is None:
            return []
        ends = min(layer.k, layer.n), max(layer.k, layer.n)
        key = (dtype, *ends, layer.h, layer.w, layer.batch)
        if key not in self._pairs:
            try:
                self._pairs[key] = self._measure(layer, dtype)
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
                self._pairs[key] = Run(_NAME, dtype, failure=failure)
        return [self._pairs[key]]

    def close(self) -> None:
        """Nothing: ncnn keeps its Vulkan device until the process ends."""

    def _measure(self, layer: Shape, dtype: str) -> Run:
        if layer.batch > 1:
            raise UnsupportedError("ncnn has no batches")
        cpu = self._clocks.is_cpu
        fitting = _WEIGHT_BUDGET // (8 * layer.k * layer.n)
        pairs = max(1, min(_PAIRS_CPU if cpu else _PAIRS, fitting))
        rng = np.random.default_rng(0)
        x = rng.standard_normal((layer.k, layer.h, layer.w), np.float32)
        short = _Chain(self._index, layer, 1, dtype, rng)
        long = _Chain(self._index, layer, 1 + pairs, dtype, rng)

        def take() -> tuple[float, list[float], float]:
            end = time.perf_counter() + (0.0 if cpu else SPIN_SECONDS)
            long.seconds(x)
            short.seconds(x)
            while time.perf_counter() < end:
                long.seconds(x)
            before = self._clocks.calibrate()
            samples = [
                long.seconds(x) - short.seconds(x) for _ in range(_SAMPLES_CPU if cpu else _SAMPLES)
            ]
            return before, samples, self._clocks.calibrate()

        samples, check = until_settled(take, self._clocks.attempts)
        sample = summarize(samples, 2 * pairs)
        if sample.median <= 0:
            raise PwconvError("the long chain took no longer than the short one")
        return Run(_NAME, dtype, sample, check)


class _Chain:
    """A network of K→N→K pairs."""

    def __init__(
        self, device: int, layer: Shape, pairs: int, dtype: str, rng: np.random.Generator
    ) -> None:
        self._net = ncnn.Net()
        half = dtype == "float16"
        options = self._net.opt
        options.use_vulkan_compute = True
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(options, name, half)
        self._net.set_vulkan_device(device)
        channels = [layer.k, layer.n] * pairs + [layer.k]
        convolutions = list(itertools.pairwise(channels))
        count = len(convolutions) + 1
        self._last = f"b{len(convolutions)}"
        lines = [f"{_MAGIC}", f"{count} {count}", "Input in 0 1 b0"]
        lines += [
            f"Convolution c{i} 1 1 b{i} b{i + 1} 0={n} 1=1 5=1 6={k * n}"
            for i, (k, n) in enumerate(convolutions)
        ]
        if self._net.load_param_mem("\n".join(lines) + "\n"):
            raise PwconvError("ncnn does not read the network")
        self._model = b"".join(
            _RAW_FLOAT32 + weight.tobytes() + np.zeros(n, np.float32).tobytes()
            for k, n in convolutions
            for weight in [rng.standard_normal((n, k), np.float32) / np.float32(k**0.5)]
        )
        self._net.load_model_mem(self._model)

    def seconds(self, x: Array) -> float:
        """Return how long the network takes, transfers included."""
        start = time.perf_counter()
        extractor = self._net.create_extractor()
        extractor.input("b0", ncnn.Mat(x))
        status, _ = extractor.extract(self._last)
        seconds = time.perf_counter() - start
        if status:
            raise PwconvError(f"ncnn's extract returned {status}")
        return seconds
