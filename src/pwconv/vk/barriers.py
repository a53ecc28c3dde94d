"""Barriers: which dispatch needs one before it, as it depends on others, and its command."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

from pwconv.vk import api as vk
from pwconv.vk.resources import Span

_STAGES = 0x800 | 0x1000  # compute shader, transfer
_HOST_STAGE = 0x4000
_ACCESS = 0x20 | 0x40 | 0x800 | 0x1000  # shader and transfer, read and write
_WRITES = 0x40 | 0x1000
_HOST_READ = 0x2000


def record_barrier(
    command_buffer: Any, discarded: Sequence[Any] = (), *, to_host: bool = False
) -> None:
    """Make everything before visible to everything after: on the device, or to the host.

    Parameters
    ----------
    command_buffer : VkCommandBuffer
    discarded : sequence of VkImage
        Images to move to layout GENERAL; their contents are lost.
    to_host : bool
    """
    memory = vk.ffi.new(
        "VkMemoryBarrier*",
        {
            "sType": vk.VK_STRUCTURE_TYPE_MEMORY_BARRIER,
            "srcAccessMask": _WRITES,
            "dstAccessMask": _HOST_READ if to_host else _ACCESS,
        },
    )
    transitions = vk.ffi.new("VkImageMemoryBarrier[]", [*map(_transition, discarded)])
    stages = _HOST_STAGE if to_host else _STAGES
    vk.vkCmdPipelineBarrier(
        command_buffer,
        _STAGES,
        stages,
        0,
        1,
        memory,
        0,
        vk.ffi.NULL,
        len(transitions),
        transitions,
    )


def _transition(image: Any) -> dict[str, Any]:
    return {
        "sType": vk.VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER,
        "srcAccessMask": _WRITES,
        "dstAccessMask": _ACCESS,
        "oldLayout": vk.VK_IMAGE_LAYOUT_UNDEFINED,
        "newLayout": vk.VK_IMAGE_LAYOUT_GENERAL,
        "srcQueueFamilyIndex": vk.VK_QUEUE_FAMILY_IGNORED,
        "dstQueueFamilyIndex": vk.VK_QUEUE_FAMILY_IGNORED,
        "image": image,
        "subresourceRange": {
            "aspectMask": vk.VK_IMAGE_ASPECT_COLOR_BIT,
            "levelCount": 1,
            "layerCount": 1,
        },
    }


class Hazards:
    """Bytes read and written since the last barrier."""

    def __init__(self) -> None:
        self._reads = _Union()
        self._writes = _Union()

    def add(self, reads: Iterable[Span], writes: Iterable[Span]) -> bool:
        """Add a dispatch's; return whether it needs a barrier before it, which then there is.

        It does where it reads what was written, or writes what was read or written.
        """
        reads, writes = list(reads), list(writes)
        waits = any(map(self._writes.meets, [*reads, *writes])) or any(
            map(self._reads.meets, writes)
        )
        if waits:
            self._reads, self._writes = _Union(), _Union()
        for one in reads:
            self._reads.add(one)
        for one in writes:
            self._writes.add(one)
        return waits


class _Union:
    """The bytes that are in any of some ranges: by space, ranges that do not touch, in order."""

    def __init__(self) -> None:
        self._spaces: dict[int, tuple[list[int], list[int]]] = {}

    def meets(self, one: Span) -> bool:
        """Return whether a range shares a byte with one of them."""
        firsts, afters = self._spaces.get(one.space, ((), ()))
        # Of those that begin before its end, the last ends last.
        before = bisect_left(firsts, one.after)
        return before > 0 and afters[before - 1] > one.first

    def add(self, one: Span) -> None:
        firsts, afters = self._spaces.setdefault(one.space, ([], []))
        # Those that it meets or touches become one with it.
        begin, end = bisect_left(afters, one.first), bisect_right(firsts, one.after)
        first, after = one.first, one.after
        if begin < end:
            first, after = min(first, firsts[begin]), max(after, afters[end - 1])
        firsts[begin:end], afters[begin:end] = [first], [after]
