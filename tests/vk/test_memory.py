"""Sub-allocation, without and with a device."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest

import pwconv
from pwconv.vk import api as vk
from pwconv.vk import memory
from pwconv.vk.memory import DEVICE_LOCAL, HOST_COHERENT, HOST_VISIBLE, Allocator
from pwconv.vk.physical_device import MemoryType
from pwconv.vk.resources import DEVICE, UPLOAD, Buffer
from support import inside
from support.growth import seconds

MIB = 1 << 20


@pytest.fixture
def driver(monkeypatch):
    """vkAllocateMemory and its kin as bookkeeping: handles by number, and their sizes."""
    allocated: dict[int, int] = {}

    def allocate(_device, request, _allocator):
        handle = max(allocated, default=0) + 1
        allocated[handle] = request.allocationSize
        return handle

    monkeypatch.setattr(vk, "vkAllocateMemory", allocate)
    monkeypatch.setattr(vk, "vkFreeMemory", lambda _device, handle, _: allocated.pop(handle))
    monkeypatch.setattr(vk, "vkMapMemory", lambda *a: bytearray(a[3]))
    return allocated


def physical(heap=1 << 30, most=1 << 40, count=4096):
    types = [MemoryType(0, DEVICE_LOCAL, 0), MemoryType(1, HOST_VISIBLE | HOST_COHERENT, 1)]
    limits = {"maxMemoryAllocationSize": most, "maxMemoryAllocationCount": count}
    info = SimpleNamespace(name="a device", limits=limits)
    return SimpleNamespace(heap_sizes=[heap, heap], memory_types=types, info=info)


def requirements(size, alignment=256, bits=0b11):
    return SimpleNamespace(size=size, alignment=alignment, memoryTypeBits=bits)


def test_pieces_share_blocks_without_overlap(driver):
    allocator = Allocator(None, physical(), lambda: None)
    rng = random.Random(5)
    live = []
    for _ in range(600):
        if live and rng.random() < 0.45:
            allocator.free(live.pop(rng.randrange(len(live))))
            continue
        alignment = rng.choice([1, 64, 256, 4096])
        size = rng.randint(1, 3 * MIB)
        piece = allocator.allocate(requirements(size, alignment), DEVICE, image=rng.random() < 0.5)
        assert piece.offset % alignment == 0
        live.append(piece)
        spans = sorted((p.memory, p.offset, p.offset + p.size) for p in live)
        for (memory_a, _, stop), (memory_b, start, _) in itertools.pairwise(spans):
            assert memory_a != memory_b or stop <= start
    assert allocator.used == sum(piece.size for piece in live)
    assert allocator.block_count == len(driver) <= 16
    for piece in live:
        allocator.free(piece)
    assert allocator.used == 0
    allocator.trim()
    assert not driver
    assert allocator.reserved == 0


def test_images_and_buffers_have_blocks_of_their_own(driver):
    allocator = Allocator(None, physical(), lambda: None)
    image = allocator.allocate(requirements(100), DEVICE, image=True)
    buffer = allocator.allocate(requirements(100), DEVICE, image=False)
    assert image.memory != buffer.memory


def test_a_large_piece_has_a_block_that_goes_with_it(driver):
    allocator = Allocator(None, physical(), lambda: None)
    piece = allocator.allocate(requirements(100 * MIB), DEVICE, image=True)
    assert list(driver.values()) == [100 * MIB]
    allocator.free(piece)
    assert not driver


def test_one_empty_block_is_kept(driver):
    allocator = Allocator(None, physical(), lambda: None)
    pieces = [allocator.allocate(requirements(40 * MIB), DEVICE, image=True) for _ in range(3)]
    assert len(driver) == 3
    for piece in pieces:
        allocator.free(piece)
    assert len(driver) == 1


def test_blocks_shrink_with_the_heap(driver):
    allocator = Allocator(None, physical(heap=16 * MIB), lambda: None)
    allocator.allocate(requirements(100), DEVICE, image=True)
    assert list(driver.values()) == [2 * MIB]


def test_a_block_that_does_not_fit_gives_way_to_an_exact_one(driver, monkeypatch):
    allocator = Allocator(None, physical(most=5 * MIB), lambda: None)
    piece = allocator.allocate(requirements(5 * MIB), DEVICE, image=True)
    assert piece.size == 5 * MIB
    assert list(driver.values()) == [5 * MIB]


def test_exhaustion_relieves_once_then_names_the_limit(driver):
    calls = []
    allocator = Allocator(None, physical(heap=10 * MIB), lambda: calls.append(1))
    with pytest.raises(pwconv.OutOfMemoryError, match=r"11,534,336 bytes do not fit.*10,485,760"):
        allocator.allocate(requirements(11 * MIB), DEVICE, image=True)
    assert calls == [1]
    allocator = Allocator(None, physical(most=MIB), lambda: None)
    with pytest.raises(pwconv.OutOfMemoryError, match="maxMemoryAllocationSize = 1,048,576"):
        allocator.allocate(requirements(2 * MIB), DEVICE, image=True)


def test_no_more_allocations_than_the_device_has(driver):
    calls = []
    allocator = Allocator(None, physical(count=2), lambda: calls.append(1))
    pieces = [allocator.allocate(requirements(65 * MIB), DEVICE, image=True) for _ in range(2)]
    with pytest.raises(pwconv.OutOfMemoryError, match=r"at most 2 times \(maxMemoryAllocationCo"):
        allocator.allocate(requirements(65 * MIB), DEVICE, image=True)
    assert calls == [1]
    allocator.free(pieces.pop())
    allocator.allocate(requirements(65 * MIB), DEVICE, image=True)
    assert len(driver) == 2


def test_a_full_heap_falls_back_to_the_next_choice(driver):
    device = physical()
    device.heap_sizes = [MIB, 1 << 30]
    allocator = Allocator(None, device, lambda: None)
    piece = allocator.allocate(requirements(2 * MIB), DEVICE, image=False)
    assert piece.mapped is not None


def test_no_memory_type_fits(driver):
    allocator = Allocator(None, physical(), lambda: None)
    with pytest.raises(pwconv.OutOfMemoryError, match="no memory type"):
        allocator.allocate(requirements(100, bits=0b01), UPLOAD, image=False)


def test_a_block_that_cannot_be_mapped_is_freed(driver, monkeypatch):
    def fail(*_):
        raise pwconv.PwconvError("vkMapMemory: VkErrorMemoryMapFailed")

    monkeypatch.setattr(vk, "vkMapMemory", fail)
    allocator = Allocator(None, physical(), lambda: None)
    with pytest.raises(pwconv.PwconvError, match="MapFailed"):
        allocator.allocate(requirements(100, bits=0b10), UPLOAD, image=False)
    assert not driver


def test_mapped_memory_is_the_buffers_own(own_device):
    context = inside.context(own_device)
    buffers = [Buffer(context, 1000, UPLOAD) for _ in range(20)]
    for number, buffer in enumerate(buffers):
        np.frombuffer(buffer.mapped, np.uint8)[:] = number
    for number, buffer in enumerate(buffers):
        assert (np.frombuffer(buffer.mapped[:1000], np.uint8) == number).all()
        buffer.destroy()
    assert memory.BLOCK_SIZE == 64 * MIB


def test_types_of_features_that_are_not_enabled_are_left_out(driver):
    """AMD's coherent memory, and memory for attachments alone, when all else is full."""
    device = physical(heap=MIB)
    device.heap_sizes.append(1 << 30)
    for flags in (DEVICE_LOCAL | 0x40, DEVICE_LOCAL | 0x10, HOST_VISIBLE | HOST_COHERENT | 0xC0):
        device.memory_types.append(MemoryType(len(device.memory_types), flags, 2))
    allocator = Allocator(None, device, lambda: None)
    with pytest.raises(pwconv.OutOfMemoryError, match="do not fit"):
        allocator.allocate(requirements(2 * MIB, bits=-1), DEVICE, image=False)
    assert not driver


