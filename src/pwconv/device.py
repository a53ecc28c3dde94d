"""Devices: list them, choose one, open it, and make tensors on it."""

from __future__ import annotations

import itertools
import operator
import os
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pwconv import weights
from pwconv.context import Context, Denied
from pwconv.dtypes import Array, as_dtype
from pwconv.errors import NoDeviceError, PwconvError, UnsupportedError
from pwconv.tensor import (
    Tensor,
    as_shape,
    check_storage,
    choose_storage,
    empty,
    from_array,
    storage_order,
)
from pwconv.vk import api as vk
from pwconv.vk import process
from pwconv.vk.instance import describe_loader, resident_instance
from pwconv.vk.physical_device import DeviceInfo, PhysicalDevice
from pwconv.weights import PackedWeight

if TYPE_CHECKING:
    import numpy.typing as npt

_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_PREFERENCE = ("discrete", "integrated", "virtual", "cpu", "other")


def devices() -> list[DeviceInfo]:
    """List the Vulkan devices, in the loader's order.

    Raises
    ------
    NoDeviceError
        There is no Vulkan loader, or it finds no driver.
    PwconvError
        This process was forked off one that had listed or opened devices.
    """
    process.enter(process.lock, "pwconv")
    with resident_instance() as instance:
        return [
            PhysicalDevice(instance.handle, handle, index).info
            for index, handle in enumerate(instance.physical_devices())
        ]


@dataclass(frozen=True)
class Memory:
    """Device memory in bytes, as :meth:`Device.memory` returns it.

    Attributes
    ----------
    allocated : int
        In use by tensors, layers and graphs.
    cached : int
        Kept for tensors and copies to come; :meth:`Device.empty_cache` returns it.
    reserved : int
        Taken from the driver: the two above, and free ranges in their blocks.
    """

    allocated: int
    cached: int
    reserved: int


