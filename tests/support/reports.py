"""A report that nobody measured."""

from __future__ import annotations

from pwconv.bench.report import HostCost, Report, Result, Run
from pwconv.timing.ceilings import Ceiling, roofline
from pwconv.timing.clocks import ClockCheck
from pwconv.timing.stopwatch import Sample

CHECK = ClockCheck(1e-4, 1.01e-4, 2)


def sample(microseconds: float) -> Sample:
    median = microseconds * 1e-6
    return Sample(median, median * 0.9, median * 1.1, 50, 20)


CEILINGS = [
    Ceiling("copy", "byte/s", 1e12, ("float32", "float16"), sample(100), CHECK),
    Ceiling("fp32 FMA", "flop/s", 10e12, ("float32", "float16"), sample(100), CHECK),
    Ceiling("fp16 FMA", "flop/s", 20e12, ("float16",), sample(100), CHECK),
]


def result(name: str, kind: str, flop: int, least_bytes: int, kernels: list[str]) -> Result:
    """Return one that pwconv took 40 µs for, and PyTorch at its best 10."""
    ours = Run(
        "pwconv",
        "float32",
        sample(40),
        CHECK,
        storage="texture3d",
        kernels=kernels,
        dispatches=len(kernels),
        scratch=0,
        working_set=123456,
    )
    runs = [
        ours,
        Run("PyTorch conv2d", "float32", sample(20), CHECK),
        Run("PyTorch matmul", "float32", sample(10), ClockCheck(1.0, 2.0, 4)),
        Run("ncnn Vulkan", "float32", failure="it fell over"),
    ]
    least = {"float32": roofline(flop, least_bytes, "float32", CEILINGS)}
    return Result(name, kind, 2, flop, {"float32": least_bytes}, least, runs)


def make_report() -> Report:
    kernel = "a_variant 8×8×1"
    samples = dict.fromkeys(("call", "resize", "new_resize", "first_call"), sample(20))
    samples |= {"numpy_to_numpy": sample(3000), "staging_copy": sample(2000), "run": sample(60)}
    return Report(
        date="2026-01-02T03:04:05+00:00",
        method="a stopwatch",
        workload="three",
        device={"name": "d", "type": "discrete", "driver": "x 1", "api_version": "1.3.0"},
        versions={"pwconv": "0", "numpy": "1", "python": "3", "PyTorch": "2.0"},
        notes=["careful"],
        ceilings=CEILINGS,
        graphs=[
            result("64→64@64", "layers", 33_554_432, 2_113_792, [kernel]),
            result("1024→1024@32", "layers", 2_147_483_648, 12_587_008, [kernel]),
            result("net@64", "networks", 10**9, 10**6, [kernel, "another 64×1×1"]),
        ],
        host=HostCost("net@64", "float32", "texture3d", 4e-5, samples),
    )
