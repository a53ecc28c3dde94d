"""Ceilings of the device, measured: streaming copy, and arithmetic by type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pwconv import shaders
from pwconv.context import Context
from pwconv.staging import upload_buffer
from pwconv.timing.clocks import ArithmeticKernel, ClockCheck, Clocks
from pwconv.timing.stopwatch import Sample
from pwconv.vk import api as vk
from pwconv.vk.commands import Dispatch, Groups
from pwconv.vk.cooperative_matrix import Matrix
from pwconv.vk.resources import DEVICE, Buffer

_SEED_BYTES = 16 << 20
# Long enough that what a dispatch costs beside its work, some microseconds, is lost in it.
_COPY_BYTES = {"cpu": 64 << 20, "discrete": 512 << 20}
_COPY_BYTES_ELSEWHERE = 128 << 20
# On GPUs and on CPUs.
_ARITHMETIC_SECONDS = (1e-3, 10e-3)
_SAMPLES, _SAMPLES_CPU = 20, 5


@dataclass(frozen=True)
class Ceiling:
    """A rate that nothing on the device exceeds.

    Attributes
    ----------
    name : str
    unit : "byte/s" or "flop/s"
    rate : float
    dtypes : tuple of str
        The types whose layers it bounds.
    sample : Sample
    clocks : ClockCheck
    """

    name: str
    unit: str
    rate: float
    dtypes: tuple[str, ...]
    sample: Sample
    clocks: ClockCheck


@dataclass(frozen=True)
class Roofline:
    """The least time of a computation, and its bound: "memory" or "arithmetic"."""

    seconds: float
    bound: str


def measure_ceilings(context: Context, clocks: Clocks) -> Iterator[Ceiling]:
    """Measure each ceiling that the device has; a layer is held to the fastest of its type."""
    yield _copy(context, clocks)
    for precision, dtypes in (("fp32", ("float32", "float16")), ("fp16", ("float16",))):
        variant = shaders.variant("bench_fma", dtype=precision)
        if not context.unmet(variant):
            kernel = ArithmeticKernel(context, variant, clocks.invocations)
            yield _arithmetic(clocks, f"{precision} FMA", kernel, dtypes)
    for matrix, variant in measurable(context):
        kernel = ArithmeticKernel(context, variant, clocks.invocations, matrix)
        # Other types are shown for themselves: no layer computes in them.
        serves = (matrix.operand, matrix.accumulator) == ("float16", "float32")
        yield _arithmetic(clocks, f"matrix {matrix}", kernel, ("float16",) if serves else ())


def measurable(context: Context) -> list[tuple[Matrix, shaders.Variant]]:
    """Return the products that the device lists and the shader is built for.

    A device whose subgroup size is not known has none: its rate could not be told.
    """
    info = context.info
    return [
        (matrix, variant)
        for matrix in info.matrices
        if matrix.scope == "subgroup" and not matrix.flexible
        for variant in shaders.variants(
            "bench_matrix", product=f"{matrix.operand}_{matrix.accumulator}"
        )
        if not context.unmet(variant) and info.limits["subgroupSize"]
    ]


def roofline(flop: int, least_bytes: int, dtype: str, ceilings: Sequence[Ceiling]) -> Roofline:
    """Return the larger of the time to move so many bytes and the time to compute."""
    rates = {
        unit: max(c.rate for c in ceilings if c.unit == unit and dtype in c.dtypes)
        for unit in ("byte/s", "flop/s")
    }
    move = least_bytes / rates["byte/s"]
    compute = flop / rates["flop/s"]
    return Roofline(max(move, compute), "memory" if move >= compute else "arithmetic")


def _copy(context: Context, clocks: Clocks) -> Ceiling:
    variant = shaders.variant("bench_copy", vectors="x4")
    size = _COPY_BYTES.get(context.info.type, _COPY_BYTES_ELSEWHERE)
    while size > context.limits["maxStorageBufferRange"]:
        size //= 2
    seed_size = min(_SEED_BYTES, size)
    source, target, seed = (Buffer(context, length, DEVICE) for length in (size, size, seed_size))
    noise = np.random.default_rng(0).standard_normal(seed_size // 4, np.float32)
    upload_buffer(context, noise, seed)
    regions = [
        vk.VkBufferCopy(dstOffset=offset, size=seed_size) for offset in range(0, size, seed_size)
    ]
    context.queue.run_once(
        lambda cb: vk.vkCmdCopyBuffer(cb, seed.handle, source.handle, len(regions), regions)
    )
    invocations = size // (16 * variant.defines["VECTORS"])
    plan = context.plan(
        variant, (invocations, 1, 1), {"invocations": invocations}, shape=(256, 1, 1)
    )
    dispatch = Dispatch(plan, {"source": source, "target": target})
    sample, check = clocks.sample(_segments(clocks, dispatch))
    rate = 2 * size / sample.median
    return Ceiling("copy, read + written", "byte/s", rate, ("float32", "float16"), sample, check)


def _arithmetic(
    clocks: Clocks, name: str, kernel: ArithmeticKernel, dtypes: tuple[str, ...]
) -> Ceiling:
    iterations = clocks.iterations(kernel, _ARITHMETIC_SECONDS[clocks.is_cpu])
    sample, check = clocks.sample(_segments(clocks, kernel.dispatch(iterations)))
    rate = kernel.flop * iterations / sample.median
    return Ceiling(name, "flop/s", rate, dtypes, sample, check)


def _segments(clocks: Clocks, dispatch: Dispatch) -> list[Groups]:
    return [[[dispatch]]] * (_SAMPLES_CPU if clocks.is_cpu else _SAMPLES)
