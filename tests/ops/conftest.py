"""Storages and types: in pairs always, and crossed where all is asked for."""

from __future__ import annotations

import pytest

_WAYS = [
    ("texture3d", "float32"),
    ("buffer", "float16"),
    pytest.param(("texture3d", "float16"), marks=pytest.mark.exhaustive),
    pytest.param(("buffer", "float32"), marks=pytest.mark.exhaustive),
]


@pytest.fixture(params=_WAYS, ids="-".join)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def storage(way: tuple[str, str]) -> str:
    return way[0]


@pytest.fixture
def dtype(way: tuple[str, str]) -> str:
    return way[1]
