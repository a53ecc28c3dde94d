"""What is launched, in two words, and recordings of it.

A :class:`Plan` is a pipeline with push constants and workgroup counts: what depends on shapes. A
:class:`Dispatch` is a plan over resources. A :class:`Recording` is command buffers of dispatches,
with the barriers that they need.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from pwconv.shaders import Variant
from pwconv.vk import api as vk
from pwconv.vk.barriers import Hazards, record_barrier
from pwconv.vk.descriptors import make_sets
from pwconv.vk.pipelines import Pipeline
from pwconv.vk.queue import Queue
from pwconv.vk.resources import DeviceObject, Image, Resource, Span

Size3 = tuple[int, int, int]

# Drivers take a device for hung, and reset it, when one submission lasts for seconds.
LONGEST_SUBMISSION = 0.5

# The operand that is an output: others are inputs, by number.
OUT = -1

_COMPUTE_STAGE = 0x20
_COMPUTE = 1  # bind point


@dataclass(frozen=True, eq=False)
class Plan:
    """A variant ready to run at one shape.

    Attributes
    ----------
    variant : Variant
    workgroup : tuple of int
    pipeline : Pipeline
    parts : tuple of (bytes, (int, int, int))
        Push constants, and workgroup counts.
    seconds : float
        About how long each part takes at most, where that may be long.
    """

    variant: Variant
    workgroup: Size3
    pipeline: Pipeline
    parts: tuple[tuple[bytes, Size3], ...]
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Dispatch:
    """A plan over resources.

    Attributes
    ----------
    plan : Plan
    resources : Mapping
        By binding name. A number stands for an operand, :data:`OUT` for the output, until
        :meth:`bind` is told them.
    reason : str
        Why the plan's variant, where there was a choice.
    """

    plan: Plan
    resources: Mapping[str, Resource | int]
    reason: str = ""

    def bind(self, inputs: Sequence[Resource], out: Resource) -> Dispatch:
        """Return the dispatch over these operands."""
        operands = [*inputs, out]
        return replace(
            self,
            resources={
                name: operands[given] if isinstance(given, int) else given
                for name, given in self.resources.items()
            },
        )

    @property
    def pipeline(self) -> Pipeline:
        """The plan's."""
        return self.plan.pipeline

    @functools.cached_property
    def bound(self) -> tuple[Resource, ...]:
        """The resources, in binding order."""
        return tuple(map(self.resources.__getitem__, self.plan.variant.binding_names))  # type: ignore[arg-type]


Groups = Sequence[Sequence[Dispatch]]
"""Dispatches in order: those of a group do not depend on each other, and an empty group is a
barrier."""


class _Entry(NamedTuple):
    """A dispatch, those of its parts that one submission has, and the barrier before it."""

    dispatch: Dispatch
    parts: Sequence[tuple[bytes, Size3]]
    waits: bool
    discarded: list[Any]  # images that the barrier brings into layout GENERAL


class Recording(DeviceObject):
    """Dispatches recorded once, to be submitted any number of times.

    A group begins when those before it that it depends on are done: the barriers follow from what
    each shader writes and where its resources lie. Images in an arena, whose memory others have
    used, lose their contents before they are written.

    It holds no resource: a recording whose buffer or image is gone must not be submitted.

    Parameters
    ----------
    queue : Queue
    groups : Groups
    host_reads : bool
        Whether the host reads what is written, once it is done.

    Attributes
    ----------
    command_buffers : list of VkCommandBuffer
        More than one where a single submission could last too long.
    submit_info : VkSubmitInfo* or None
        Of the one command buffer, where there is one.
    """

    __slots__ = ("_alone", "_queue", "command_buffers", "submit_info")

    def __init__(self, queue: Queue, groups: Groups, *, host_reads: bool = False) -> None:
        self._queue = queue
        self.command_buffers: list[Any] = []
        submissions = list(_short_submissions(_place_barriers(groups)))
        with self._making(queue.core) as made:
            recorder = Recorder(queue, groups, made)
            for submission in submissions:
                self.command_buffers.append(
                    queue.record(partial(recorder.add, submission), made, host_reads=host_reads)
                )
        self.submit_info = None
        if len(self.command_buffers) == 1:
            self._alone = vk.ffi.new("VkCommandBuffer[1]", self.command_buffers)
            info = {"sType": vk.VK_STRUCTURE_TYPE_SUBMIT_INFO, "commandBufferCount": 1}
            self.submit_info = vk.ffi.new("VkSubmitInfo*", {**info, "pCommandBuffers": self._alone})

    def submit(self, *, awaited: bool = False) -> int:
        """Submit it, with nothing in between; return the serial of its last submission."""
        *others, last = self.command_buffers
        with self._queue.core.lock:
            for command_buffer in others:
                self._queue.submit(command_buffer)
            return self._queue.submit(last, awaited=awaited)


