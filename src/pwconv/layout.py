"""The arithmetic of layouts: shapes, extents, and how an array is cut to pass through staging.

Nothing here touches Vulkan. The layouts are those of the shaders: a tensor [N, C, H, W] is a 3D
image of extent (W, H, N·C4) with C4 = ceil(C/4), whose texel (x, y, n·C4 + c4) holds channels
4·c4 … 4·c4 + 3, or a buffer of N·C rows of H·W elements; a packed weight is B·K4 rows of 4·N4
vec4s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

Shape4 = tuple[int, int, int, int]


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def texture3d_extent(shape: Shape4) -> tuple[int, int, int]:
    """Return width, height and depth in texels of the image of an [N, C, H, W] tensor."""
    n, c, h, w = shape
    return w, h, n * ceil_div(c, 4)


def packed_extent(batches: int, n: int, k: int) -> tuple[int, int]:
    """Return vec4s a row, and rows, of the packed form of a weight [B, N, K]."""
    return 4 * ceil_div(n, 4), batches * ceil_div(k, 4)


# Output and input channels of the largest tile that reads without looking at the edge.
_LARGEST_TILE = (160, 128)


def weight_rows_extent(n: int, k: int) -> tuple[int, int]:
    """Return rows and columns of a weight [N, K] padded by the largest tile."""
    return n + _LARGEST_TILE[0], row_pitch(k + _LARGEST_TILE[1], 2)


def weight_rows_bytes(n: int, k: int) -> int:
    """Return the bytes of the same in float16."""
    rows, pitch = weight_rows_extent(n, k)
    return rows * pitch * 2


def bias_length(n: int) -> int:
    """Return the elements of bias, scale and shift [N], each to a vec4, and of the largest tile."""
    return 3 * 4 * ceil_div(n, 4) + _LARGEST_TILE[0]


def conv_output_size(
    size: int,
    stride: int,
    padding: int,
    reach: int = 1,
    *,
    ceil: bool = False,
    end: int | None = None,
) -> int:
    """Return the outputs of a window along one axis; below 1 there are none.

    ``reach`` counts the positions from a window's first to its last. With ``ceil`` the last window
    may pass the padded end, where it begins in the input or in the padding before it. ``end`` is
    the padding after the input, ``padding`` by default.
    """
    steps = size + padding + (padding if end is None else end) - reach
    if not ceil:
        return steps // stride + 1
    count = ceil_div(steps, stride) + 1
    return count - ((count - 1) * stride >= size + padding)


def row_pitch(elements: int, itemsize: int) -> int:
    """Return the length in elements of a row in a buffer: a whole number of 16-byte vectors."""
    per_vector = 16 // itemsize
    return ceil_div(elements, per_vector) * per_vector


def buffer_rows(shape: Shape4, itemsize: int) -> tuple[int, int]:
    """Return the rows, and the elements from one to the next, of a tensor stored as a buffer.

    A row is a channel of a sample, its H·W positions in order: the array itself, rows padded.
    """
    n, c, h, w = shape
    return n * c, row_pitch(h * w, itemsize)


def buffer_bytes(shape: Shape4, itemsize: int) -> int:
    """Return the bytes of a tensor stored as a buffer.

    A tile may read past the end of a row; past the last there is room for the widest.
    """
    rows, pitch = buffer_rows(shape, itemsize)
    return rows * pitch * itemsize + 1024


def sizes(x: Shape4, out: Shape4, storage: str, itemsize: int) -> dict[str, int]:
    """Return every size that shaders share, by the name that all of them give it.

    =================  ===========================================================================
    batches            samples of the output, each with an input of its own
    C, C4              channels of x, and texels of them: ceil(C/4)
    K, K4              the same, as what a product of one tap sums over
    N, N4              channels of the output, and texels of them
    planes             of the output: slices of a texture, N4 a sample; rows of a buffer, N a sample
    W_in, H_in, M_in   width, height and positions of x: M_in = H_in·W_in
    W_out, H_out, M    the same of the output
    pitch_in           elements of a buffer from one row of x to the next
    pitch_out          the same of the output
    =================  ===========================================================================

    Parameters
    ----------
    x, out : tuple of int
        Shapes [N, C, H, W] of the first input and of the output.
    storage : str
        Of the output: ``"texture3d"`` or ``"buffer"``.
    itemsize : int
        Bytes of an element: 2 or 4.
    """
    _, c, h_in, w_in = x
    batches, n, h_out, w_out = out
    c4, n4 = -(-c // 4), -(-n // 4)
    m_in, m = h_in * w_in, h_out * w_out
    return {
        "batches": batches,
        "C": c,
        "C4": c4,
        "K": c,
        "K4": c4,
        "N": n,
        "N4": n4,
        "planes": batches * (n if storage == "buffer" else n4),
        "W_in": w_in,
        "H_in": h_in,
        "M_in": m_in,
        "W_out": w_out,
        "H_out": h_out,
        "M": m,
        "pitch_in": row_pitch(m_in, itemsize),
        "pitch_out": row_pitch(m, itemsize),
    }


class Chunk(NamedTuple):
    """A box of an array [outer, middle, inner] that passes through staging at once."""

    outer: slice
    middle: slice
    inner: slice
    pitch: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Elements along each axis, rows unpadded."""
        return (
            self.outer.stop - self.outer.start,
            self.middle.stop - self.middle.start,
            self.inner.stop - self.inner.start,
        )

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        """The same with rows as long as they are in staging."""
        outer, middle, _ = self.shape
        return outer, middle, self.pitch


def staging_chunks(shape: tuple[int, int, int], itemsize: int, limit: int) -> Iterator[Chunk]:
    """Cut an array [outer, middle, inner] into boxes of at most ``limit`` bytes.

    Whole outer items go together where one fits; else rows, in multiples of four; else pieces of
    four rows, in multiples of a vector. So no box splits a vec4 of either layout.

    Parameters
    ----------
    shape : tuple of int
        At least one element.
    itemsize : int
        2 or 4 bytes.
    limit : int
        At least 64 bytes.
    """
    outer, middle, inner = shape
    row = row_pitch(inner, itemsize) * itemsize
    if middle * row <= limit:
        step = (limit // (middle * row), middle, inner)
    elif 4 * row <= limit:
        step = (1, limit // row // 4 * 4, inner)
    else:
        per_vector = 16 // itemsize
        step = (1, 4, limit // (4 * itemsize) // per_vector * per_vector)
    for o in range(0, outer, step[0]):
        for m in range(0, middle, step[1]):
            for i in range(0, inner, step[2]):
                columns = slice(i, min(i + step[2], inner))
                yield Chunk(
                    slice(o, min(o + step[0], outer)),
                    slice(m, min(m + step[1], middle)),
                    columns,
                    row_pitch(columns.stop - columns.start, itemsize),
                )
