"""Images with something in them: of noise, trained networks make the same of every pixel."""

from __future__ import annotations

import numpy as np

# Letters of 7 rows and 5 columns: a row is 5 bits.
_LETTERS = {
    "P": (30, 17, 17, 30, 16, 16, 16),
    "W": (17, 17, 17, 21, 21, 21, 10),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "N": (17, 25, 21, 19, 17, 17, 17),
    "V": (17, 17, 17, 17, 17, 10, 4),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "E": (31, 16, 16, 30, 16, 16, 31),
    " ": (0,) * 7,
}


def draw(h: int, w: int, seed: int = 0) -> np.ndarray:
    """Return an image [H, W, 3] in [0, 1]: gradients, discs and rectangles, and lines of text."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w] / np.array([[[h]], [[w]]])
    phase = rng.uniform(0, 6, 3)
    image = 0.5 + 0.3 * np.sin(3 * x[..., None] + phase) * np.cos(2 * y[..., None] - phase)
    for _ in range(4):
        centre, radius = rng.uniform(0, 1, 2), rng.uniform(0.05, 0.25)
        image[np.hypot(x - centre[0], y - centre[1]) < radius] = rng.uniform(0, 1, 3)
    for _ in range(3):
        top, left, tall, wide = rng.uniform(0, 0.7, 4)
        inside = (top < y) & (y < top + tall / 2) & (left < x) & (x < left + wide / 2)
        image[inside] = 0.5 * image[inside] + 0.5 * rng.uniform(0, 1, 3)
    return image


def draw_text(h: int, w: int, text: str = "POW VECTOR CONVENT", scale: int = 3) -> np.ndarray:
    """Return an image [H, W, 3] in [0, 1]: dark letters in lines, over a light gradient."""
    known = "".join(c for c in text if c in _LETTERS)
    bits = np.array(
        [[[row >> (4 - j) & 1 for j in range(5)] for row in _LETTERS[c]] for c in known]
    )
    line = np.pad(bits, ((0, 0), (0, 0), (0, 1))).transpose(1, 0, 2).reshape(7, -1)
    line = np.kron(line, np.ones((scale, scale)))
    image = np.linspace(0.75, 0.95, h * w * 3).reshape(h, w, 3)
    margin = 4 * scale
    for top in range(margin, h - line.shape[0], 3 * line.shape[0]):
        part = line[:, : w - 2 * margin]
        at = image[top : top + part.shape[0], margin : margin + part.shape[1]]
        at[part > 0] = 0.1
    return image
