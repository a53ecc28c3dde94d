"""Chains are long enough to time, end, and pass the cache."""

from __future__ import annotations

from pwconv.timing.chains import chain, chain_lengths, rotation


def test_chains_are_long_enough_and_end():
    assert chain_lengths(10e-6) == (20, 50)
    assert chain_lengths(1e-3) == (1, 50)
    assert chain_lengths(0.1) == (1, 5)
    repetitions, samples = chain_lengths(1e-7)
    assert repetitions * samples <= 5000


def test_rotation_passes_the_cache():
    assert rotation(10 << 20) == 10
    assert rotation(500 << 20) == 2
    assert rotation(100) == 256
    assert rotation(100, is_cpu=True) == 2


def test_a_chain_goes_round_its_items():
    barrier = ()
    found = chain([["a"], ["b", "B"], ["c"]], 2, 3)
    assert found == [
        [barrier, "a", barrier, "b", "B"],
        [barrier, "c", barrier, "a"],
        [barrier, "b", "B", barrier, "c"],
    ]
