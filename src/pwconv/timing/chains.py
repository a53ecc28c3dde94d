"""Chains of dispatches: how long, over how many inputs and outputs, how often."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from pwconv.vk.commands import Groups

# Twice the last-level cache of the largest GPUs: what a chain comes back to has left the cache.
ROTATED_BYTES = 100 << 20
_MOST_PAIRS = 256
_MOST_PAIRS_CPU = 2

SAMPLE_SECONDS = 200e-6
LAYER_SECONDS = 0.3
_MOST_SAMPLES, _LEAST_SAMPLES = 50, 5
# Each dispatch of a chain is recorded by Python: 20 µs or so.
_MOST_DISPATCHES = 5000


def rotation(activation_bytes: int, *, is_cpu: bool = False) -> int:
    """Return how many inputs and outputs of so many bytes to rotate over."""
    most = _MOST_PAIRS_CPU if is_cpu else _MOST_PAIRS
    return min(most, max(2, math.ceil(ROTATED_BYTES / activation_bytes)))


def chain_lengths(estimate: float, least: float = SAMPLE_SECONDS) -> tuple[int, int]:
    """Return repetitions a sample, and samples, for a kernel that takes about so long.

    A sample takes at least ``least`` seconds.
    """
    repetitions = min(math.ceil(least / estimate), _MOST_DISPATCHES // _LEAST_SAMPLES)
    fitting = int(LAYER_SECONDS / (estimate * repetitions))
    most = min(_MOST_SAMPLES, _MOST_DISPATCHES // repetitions)
    return repetitions, max(_LEAST_SAMPLES, min(fitting, most))


def serial(items: Iterable[Groups]) -> Groups:
    """Return items one after the other, a barrier before each, whatever depends on what."""
    return [group for item in items for group in ((), *item)]


def chain(items: Sequence[Groups], repetitions: int, samples: int) -> list[Groups]:
    """Return ``samples`` segments of ``repetitions`` items, going round the items."""
    endless = itertools.cycle(items)
    return [serial(itertools.islice(endless, repetitions)) for _ in range(samples)]
