"""Every storage and type."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["float32", "float16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["texture3d", "buffer"])
def storage(request: pytest.FixtureRequest) -> str:
    return request.param
