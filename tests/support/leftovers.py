"""What a device still holds once nothing is kept for reuse."""

from __future__ import annotations

import gc

import pwconv
from support import inside


def settled(device: pwconv.Device) -> tuple[int, int]:
    """Return the Vulkan objects and the bytes that are left once nothing is kept for reuse."""
    gc.collect()
    context, recordings = inside.context(device), inside.recordings(inside.context(device))
    for recording in recordings.values():
        context.retire(recording.destroy)
    recordings.clear()
    context.resources.clear()
    context.staging.clear()
    device.synchronize()
    context.queue.collect()
    return len(context.live), context.memory.used