class Device:
    """A Vulkan device, open until :meth:`close`, the end of a ``with``, or garbage collection.

    Calls may come from several threads. Ctrl-C ends a call that waits for the device: its result is
    lost, the device goes on. No driver promises to survive a fork: in a forked child every use of
    it, and of any new Device, raises :class:`pwconv.PwconvError`; start children with
    multiprocessing's "spawn".

    Parameters
    ----------
    device : int or str, optional
        Index in :func:`devices`, or a name or part of one. By default ``$PWCONV_DEVICE``, which
        holds either; without it the first discrete GPU that can be used, or else integrated,
        virtual, CPU.
    validate : bool, optional
        Turn the Khronos validation layer on; what it finds is raised as
        :class:`pwconv.ValidationError`. By default on where ``$PWCONV_VALIDATE`` is 1, true, yes or
        on.

    Raises
    ------
    TypeError
        ``device`` is neither.
    NoDeviceError
        No loader, no driver, or none or several devices that match.
    UnsupportedError
        Vulkan older than 1.1, no compute queue, or validation without its layer.
    PwconvError
        ``$PWCONV_TUNE`` or ``$PWCONV_VALIDATE`` has a value that it cannot have, the device's deny
        list is damaged, or this process was forked off one that had listed or opened devices.
    """

    def __init__(self, device: int | str | None = None, *, validate: bool | None = None) -> None:
        # Imported here: only opening a device needs them.
        from pwconv.deny_list import DenyList
        from pwconv.tune.tuner import Tuner, tuning_mode

        mode = tuning_mode()
        if validate is None:
            validate = _validate_by_default()
        info = choose_device(device)
        deny_list = DenyList(info)
        denied = Denied(frozenset(deny_list.read()), deny_list.file)
        with process.using_vulkan(), ExitStack() as made:
            self._context = open_context(info, validate=validate, denied=denied)
            made.callback(self._context.close)
            self._tuner = Tuner(self._context, mode)
            self._validate = validate
            # At garbage collection; tensors and layers hold the device, so they go first.
            self._finalizer = weakref.finalize(self, self._context.close)
            self._finalizer.atexit = False
            _opened[next(_openings)] = self
            made.pop_all()

    @property
    def info(self) -> DeviceInfo:
        """Name, limits and features of the device; readable after close too."""
        return self._context.info

    @property
    def closed(self) -> bool:
        """True after :meth:`close`."""
        return self._context.closed

    def tensor(
        self,
        array: npt.ArrayLike,
        dtype: npt.DTypeLike | None = None,
        storage: str = "auto",
    ) -> Tensor:
        """Copy an array to the device.

        Parameters
        ----------
        array : array_like
            Of float32 or float16, at least one axis, in any strides and byte order.
        dtype : "float32" or "float16", optional
            The tensor's type; the array's by default. float32 is narrowed to the nearest float16.
        storage : "auto", "texture3d" or "buffer"
            :class:`Tensor` says what they are; "auto" is what suits the device and the shape.

        Raises
        ------
        TypeError, ValueError
            Another element type, no axes, or one of length 0 that is not the first.
        ClosedError
        OutOfMemoryError
        UnsupportedError
            The tensor is past the device's limits.
        """
        self._context.enter()
        return from_array(self, array, dtype, storage)

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike, storage: str = "auto") -> Tensor:
        """Return a tensor whose contents are undefined.

        Parameters
        ----------
        shape : tuple of int
            At least one axis; the first may be 0.
        dtype : "float32" or "float16"
        storage : "auto", "texture3d" or "buffer"
            :class:`Tensor` says what they are; "auto" is what suits the device and the shape.

        Raises
        ------
        TypeError, ValueError, ClosedError, OutOfMemoryError, UnsupportedError
            As :meth:`tensor`.
        """
        self._context.enter()
        check_storage(storage)
        shape, dtype = as_shape(shape), as_dtype(dtype)
        storage = choose_storage(
            self._context, {"shape": shape}, dtype, storage_order(self._context, storage)
        )
        return empty(self, shape, dtype, storage)

    def synchronize(self) -> None:
        """Wait until all submitted work is done, and free the resources that it used.

        Raises
        ------
        ClosedError, DeviceLostError, ValidationError
        """
        self._context.enter()
        with self._context.lock:
            self._context.resources.settle()
        self._context.queue.wait()
        with self._context.lock:
            self._context.queue.collect()
            self._context.check()

    def memory(self) -> Memory:
        """Return the device memory in use, kept for reuse, and reserved, in bytes.

        Raises
        ------
        ClosedError, DeviceLostError
        """
        self._context.enter()
        with self._context.lock:
            cached = self._context.resources.size + self._context.staging.size
            return Memory(
                allocated=self._context.memory.used - cached,
                cached=cached,
                reserved=self._context.memory.reserved,
            )

    def empty_cache(self) -> None:
        """Wait for the device, and return to the driver all memory that nothing is in.

        Tensors that are gone leave theirs to be used again, up to 256 MiB, and so do copies from
        and to arrays. Giving it back makes the next calls slower, until there is some again.

        Raises
        ------
        ClosedError, DeviceLostError
        """
        self._context.enter()
        self._context.forget_recordings()
        self._context.free_unused()

    def close(self) -> None:
        """Wait for the device and free everything on it. Tensors and layers on it become unusable.

        Closing twice is no error. Where Ctrl-C ends the waiting, nothing is freed yet, and closing
        again goes on.
        """
        self._context.close()
        self._finalizer.detach()

    def __reduce__(self) -> str:
        raise TypeError(
            "a device cannot be copied or pickled; pass device.info.name, and open it there with "
            "pwconv.Device(name)"
        )

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<pwconv.Device {self.info}{' (closed)' if self.closed else ''}>"

    def _pack_again(self, array: Array, storage: str) -> tuple[object, ...]:
        """Return the pickle of a packed weight: its array, storage and device."""
        return _pack_again, (array, storage, self.info.index, self.info.name)


def _pack_again(array: Array, storage: str, index: int, name: str) -> PackedWeight:
    """Return a packed weight that was pickled, on the device of that name."""
    found = devices()
    is_there = index < len(found) and found[index].name == name
    device = resolve_device(index if is_there else name)
    return weights.pack(device, array, transposed=True, dtype=None, storage=storage)


DeviceLike = Device | int | str
"""Argument ``device=``: a Device, its index in :func:`devices`, or a name or part of one."""

_opened: weakref.WeakValueDictionary[int, Device] = weakref.WeakValueDictionary()
_openings = itertools.count()
_default: Device | None = None
_default_lock = process.make_lock()


def default_device() -> Device:
    """Return the default device, opened on first use.

    It stays open until it is closed; the next call opens another then, and where it was lost.

    Raises
    ------
    NoDeviceError, UnsupportedError, PwconvError
        As :class:`Device`.
    """
    global _default
    process.enter(_default_lock, "pwconv")
    with _default_lock:
        if _default is None or not _default._context.usable:
            _default = Device()
        return _default


def _renew_default_lock() -> None:
    """Replace the lock in a forked child: the thread that held it may not exist there."""
    global _default_lock
    _default_lock = process.make_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_default_lock)


