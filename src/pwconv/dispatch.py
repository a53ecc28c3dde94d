"""From a variant and the shapes of a call to a submission, with everything reusable reused.

A :class:`Plan` is a pipeline with its push constants and workgroup counts: what depends on shapes.
A recording is a sequence of plans over given resources. Both are kept and found again by what they
were made from.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pwconv.errors import UnsupportedError
from pwconv.layout import ceil_div
from pwconv.shaders import Variant
from pwconv.vk.commands import LONGEST_SUBMISSION, MOST_IN_FLIGHT, Recording, Step
from pwconv.vk.logical_device import LogicalDevice
from pwconv.vk.pipelines import Pipeline
from pwconv.vk.resources import Buffer, Image

Resource = Buffer | Image
Size3 = tuple[int, int, int]

# FLOP/s of the slowest device of a type, by a slow kernel; a CPU's driver has no watchdog.
_SLOWEST = {"discrete": 5e11, "integrated": 2e10, "virtual": 2e10, "other": 2e10, "cpu": math.inf}

# Of all loops of an invocation together. Mesa's llvmpipe stops them after 65,535 trips, and says
# nothing; the rest is for loops of a few trips besides the one that goes over K.
MOST_TRIPS = 60_000

_PLANS_KEPT = 1024
_RECORDINGS_KEPT = 256
_MOST_INVOCATIONS = 2**32  # along an axis: shaders count them in 32 bits


@dataclass(frozen=True, eq=False)
class Plan:
    """A variant ready to run at one shape.

    ``binding_names`` are its resources, in order; ``seconds`` is about the most that a part takes,
    where that may be long.
    """

    variant: Variant
    workgroup: Size3
    pipeline: Pipeline
    binding_names: tuple[str, ...]
    parts: tuple[tuple[bytes, Size3], ...]
    seconds: float = 0.0


@dataclass(frozen=True)
class Denied:
    """Variants that gave wrong results on a device, and the file that says so."""

    names: frozenset[str]
    file: Path


@dataclass(frozen=True, eq=False)
class Dispatch:
    """A plan over its resources, by binding name."""

    plan: Plan
    resources: Mapping[str, Resource]

    @property
    def step(self) -> Step:
        """What the queue is told of it."""
        resources = tuple(self.resources[name] for name in self.plan.binding_names)
        return Step(self.plan.pipeline, resources, self.plan.parts, seconds=self.plan.seconds)


def workgroup_size(grid: Size3, limits: Mapping[str, Any], shape: Size3 = (8, 8, 1)) -> Size3:
    """Choose how many invocations a workgroup has along each axis of a grid of invocations.

    The preferred shape gives up what the grid cannot use to the first axis that can.

    Parameters
    ----------
    grid : tuple of int
        Invocations wanted along each axis.
    limits : Mapping
        The device's limits.
    shape : tuple of int
        What to prefer on a large grid; powers of two.
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


