"""What a device still holds once nothing is kept for reuse."""

from __future__ import annotations

import gc

import pwconv


def settled(device: pwconv.Device) -> tuple[int, int]:
    """Return the Vulkan objects and the bytes that are left once nothing is kept for reuse."""
    gc.collect()
    logical, recordings = device._logical, device._dispatcher._recordings
    for recording in recordings.values():
        logical.queue.retire(recording.destroy)
    recordings.clear()
    logical.resources.clear()
    logical.staging.clear()
    device.synchronize()
    logical.queue.collect()
    return len(logical.live), logical.memory.used
