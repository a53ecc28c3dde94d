"""Device memory: a few large blocks per memory type, handed out in pieces.

Drivers cap the number of allocations (``maxMemoryAllocationCount`` may be 4096), and each is slow.
Images and buffers have blocks of their own, so that ``bufferImageGranularity`` never matters.
Host-visible blocks are mapped once, when they are made.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from pwconv.errors import OutOfMemoryError
from pwconv.vk import api as vk
from pwconv.vk.physical_device import MemoryType, PhysicalDevice

BLOCK_SIZE = 64 << 20

DEVICE_LOCAL, HOST_VISIBLE, HOST_COHERENT, HOST_CACHED = 1, 2, 4, 8
_KNOWN_PROPERTIES = DEVICE_LOCAL | HOST_VISIBLE | HOST_COHERENT | HOST_CACHED


class Allocation:
    """A piece of a block: ``memory`` from ``offset`` for ``size`` bytes.

    ``mapped`` is the piece in host memory, or None where the host cannot see it.
    """

    __slots__ = ("__weakref__", "_block", "mapped", "memory", "offset", "size")

    def __init__(self, block: _Block, offset: int, size: int) -> None:
        self._block = block
        self.memory = block.memory
        self.offset = offset
        self.size = size
        self.mapped: memoryview | None = (
            block.mapped[offset : offset + size] if block.mapped is not None else None
        )


# Ranges that are long enough, but perhaps not once a piece in them is aligned.
_MOST_TRIED = 16


class _Block:
    """One VkDeviceMemory, its pieces and its free ranges.

    An exception from a signal's handler may come between any two lines: ``_ends`` alone says what
    is free, each range in one step, and the others are where to look for it.
    """

    def __init__(self, memory: Any, size: int, key: tuple[int, bool], mapped: Any) -> None:
        self.memory = memory
        self.size = size
        self.key = key
        self.mapped: memoryview | None = mapped
        self._pieces: weakref.WeakValueDictionary[int, Allocation] = weakref.WeakValueDictionary()
        self.recover()

    @property
    def used(self) -> int:
        return self.size - sum(end - start for start, end in self._ends.items())

    @property
    def empty(self) -> bool:
        return self._ends.get(0) == self.size

    def recover(self) -> None:
        """Rebuild the free ranges from the pieces, after an interrupted call too."""
        self._ends: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self._by_length: list[tuple[int, int]] = []
        start = 0
        for offset, piece in sorted(self._pieces.items()):
            self._add(start, offset)
            start = offset + piece.size
        self._add(start, self.size)

    def take(self, size: int, alignment: int) -> Allocation | None:
        """Return so many bytes of the shortest range that they fit, or None."""
        shortest = bisect_left(self._by_length, (size, 0))
        # From here on all fit, wherever they start; before, many may be left of alignment.
        fitting = bisect_left(self._by_length, (size + alignment - 1, 0))
        few = range(shortest, min(shortest + _MOST_TRIED, fitting))
        for position in chain(few, range(fitting, len(self._by_length))):
            length, start = self._by_length[position]
            offset = -(-start // alignment) * alignment
            if offset + size <= start + length and self._ends.get(start) == start + length:
                self._remove(start)
                self._pieces[offset] = piece = Allocation(self, offset, size)
                self._add(start, offset)
                self._add(offset + size, start + length)
                return piece
        return None

    def give(self, piece: Allocation) -> None:
        """Free a piece, as one range with the free ones beside it."""
        self._pieces.pop(piece.offset, None)
        start, end = self._starts.get(piece.offset, piece.offset), piece.offset + piece.size
        if self._ends.get(start) == piece.offset:
            self._remove(start)
        else:
            start = piece.offset
        if end in self._ends:
            end = self._remove(end)
        self._add(start, end)

    def _add(self, start: int, end: int) -> None:
        if start < end:
            self._starts[end] = start
            insort(self._by_length, (end - start, start))
            self._ends[start] = end

    def _remove(self, start: int) -> int:
        """Remove a free range; return its end."""
        end = self._ends.pop(start)
        position = bisect_left(self._by_length, (end - start, start))
        del self._by_length[position]
        self._starts.pop(end, None)
        return end


class Allocator:
    """Hands out device memory. Callers hold the device's lock.

    Parameters
    ----------
    device : VkDevice
    physical : PhysicalDevice
    relieve : callable
        Called once when memory runs out, to release what is only kept for reuse.
    """

    def __init__(self, device: Any, physical: PhysicalDevice, relieve: Callable[[], None]) -> None:
        self._device = device
        self._physical = physical
        self._relieve = relieve
        self._blocks: dict[tuple[int, bool], list[_Block]] = {}
        self._every: dict[Any, None] = {}  # VkDeviceMemory that there is

    @property
    def used(self) -> int:
        """Bytes handed out."""
        return sum(block.used for block in self._each())

    @property
    def reserved(self) -> int:
        """Bytes taken from the driver, whether handed out or not."""
        return sum(block.size for block in self._each())

    @property
    def block_count(self) -> int:
        """Number of VkDeviceMemory objects."""
        return len(self._every)

    def allocate(
        self, requirements: Any, preferences: Iterable[tuple[int, int]], *, image: bool
    ) -> Allocation:
        """Allocate for a resource.

        Parameters
        ----------
        requirements : VkMemoryRequirements
        preferences : iterable of (int, int)
            Memory properties that are wanted and unwanted, best choice first.
        image : bool
            True for an image.

        Raises
        ------
        OutOfMemoryError
            No memory type that fits has room.
        """
        types = self._suitable(requirements.memoryTypeBits, preferences)
        try:
            return self._first(types, requirements, image)
        except OutOfMemoryError:
            self._relieve()
            return self._first(types, requirements, image)

    def free(self, allocation: Allocation) -> None:
        """Take a piece back. One empty block per memory type is kept for the next request."""
        block = allocation._block
        allocation.mapped = None
        block.give(allocation)
        siblings = self._blocks[block.key]
        if block.empty and (
            block.size > BLOCK_SIZE or any(b.empty for b in siblings if b is not block)
        ):
            siblings.remove(block)
            self._free_block(block)

    def trim(self) -> None:
        """Give every empty block back to the driver."""
        for block in self._each():
            block.recover()
        for blocks in self._blocks.values():
            for block in [block for block in blocks if block.empty]:
                blocks.remove(block)
                self._free_block(block)

    def close(self) -> None:
        """Free everything; the resources bound to it must be gone."""
        for memory in self._every:
            vk.vkFreeMemory(self._device, memory, None)

    def _each(self) -> list[_Block]:
        return [block for blocks in self._blocks.values() for block in blocks]

    def _suitable(self, type_bits: int, preferences: Iterable[tuple[int, int]]) -> list[MemoryType]:
        # Types with properties besides need features that are not enabled (AMD's coherent ones,
        # protected memory), or are for attachments alone.
        allowed = [
            t
            for t in self._physical.memory_types
            if type_bits >> t.index & 1 and not t.flags & ~_KNOWN_PROPERTIES
        ]
        found: list[MemoryType] = []
        for wanted, unwanted in preferences:
            found += [
                t
                for t in allowed
                if t.flags & wanted == wanted and not t.flags & unwanted and t not in found
            ]
        return found

    def _first(self, types: list[MemoryType], requirements: Any, image: bool) -> Allocation:
        failure: OutOfMemoryError | None = None
        for memory_type in types:
            try:
                return self._from_type(memory_type, requirements, image)
            except OutOfMemoryError as error:
                failure = failure or error
        raise failure or OutOfMemoryError(
            f"{self._physical.info.name} has no memory type for this resource"
        )

    def _from_type(self, memory_type: MemoryType, requirements: Any, image: bool) -> Allocation:
        size, alignment = requirements.size, requirements.alignment
        key = (memory_type.index, image)
        blocks = self._blocks.setdefault(key, [])
        for block in blocks:
            piece = block.take(size, alignment)
            if piece is not None:
                return piece
        heap_size = self._physical.heap_sizes[memory_type.heap]
        block_size = max(size, min(BLOCK_SIZE, heap_size // 8))
        try:
            blocks.append(block := self._new_block(memory_type, block_size, key))
        except OutOfMemoryError:
            if size == block_size:
                raise
            blocks.append(block := self._new_block(memory_type, size, key))
        piece = block.take(size, alignment)
        assert piece is not None
        return piece

    def _new_block(self, memory_type: MemoryType, size: int, key: tuple[int, bool]) -> _Block:
        info = self._physical.info
        most = info.limits["maxMemoryAllocationCount"]
        if self.block_count >= most:
            raise OutOfMemoryError(
                f"{info.name} allocates memory at most {most} times (maxMemoryAllocationCount), "
                f"and pwconv has: {self.reserved:,} bytes. Release tensors and layers, or work in "
                "fewer, larger ones."
            )
        # Some drivers take any size and fail, or are killed, when the memory is touched.
        heap_size = self._physical.heap_sizes[memory_type.heap]
        types = self._physical.memory_types
        in_use = sum(b.size for b in self._each() if types[b.key[0]].heap == memory_type.heap)
        if in_use + size > heap_size:
            raise OutOfMemoryError(
                f"{size:,} bytes do not fit: {info.name}'s memory heap holds {heap_size:,} bytes, "
                f"of which pwconv uses {in_use:,}. Release tensors, or work in smaller batches."
            )
        if size > info.limits["maxMemoryAllocationSize"]:
            raise OutOfMemoryError(
                f"{size:,} bytes are more than {info.name} allocates at once "
                f"(maxMemoryAllocationSize = {info.limits['maxMemoryAllocationSize']:,}). "
                "Work in smaller batches."
            )
        request = vk.VkMemoryAllocateInfo(allocationSize=size, memoryTypeIndex=memory_type.index)
        try:
            self._every[memory := vk.vkAllocateMemory(self._device, request, None)] = None
        except OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{info.name} has no {size:,} bytes left; pwconv uses {self.reserved:,} of "
                f"{heap_size:,}. {error}"
            ) from error
        mapped = None
        if memory_type.flags & HOST_VISIBLE:
            try:
                buffer = vk.vkMapMemory(self._device, memory, 0, size, 0)
            except BaseException:
                self._free(memory)
                raise
            mapped = memoryview(buffer).cast("B")
        return _Block(memory, size, key, mapped)

    def _free_block(self, block: _Block) -> None:
        block.mapped = None
        self._free(block.memory)

    def _free(self, memory: Any) -> None:
        del self._every[memory]
        vk.vkFreeMemory(self._device, memory, None)
