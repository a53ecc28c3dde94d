"""The open device with all its parts: what tensors, layers and graphs hold.

Plans and recordings are kept, and found again by what they were made from.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pwconv import matrix_units
from pwconv.dispatch import MOST_TRIPS, make_plan
from pwconv.errors import UnsupportedError
from pwconv.lru import LruCache
from pwconv.shaders import Variant
from pwconv.vk import process
from pwconv.vk.commands import Dispatch, Plan, Recording, Size3
from pwconv.vk.core import Core
from pwconv.vk.pipelines import PipelineCache
from pwconv.vk.pools import ResourcePool, StagingPool
from pwconv.vk.queue import Queue

_PLANS_KEPT = 1024
_RECORDINGS_KEPT = 256


@dataclass(frozen=True)
class Denied:
    """Variants that gave wrong results on a device, and the file that says so."""

    names: frozenset[str]
    file: Path


class Context(Core):
    """An open device with its queue, pipelines, pools, plans and recordings.

    Parameters
    ----------
    index : int
        Position in the instance's list of physical devices.
    validate : bool
        Turn the validation layer on.
    cache_folder : Path
        Where compiled pipelines are kept between runs.
    denied : Denied, optional
        Variants that it refuses to run.

    Attributes
    ----------
    queue : Queue
    pipelines : PipelineCache
    resources : ResourcePool
    staging : StagingPool
    recordings : LruCache
        What was submitted, by what it was made from.
    """

    queue: Queue
    pipelines: PipelineCache

    def __init__(
        self, index: int, *, validate: bool, cache_folder: Path, denied: Denied | None = None
    ) -> None:
        self.denied = denied
        self._cache_folder = cache_folder
        self._lacks: dict[str, str | None] = {}
        self._able: dict[tuple[Variant, ...], tuple[Variant, ...]] = {}
        self._plans: LruCache[tuple[object, ...], Plan] = LruCache(_PLANS_KEPT)
        self.recordings: LruCache[tuple[object, ...], Recording] = LruCache(_RECORDINGS_KEPT)
        super().__init__(index, validate=validate)

    def _attach(self, made: ExitStack) -> None:
        self.queue = Queue(self)
        made.callback(self.queue.close)
        self.pipelines = PipelineCache(self, self._cache_folder / f"{self.info.identity}.bin")
        made.callback(self.pipelines.close)
        self.resources = ResourcePool(self)
        self.staging = StagingPool(self.queue)
        process.opened(self)

    # -- variants and plans -----------------------------------------------------------------------

    def unmet(self, variant: Variant) -> str | None:
        """Return what the device lacks to run a variant, or None."""
        try:
            return self._lacks[variant.name]
        except KeyError:
            lack = variant.unmet(self.limits, self.features)
            lack = self._lacks[variant.name] = lack or matrix_units.unmet(variant, self.info)
            return lack

    def able(self, considered: tuple[Variant, ...]) -> tuple[Variant, ...]:
        """Return those of some variants that :meth:`can_run`; asked once."""
        try:
            return self._able[considered]
        except KeyError:
            found = self._able[considered] = tuple(filter(self.can_run, considered))
            return found

    def can_run(self, variant: Variant) -> bool:
        """Return whether the device has what a variant needs, and nobody denies it."""
        return not (self.unmet(variant) or self._denies(variant))

    def require(self, variant: Variant) -> None:
        """Raise for a variant that the device lacks something for, or that is denied.

        Raises
        ------
        UnsupportedError
        """
        if lack := self.unmet(variant):
            raise UnsupportedError(f"{variant.name} needs {lack} on {self.info.name}")
        self.require_allowed([variant])

    def require_allowed(self, variants: Iterable[Variant]) -> None:
        """Raise where some of the variants could be run if they were not denied.

        Raises
        ------
        UnsupportedError
            It names the deny list.
        """
        denied = [v.name for v in variants if self._denies(v) and not self.unmet(v)]
        if not denied:
            return
        assert self.denied is not None
        others = f" and {len(denied) - 1} more that could do the same" if denied[1:] else ""
        raise UnsupportedError(
            f"{denied[0]}{others} gave wrong results on {self.info.name} and must not be "
            f"run: the deny list {self.denied.file} says so. Another storage, of x or of a packed "
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
        with self.lock:
            plan = self._plans.find(key)
            if plan is not None:
                return plan
        # It may compile: without the lock, so that other threads go on.
        self.require_open()
        if not self.able((variant,)):
            self.require(variant)
        made = make_plan(
            self, self.pipelines, variant, grid, push_constants, constants, shape, flop
        )
        with self.lock:
            return self._plans.keep(key, made)

    # -- submissions ------------------------------------------------------------------------------

    def submit(
        self,
        *dispatches: Dispatch,
        awaited: bool = False,
        key: tuple[object, ...] | None = None,
    ) -> int:
        """Submit dispatches, each after those before that it depends on; return the serial.

        Parameters
        ----------
        dispatches : Dispatch
        awaited : bool
            Whether the host will wait for them, and may then read what they wrote.
        key : tuple, optional
            What :attr:`recordings` has them by; by default their plans and resources.
        """
        if key is None:
            made_of: list[object] = [awaited]
            for dispatch in dispatches:
                made_of.append(dispatch.plan)
                made_of += [resource.uid for resource in dispatch.bound]
            key = tuple(made_of)
        self.queue.make_room()
        with self.lock:
            self.require_open()
            recording = self.recordings.find(key)
            if recording is None:
                groups = [(dispatch,) for dispatch in dispatches]
                made = Recording(self.queue, groups, host_reads=awaited)
                recording = self.recordings.keep(key, made)
            return recording.submit(awaited=awaited)

    def submit_recorded(self, recording: Recording) -> None:
        """Submit what was submitted before, and do what is due besides.

        Raises
        ------
        ClosedError, DeviceLostError, OutOfMemoryError, BusyError, ValidationError
        """
        self.enter()
        self.queue.make_room()
        with self.lock:
            self.require_open()
            recording.submit()

    # -- memory and the end -----------------------------------------------------------------------

    def forget_recordings(self) -> None:
        """Destroy what is kept of submissions, once the device is done with it."""
        with self.lock:
            self.recordings.clear()

    def free_unused(self) -> None:
        """Wait for the queue, destroy pooled resources, return empty blocks to the driver.

        Called when an allocation fails, too.
        """
        with self.lock:
            self.resources.clear()
            self.staging.clear()
        self.queue.wait()
        super().free_unused()

    def close(self) -> None:
        """Wait for calls at work and for the device, and free everything, once.

        Where the waiting is interrupted or fails, nothing is freed yet; calling again goes on.

        Raises
        ------
        BusyError
            A signal handler or a finalizer closes it inside another call of its thread.
        PwconvError
            Another thread is at work on it for longer than :data:`process.CLOSE_SECONDS`.
        """
        what = f"the device {self.info.name}"
        process.enter(self.lock, what)
        with self.lock:  # whoever began a call before has said so by then
            self.refuse()
        if self._destroyed:
            return
        self._uses.wait(what)
        with self.lock:
            if self._destroyed:
                return
            self.queue.drain()
            for made in list(self.live.values()):
                made.close()
            self._destroyed = True
            self._made.close()
            self.check()

    def _denies(self, variant: Variant) -> bool:
        return self.denied is not None and variant.name in self.denied.names
