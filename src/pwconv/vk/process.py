"""The process around the devices: locks, calls at work, the end, and forks.

An exception may come between any two lines, from Ctrl-C or another signal's handler; and a handler
or a finalizer may call pwconv while its own thread is inside pwconv, which a reentrant lock lets
in. So nothing is counted: what is at work is told by the frames that run.
"""

from __future__ import annotations

import atexit
import operator
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Protocol

from pwconv.errors import BusyError, ClosedError, PwconvError

# Advice in errors of a forked child.
FORK_HINT = 'Start children with multiprocessing.get_context("spawn").'

# Longest wait of close() for threads that are inside calls.
CLOSE_SECONDS = 30.0

_POLL_SECONDS = 0.005
_PACKAGE = __name__.partition(".")[0]


class Closable(Protocol):
    """An object that is closed at the end of the process."""

    def refuse(self) -> None:
        """Have every call that begins from now on raise ClosedError."""

    def close(self) -> None:
        """Wait for calls at work, and free everything."""

    def abandon(self) -> None:
        """Leave everything to the parent of this forked child."""


class _SignalSafeLock:
    """A reentrant lock that a signal's handler cannot leave held by raising.

    Python 3.14 runs handlers between the call of a lock's own ``__enter__`` and the ``with`` block,
    which then does not release it. Here what is between is inside a try; and nothing runs between
    the end of the block and ``__exit__``, which is the lock's own.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.acquire, self.release = self._lock.acquire, self._lock.release
        self._is_owned = self._lock._is_owned  # type: ignore[attr-defined]

    def __enter__(self) -> None:
        acquired: list[bool] = []
        try:
            # One step of the interpreter acquires the lock and says so.
            acquired.extend(map(self.acquire, (True,)))
        except BaseException:
            if acquired:
                self.release()
            raise

    __exit__ = property(operator.attrgetter("_lock.__exit__"))


def make_lock() -> Any:
    """Return a reentrant lock that a signal's handler cannot leave held by raising."""
    return threading.RLock() if sys.version_info < (3, 14) else _SignalSafeLock()


def enter(lock: Any, what: str) -> None:
    """Raise if a call on ``what`` begins inside another one of the same thread.

    A lock that an exception left held, between two lines, is released.

    Parameters
    ----------
    lock
        Of :func:`make_lock`.
    what : str

    Raises
    ------
    BusyError
        A signal handler or a finalizer interrupted this thread while it holds the lock.
    """
    if not lock._is_owned():
        return
    if _is_nested():
        raise BusyError(
            f"{what} is in the middle of a call of this same thread, which a signal handler or a "
            "finalizer interrupted; nothing was changed: do it after that call has returned"
        )
    while lock._is_owned():
        lock.release()


def _is_nested() -> bool:
    """Return whether the call that is beginning has another one of pwconv's below it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    return _runs_ours(frame)


def _runs_ours(frame: FrameType | None) -> bool:
    while frame is not None:
        if _is_ours(frame):
            return True
        frame = frame.f_back
    return False


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE


class Uses:
    """Calls that use an object without its lock: a thread that frees it waits for them."""

    def __init__(self) -> None:
        self._threads: dict[object, int] = {}  # by a token of each call

    @contextmanager
    def __call__(self, lock: Any, require: Callable[[], None]) -> Iterator[None]:
        """Be at work inside the ``with``, unless ``require()`` raises under the lock."""
        token = object()
        try:
            with lock:
                require()
                self._threads[token] = threading.get_ident()
            yield
        finally:
            self._threads.pop(token, None)

    def wait(self, what: str) -> None:
        """Wait until no other thread is at work; no call may begin any more.

        Raises
        ------
        BusyError
            This thread itself is: a signal handler or a finalizer interrupted it.
        PwconvError
            Another thread still is after :data:`CLOSE_SECONDS`.
        """
        if threading.get_ident() in self._threads.values() and _is_nested():
            raise BusyError(
                f"{what} is at work for a call of this same thread, which a signal handler or a "
                "finalizer interrupted; close it after that call has returned"
            )
        deadline = time.monotonic() + CLOSE_SECONDS
        while names := self._at_work():
            if time.monotonic() > deadline:
                raise PwconvError(
                    f"{what} is closed but not freed: after {CLOSE_SECONDS:.0f} s it is still at "
                    f"work for {', '.join(names)}; close it again once that has ended"
                )
            time.sleep(_POLL_SECONDS)

    def _at_work(self) -> list[str]:
        """Return the names of the other threads that are at work.

        A token that an exception left behind is of a thread that is dead, or runs nothing of ours.
        """
        frames = sys._current_frames()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        me = threading.get_ident()
        return [
            f"thread {names.get(ident, ident)!r}"
            for ident in {*self._threads.values()} - {me}
            if _runs_ours(frames.get(ident))
        ]


lock = make_lock()
"""Held while the resident instance is made."""

_opening = Uses()
_devices: weakref.WeakSet[Closable] = weakref.WeakSet()
_instance: Any = None
_ended = False
_forked = False  # off a process that had an instance


@contextmanager
def using_vulkan() -> Iterator[None]:
    """Be at work with Vulkan, on no open device in particular.

    Raises
    ------
    ClosedError
        The process is ending.
    PwconvError
        It was forked off one that had used Vulkan. No driver promises to go on then: lavapipe does,
        NVIDIA's makes no device (580.159), SwiftShader hangs.
    """
    with _opening(lock, _require_running):
        yield


def resident(make: Callable[[], Any]) -> Any:
    """Return the one instance that lives as long as the process, made on first use."""
    global _instance
    with lock:
        if _instance is None:
            _instance = make()
            atexit.register(_end)
        return _instance


def opened(device: Closable) -> None:
    """Have a device closed at the end of the process."""
    _devices.add(device)


def _end() -> None:
    """Close everything: functions that run later at exit, and daemon threads, get ClosedError."""
    global _ended
    _ended = True
    for device in list(_devices):
        device.refuse()
    with ExitStack() as ending:  # each is closed, whatever another one raises
        ending.callback(_close_instance)
        for device in list(_devices):
            ending.callback(device.close)


def _close_instance() -> None:
    _opening.wait("Vulkan")
    for device in list(_devices):  # what a daemon thread has opened meanwhile
        device.close()
    if _instance is not None:
        _instance.close()


def _require_running() -> None:
    if _ended:
        raise ClosedError(
            "the process is ending, and pwconv has closed its devices; functions that use them at "
            "exit must be registered with atexit after pwconv's first use, so as to run before"
        )
    if _forked:
        raise PwconvError(
            "this process was forked off one that had used pwconv's devices, and drivers need "
            f"not survive that. {FORK_HINT}"
        )


def _leave_to_parent() -> None:
    """Leave everything to the parent of a forked child, and replace the lock."""
    global lock, _opening, _instance, _forked
    lock, _opening = make_lock(), Uses()
    for device in list(_devices):
        device.abandon()
    if _instance is not None:
        _instance, _forked = None, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
