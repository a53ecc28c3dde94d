"""Which of the products that a device lists is used, and how subgroups share a block of it."""

from __future__ import annotations

import pytest

import pwconv
from pwconv import shaders
from pwconv.matrix_units import (
    flexible_pair_matrix,
    has_flexible_matrix,
    plan_matrices,
    plan_pair_matrices,
)
from pwconv.vk.cooperative_matrix import Matrix

TILES = shaders.variants("conv2d_pw_coopmat")
FLEXIBLE_TILES = shaders.variants("conv2d_pw_coopmat2")
PAIR_TILES = shaders.variants("conv2d_pw_pair_coopmat")
FLEXIBLE_PAIR_TILES = shaders.variants("conv2d_pw_pair_coopmat2")


def card(subgroup: int, *matrices: Matrix) -> pwconv.DeviceInfo:
    limits = {"subgroupSize": subgroup}
    return pwconv.DeviceInfo(
        0, "Card", "discrete", "driver 1", "1.3.0", limits, frozenset(), frozenset(), matrices, ""
    )


def halves(m: int, n: int, k: int, accumulator: str = "float32") -> Matrix:
    return Matrix(m, n, k, "float16", accumulator, "subgroup")


@pytest.mark.parametrize("subgroup", [0, 512], ids=["unknown", "past-the-workgroup"])
def test_subgroups_that_divide_no_workgroup_share_nothing(subgroup):
    device = card(subgroup, halves(16, 16, 16))
    assert not any(plan_matrices(variant, device) for variant in TILES)
    assert not any(plan_pair_matrices(variant, device) for variant in PAIR_TILES)


@pytest.mark.parametrize("variant", TILES, ids=lambda v: v.axes["tile"])
@pytest.mark.parametrize(
    ("subgroup", "shape"),
    [(32, (16, 16, 16)), (8, (8, 8, 8)), (64, (16, 16, 16)), (32, (16, 8, 16)), (16, (8, 16, 16))],
)
def test_the_subgroups_cover_the_block(variant, subgroup, shape):
    plan = plan_matrices(variant, card(subgroup, halves(*shape)))
    assert (plan.matrix.m, plan.matrix.n, plan.matrix.k) == shape
    assert plan.subgroups_n * plan.subgroups_m * subgroup == variant.defines["THREADS"]
    assert variant.defines["BLOCK_N"] % (plan.subgroups_n * plan.matrix.m) == 0
    assert variant.defines["BLOCK_M"] % (plan.subgroups_m * plan.matrix.n) == 0
    assert variant.defines["BLOCK_K"] % plan.matrix.k == 0


@pytest.mark.parametrize("variant", PAIR_TILES, ids=lambda v: v.axes["tile"])
@pytest.mark.parametrize(("subgroup", "edge"), [(32, 16), (8, 8), (64, 16)])
def test_the_subgroups_cover_a_pairs_step(variant, subgroup, edge):
    plan = plan_pair_matrices(variant, card(subgroup, halves(edge, edge, edge)))
    assert plan.subgroups_n * plan.subgroups_m * subgroup == variant.defines["THREADS"]
    assert variant.defines["BLOCK_H"] % (plan.subgroups_n * edge) == 0
    assert variant.defines["BLOCK_M"] % (plan.subgroups_m * edge) == 0
    # No other way to share has fewer sums.
    fewer = range(1, plan.subgroups_n)
    subgroups = variant.defines["THREADS"] // subgroup
    assert not any(
        subgroups % n == 0 and variant.defines["BLOCK_M"] % (subgroups // n * edge) == 0
        for n in fewer
    )


@pytest.mark.parametrize("matrix", [halves(12, 12, 12), halves(32, 16, 32, "float16")], ids=str)
def test_what_does_not_fit_a_pair_is_not_used(matrix):
    assert all(plan_pair_matrices(variant, card(32, matrix)) is None for variant in PAIR_TILES)


def test_a_pairs_flexible_matrix_divides_its_positions_and_its_step():
    for variant in FLEXIBLE_PAIR_TILES:
        threads = variant.defines["THREADS"]

        def flexible(m: int, n: int, k: int, invocations: int) -> Matrix:
            return Matrix(m, n, k, "float16", "float32", "workgroup", True, invocations)

        fitting = flexible(32, 16, 16, threads)
        assert flexible_pair_matrix(variant, card(32, fitting)) == fitting
        for other in (
            flexible(32, 16, 16, 2 * threads),
            flexible(48, 16, 16, threads),
            flexible(32, 128, 16, threads),
            flexible(32, 16, 128, threads),
            halves(16, 16, 16),
        ):
            assert flexible_pair_matrix(variant, card(32, other)) is None


def test_the_largest_product_goes_first():
    listed = halves(16, 8, 8), halves(16, 16, 16), halves(16, 8, 16)
    assert plan_matrices(TILES[0], card(32, *listed)).matrix == halves(16, 16, 16)


@pytest.mark.parametrize(
    "matrix",
    [
        halves(16, 16, 16, "float16"),
        Matrix(16, 16, 32, "int8", "int32", "subgroup"),
        Matrix(16, 16, 16, "bfloat16", "float32", "subgroup"),
        halves(12, 12, 12),
        halves(16, 4, 16),
        Matrix(16, 16, 16, "float16", "float32", "workgroup", True, 128),
    ],
    ids=str,
)
def test_products_that_are_less_precise_or_do_not_fit_are_not_used(matrix):
    assert all(plan_matrices(variant, card(32, matrix)) is None for variant in TILES)


def test_a_flexible_matrix_is_one_of_the_workgroup_that_divides_the_block():
    def flexible(m: int, n: int, k: int, invocations: int, accumulator: str = "float32") -> Matrix:
        return Matrix(m, n, k, "float16", accumulator, "workgroup", True, invocations)

    for variant in FLEXIBLE_TILES:
        threads = variant.defines["THREADS"]
        assert has_flexible_matrix(variant, card(32, flexible(16, 16, 16, threads)))
        assert not has_flexible_matrix(variant, card(32, flexible(16, 16, 16, threads // 2)))
        assert not has_flexible_matrix(variant, card(32, flexible(7, 16, 16, threads)))
        assert not has_flexible_matrix(variant, card(32, flexible(16, 16, 16, threads, "float16")))
        assert not has_flexible_matrix(variant, card(32, halves(16, 16, 16)))
