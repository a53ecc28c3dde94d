"""Limits: how large the cases of a variant may be on a device."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import FLOAT16, FLOAT32, DType
from pwconv.layout import weight_rows_extent
from pwconv.shaders import Variant
from pwconv.tensor import VK_FORMATS
from pwconv.vk.resources import image_limit

# Most bytes of a weight, whatever the device allows: its memory may be another's too.
_MOST_BYTES = 2**30
_DTYPES: dict[str, DType] = {"fp32": FLOAT32, "fp16": FLOAT16, "fp16acc16": FLOAT16}


@dataclass(frozen=True)
class Limits:
    """Sizes that a device allows the cases of a variant."""

    context: Context
    variant: Variant

    @property
    def storage(self) -> str:
        """Storage of the variant's output."""
        image = dict(self.variant.bindings)["t_out"] == "storage_image"
        return "texture3d" if image else "buffer"

    @property
    def dtype(self) -> DType:
        """Type of the variant's activations."""
        return _DTYPES[self.variant.axes["dtype"]]

    @property
    def accumulate(self) -> DType:
        """Type in which the variant sums products."""
        return FLOAT16 if self.variant.axes["dtype"] == "fp16acc16" else FLOAT32

    @property
    def is_smallest(self) -> bool:
        """True for the smallest tile of those that differ in the tile alone.

        Long cases whose outcome does not depend on the tile run on that one alone.
        """

        def key(v: Variant) -> dict[str, str]:
            return {**v.axes, "tile": ""}

        def products(v: Variant) -> int:
            blocks = [size for name, size in v.defines.items() if name.startswith("BLOCK_")]
            tiles = [size for name, size in v.defines.items() if name.startswith("TILE_")]
            return prod(blocks or tiles)

        looping = (v for v in shaders.variants(self.variant.family) if "UNROLL" not in v.defines)
        alike = (v for v in looping if key(v) == key(self.variant))
        able = [v for v in alike if not self.context.unmet(v)]
        return self.variant is min(able, key=products, default=None)

    @property
    def weight(self) -> int:
        """Nearly the largest N or K of the variant's weight, where the other is small."""
        if self.variant.axes.get("weight") == "texture2d":
            return self.extent(2)
        most_bytes: int = min(self.context.limits["maxStorageBufferRange"], _MOST_BYTES)
        if any(name.endswith("_rows") for name in self.variant.binding_names):
            rows, padding = weight_rows_extent(4, 0)
            return int(most_bytes // (2 * rows) - padding)
        return int(most_bytes // (4 * self.dtype.itemsize))

    def extent(self, dimensions: int = 3) -> int:
        """Return nearly the most texels that a texture may have along every axis.

        Buffers are tried with as many. It is no power of two, for which some drivers compile anew.
        """
        most: int = self.context.limits[f"maxImageDimension{dimensions}D"]
        found = image_limit(self.context, VK_FORMATS[self.dtype], dimensions)
        return (min(most, *found.extent[:dimensions]) if found else most) - 5
