"""RepViT-M1's trunk: its numbers, and the sizes of its maps."""

from __future__ import annotations

import numpy as np
import pytest

from pwconv.bench.cases import repvit_m1
from pwconv.bench.graphs import make_graph
from support.blockwise import Parts
from support.mirror import Mirror


@pytest.mark.parametrize(
    "storage", ["texture3d", pytest.param("buffer", marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float16", marks=pytest.mark.exhaustive)]
)
def test_numbers(device, rng, dtype, storage):
    """Each part within its bound; and the trunk gives what the parts do, bit by bit."""
    case = repvit_m1(32)
    parts = Parts(Mirror(device, dtype, storage))
    case.define(parts)
    x = rng.standard_normal((1, 3, 32, 32)).astype(dtype)
    parts.check(make_graph(device, case, dtype, storage), x)


@pytest.mark.exhaustive
def test_another_size_and_back(device, rng):
    graph = make_graph(device, repvit_m1(32), "float16", "auto")
    x = rng.standard_normal((1, 3, 32, 32)).astype(np.float16)
    before = graph.run(x=x)
    graph.resize(x=(1, 3, 33, 50))
    assert [a.shape for a in graph.run(x=np.zeros((1, 3, 33, 50), np.float16)).values()] == [
        (1, 48, 9, 13),
        (1, 96, 5, 7),
        (1, 192, 3, 4),
        (1, 384, 2, 2),
    ]
    graph.resize(x=(1, 3, 32, 32))
    for name, array in graph.run(x=x).items():
        np.testing.assert_array_equal(array, before[name])
