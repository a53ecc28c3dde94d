"""From a variant and a grid of invocations to a plan, in parts that the device takes."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pwconv.errors import UnsupportedError
from pwconv.layout import ceil_div
from pwconv.shaders import Variant
from pwconv.vk.commands import LONGEST_SUBMISSION, Plan, Size3
from pwconv.vk.core import Core
from pwconv.vk.pipelines import PipelineCache

# FLOP/s of the slowest device of a type, by a slow kernel; a CPU's driver has no watchdog.
_SLOWEST = {"discrete": 5e11, "integrated": 2e10, "virtual": 2e10, "other": 2e10, "cpu": math.inf}

# Most trips of all loops of an invocation together. Mesa's llvmpipe ends loops after 65,535 trips
# without an error; the margin is for short loops besides the one over K.
MOST_TRIPS = 60_000

_MOST_INVOCATIONS = 2**32  # along an axis: shaders count them in 32 bits


def workgroup_size(grid: Size3, limits: Mapping[str, Any], shape: Size3 = (8, 8, 1)) -> Size3:
    """Choose how many invocations a workgroup has along each axis of a grid of invocations.

    Invocations of the preferred shape beyond the grid move to the first axis with room.

    Parameters
    ----------
    grid : tuple of int
        Invocations wanted along each axis.
    limits : Mapping
        The device's limits.
    shape : tuple of int
        Preferred size on a large grid; powers of two.
    """
    most = limits["maxComputeWorkGroupSize"]
    invocations = limits["maxComputeWorkGroupInvocations"]
    budget = _floor_power_of_two(min(invocations, math.prod(shape)))
    useful = [
        min(_floor_power_of_two(limit), _ceil_power_of_two(length))
        for limit, length in zip(most, grid, strict=True)
    ]
    size = [min(wanted, able) for wanted, able in zip(shape, useful, strict=True)]
    while math.prod(size) > budget:
        size[size.index(max(size))] //= 2
    for axis in range(3):
        while size[axis] < useful[axis] and 2 * math.prod(size) <= budget:
            size[axis] *= 2
    return size[0], size[1], size[2]


def grid_parts(groups: Size3, most: Size3) -> Iterator[tuple[Size3, Size3]]:
    """Cut workgroup counts that exceed a device's into parts; yield first groups and counts."""
    axes = [
        [(first, min(limit, count - first)) for first in range(0, count, limit)]
        for count, limit in zip(groups, most, strict=True)
    ]
    for x, y, z in itertools.product(*axes):
        yield (x[0], y[0], z[0]), (x[1], y[1], z[1])


def short_parts(groups: Size3, most: Size3, seconds: float) -> Size3:
    """Return at most how many workgroups a part may have along each axis, so that none lasts long.

    All of them together take ``seconds``; the axis that varies most slowly is cut first.
    """
    pieces = math.ceil(seconds / LONGEST_SUBMISSION)
    limits = list(most)
    for axis in (2, 1, 0):
        cuts = min(pieces, groups[axis])
        if cuts > 1:
            limits[axis] = min(limits[axis], groups[axis] // cuts)
            pieces = ceil_div(pieces, cuts)
    return limits[0], limits[1], limits[2]


def make_plan(
    core: Core,
    pipelines: PipelineCache,
    variant: Variant,
    grid: Size3,
    push_constants: Mapping[str, float],
    constants: Mapping[str, int],
    shape: Size3,
    flop: int,
) -> Plan:
    """Plan a variant over a grid of invocations; its pipeline is compiled where it is not known.

    Parameters
    ----------
    core : Core
    pipelines : PipelineCache
    variant : Variant
        One that the device can run.
    grid, push_constants, constants, shape, flop
        As :meth:`pwconv.context.Context.plan` says.

    Raises
    ------
    UnsupportedError
        The grid is past what shaders count.
    """
    limits = core.limits
    local = variant.workgroup or workgroup_size(grid, limits, shape)
    x, y, z = [-(-length // size) for length, size in zip(grid, local, strict=True)]
    for axis, length, groups, size in zip("xyz", grid, (x, y, z), local, strict=True):
        if groups * size > _MOST_INVOCATIONS:
            raise UnsupportedError(
                f"{variant.name} takes {length:,} invocations along {axis}, and shaders count "
                "them in 32 bits; use a smaller batch, or cut the input into rows"
            )
    sizes = {f"local_size_{axis}": size for axis, size in zip("xyz", local, strict=True)}
    pipeline = pipelines.get(
        variant.name,
        variant.code,
        variant.binding_types,
        variant.push_constant_size,
        variant.specialize({**sizes, **constants}),
    )
    seconds = flop / _SLOWEST[core.info.type]
    most = short_parts((x, y, z), limits["maxComputeWorkGroupCount"], seconds)
    parts = []
    for first, count in grid_parts((x, y, z), most):
        origin = {
            f"origin_{axis}": group * size
            for axis, group, size in zip("xyz", first, local, strict=True)
        }
        parts.append((variant.pack_push_constants({**push_constants, **origin}), count))
    return Plan(variant, local, pipeline, tuple(parts), seconds / len(parts))


@functools.cache
def _floor_power_of_two(value: int) -> int:
    return 1 << (value.bit_length() - 1)


@functools.cache
def _ceil_power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()
