"""Nearest upsampling by a whole number, and every stride-th position: upsample, subsample.comp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pwconv.errors import UnsupportedError
from pwconv.heuristics import Choice
from pwconv.layout import ceil_div, sizes
from pwconv.ops.base import Case, Operator, Site, operator
from pwconv.ops.cases import at_sizes, of_integers, plane_sizes
from pwconv.ops.limits import Limits
from pwconv.reference import Approximation
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import OUT, Dispatch

_MOST_SCALE = 1024


@operator("upsample")
@dataclass(frozen=True, eq=False, kw_only=True)
class Upsample(Operator):
    """Each element repeated ``scale`` times along H and along W."""

    scale: int

    families = ("upsample",)
    copies = True

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= _MOST_SCALE:
            raise ValueError(f"scale is {self.scale}; it must be 1 to {_MOST_SCALE}")

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C, scale·H, scale·W], or without N."""
        h, w = inputs[0][-2:]
        return (*inputs[0][:-2], self.scale * h, self.scale * w)

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        variant = choice.variant if choice else site.variant("upsample")
        return [site.dispatch(variant, inputs[0], out, scale=self.scale)]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the elements, repeated."""
        return inputs[0].moved(lambda x: x.repeat(self.scale, -2).repeat(self.scale, -1))

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield several sizes, of which a part is enlarged, so that the output fits."""
        for name, (n, c, h, w) in plane_sizes(limits.extent()).items():
            small = (n, c, max(h // 3, 1), max(w // 3, 1))
            yield of_integers(name, cls(scale=3), (small,), limits.dtype)


@operator("subsample")
@dataclass(frozen=True, eq=False, kw_only=True)
class Subsample(Operator):
    """Every ``stride``-th position along H and along W, of activations stored as buffers."""

    stride: tuple[int, int]

    families = ("subsample",)
    copies = True

    def __post_init__(self) -> None:
        if min(self.stride) < 1:
            raise ValueError(f"stride is {self.stride}; it must be 1 or more along either axis")

    def storages(self, inputs: Sequence[Shape], storages: tuple[str, ...]) -> tuple[str, ...]:
        """Return "buffer": a convolution reads textures at any stride by itself."""
        if "buffer" not in storages:
            raise UnsupportedError("positions of textures are not copied; use storage='buffer'")
        return ("buffer",)

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C, ceil(H / stride), ceil(W / stride)], or without N."""
        *leading, h, w = inputs[0]
        return (*leading, ceil_div(h, self.stride[0]), ceil_div(w, self.stride[1]))

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch: an invocation a vector of 16 bytes of the output."""
        x, y = shape4(inputs[0], "x"), shape4(out, "output")
        known = sizes(x, y, site.storage, site.dtype.itemsize)
        plan = site.context.plan(
            choice.variant if choice else site.variant("subsample"),
            (ceil_div(known["pitch_out"] * site.dtype.itemsize, 16), known["planes"], 1),
            {**known, "stride_h": self.stride[0], "stride_w": self.stride[1]},
            shape=(64, 1, 1),
        )
        return [Dispatch(plan, {"t_in": 0, "t_out": OUT})]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the positions that are kept."""
        stride_h, stride_w = self.stride
        return inputs[0].moved(lambda x: x[..., ::stride_h, ::stride_w])

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield several sizes."""
        yield from at_sizes(limits, cls(stride=(2, 3)))
