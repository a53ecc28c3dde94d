"""The arithmetic of layouts, by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pwconv import layout, shaders
from support import inside


@given(a=st.integers(0, 10**12), b=st.integers(1, 10**6))
def test_ceil_div(a, b):
    quotient = layout.ceil_div(a, b)
    assert (quotient - 1) * b < a <= quotient * b


@pytest.mark.parametrize(
    ("shape", "extent"),
    [
        ((1, 1, 1, 1), (1, 1, 1)),
        ((1, 4, 3, 5), (5, 3, 1)),
        ((1, 5, 3, 5), (5, 3, 2)),
        ((7, 13, 1, 2), (2, 1, 28)),
    ],
)
def test_texture3d_extent(shape, extent):
    assert layout.texture3d_extent(shape) == extent


@pytest.mark.parametrize(
    ("weight", "extent"), [((1, 1, 1), (4, 1)), ((1, 8, 9), (8, 3)), ((3, 9, 8), (12, 6))]
)
def test_packed_extent(weight, extent):
    assert layout.packed_extent(*weight) == extent


@given(size=st.integers(1, 60), stride=st.integers(1, 9), padding=st.integers(0, 9))
def test_conv_output_size_counts_the_positions(size, stride, padding):
    expected = len(range(0, size + 2 * padding, stride))
    assert layout.conv_output_size(size, stride, padding) == expected


@given(
    size=st.integers(1, 60),
    stride=st.integers(1, 9),
    padding=st.integers(0, 9),
    reach=st.integers(1, 30),
    ceil=st.booleans(),
)
def test_conv_output_size_counts_the_windows(size, stride, padding, reach, ceil):
    """With ceil also a window that is cut, after one that leaves some of the padded input over."""
    padding = min(padding, reach // 2)
    ends = [first + reach for first in range(-padding, size, stride)]
    most = size + padding
    expected = sum(end <= most or (ceil and end - stride < most) for end in ends)
    found = layout.conv_output_size(size, stride, padding, reach, ceil=ceil)
    assert max(found, 0) == expected


@given(elements=st.integers(1, 10**6), itemsize=st.sampled_from([2, 4]))
def test_row_pitch_is_the_least_whole_number_of_vectors(elements, itemsize):
    pitch = layout.row_pitch(elements, itemsize)
    assert pitch * itemsize % 16 == 0
    assert elements <= pitch < elements + 16 // itemsize


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 30), st.integers(1, 40), st.integers(1, 40))


@given(x=SHAPES, out=SHAPES, itemsize=st.sampled_from([2, 4]))
def test_sizes_are_those_of_the_resources(x, out, itemsize):
    image = layout.sizes(x, out, "texture3d", itemsize)
    assert (image["W_in"], image["H_in"]) == layout.texture3d_extent(x)[:2]
    assert (image["W_out"], image["H_out"], image["planes"]) == layout.texture3d_extent(out)
    rows = layout.sizes(x, out, "buffer", itemsize)
    assert (rows["planes"], rows["pitch_out"]) == layout.buffer_rows(out, itemsize)
    assert rows["pitch_in"] == layout.buffer_rows(x, itemsize)[1]
    assert image == {**rows, "planes": image["planes"]}


def test_sizes_by_name():
    assert layout.sizes((2, 5, 7, 11), (2, 9, 4, 6), "buffer", 2) == {
        "batches": 2,
        **{"C": 5, "C4": 2, "K": 5, "K4": 2, "N": 9, "N4": 3, "planes": 18},
        **{"W_in": 11, "H_in": 7, "M_in": 77, "W_out": 6, "H_out": 4, "M": 24},
        **{"pitch_in": 80, "pitch_out": 24},
    }


OVER_PLANES = (
    *("conv2d_dw", "conv2d_grouped", "elementwise", "global_avg_pool", "avg_pool", "max_pool"),
    *("rearrange", "subsample", "reduce", "resize", "softmax", "upsample"),
)


def test_kernels_over_planes_have_a_word_of_their_own_for_no_size():
    """What one of them takes besides the shared sizes is a parameter, not another size."""
    known = {*layout.sizes((1, 1, 1, 1), (1, 1, 1, 1), "buffer", 4)}
    known |= {"origin_x", "origin_y", "origin_z"}
    for family in OVER_PLANES:
        for variant in shaders.variants(family):
            own = {*inside.push_names(variant)} - known
            assert own <= {
                *("stride_w", "stride_h", "pad_w", "pad_h", "scale"),
                *("end_w", "end_h"),
                *("axes", "offset", "over", "fill"),
                *("axis", "steps"),
                *("kept_c", "kept_h", "kept_w", "count_c", "count_h", "count_w"),
                *("activation_a", "activation_b"),
            }


@given(n=st.integers(1, 2000), k=st.integers(1, 2000))
def test_weight_rows_are_whole_blocks_of_every_tile(n, k):
    rows, columns = layout.weight_rows_extent(n, k)
    assert n <= rows
    assert k <= columns
    for variant in shaders.variants("conv2d_pw_coopmat2"):
        tile_n, tile_k = variant.defines["BLOCK_N"], variant.defines["BLOCK_K"]
        assert layout.ceil_div(n, tile_n) * tile_n <= rows
        assert layout.ceil_div(k, tile_k) * tile_k <= columns


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 30), st.integers(1, 60)),
    itemsize=st.sampled_from([2, 4]),
    limit=st.integers(64, 4000),
)
def test_chunks_cover_the_array_once_and_fit(shape, itemsize, limit):
    seen = np.zeros(shape, int)
    for chunk in layout.staging_chunks(shape, itemsize, limit):
        seen[chunk.outer, chunk.middle, chunk.inner] += 1
        assert seen[chunk.outer, chunk.middle, chunk.inner].shape == chunk.shape
        assert np.prod(chunk.padded_shape) * itemsize <= limit
        assert chunk.padded_shape[2] * itemsize % 4 == 0
        # No vec4, along channels or along a weight's rows or columns, is cut in two.
        assert chunk.middle.start % 4 == 0
        assert chunk.inner.start % 4 == 0
        assert chunk.middle.stop % 4 == 0 or chunk.middle.stop == shape[1]
        assert chunk.inner.stop % 4 == 0 or chunk.inner.stop == shape[2]
    assert (seen == 1).all()


def test_chunks_are_as_few_as_the_limit_allows():
    assert len(list(layout.staging_chunks((8, 16, 100), 4, 8 * 16 * 400))) == 1
    assert len(list(layout.staging_chunks((8, 16, 100), 4, 16 * 400))) == 8
    assert len(list(layout.staging_chunks((8, 16, 100), 4, 8 * 400))) == 16
