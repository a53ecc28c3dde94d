from __future__ import annotations

from collections.abc import Iterator

import pytest

import pwconv
from pwconv.heuristics import Choice
from pwconv.ops import pair
from support.mirror import Mirror


@pytest.fixture(params=["float32", "float16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["texture3d", "buffer"])
def storage(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def mirror(device: pwconv.Device, dtype: str, storage: str) -> Mirror:
    return Mirror(device, dtype, storage)


@pytest.fixture(scope="module")
def any_pair() -> Iterator[None]:
    """Have two convolutions fused wherever a kernel can, by one that the shapes draw.

    Of the tiles without matrix units, the two that compile fastest: each has its own test.
    """

    def choose_pair(context, problem, weight_storage):
        able = pair.candidates(context, problem, weight_storage)
        staged = [v for v in able if "_staged_" in v.family]
        matrix_units = [v for v in able if v not in staged]
        able = [*sorted(staged, key=lambda v: v.shared_memory)[:2], *matrix_units]
        drawn = problem.hidden + problem.out_channels + problem.positions
        return Choice(able[drawn % len(able)], (1, 1, 1), "drawn") if able else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair, "choose_pair", choose_pair)
        yield
