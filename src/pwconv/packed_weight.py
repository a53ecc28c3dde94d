"""PackedWeight: a weight in 4OC×4IC blocks, on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pwconv.dtypes import Array, DType
from pwconv.vk.resources import Buffer, Image, Resource

if TYPE_CHECKING:
    from pwconv.device import Device


class PackedWeight:
    """A packed weight; made by :func:`pwconv.pack_linear_weight`.

    It does not change, so that a copy is the same one. Pickled, it is packed again where it is
    loaded, on the device of that name.

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

    __slots__ = ("__weakref__", "_device", "_dtype", "_resource", "_rows", "_shape")

    def __init__(
        self,
        device: Device,
        shape: tuple[int, int, int],
        dtype: DType,
        resource: Resource,
    ) -> None:
        self._device = device
        self._shape = shape
        self._dtype = dtype
        self._resource = resource
        self._rows: Buffer | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """[B, N, K]: batches, output channels, input channels."""
        return self._shape

    @property
    def dtype(self) -> DType:
        """float32 or float16."""
        return self._dtype

    @property
    def device(self) -> Device:
        """The device that it is on."""
        return self._device

    @property
    def storage(self) -> str:
        """How it is stored: "texture2d" or "buffer"."""
        return "texture2d" if isinstance(self._resource, Image) else "buffer"

    @property
    def resource(self) -> Resource:
        """The image or buffer.

        Raises
        ------
        ClosedError
        """
        self._device._context.require_open()
        return self._resource

    def rows(self) -> Buffer:
        """Return the weight as [N, pitch] of float16, unpacked once: for tensor layouts.

        Raises
        ------
        ClosedError, OutOfMemoryError
        """
        if self._rows is None:
            rows = self.device._unpack_rows(self)
            with self.device._context.lock:  # of several threads the first one's are kept
                self._rows = self._rows or rows
        return self._rows

    @property
    def size(self) -> int:
        """Bytes on the device, of its rows too where they were needed."""
        return self._resource.size + (self._rows.size if self._rows else 0)

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

    def __copy__(self) -> PackedWeight:
        return self

    def __deepcopy__(self, _memo: object) -> PackedWeight:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return self.device._packed_reduction(self)

    def __repr__(self) -> str:
        return (
            f"pwconv.PackedWeight(shape={self.shape}, dtype={self.dtype}, "
            f"storage={self.storage!r}, device={self.device.info.name!r})"
        )
