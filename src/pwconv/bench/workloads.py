"""Workloads by name: the pointwise layers of networks, and what each must compute and move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

_MOST = 2**20


@dataclass(frozen=True)
class Layer:
    """A pointwise convolution's shape.

    Attributes
    ----------
    k, n : int
        Input and output channels.
    h, w : int
    batch : int
    count : int
        How often the network has it; 0 for a yardstick that it does not have.
    """

    k: int
    n: int
    h: int
    w: int
    batch: int = 1
    count: int = 1
    kind: ClassVar[str] = "shapes"  # what is summed up together

    def __str__(self) -> str:
        size = f"{self.h}" if self.h == self.w else f"{self.h}×{self.w}"
        return f"{self.k}→{self.n}@{size}" + (f" ×{self.batch}" if self.batch > 1 else "")

    @property
    def positions(self) -> int:
        """Outputs a channel, over the batch."""
        return self.batch * self.h * self.w

    @property
    def flop(self) -> int:
        """Multiplications and additions."""
        return 2 * self.k * self.n * self.positions

    def activation_bytes(self, itemsize: int) -> int:
        """Bytes of the input and the output."""
        return (self.k + self.n) * self.positions * itemsize

    def least_bytes(self, itemsize: int) -> int:
        """Bytes that must cross memory: input, weight and bias read once, output written once."""
        return self.activation_bytes(itemsize) + self.k * self.n * itemsize + 4 * self.n


def parse_shape(text: str) -> Layer:
    """Return the layer that ``K,N,H,W[,batch]`` stands for.

    Raises
    ------
    ValueError
        What is wrong with it.
    """
    parts = text.split(",")
    if len(parts) not in (4, 5):
        raise ValueError(f"{text!r} has {len(parts)} numbers; a shape is K,N,H,W or K,N,H,W,batch")
    for name, part in zip(("K", "N", "H", "W", "batch"), parts, strict=False):
        if not part.strip().isdecimal() or not 1 <= int(part) <= _MOST:
            raise ValueError(f"{text!r}: {name} is {part!r}; it must be a number from 1 to {_MOST}")
    return Layer(*map(int, parts))


def workload(name: str) -> list[Layer]:
    """Return the layers of a workload, each shape once.

    Raises
    ------
    KeyError
        There is no such workload; :data:`WORKLOADS` has the names.
    """
    layers = WORKLOADS[name]
    counts: dict[tuple[int, int, int, int, int], int] = {}
    for x in layers:
        key = (x.k, x.n, x.h, x.w, x.batch)
        counts[key] = counts.get(key, 0) + x.count
    return [Layer(*key, count=count) for key, count in counts.items()]


def _square(k: int, n: int, size: int, count: int = 1) -> Layer:
    return Layer(k, n, size, size, count=count)


def _edgetam() -> list[Layer]:
    """RepViT-M1's channel mixers at 1024×1024, and the largest convolutions of the neck."""
    return [
        _square(48, 96, 256, 2),
        _square(96, 48, 256, 2),
        _square(96, 192, 128, 3),
        _square(192, 96, 128, 3),
        _square(192, 384, 64, 15),
        _square(384, 192, 64, 15),
        _square(384, 768, 32, 3),
        _square(768, 384, 32, 3),
        _square(48, 256, 256),
        _square(256, 32, 256),
        _square(96, 256, 128),
        _square(256, 64, 128),
    ]


# Inverted residuals, as the papers' tables: expansion, channels, blocks, stride of the first.
_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_EFFICIENTNET_B0 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 40, 2, 2),
    (6, 80, 3, 2),
    (6, 112, 3, 1),
    (6, 192, 4, 2),
    (6, 320, 1, 1),
)


def _inverted_residuals(
    stages: tuple[tuple[int, int, int, int], ...], *, squeeze: bool
) -> list[Layer]:
    """Expansions, projections, and squeeze-and-excitation's pair, at 224×224, with the head."""
    layers = []
    channels, size = 32, 112
    for expansion, out, blocks, first_stride in stages:
        for block in range(blocks):
            hidden = channels * expansion
            if expansion > 1:
                layers.append(_square(channels, hidden, size))
            size //= first_stride if block == 0 else 1
            if squeeze:
                layers += [_square(hidden, channels // 4, 1), _square(channels // 4, hidden, 1)]
            layers.append(_square(hidden, out, size))
            channels = out
    return [*layers, _square(channels, 1280, size)]


def _sd_unet() -> list[Layer]:
    """Stable Diffusion 1.x at 64×64 latents, one image, 77 text tokens.

    Transformers (projections in and out, attention, GEGLU) and the residual blocks' shortcuts; the
    projections of the time embedding, which are of one position, are left out.
    """
    layers = []
    for channels, size, transformers in ((320, 64, 5), (640, 32, 5), (1280, 16, 5), (1280, 8, 1)):
        layers += [
            # In, out, and of self-attention q, k, v, out, of cross-attention q and out.
            _square(channels, channels, size, 8 * transformers),
            Layer(768, channels, 1, 77, count=2 * transformers),
            _square(channels, 8 * channels, size, transformers),
            _square(4 * channels, channels, size, transformers),
        ]
    shortcuts = {
        64: ((960, 320, 1), (640, 320, 2)),
        32: ((320, 640, 1), (1920, 640, 1), (1280, 640, 1), (960, 640, 1)),
        16: ((640, 1280, 1), (2560, 1280, 2), (1920, 1280, 1)),
        8: ((2560, 1280, 3),),
    }
    for size, convolutions in shortcuts.items():
        layers += [_square(k, n, size, count) for k, n, count in convolutions]
    # A yardstick: the UNet has 1280 channels at 16×16 and below.
    return [*layers, _square(1280, 1280, 64, 0)]


WORKLOADS = {
    "edgetam": _edgetam(),
    "mobilenetv2": _inverted_residuals(_MOBILENET_V2, squeeze=False),
    "efficientnet-b0": _inverted_residuals(_EFFICIENTNET_B0, squeeze=True),
    "sd-unet": _sd_unet(),
}
