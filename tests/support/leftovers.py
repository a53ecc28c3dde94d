"""What a device still holds once nothing is kept for reuse."""

from __future__ import annotations

import gc

import pwconv
from support import inside


def settled(device: pwconv.Device) -> tuple[int, int]:
    """Return the Vulkan objects and the bytes that are left once nothing is kept for reuse."""
    gc.collect()
    logical, recordings = inside.logical(device), inside.recordings(inside.dispatcher(device))
    for recording in recordings.values():
        logical.queue.retire(recording.destroy)
    recordings.clear()
    logical.resources.clear()
    logical.staging.clear()
    device.synchronize()
    logical.queue.collect()
    return len(logical.live), logical.memory.used
