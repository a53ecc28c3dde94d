"""Every tile of a kernel, in some ways always and in others where all is asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest

# A CPU's compiler takes seconds for each, and their code is that of the others.
_LARGE = ("m16n3", "128x48", "128x64", "256x32", "64x96")


def sweep(
    tiles: Sequence[tuple[str, ...]],
    small: Collection[str],
    *ways: tuple[str, ...],
    always: int = 1,
) -> list[Any]:
    """Return each of (storage, family, tile) in some ways, for a test to be parametrized with.

    In the first ``always`` of them any tile is tried but for the largest, and the small ones are in
    all; a driver's compiler takes up to seconds for each, so that the rest is exhaustive.
    """
    return [
        pytest.param(
            *found,
            *way,
            marks=[pytest.mark.exhaustive]
            * (found[2] not in small and (way not in ways[:always] or found[2].startswith(_LARGE))),
        )
        for found in tiles
        for way in ways
    ]
