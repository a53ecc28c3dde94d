"""Devices that are not there: what choosing a variant asks of a context."""

from __future__ import annotations

from typing import Any

import pwconv
from pwconv.context import Context
from pwconv.vk.cooperative_matrix import Matrix
from support import inside

LIMITS = {
    "maxPushConstantsSize": 128,
    "maxComputeSharedMemorySize": 48 << 10,
    "maxStorageBufferRange": 2**30,
    "maxComputeWorkGroupInvocations": 1024,
    "maxComputeWorkGroupSize": (1024, 1024, 64),
    "maxPerStageDescriptorStorageBuffers": 2**20,
    "maxPerStageDescriptorStorageImages": 2**20,
    "maxPerStageDescriptorSampledImages": 2**20,
    "maxPerStageResources": 2**20,
    "subgroupSize": 32,
}
KHR = {"shaderFloat16", "vulkanMemoryModel", "cooperativeMatrix"}
NV = KHR | {
    "storageBuffer16BitAccess",
    "cooperativeMatrixWorkgroupScope",
    "cooperativeMatrixFlexibleDimensions",
    "cooperativeMatrixConversions",
    "cooperativeMatrixPerElementOperations",
    "cooperativeMatrixTensorAddressing",
}
FIXED = Matrix(16, 16, 16, "float16", "float32", "subgroup")
FLEXIBLE = tuple(
    Matrix(16, 16, 16, "float16", "float32", "workgroup", True, threads)
    for threads in (64, 128, 256)
)


def card(
    kind: str = "discrete",
    features: set[str] = frozenset(),
    matrices: tuple[Matrix, ...] = (),
    **limits: Any,
) -> Context:
    """Stand in for a context: what choosing asks of one."""
    info = pwconv.DeviceInfo(
        *(0, "Card", kind, "driver 1", "1.3.0", {**LIMITS, **limits}),
        *(frozenset(features), frozenset(), matrices, ""),
    )
    return inside.paper_context(info)
