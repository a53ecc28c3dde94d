"""Devices under caps, one for each cap and each Vulkan implementation found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pwconv

# What reads SPIR-V when it is compiled reads it here too.
sys.path.insert(0, str(Path(__file__).parents[2] / "build_tools"))

from support.capped import Cap, Usage, capped

DISCRETE = Cap("discrete", discrete=True)
INVOCATIONS = Cap(
    "invocations",
    {"maxComputeWorkGroupInvocations": 128, "maxComputeWorkGroupSize": (128, 128, 64)},
)
SHARED = Cap("shared", {"maxComputeSharedMemorySize": 16 << 10})
EXTENTS = Cap("extents", {"maxImageDimension2D": 256, "maxImageDimension3D": 256})
NO_HALVES = Cap("no-halves", without=frozenset({"shaderFloat16"}))
NO_HALF_STORAGE = Cap("no-half-storage", without=frozenset({"storageBuffer16BitAccess"}))
PUSHED = Cap("pushed", {"maxPushConstantsSize": 128})
# So few that what the tests compute takes many parts.
GROUPS = Cap("groups", {"maxComputeWorkGroupCount": (4, 2, 2)})
UNTIMED = Cap("untimed", {"timestampValidBits": 0, "timestampComputeAndGraphics": 0})
ALLOCATIONS = Cap("allocations", {"maxMemoryAllocationCount": 32})
# No power of two: what is rounded up to one is past it.
RANGE = Cap("range", {"maxStorageBufferRange": 2_000_000})
BINDINGS = Cap(
    "bindings",
    {
        "maxPerStageDescriptorStorageBuffers": 4,
        "maxPerStageDescriptorStorageImages": 4,
        "maxPerStageDescriptorSampledImages": 16,
        "maxPerStageResources": 128,
    },
)
ALONE = (
    *(INVOCATIONS, SHARED, EXTENTS, NO_HALVES, NO_HALF_STORAGE, PUSHED, GROUPS, UNTIMED),
    *(ALLOCATIONS, RANGE, BINDINGS),
)
UNKNOWN_SUBGROUP, *SUBGROUPS = (
    Cap(f"subgroup-{size}", {"subgroupSize": size}) for size in (0, 4, 64)
)
ALL = Cap(
    "all",
    {name: limit for one in (*ALONE, UNKNOWN_SUBGROUP) for name, limit in one.limits.items()},
    NO_HALVES.without | NO_HALF_STORAGE.without,
)
CAPS = (
    *(*ALONE, UNKNOWN_SUBGROUP, *SUBGROUPS, ALL),
    *(one | DISCRETE for one in (INVOCATIONS, SHARED, BINDINGS, ALL)),
)


@dataclass(frozen=True)
class Limited:
    """A device that is capped, how, and what is asked of it."""

    device: pwconv.Device
    cap: Cap
    usage: Usage


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "_opened" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("caps")
        caps = [c for c in CAPS if marker is None or _concerns(c, *marker.args, **marker.kwargs)]
        found = [(info, cap) for cap in caps for info in pwconv.devices()]
        names = [f"{info.name.split()[0]}-{cap}" for info, cap in found]
        metafunc.parametrize("_opened", found, indirect=True, ids=names, scope="module")


def _concerns(cap: Cap, *names: str, discrete: bool = True) -> bool:
    """Return whether a cap is on one of some limits or features, perhaps of no discrete GPU."""
    return (discrete or not cap.discrete) and not {*cap.limits, *cap.without}.isdisjoint(names)


@pytest.fixture(scope="module")
def _opened(request: pytest.FixtureRequest) -> Iterator[Limited]:
    info, cap = request.param
    with capped(cap) as usage, pwconv.Device(info.index, validate=True) as device:
        yield Limited(device, cap, usage)


@pytest.fixture
def limited(_opened: Limited) -> Iterator[Limited]:
    """A capped device; what is asked of it past the cap fails the test that asks."""
    _opened.usage.most.clear()
    yield _opened
    _opened.device.synchronize()
    assert _opened.usage.past(_opened.device.info.limits) == {}
