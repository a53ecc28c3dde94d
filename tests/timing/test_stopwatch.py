"""Medians and quartiles."""

from __future__ import annotations

import pytest

from pwconv.timing.stopwatch import Sample, summarize


def test_quartiles_are_of_one_run():
    assert summarize([10.0, 20.0, 30.0, 40.0, 50.0], 10) == Sample(3.0, 2.0, 4.0, 5, 10)
    assert summarize([5.0, 1.0, 3.0]).median == 3.0
    assert summarize([1.0, 2.0]).q1 == 1.25


def test_one_sample_has_no_spread():
    sample = summarize([4.0], 2)
    assert sample == Sample(2.0, 2.0, 2.0, 1, 2)
    assert sample.spread == 0


def test_none_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        summarize([])