class Recorder:
    """The descriptor sets of dispatches, one each however often it is recorded.

    Parameters
    ----------
    queue : Queue
        Its device's lock is held by the caller, here and in every method.
    groups : Groups
        All that will be recorded.
    made : ExitStack
        Frees the sets.
    """

    def __init__(self, queue: Queue, groups: Groups, made: ExitStack) -> None:
        distinct = list(dict.fromkeys(each for group in groups for each in group))
        sets = make_sets(queue.core, distinct, made)
        self._sets = {
            each: vk.ffi.new("VkDescriptorSet[1]", [found])
            for each, found in zip(distinct, sets, strict=True)
        }

    def record(self, groups: Groups, command_buffer: Any) -> None:
        """Record groups, the first without a barrier before it."""
        self.add(_place_barriers(groups), command_buffer)

    def add(self, entries: Sequence[_Entry], command_buffer: Any) -> None:
        """Record entries; the first waits for what was recorded before only if it discards."""
        for position, entry in enumerate(entries):
            if entry.discarded or (entry.waits and position):
                record_barrier(command_buffer, entry.discarded)
            pipeline = entry.dispatch.pipeline
            vk.vkCmdBindPipeline(command_buffer, _COMPUTE, pipeline.handle)
            vk.vkCmdBindDescriptorSets(
                command_buffer,
                _COMPUTE,
                pipeline.layout,
                0,
                1,
                self._sets[entry.dispatch],
                0,
                vk.ffi.NULL,
            )
            for push_constants, groups in entry.parts:
                vk.vkCmdPushConstants(
                    command_buffer,
                    pipeline.layout,
                    _COMPUTE_STAGE,
                    0,
                    len(push_constants),
                    push_constants,
                )
                vk.vkCmdDispatch(command_buffer, *groups)


def _place_barriers(groups: Groups) -> list[_Entry]:
    """Return the dispatches of all groups, each with what is before it."""
    if len(groups) == 1 == len(groups[0]):  # as most are: of a layer
        (dispatch,) = groups[0]
        entry = _Entry(dispatch, dispatch.plan.parts, True, [])
        for position in dispatch.plan.variant.written:
            _discard(dispatch.bound[position], entry.discarded)
        return [entry]
    entries: list[_Entry] = []
    hazards = Hazards()
    last_wait = 0  # the entry with the last barrier before it, or the first of all
    forced = False
    for group in groups:
        if not group:
            forced, hazards = bool(entries), Hazards()
            continue
        reads: list[Span] = []
        writes: list[Span] = []
        discarded: list[Any] = []
        for dispatch in group:
            for position, resource in enumerate(dispatch.bound):
                if position not in dispatch.plan.variant.written:
                    reads.append(resource.span)
                    continue
                writes.append(resource.span)
                _discard(resource, discarded)
        waits = hazards.add(reads, writes) or forced
        forced = False
        if waits:
            last_wait = len(entries)
        entries += [_Entry(each, each.plan.parts, waits and each is group[0], []) for each in group]
        # Nothing since the last barrier has touched their memory: that is the place for it.
        entries[last_wait].discarded.extend(discarded)
    return entries


def _discard(written: Resource, discarded: list[Any]) -> None:
    if written.in_arena and isinstance(written, Image) and written.handle not in discarded:
        discarded.append(written.handle)


def _short_submissions(entries: Sequence[_Entry]) -> Iterator[list[_Entry]]:
    """Cut entries between their parts into submissions of at most :data:`LONGEST_SUBMISSION`.

    Each of them begins when the one before is done.
    """
    submission: list[_Entry] = []
    seconds = 0.0
    for entry in entries:
        rest, each = entry, entry.dispatch.plan.seconds
        while seconds + len(rest.parts) * each > LONGEST_SUBMISSION:
            fitting = int((LONGEST_SUBMISSION - seconds) / each)
            fitting = max(fitting, 0 if submission else 1)
            if fitting >= len(rest.parts):
                break
            if fitting:
                submission.append(rest._replace(parts=rest.parts[:fitting]))
                rest = _Entry(rest.dispatch, rest.parts[fitting:], False, [])
            yield submission
            submission, seconds = [], 0.0
        submission.append(rest)
        seconds += len(rest.parts) * each
    yield submission
