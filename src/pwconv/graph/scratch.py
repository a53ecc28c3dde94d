"""The memory of a graph's intermediates, one piece for all the shapes that it is resized to."""

from __future__ import annotations

from pwconv.context import Context
from pwconv.dtypes import DType
from pwconv.layout import Shape4, buffer_bytes, ceil_div, texture3d_extent
from pwconv.tensor import VK_FORMATS
from pwconv.vk.resources import (
    Arena,
    Buffer,
    Image,
    Place,
    Requirements,
    Resource,
    buffer_requirements,
    image_requirements,
)


class Scratch:
    """Arenas that grow: one for buffers and one for images, each made when it is needed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._arenas: dict[str, Arena] = {}
        # By storage and what a resource is made from: asking means making one.
        self._requirements: dict[tuple[object, ...], Requirements] = {}

    @property
    def reserved(self) -> int:
        """Bytes of device memory."""
        return sum(arena.size for arena in self._arenas.values())

    def requirements(self, storage: str, shape: Shape4, dtype: DType) -> Requirements:
        """Return the requirements of a value, its size a multiple of its alignment."""
        made_of: tuple[object, ...]
        if storage == "buffer":
            size = buffer_bytes(shape, dtype.itemsize)
            made_of = (storage, size)
        else:
            extent = texture3d_extent(shape)
            made_of = (storage, extent, dtype)
        found = self._requirements.get(made_of)
        if found is None:
            if storage == "buffer":
                found = buffer_requirements(self._context, size)
            else:
                found = image_requirements(self._context, extent, VK_FORMATS[dtype])
            found = found._replace(size=ceil_div(found.size, found.alignment) * found.alignment)
            self._requirements[made_of] = found
        return found

    def arena(self, storage: str, wanted: Requirements) -> Arena:
        """Return an arena of at least that size: the current one, or a new one in its place.

        Raises
        ------
        OutOfMemoryError
            The old arena is then still there.
        """
        known = self._arenas.get(storage)
        if known is not None and known.size >= wanted.size:
            return known
        new = self._arenas[storage] = Arena(self._context, *wanted, image=storage == "texture3d")
        if known is not None:  # programs that hold it, too, make their resources anew
            self._context.retire(known.destroy)
        return new

    def resource(self, storage: str, shape: Shape4, dtype: DType, place: Place) -> Resource:
        """Return a value's resource in an arena."""
        if storage == "buffer":
            return Buffer(self._context, buffer_bytes(shape, dtype.itemsize), place=place)
        return Image(self._context, texture3d_extent(shape), VK_FORMATS[dtype], place)
