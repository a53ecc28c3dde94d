"""Indirect dispatches, which are resized without recording, against recording anew.

A graph that goes to a new size records its command buffer anew. The other way is to record once,
with ``vkCmdDispatchIndirect``: the device reads workgroup counts from a buffer that the host
writes. This measures both, on a chain of small dispatches with a barrier before each:

- what the device takes for the chain, either way, in turns, clocks held and checked;
- what the host takes to record it, as a graph does (descriptor sets and commands) and the commands
  alone, against writing the counts into mapped memory.

The kernels of graphs take shapes as push constants, which are recorded as well: with indirect
dispatches they would have to be read from a buffer too, at a cost that is not measured here.

    python benchmarks/indirect_dispatch.py [--device NAME] [--dispatches 60]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pwconv.vk.logical_device import LogicalDevice
from rich import box
from rich.table import Table

import pwconv
from pwconv.terminal import make_console
from pwconv.timing.clocks import ClockCheck, Clocks, until_settled
from pwconv.timing.fma import FmaKernel
from pwconv.timing.samples import Sample, summarize
from pwconv.timing.stopwatch import make_stopwatch
from pwconv.vk import api as vk
from pwconv.vk.commands import Recording, Step, StepRecorder, barrier
from pwconv.vk.resources import UPLOAD
from pwconv.vk.timestamps import timestamp_clock

INVOCATIONS, INVOCATIONS_CPU = 2**14, 2**10  # 64 workgroups, and 4: a small layer's
SAMPLES, SAMPLES_CPU = 50, 15
RECORDINGS = 50
WRITES = 2000
COUNTS_BYTES = 12  # of one VkDispatchIndirectCommand


class Counts:
    """Workgroup counts that the host writes and indirect dispatches read."""

    def __init__(self, device: LogicalDevice, dispatches: int) -> None:
        self._device = device
        size = COUNTS_BYTES * dispatches
        info = vk.VkBufferCreateInfo(
            size=size,
            usage=vk.VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT,
            sharingMode=vk.VK_SHARING_MODE_EXCLUSIVE,
        )
        self.handle = vk.vkCreateBuffer(device.handle, info, None)
        requirements = vk.vkGetBufferMemoryRequirements(device.handle, self.handle)
        self._allocation = device.memory.allocate(requirements, UPLOAD, image=False)
        memory, offset = self._allocation.memory, self._allocation.offset
        vk.vkBindBufferMemory(device.handle, self.handle, memory, offset)
        assert self._allocation.mapped is not None
        self.array = np.frombuffer(self._allocation.mapped, np.uint32)[: size // 4].reshape(-1, 3)

    def destroy(self) -> None:
        """Free the buffer; the device must be done with it."""
        del self.array
        vk.vkDestroyBuffer(self._device.handle, self.handle, None)
        self._device.memory.free(self._allocation)


class Chain:
    """Dispatches with a barrier before each, recorded directly or indirectly."""

    def __init__(self, device: LogicalDevice, steps: Sequence[Step], counts: Counts) -> None:
        self._device = device
        self._steps = steps
        self._counts = counts
        self._recorder = StepRecorder(device, steps)

    def record(self, command_buffer: Any, *, indirect: bool) -> None:
        """Record the chain."""
        for position, step in enumerate(self._steps):
            barrier(command_buffer)
            pipeline, descriptor_set = step.pipeline, self._recorder._sets[id(step)]
            bind_point = vk.VK_PIPELINE_BIND_POINT_COMPUTE
            vk.vkCmdBindPipeline(command_buffer, bind_point, pipeline.handle)
            vk.vkCmdBindDescriptorSets(
                command_buffer, bind_point, pipeline.layout, 0, 1, [descriptor_set], 0, None
            )
            ((push_constants, groups),) = step.parts
            vk.vkCmdPushConstants(
                command_buffer,
                pipeline.layout,
                vk.VK_SHADER_STAGE_COMPUTE_BIT,
                0,
                len(push_constants),
                vk.ffi.from_buffer(push_constants),
            )
            if indirect:
                offset = COUNTS_BYTES * position
                vk.vkCmdDispatchIndirect(command_buffer, self._counts.handle, offset)
            else:
                vk.vkCmdDispatch(command_buffer, *groups)

    def command_buffer(self) -> Any:
        """Return a command buffer of the chain, recorded directly."""
        return self._device.queue.record(
            lambda command_buffer: self.record(command_buffer, indirect=False),
            reusable=True,
            host_reads=False,
        )

    def destroy(self) -> None:
        """Free the descriptor sets; the device must be done with them."""
        self._recorder.destroy()


class InTurns:
    """Direct and indirect chains in turns, each between two timestamps, in one command buffer."""

    def __init__(self, device: LogicalDevice, chain: Chain, samples: int) -> None:
        self._device = device
        self._clock = timestamp_clock(device)
        # Which goes first changes too: neither always follows the other.
        self._order = [i % 4 in (1, 2) for i in range(2 * samples)]
        self._queries = 2 * len(self._order)
        info = vk.VkQueryPoolCreateInfo(
            queryType=vk.VK_QUERY_TYPE_TIMESTAMP, queryCount=self._queries
        )
        self._pool = vk.vkCreateQueryPool(device.handle, info, None)

        def record(command_buffer: Any) -> None:
            bottom = vk.VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT
            vk.vkCmdResetQueryPool(command_buffer, self._pool, 0, self._queries)
            for position, indirect in enumerate(self._order):
                barrier(command_buffer)
                vk.vkCmdWriteTimestamp(command_buffer, bottom, self._pool, 2 * position)
                chain.record(command_buffer, indirect=indirect)
                vk.vkCmdWriteTimestamp(command_buffer, bottom, self._pool, 2 * position + 1)

        self._command_buffer = device.queue.record(record, reusable=True, host_reads=False)

    def seconds(self) -> tuple[list[float], list[float]]:
        """Run all; return what the direct and the indirect chains took."""
        queue = self._device.queue
        queue.wait(queue.submit(self._command_buffer, awaited=True))
        words = vk.ffi.new("uint64_t[]", self._queries)
        flags = vk.VK_QUERY_RESULT_64_BIT | vk.VK_QUERY_RESULT_WAIT_BIT
        vk.vkGetQueryPoolResults(
            self._device.handle, self._pool, 0, self._queries, 8 * self._queries, words, 8, flags
        )
        each = [self._clock.seconds(words[i], words[i + 1]) for i in range(0, self._queries, 2)]
        both: tuple[list[float], list[float]] = [], []
        for indirect, duration in zip(self._order, each, strict=True):
            both[indirect].append(duration)
        return both

    def destroy(self) -> None:
        """Free everything; the device must be done with it."""
        self._device.queue.free(self._command_buffer)
        vk.vkDestroyQueryPool(self._device.handle, self._pool, None)


def on_the_device(
    device: LogicalDevice, clocks: Clocks, chain: Chain
) -> tuple[Sample, Sample, ClockCheck]:
    """Return the times of the direct and of the indirect chain."""
    in_turns = InTurns(device, chain, SAMPLES_CPU if clocks.is_cpu else SAMPLES)

    def take() -> tuple[float, tuple[list[float], list[float]], float]:
        clocks.hold()
        before = clocks.calibrate()
        seconds = in_turns.seconds()
        return before, seconds, clocks.calibrate()

    try:
        in_turns.seconds()
        (direct, indirect), check = until_settled(take, clocks.attempts)
    finally:
        in_turns.destroy()
    return summarize(direct), summarize(indirect), check


def on_the_host(
    device: LogicalDevice, chain: Chain, steps: Sequence[Step], counts: Counts
) -> dict[str, Sample]:
    """Return what the host takes to bring a chain to another size, each way."""
    groups = np.array([step.parts[0][1] for step in steps], np.uint32)
    recordings: list[Recording] = []
    command_buffers: list[Any] = []

    def time_calls(call: Callable[[], object], count: int) -> Sample:
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return summarize(seconds)

    found = {
        "record descriptor sets and commands, as a graph does": time_calls(
            lambda: recordings.append(Recording(device, steps, host_reads=False)), RECORDINGS
        ),
        "record the commands alone": time_calls(
            lambda: command_buffers.append(chain.command_buffer()), RECORDINGS
        ),
        "write the counts into mapped memory": time_calls(
            lambda: np.copyto(counts.array, groups), WRITES
        ),
    }
    for recording in recordings:
        recording.destroy()
    for command_buffer in command_buffers:
        device.queue.free(command_buffer)
    return found


def main() -> None:
    """Read the options, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-d", "--device", help="index, or part of a name; as pwconv bench takes it")
    parser.add_argument("--dispatches", type=int, default=60, help="of the chain; by default 60")
    options = parser.parse_args()
    if options.dispatches < 1:
        parser.error(f"--dispatches is {options.dispatches}; it must be at least 1")
    try:
        measure(options.device, options.dispatches)
    except pwconv.PwconvError as error:
        raise SystemExit(f"error: {error}") from None