class Dispatcher:
    """Makes plans and submits them, on one device.

    Parameters
    ----------
    device : LogicalDevice
    denied : Denied, optional
        What it refuses to run.
    """

    def __init__(self, device: LogicalDevice, denied: Denied | None = None) -> None:
        self.device = device
        self.limits = device.info.limits
        self.features = device.info.features
        self._denied = denied
        self._plans: OrderedDict[tuple[object, ...], Plan] = OrderedDict()
        self._recordings: OrderedDict[tuple[object, ...], Recording] = OrderedDict()

    def can_run(self, variant: Variant) -> bool:
        """Return whether the device has what a variant needs, and nobody denies it."""
        return not (variant.unmet(self.limits, self.features) or self._denies(variant))

    def require_allowed(self, variants: Iterable[Variant]) -> None:
        """Raise where some of the variants could be run if they were not denied.

        Raises
        ------
        UnsupportedError
            It names the deny list.
        """
        denied = [
            v.name for v in variants if self._denies(v) and not v.unmet(self.limits, self.features)
        ]
        if not denied:
            return
        assert self._denied is not None
        others = f" and {len(denied) - 1} more that could do the same" if denied[1:] else ""
        raise UnsupportedError(
            f"{denied[0]}{others} gave wrong results on {self.device.info.name} and must not be "
            f"run: the deny list {self._denied.file} says so. Another storage, of x or of a packed "
            "weight, may have variants that are right; 'pwconv verify' tells what is wrong, and "
            "'pwconv verify --allow-all' removes the list"
        )

    def plan(
        self,
        variant: Variant,
        grid: Size3,
        push_constants: Mapping[str, float],
        constants: Mapping[str, int] | None = None,
        *,
        shape: Size3 = (8, 8, 1),
        flop: int = 0,
        trips: int = 0,
    ) -> Plan:
        """Plan a variant over a grid of invocations.

        Parameters
        ----------
        variant : Variant
        grid : tuple of int
            Invocations along each axis, each at least 1.
        push_constants : Mapping
            By name, without the origin.
        constants : Mapping, optional
            Specialization constants by name, without the workgroup size.
        shape : tuple of int
            Preferred workgroup shape, where the variant has not its own.
        flop : int
            Arithmetic operations, where they may be so many that they take long.
        trips : int
            Of the loops of an invocation, where sizes say how many.

        Raises
        ------
        UnsupportedError
            The device lacks a feature or a limit that the variant needs, the variant is denied,
            the grid is past what shaders count, or there are more trips than :data:`MOST_TRIPS`.
        """
        if trips > MOST_TRIPS:
            raise UnsupportedError(
                f"{variant.name} would take {trips:,} trips of a loop for this, and at most "
                f"{MOST_TRIPS:,} are taken: some drivers stop a loop after 65,535, without a word; "
                "split K, C or H·W into parts, and add their results"
            )
        constants = constants or {}
        # By their bits: −0.0 is equal to 0.0, and another number to the shader.
        numbers = (*push_constants.values(), *constants.values())
        key = (variant.name, grid, shape, struct.pack(f"{len(numbers)}d", *numbers))
        with self.device.lock:
            plan = self._plans.get(key)
            if plan is not None:
                self._plans.move_to_end(key)
                return plan
        # It may compile: without the lock, so that other threads go on.
        made = self._make_plan(variant, grid, push_constants, constants, shape, flop)
        with self.device.lock:
            plan = self._plans.setdefault(key, made)
            if len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
            return plan

    def submit(self, *dispatches: Dispatch, awaited: bool = False) -> int:
        """Submit dispatches, each after the one before; return the submission's serial.

        Parameters
        ----------
        dispatches : Dispatch
        awaited : bool
            Whether the host will wait for them, and may then read what they wrote.
        """
        made_of: list[object] = [awaited]
        for dispatch in dispatches:
            made_of.append(dispatch.plan)
            made_of += [dispatch.resources[name].uid for name in dispatch.plan.binding_names]
        key = tuple(made_of)
        queue = self.device.queue
        if queue.last - queue.done >= MOST_IN_FLIGHT:
            queue.make_room()
        with self.device.lock:
            self.device.require_open()
            recording = self._recordings.get(key)
            if recording is None:
                recording = Recording(
                    self.device, [dispatch.step for dispatch in dispatches], host_reads=awaited
                )
                self._recordings[key] = recording
                if len(self._recordings) > _RECORDINGS_KEPT:
                    self._recordings.popitem(last=False)
            else:
                self._recordings.move_to_end(key)
            return recording.submit(awaited=awaited)

    def forget_recordings(self) -> None:
        """Destroy what is kept of submissions, once the device is done with it."""
        with self.device.lock:
            self._recordings.clear()

    def _denies(self, variant: Variant) -> bool:
        return self._denied is not None and variant.name in self._denied.names

    def _make_plan(
        self,
        variant: Variant,
        grid: Size3,
        push_constants: Mapping[str, float],
        constants: Mapping[str, int],
        shape: Size3,
        flop: int,
    ) -> Plan:
        self.device.require_open()
        lack = variant.unmet(self.limits, self.features)
        if lack:
            raise UnsupportedError(f"{variant.name} needs {lack} on {self.device.info.name}")
        self.require_allowed([variant])
        local = variant.workgroup or workgroup_size(grid, self.limits, shape)
        for axis, length, size in zip("xyz", grid, local, strict=True):
            if ceil_div(length, size) * size > _MOST_INVOCATIONS:
                raise UnsupportedError(
                    f"{variant.name} takes {length:,} invocations along {axis}, and shaders count "
                    "them in 32 bits; use a smaller batch, or cut the input into rows"
                )
        sizes = {f"local_size_{axis}": size for axis, size in zip("xyz", local, strict=True)}
        pipeline = self.device.pipelines.get(
            variant.name,
            variant.code,
            [kind for _, kind in variant.bindings],
            variant.push_constant_size,
            variant.specialize({**sizes, **constants}),
        )
        x, y, z = (ceil_div(a, b) for a, b in zip(grid, local, strict=True))
        seconds = flop / _SLOWEST[self.device.info.type]
        most = short_parts((x, y, z), self.limits["maxComputeWorkGroupCount"], seconds)
        parts = []
        for first, count in grid_parts((x, y, z), most):
            origin = {
                f"origin_{axis}": group * size
                for axis, group, size in zip("xyz", first, local, strict=True)
            }
            parts.append((variant.pack_push_constants({**push_constants, **origin}), count))
        names = tuple(name for name, _ in variant.bindings)
        return Plan(variant, local, pipeline, names, tuple(parts), seconds / len(parts))


def _floor_power_of_two(value: int) -> int:
    return 1 << (value.bit_length() - 1)


def _ceil_power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()
