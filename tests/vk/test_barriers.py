"""A barrier where a step depends on another, and nowhere else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pwconv.vk.barriers import Hazards
from pwconv.vk.resources import Span

A, B, C = (Span(space, 0, 1) for space in range(3))


def test_reads_and_writes():
    hazards = Hazards()
    assert not hazards.add([A], [B])
    assert not hazards.add([A], [C])  # both read A: neither depends on the other
    assert hazards.add([B], [Span(5, 0, 1)])  # reads what was written
    assert not hazards.add([C], [Span(6, 0, 1)])  # written before that barrier
    assert hazards.add([], [B])  # writes what was read
    assert not hazards.add([], [A])
    assert hazards.add([], [A])  # writes what was written


def test_ranges_of_one_memory():
    hazards = Hazards()
    assert not hazards.add([], [Span(0, 0, 10)])
    assert not hazards.add([], [Span(0, 10, 20)])
    assert not hazards.add([Span(1, 0, 20)], [])
    assert hazards.add([Span(0, 19, 30)], [])


ranges = st.builds(
    lambda space, first, length: Span(space, first, first + length),
    st.integers(0, 1),
    st.integers(0, 30),
    st.integers(1, 9),
)
few = st.lists(ranges, max_size=3)


@given(st.lists(st.tuples(few, few), max_size=12))
def test_as_if_each_was_held_against_all(steps):
    def meet(some: list[Span], others: list[Span]) -> bool:
        return any(
            a.space == b.space and a.first < b.after and b.first < a.after
            for a in some
            for b in others
        )

    hazards, read, written = Hazards(), [], []
    for reads, writes in steps:
        expected = meet(reads, written) or meet(writes, read + written)
        assert hazards.add(reads, writes) == expected
        if expected:
            read, written = [], []
        read, written = read + reads, written + writes
