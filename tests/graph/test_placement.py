"""Memory shared by lifetime: what is in use together never overlaps; chains take the least."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pwconv.graph.placement import Lifetime, place

SIZES = st.integers(1, 9).map(lambda size: 256 * size)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5), SIZES), max_size=14))
def test_values_in_use_together_do_not_overlap(drawn):
    lifetimes = [Lifetime(first, first + length, size) for first, length, size in drawn]
    placement = place(lifetimes)
    ends = [offset + x.size for offset, x in zip(placement.offsets, lifetimes, strict=True)]
    assert placement.size == max(ends, default=0)
    assert min(placement.offsets, default=0) == 0
    for i, j in itertools.combinations(range(len(lifetimes)), 2):
        if set(range(lifetimes[i].first, lifetimes[i].last + 1)) & set(
            range(lifetimes[j].first, lifetimes[j].last + 1)
        ):
            assert ends[i] <= placement.offsets[j] or ends[j] <= placement.offsets[i]


@given(st.lists(SIZES, min_size=2, max_size=20))
def test_a_chain_takes_its_two_largest_neighbours(sizes):
    placement = place([Lifetime(i, i + 1, size) for i, size in enumerate(sizes)])
    assert placement.size == max(a + b for a, b in itertools.pairwise(sizes))


@given(st.lists(SIZES, min_size=1, max_size=12), SIZES)
def test_a_residual_is_kept_beside_a_chain(sizes, kept):
    """As a block's input that is added at its end: it is in use all along."""
    lifetimes = [Lifetime(0, len(sizes), kept)]
    lifetimes += [Lifetime(i, i + 1, size) for i, size in enumerate(sizes)]
    at_once = [kept + a + b for a, b in itertools.pairwise(sizes)] or [kept + sizes[0]]
    assert place(lifetimes).size <= 2 * max(at_once)
