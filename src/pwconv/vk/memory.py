"""Device memory: a few large blocks per memory type, handed out in pieces.

Drivers cap the number of allocations (``maxMemoryAllocationCount`` may be 4096), and each is slow.
Images and buffers have blocks of their own, so that ``bufferImageGranularity`` never matters.
Host-visible blocks are mapped once, when they are made.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from typing import Any

from pwconv.errors import OutOfMemoryError
from pwconv.vk import api as vk
from pwconv.vk.physical_device import MemoryType, PhysicalDevice

BLOCK_SIZE = 64 << 20

DEVICE_LOCAL, HOST_VISIBLE, HOST_COHERENT, HOST_CACHED = 1, 2, 4, 8


class Allocation:
    """A piece of a block: ``memory`` from ``offset`` for ``size`` bytes.

    ``mapped`` is the piece in host memory, or None where the host cannot see it.
    """

    __slots__ = ("_block", "mapped", "memory", "offset", "size")

    def __init__(self, block: _Block, offset: int, size: int) -> None:
        self._block = block
        self.memory = block.memory
        self.offset = offset
        self.size = size
        self.mapped: memoryview | None = (
            block.mapped[offset : offset + size] if block.mapped is not None else None
        )


class _Block:
    """One VkDeviceMemory and its free ranges, sorted by offset."""

    def __init__(self, memory: Any, size: int, key: tuple[int, bool], mapped: Any) -> None:
        self.memory = memory
        self.size = size
        self.key = key
        self.mapped: memoryview | None = mapped
        self.free = [(0, size)]

    @property
    def empty(self) -> bool:
        return self.free == [(0, self.size)]

    def take(self, size: int, alignment: int) -> int | None:
        for position, (start, length) in enumerate(self.free):
            offset = -(-start // alignment) * alignment
            padding = offset - start
            if padding + size > length:
                continue
            rest = [(start, padding), (offset + size, length - padding - size)]
            self.free[position : position + 1] = [piece for piece in rest if piece[1]]
            return offset
        return None

    def give(self, offset: int, size: int) -> None:
        insort(self.free, (offset, size))
        merged: list[tuple[int, int]] = []
        for start, length in self.free:
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((start, length))
        self.free = merged


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
        self._heap_used = [0] * len(physical.heap_sizes)
        self.used = 0

    @property
    def reserved(self) -> int:
        """Bytes taken from the driver, whether handed out or not."""
        return sum(self._heap_used)

    @property
    def block_count(self) -> int:
        """Number of VkDeviceMemory objects."""
        return sum(map(len, self._blocks.values()))

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
            Whether the resource is an image.

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
        block.give(allocation.offset, allocation.size)
        self.used -= allocation.size
        siblings = self._blocks[block.key]
        if block.empty and (
            block.size > BLOCK_SIZE or any(b.empty for b in siblings if b is not block)
        ):
            siblings.remove(block)
            self._free_block(block)

    def trim(self) -> None:
        """Give every empty block back to the driver."""
        for blocks in self._blocks.values():
            for block in [block for block in blocks if block.empty]:
                blocks.remove(block)
                self._free_block(block)

    def close(self) -> None:
        """Free everything; the resources bound to it must be gone."""
        for blocks in self._blocks.values():
            for block in blocks:
                self._free_block(block)
        self._blocks.clear()

    def _suitable(self, type_bits: int, preferences: Iterable[tuple[int, int]]) -> list[MemoryType]:
        allowed = [t for t in self._physical.memory_types if type_bits >> t.index & 1]
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
            offset = block.take(size, alignment)
            if offset is not None:
                self.used += size
                return Allocation(block, offset, size)
        heap_size = self._physical.heap_sizes[memory_type.heap]
        block_size = max(size, min(BLOCK_SIZE, heap_size // 8))
        try:
            block = self._new_block(memory_type, block_size, key)
        except OutOfMemoryError:
            if size == block_size:
                raise
            block = self._new_block(memory_type, size, key)
        blocks.append(block)
        block.take(size, alignment)
        self.used += size
        return Allocation(block, 0, size)

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
        in_use = self._heap_used[memory_type.heap]
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
            memory = vk.vkAllocateMemory(self._device, request, None)
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
                vk.vkFreeMemory(self._device, memory, None)
                raise
            mapped = memoryview(buffer).cast("B")
        self._heap_used[memory_type.heap] += size
        return _Block(memory, size, key, mapped)

    def _free_block(self, block: _Block) -> None:
        block.mapped = None
        vk.vkFreeMemory(self._device, block.memory, None)
        heap = self._physical.memory_types[block.key[0]].heap
        self._heap_used[heap] -= block.size
