"""What tests of faults share."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest


@pytest.fixture
def untraced() -> Iterator[None]:
    """Trace nothing, in no thread, while signals come at any moment.

    A tracer, as of coverage, holds a lock of its own that a handler which raises leaves held.
    """
    before, of_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    yield
    threading.settrace(of_threads)  # type: ignore[arg-type]
    sys.settrace(before)
