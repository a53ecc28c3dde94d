"""Constants: tensors that lie on the device from the first run on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pwconv import reference, transfer
from pwconv.dtypes import Array, DType, convert
from pwconv.heuristics import Choice
from pwconv.layout import buffer_bytes, texture3d_extent
from pwconv.ops.base import Case, Operator, Site, operator
from pwconv.ops.limits import Limits
from pwconv.reference import Approximation
from pwconv.tensor import VK_FORMATS, Shape, shape4
from pwconv.vk.commands import Dispatch
from pwconv.vk.resources import Buffer, Image, Resource


@operator("constant")
@dataclass(frozen=True, eq=False, kw_only=True)
class Constant(Operator):
    """An array; nothing runs for it.

    Attributes
    ----------
    array : numpy.ndarray
        Rounded to the graph's type already.
    """

    array: Array
    # By storage: a graph may have another at another size.
    _resources: dict[str, Resource] = field(default_factory=dict, init=False, repr=False)

    operands = ()
    copies = True

    @property
    def arity(self) -> int:
        """None goes in."""
        return 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of what lies on the device."""
        return sum(resource.size for resource in self._resources.values())

    def shape(self, *inputs: Shape) -> Shape:
        """Return the array's shape."""
        return tuple(self.array.shape)

    def resident(self, site: Site) -> Resource:
        """Return the resource that holds the array."""
        if site.storage not in self._resources:
            context, dtype = site.context, self.array.dtype
            shape = shape4(self.array.shape, "array")
            # Not of the pool of tensors' resources: those are freed by it alone.
            made: Resource
            if site.storage == "texture3d":
                made = Image(context, texture3d_extent(shape), VK_FORMATS[dtype])
            else:
                made = Buffer(context, buffer_bytes(shape, dtype.itemsize))
            transfer.upload(context, self.array.reshape(shape), made, dtype)
            self._resources[site.storage] = made
        return self._resources[site.storage]

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan nothing."""
        return []

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the array."""
        return reference.given(self.array)

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield nothing: there is no kernel."""
        return iter(())


def make_constant(array: Array, dtype: DType) -> Constant:
    """Return a constant of a user's array.

    Raises
    ------
    ValueError
        As :meth:`pwconv.Graph.constant`.
    """
    if array.ndim not in (3, 4) or not array.size:
        raise ValueError(
            f"array has shape {array.shape}; it must be [N, C, H, W] or [C, H, W], no axis of "
            "length 0: use reshape"
        )
    # The caller may change its array.
    return Constant(array=np.array(convert(array, dtype)))
