"""How long something takes, told so that growth can be seen on a busy machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable


def seconds(act: Callable[[], object]) -> float:
    """Return the least of three times of a thread's processor, without garbage collections.

    Those look at everything that the process has, which is not what is measured.
    """
    times = []
    for _ in range(3):
        gc.collect()
        gc.disable()
        try:
            start = time.thread_time()
            act()
            times.append(time.thread_time() - start)
        finally:
            gc.enable()
    return min(times)