def measure(name: str | None, dispatches: int) -> None:
    """Measure on a device, and print a table."""
    console = make_console()
    with pwconv.Device(name) as opened:
        console.print(f"device {opened.info}", soft_wrap=True)
        device = opened._logical
        stopwatch, _ = make_stopwatch(device)
        clocks = Clocks(opened._dispatcher, stopwatch)
        kernel = FmaKernel(
            opened._dispatcher, "fp32", INVOCATIONS_CPU if clocks.is_cpu else INVOCATIONS
        )
        steps = [kernel.step(1) for _ in range(dispatches)]
        counts = Counts(device, len(steps))
        counts.array[:] = [step.parts[0][1] for step in steps]
        chain = Chain(device, steps, counts)
        try:
            direct, indirect, check = on_the_device(device, clocks, chain)
            host = on_the_host(device, chain, steps, counts)
        finally:
            opened.synchronize()
            chain.destroy()
            counts.destroy()
            kernel.close()
            clocks.close()

    table = Table("", box=box.SIMPLE, pad_edge=False, title=f"{len(steps)} dispatches, µs")
    for heading in ("median", "first quartile", "third quartile"):
        table.add_column(heading, justify="right")
    rows = {
        "device: vkCmdDispatch": direct,
        "device: vkCmdDispatchIndirect": indirect,
        **{f"host: {what}": sample for what, sample in host.items()},
    }
    for what, sample in rows.items():
        each = (sample.median, sample.q1, sample.q3)
        table.add_row(what, *(f"{1e6 * seconds:,.1f}" for seconds in each))
    console.print(table)
    more = (indirect.median - direct.median) / len(steps) * 1e9
    held = "held" if check.settled else "did not hold: the device's times mean little"
    console.print(
        f"an indirect dispatch takes {more:+,.0f} ns of a direct one's "
        f"{direct.median / len(steps) * 1e9:,.0f}, its barrier included\n"
        f"clocks {held} (drift {check.drift:.1%}, attempt {check.attempts})",
        highlight=False,
    )


if __name__ == "__main__":
    main()
