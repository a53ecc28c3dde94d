"""Which variant a problem gets: by shape, by device, and never at the cost of precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv import heuristics
from pwconv.ops import Site
from pwconv.ops.convolution import Problem, takes_scale
from pwconv.ops.matmul import candidates, choose
from pwconv.ops.window import Geometry
from support import inside
from support.cards import FIXED, FLEXIBLE, KHR, NV, card


def problem(
    k: int,
    n: int,
    size: int,
    dtype: str = "float32",
    storage: str = "buffer",
    accumulate: str = "float32",
    geometry: Geometry = Geometry(),  # noqa: B008  frozen
) -> Problem:
    x_shape = (1, k, size, size)
    types = np.dtype(dtype), np.dtype(accumulate)
    return Problem(storage, x_shape, geometry.output_shape(x_shape, n), *types, geometry)


def chosen(context: Any, wanted: Problem) -> str:
    return choose(context, wanted, "buffer").variant.name


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_small_outputs_get_small_tiles(storage):
    large = choose(card(), problem(96, 192, 256, storage=storage), "buffer").variant
    small = choose(card(), problem(96, 192, 8, storage=storage), "buffer").variant
    assert large.defines["TILE_M"] * large.defines["TILE_N4"] > (
        small.defines["TILE_M"] * small.defines["TILE_N4"]
    )


@pytest.mark.parametrize(("n", "divides"), [(48, 48), (96, 48), (32, 32), (64, 64), (256, 64)])
def test_tiles_waste_little(n, divides):
    variant = choose(card(), problem(96, n, 256), "buffer").variant
    assert variant.defines["BLOCK_N"] == divides


def test_a_tile_past_the_shared_memory_is_passed_over():
    wanted = problem(384, 192, 64)
    assert chosen(card(), wanted).endswith("64x96x32s4")
    assert not chosen(card(maxComputeSharedMemorySize=32 << 10), wanted).endswith("64x96x32s4")


def test_a_cpu_has_no_use_for_shared_memory_on_textures():
    wanted = problem(192, 384, 64, storage="texture3d")
    assert "conv2d_pw_tiled" in chosen(card("cpu"), wanted)
    assert "conv2d_pw_staged_texture3d" in chosen(card("discrete"), wanted)


def test_matrix_units_by_what_the_device_has():
    wanted = problem(96, 192, 128, "float16")
    assert "staged_buffer_fp16" in chosen(card(), wanted)
    assert "coopmat_fp16" in chosen(card(features=KHR, matrices=(FIXED,)), wanted)
    assert "coopmat2_fp16" in chosen(card(features=NV, matrices=(FIXED, *FLEXIBLE)), wanted)
    # The features alone do not say which matrices there are.
    assert "staged_buffer_fp16" in chosen(card(features=NV), wanted)
    assert "coopmat_fp16" in chosen(card(features=NV, matrices=(FIXED,)), wanted)


@pytest.mark.parametrize(
    "other",
    [
        {"storage": "texture3d"},
        {"accumulate": "float16"},
        {"geometry": Geometry((2, 2))},
        {"geometry": Geometry((1, 1), (1, 0))},
    ],
    ids=str,
)
def test_matrix_units_compute_rows_of_buffers_alone(other):
    context = card(features=NV, matrices=(FIXED, *FLEXIBLE))
    assert "coopmat" not in chosen(context, problem(96, 192, 128, "float16", **other))


def test_single_precision_is_never_lowered():
    context = card(features=NV, matrices=(FIXED, *FLEXIBLE))
    for storage in ("texture3d", "buffer"):
        wanted = problem(96, 192, 128, storage=storage)
        for variant in candidates(context, wanted, "buffer").values():
            assert variant.axes["dtype"] == "fp32"
            assert not variant.features


def test_where_a_scale_pays():
    """Not where matrices are loaded as they lie, and not by workgroups on a CPU."""

    def pays(context: Any, wanted: Problem) -> bool:
        variant = choose(context, wanted, "buffer").variant
        return takes_scale(variant) and heuristics.scale_pays(context.info, variant)

    halves = problem(96, 192, 128, "float16")
    assert pays(card(), halves)
    assert pays(card(features=KHR, matrices=(FIXED,)), halves)
    assert not pays(card(features=NV, matrices=FLEXIBLE), halves)
    assert not pays(card("cpu"), halves)
    for kind in ("discrete", "cpu"):
        assert pays(card(kind), problem(96, 192, 128, storage="texture3d"))


def test_half_sums_are_refused_where_there_is_no_half_arithmetic():
    wanted = problem(96, 192, 128, "float16", accumulate="float16")
    with pytest.raises(pwconv.UnsupportedError, match=r"needs shaderFloat16, which .* lacks; use"):
        candidates(card(), wanted, "buffer")


def test_half_sums_are_not_blamed_for_another_lack():
    wanted = problem(96, 192, 128)
    with pytest.raises(pwconv.UnsupportedError, match="maxComputeSharedMemorySize of at") as raised:
        candidates(card(maxComputeSharedMemorySize=1 << 10), wanted, "buffer")
    assert "use another storage" in str(raised.value)


@pytest.mark.parametrize("most", [4, 5])
def test_four_storage_buffers_are_enough(most):
    few = card(features=KHR, matrices=(FIXED,), maxPerStageDescriptorStorageBuffers=most)
    for dtype in ("float32", "float16"):
        assert "four_buffers" in chosen(few, problem(96, 192, 128, dtype))
        # A weight in a texture leaves a buffer to a residual.
        site = Site(few, "buffer", np.dtype(dtype))
        assert inside.convolution_weight_storage(site, 192, 96) == "auto"
        assert "four_buffers" not in chosen(card(), problem(96, 192, 128, dtype))
    assert "staged_texture3d" in chosen(few, problem(96, 192, 128, storage="texture3d"))


def test_matrices_are_not_for_weights_whose_rows_are_past_a_buffer():
    wanted = problem(1024, 1024, 64, "float16")
    small = {"maxStorageBufferRange": 2 << 20}
    assert "coopmat" in chosen(card(features=KHR, matrices=(FIXED,)), wanted)
    assert "coopmat" not in chosen(card(features=KHR, matrices=(FIXED,), **small), wanted)