def resolve_device(device: Any, *others: Any) -> Device:
    """Return the device of a call: the one given, else that of its tensors, else the default.

    Raises
    ------
    TypeError
        ``device`` is neither a Device, an index nor a name.
    ValueError
        The tensors are on different devices.
    NoDeviceError, UnsupportedError, PwconvError
        As :class:`Device`.
    """
    holders = [other for other in others if isinstance(other, Tensor | PackedWeight)]
    if device is not None and not isinstance(device, Device):
        if not (isinstance(device, str) or hasattr(device, "__index__")):
            raise TypeError(
                f"device is {device!r}; it must be a pwconv.Device, an index in pwconv.devices(), "
                "or a name or part of one"
            )
        device = _find_or_open(device, [holder.device for holder in holders])
    found = device
    for holder in holders:
        if found is not None and holder.device is not found:
            raise ValueError(_on_two_devices(holder, found))
        found = holder.device
    return found or default_device()


def choose_device(wanted: Any) -> DeviceInfo:
    """Return the device that an index, a name or None, for the default, stands for.

    Raises
    ------
    TypeError, NoDeviceError, UnsupportedError
        As :class:`Device`.
    """
    if wanted is None:
        wanted = os.environ.get("PWCONV_DEVICE") or None
    found = devices()
    return found[_choose(wanted, found)]


def open_context(
    info: DeviceInfo, *, validate: bool | None = None, denied: Denied | None = None
) -> Context:
    """Open a device; without ``denied``, whatever its deny list says.

    Raises
    ------
    NoDeviceError, UnsupportedError, PwconvError
        As :class:`Device`.
    """
    from pwconv.cache import cache_folder

    if validate is None:
        validate = _validate_by_default()
    with process.using_vulkan():
        return Context(
            info.index,
            validate=validate,
            cache_folder=cache_folder("pipelines"),
            denied=denied,
        )


def _find_or_open(wanted: Any, preferred: Sequence[Device]) -> Device:
    """Return a device by index or name: a preferred one, else an open one, else a new one."""
    # Listing devices to look up a name takes longer than a small layer.
    index = choose_device(wanted).index if isinstance(wanted, str) else operator.index(wanted)
    validate = _validate_by_default()
    for device in preferred:
        if device.info.index == index:
            return device
    process.enter(_default_lock, "pwconv")
    with _default_lock:
        for opened in (_default, *(reference() for reference in _opened.valuerefs())):
            if (
                opened is not None
                and opened._context.usable
                and (opened.info.index, opened._validate) == (index, validate)
            ):
                return opened
        return Device(index, validate=validate)


def _on_two_devices(holder: Tensor | PackedWeight, device: Device) -> str:
    if holder.device.info.identity == device.info.identity and (
        holder.device.info.index == device.info.index
    ):
        return (
            f"{holder!r} and what it is used with are on two openings of one physical device, "
            f"{device.info}, which share no memory: open it once and give that pwconv.Device to "
            "both with device=, or copy with device.tensor(tensor.numpy())"
        )
    return (
        f"{holder!r} is on another device than {device!r}; copy it there with "
        "device.tensor(tensor.numpy())"
    )


def require_devices(found: Sequence[DeviceInfo]) -> None:
    """Raise unless there is a device.

    Raises
    ------
    NoDeviceError
    """
    if not found:
        raise NoDeviceError(f"there is no Vulkan device. {vk.INSTALL_HINT} {describe_loader()}")


def _choose(wanted: Any, found: Sequence[DeviceInfo]) -> int:
    require_devices(found)
    listed = "; ".join(f"{info.index}: {info}" for info in found)
    usable = [info for info in found if info.problem is None]
    if wanted is None:
        if not usable:
            problems = "; ".join(f"{info.index}: {info.name} {info.problem}" for info in found)
            raise UnsupportedError(f"pwconv can use no device of {problems}")
        return min(usable, key=lambda info: _PREFERENCE.index(info.type)).index
    if not isinstance(wanted, str):
        try:
            index = operator.index(wanted)
        except TypeError:
            raise TypeError(
                f"device is {wanted!r}; it must be an index, or a name or part of one; there are "
                f"{listed}"
            ) from None
        if not 0 <= index < len(found):
            raise NoDeviceError(f"device {index} does not exist; there are {listed}")
        return index
    for info in found:
        if wanted == str(info.index):
            return info.index
    # A name before what contains it; of those that are left, what can be used.
    matches = [info for info in found if wanted.lower() == info.name.lower()] or [
        info for info in found if wanted.lower() in info.name.lower()
    ]
    if len(matches) > 1:
        matches = [info for info in matches if info.problem is None] or matches
    if len(matches) != 1:
        problem = "several devices match" if matches else "no device matches"
        raise NoDeviceError(f"{problem} {wanted!r}; there are {listed}")
    return matches[0].index


def _validate_by_default() -> bool:
    value = os.environ.get("PWCONV_VALIDATE", "")
    if value.lower() in _YES:
        return True
    if value.lower() in ("", *_NO):
        return False
    raise PwconvError(f"PWCONV_VALIDATE is {value!r}; it must be one of {', '.join((*_YES, *_NO))}")
