"""How much bad input is drawn, and how much it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

Draw = Callable[..., Any]

_drawn: Counter[str] = Counter()


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Iterator[Callable[[int, Callable[[Draw], None]], None]]:
    """Run a case, a function of ``draw``, so many times ``--fuzz``.

    The suite's own run draws the same each time; others draw anew.
    """
    factor = request.config.getoption("--fuzz")

    def run(examples: int, case: Callable[[Draw], None]) -> None:
        @settings(max_examples=max(1, int(examples * factor)), derandomize=factor == 1)
        @given(data=st.data())
        def drawn(data: st.DataObject) -> None:
            _drawn[request.node.originalname] += 1
            case(data.draw)

        drawn()

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _drawn:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(_drawn.items()))
        terminalreporter.write_line(f"bad input drawn: {sum(_drawn.values())}: {counts}")
