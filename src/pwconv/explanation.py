"""Explanation of a call: the variant that a layer runs at a shape, and the reason."""

from __future__ import annotations

from dataclasses import dataclass

from pwconv.vk.commands import Size3


@dataclass(frozen=True)
class Explanation:
    """Variant, workgroups and storage of a call, as ``layer.explain`` returns; ``str()`` to read.

    Attributes
    ----------
    x_shape, out_shape : tuple of int
    dtype : str
    storage : str
        Of the input and the output on the device.
    storage_reason : str
    variant : str
        The compiled shader's name.
    tile : str
        The variant's tile: the part of the output of one invocation, or of one workgroup.
    workgroup : tuple of int
        Invocations along each axis.
    workgroup_counts : tuple of (int, int, int)
        Workgroups along each axis, one a dispatch: more than one where the device's limits cut it.
    weight_storage : str
        "texture2d" or "buffer".
    reason : str
        The rule that picked the variant, or the measurement.
    """

    x_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    dtype: str
    storage: str
    storage_reason: str
    variant: str
    tile: str
    workgroup: Size3
    workgroup_counts: tuple[Size3, ...]
    weight_storage: str
    reason: str

    def __str__(self) -> str:
        lines = {
            "x": f"{self.x_shape} → {self.out_shape}, {self.dtype}",
            "storage": f"{self.storage}: {self.storage_reason}",
            "variant": self.variant,
            "tile": self.tile,
            "workgroup": _times(self.workgroup),
            "workgroups": " + ".join(map(_times, self.workgroup_counts)),
            "weight": self.weight_storage,
            "because": self.reason,
        }
        return "\n".join(f"{name:<10}  {text}" for name, text in lines.items())


def _times(size: Size3) -> str:
    return " × ".join(map(str, size))
