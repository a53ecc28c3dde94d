"""Frames: arrays through a program in one submission of uploads, nodes and downloads.

Two frames may be in flight. Programs run one after the other on the device, so that frames share
the intermediates. Inputs, outputs and staging are each frame's own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pwconv import transfer
from pwconv.device import Device
from pwconv.dtypes import Array, DType
from pwconv.graph.program import Program
from pwconv.staging import Staged, chunk_bytes, one_chunk
from pwconv.tensor import empty
from pwconv.vk import process
from pwconv.vk.commands import Dispatch, Recording
from pwconv.vk.resources import DOWNLOAD, UPLOAD, Buffer

_FRAMES = 2
Preferences = tuple[tuple[int, int], ...]


class Handle:
    """A run that may not be done yet; made by :meth:`pwconv.Graph.run_async`."""

    def __init__(
        self, device: Device, serial: int, results: Mapping[str, Any], frame: Frame | None
    ) -> None:
        self._device = device
        self._serial = serial
        self._results = results
        self._frame = frame
        self._arrange: Callable[[dict[str, Any]], dict[str, Any]] = dict
        self._lock = process.make_lock()

    def wait(self) -> dict[str, Any]:
        """Return the outputs, by name, once they are computed.

        Calling it again returns the same arrays or tensors.

        Raises
        ------
        ClosedError, DeviceLostError
        """
        context = self._device._context
        context.enter()
        process.enter(self._lock, "the handle")
        return self._wait()

    def _wait(self) -> dict[str, Any]:
        context = self._device._context
        with self._lock, context.in_use():
            context.queue.wait(self._serial)
            if self._frame is not None:
                self._results, self._frame = self._arrange(self._frame.read()), None
            return dict(self._results)

    def __reduce__(self) -> str:
        raise TypeError(
            "a handle cannot be copied or pickled; copy or pickle what its wait() returns"
        )


class Frame:
    """One run's inputs, outputs and staging, and the recording that uses them.

    Parameters
    ----------
    device : Device
    program : Program
    source_dtypes : Mapping
        The type of each input's arrays.

    Attributes
    ----------
    serial : int
        Of the last submission.
    """

    def __init__(
        self, device: Device, program: Program, source_dtypes: Mapping[str, DType]
    ) -> None:
        self._device = device
        self._program = program
        self._generation: int | None = None
        self._recording: Recording | None = None
        self._handle: weakref.ref[Handle] | None = None
        self.serial = 0
        site, network = program.site, program.network
        self._tensors = {
            i: empty(device, program.shapes[i], site.dtype, site.storage)
            for i in (*network.inputs.values(), *network.outputs.values())
        }
        self._sent = {
            name: staged
            for name, i in network.inputs.items()
            if (staged := self._stage(i, source_dtypes[name], UPLOAD))
        }
        self._received = {
            name: staged
            for name, i in network.outputs.items()
            if (staged := self._stage(i, site.dtype, DOWNLOAD))
        }

    @property
    def pending(self) -> Handle | None:
        """The handle that may still take the results of the last run."""
        handle = self._handle() if self._handle else None
        return handle if handle is not None and handle._frame is not None else None

    def run(self, arrays: Mapping[str, Array]) -> Handle:
        """Submit a run, after the results of the last one went to its handle."""
        if (pending := self.pending) is not None:
            pending._wait()
        context, program = self._device._context, self._program
        with context.in_use():
            context.queue.wait(self.serial)
            for name, array in arrays.items():
                i = program.network.inputs[name]
                n, c, h, w = program.shape4(i)
                if name in self._sent:
                    self._sent[name].fill(array.reshape(n, c, h * w))
                else:
                    transfer.upload(
                        program.site.context,
                        array.reshape(n, c, h, w),
                        self._tensors[i].resource,
                        program.site.dtype,
                    )
            with context.lock:
                if self._generation != program.generation:
                    self._recording = Recording(context.queue, self._groups(), host_reads=True)
                    self._generation = program.generation
                assert self._recording is not None
                self.serial = self._recording.submit(awaited=True)
        handle = Handle(self._device, self.serial, {}, self)
        self._handle = weakref.ref(handle)
        return handle

    def read(self) -> dict[str, Array]:
        """Return the results of the last run, which the device has finished."""
        program = self._program
        results: dict[str, Array] = {}
        for name, i in program.network.outputs.items():
            n, c, h, w = program.shape4(i)
            dtype = program.site.dtype
            if name in self._received:
                array = np.empty((n, c, h * w), dtype)
                self._received[name].empty(array)
            else:
                array = transfer.download(
                    program.site.context, self._tensors[i].resource, (n, c, h, w), dtype
                )
            results[name] = array.reshape(program.shapes[i])
        return results

    def _stage(self, i: int, dtype: DType, preferences: Preferences) -> Staged | None:
        """Return a staging buffer for an input or output that passes through one at once."""
        n, c, h, w = self._program.shape4(i)
        context = self._device._context
        chunk = one_chunk(context, (n, c, h * w), dtype.itemsize)
        if chunk is None:
            return None
        return Staged(chunk, Buffer(context, chunk_bytes(chunk, dtype), preferences), dtype)

    def _groups(self) -> list[list[Dispatch]]:
        """Return the uploads, the nodes and the downloads, in order."""
        program, tensors = self._program, self._tensors
        context, dtype = program.site.context, program.site.dtype
        uploads, downloads = [], []
        for name, staged in self._sent.items():
            i = program.network.inputs[name]
            target, source = tensors[i].resource, staged.buffer
            upload = transfer.upload_dispatch(
                context, program.shape4(i), staged.dtype, staged.chunk, source, target, dtype
            )
            uploads.append([upload])
        for name, staged in self._received.items():
            i = program.network.outputs[name]
            result = tensors[i].resource
            download = transfer.download_dispatch(
                context, result, staged.chunk, staged.buffer, program.shape4(i), dtype
            )
            downloads.append([download])
        given = {i: tensor.resource for i, tensor in tensors.items()}
        return [*uploads, *program.groups(given), *downloads]


class Frames:
    """The frames of one program."""

    def __init__(self, device: Device, program: Program) -> None:
        self._device = device
        self._program = program
        self._frames: dict[tuple[DType, ...], list[Frame]] = {}

    def run(self, arrays: Mapping[str, Array]) -> Handle:
        """Submit a run of arrays by input; with two in flight the older one is waited for."""
        dtypes = {name: array.dtype.newbyteorder("=") for name, array in arrays.items()}
        frames = self._frames.setdefault(tuple(dtypes[name] for name in sorted(dtypes)), [])
        idle = [frame for frame in frames if frame.pending is None]
        if idle or len(frames) == _FRAMES:
            frame = idle[0] if idle else min(frames, key=lambda frame: frame.serial)
        else:
            frame = Frame(self._device, self._program, dtypes)
            frames.append(frame)
        return frame.run(arrays)
