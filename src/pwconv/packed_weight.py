"""PackedWeight: a weight in 4OC×4IC blocks, on a device."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from pwconv.dtypes import Array, DType
from pwconv.vk.resources import Buffer, Image

if TYPE_CHECKING:
    from pwconv.device import Device


class PackedWeight:
    """A packed weight; made by :func:`pwconv.pack_linear_weight`.

    Attributes
    ----------
    shape : tuple of int
        [B, N, K]: batches, output channels, input channels.
    dtype : numpy.dtype
        float32 or float16.
    storage : str
        "texture2d" or "buffer".
    device : pwconv.Device
    """

    __slots__ = ("__weakref__", "_resource", "_rows", "device", "dtype", "shape")

    def __init__(
        self,
        device: Device,
        shape: tuple[int, int, int],
        dtype: DType,
        resource: Image | Buffer,
    ) -> None:
        self.device = device
        self.shape = shape
        self.dtype = dtype
        self._resource = resource
        self._rows: Buffer | None = None
        weakref.finalize(self, device._logical.queue.retire, resource.destroy)

    @property
    def storage(self) -> str:
        """How it is stored: "texture2d" or "buffer"."""
        return "texture2d" if isinstance(self._resource, Image) else "buffer"

    @property
    def resource(self) -> Image | Buffer:
        """The image or buffer.

        Raises
        ------
        ClosedError
        """
        self.device._logical.require_open()
        return self._resource

    def rows(self) -> Buffer:
        """Return the weight as [N, pitch] of float16, unpacked once: for tensor layouts.

        Raises
        ------
        ClosedError, OutOfMemoryError
        """
        if self._rows is None:
            self._rows = self.device._unpack_rows(self)
            weakref.finalize(self, self.device._logical.queue.retire, self._rows.destroy)
        return self._rows

    def numpy(self) -> Array:
        """Return the packed vec4s.

        Returns
        -------
        numpy.ndarray
            [B, K4, N4, 4, 4]: element [b, k4, n4, dk, j] is weight[b, 4·n4 + j, 4·k4 + dk], or zero
            past N and K; the same for both storages.

        Raises
        ------
        ClosedError
            The device was closed.
        """
        return self.device._download_packed(self)

    def __repr__(self) -> str:
        return (
            f"pwconv.PackedWeight(shape={self.shape}, dtype={self.dtype}, "
            f"storage={self.storage!r}, device={self.device.info.name!r})"
        )