def test_memory_of_interrupted_calls_is_found_again(driver):
    """A piece that nobody holds, as after an exception between two lines, and never gave back."""
    allocator = Allocator(None, physical(), lambda: None)
    kept = allocator.allocate(requirements(MIB), DEVICE, image=False)
    for _ in range(10):
        allocator.allocate(requirements(MIB), DEVICE, image=False)
    assert allocator.used == 11 * MIB
    allocator.trim()
    assert allocator.used == MIB
    again = allocator.allocate(requirements(MIB), DEVICE, image=False)
    assert abs(again.offset - kept.offset) >= MIB
    allocator.free(again)
    allocator.free(kept)
    allocator.trim()
    assert not driver


def test_time_to_allocate_and_free_does_not_grow_with_what_there_is(driver):
    def work(count):
        allocator = Allocator(None, physical(), lambda: None)
        rng = random.Random(3)
        pieces = [
            allocator.allocate(requirements(rng.randint(1, 4096)), DEVICE, image=False)
            for _ in range(count)
        ]
        rng.shuffle(pieces)
        for piece in pieces:
            allocator.free(piece)

    # Eight times the work: by the square it takes 64 times as long.
    assert seconds(lambda: work(8000)) < 25 * seconds(lambda: work(1000))


def test_time_to_make_a_tensor_does_not_grow_with_what_was_freed(own_device):
    def make(count):
        for i in range(count):
            own_device.empty((1, 3, 5, i + 1), "float32", "buffer")

    def drop(count):
        tensors = [own_device.empty((1, 8, 2, 3), "float32", "buffer") for _ in range(count)]
        del tensors

    drop(10)
    make(200)
    few = seconds(lambda: make(200))
    drop(4000)
    make(1)
    assert seconds(lambda: make(200)) < 5 * few


def test_memory_is_told_and_returned(own_device):
    empty = own_device.memory()
    tensor = own_device.empty((1, 4, 512, 512), "float32", "buffer")
    made = own_device.memory()
    assert made.allocated - empty.allocated >= tensor.nbytes
    assert made.reserved >= made.allocated + made.cached
    kept = tensor.nbytes
    del tensor
    dropped = own_device.memory()
    assert dropped.cached - made.cached >= kept
    assert dropped.allocated == empty.allocated
    own_device.empty_cache()
    returned = own_device.memory()
    assert returned.cached == 0
    assert returned.reserved == returned.allocated == 0


def test_what_is_kept_is_bounded(own_device):
    """256 MiB of tensors that are gone, whatever their shapes."""
    for i in range(40):
        own_device.empty((1, 16, 512, 512 + 4 * i), "float32", "buffer")
    own_device.synchronize()
    memory = own_device.memory()
    assert memory.cached <= 256 * MIB
    assert memory.reserved <= 384 * MIB
