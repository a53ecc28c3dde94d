"""Which variant a problem gets: by shape, by device, and never at the cost of precision."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv.dispatch import Dispatcher
from pwconv.kernels.conv2d_pw import Geometry, Problem
from pwconv.kernels.conv2d_pw_choice import candidates, choose, scale_pays
from pwconv.vk.cooperative_matrix import Matrix

LIMITS = {
    "maxPushConstantsSize": 128,
    "maxComputeSharedMemorySize": 48 << 10,
    "maxComputeWorkGroupInvocations": 1024,
    "subgroupSize": 32,
}
KHR = {"shaderFloat16", "vulkanMemoryModel", "cooperativeMatrix"}
NV = KHR | {
    "storageBuffer16BitAccess",
    "cooperativeMatrixWorkgroupScope",
    "cooperativeMatrixFlexibleDimensions",
    "cooperativeMatrixConversions",
    "cooperativeMatrixPerElementOperations",
    "cooperativeMatrixTensorAddressing",
}
FIXED = Matrix(16, 16, 16, "float16", "float32", "subgroup")
FLEXIBLE = tuple(
    Matrix(16, 16, 16, "float16", "float32", "workgroup", True, threads)
    for threads in (64, 128, 256)
)


def card(
    kind: str = "discrete",
    features: set[str] = frozenset(),
    matrices: tuple[Matrix, ...] = (),
    **limits: Any,
) -> Any:
    """Stand in for a dispatcher: what choosing asks of one."""
    info = pwconv.DeviceInfo(
        *(0, "Card", kind, "driver 1", "1.3.0", {**LIMITS, **limits}),
        *(frozenset(features), frozenset(), matrices, ""),
    )
    return Dispatcher(SimpleNamespace(info=info))


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


def chosen(dispatcher: Any, wanted: Problem) -> str:
    return choose(dispatcher, wanted, "buffer").variant.name


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
    dispatcher = card(features=NV, matrices=(FIXED, *FLEXIBLE))
    assert "coopmat" not in chosen(dispatcher, problem(96, 192, 128, "float16", **other))


def test_single_precision_is_never_lowered():
    dispatcher = card(features=NV, matrices=(FIXED, *FLEXIBLE))
    for storage in ("texture3d", "buffer"):
        wanted = problem(96, 192, 128, storage=storage)
        for variant in candidates(dispatcher, wanted, "buffer").values():
            assert variant.axes["dtype"] == "fp32"
            assert not variant.features


def test_where_a_scale_pays():
    """Not where matrices are loaded as they lie, and not by workgroups on a CPU."""

    def pays(dispatcher: Any, wanted: Problem) -> bool:
        return scale_pays(dispatcher, choose(dispatcher, wanted, "buffer").variant)

    halves = problem(96, 192, 128, "float16")
    assert pays(card(), halves)
    assert pays(card(features=KHR, matrices=(FIXED,)), halves)
    assert not pays(card(features=NV, matrices=FLEXIBLE), halves)
    assert not pays(card("cpu"), halves)
    for kind in ("discrete", "cpu"):
        assert pays(card(kind), problem(96, 192, 128, storage="texture3d"))


def test_half_sums_are_refused_where_there_is_no_half_arithmetic():
    wanted = problem(96, 192, 128, "float16", accumulate="float16")
    with pytest.raises(pwconv.UnsupportedError, match="shaderFloat16"):
        candidates(card(), wanted, "buffer")
