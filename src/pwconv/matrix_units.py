"""Matrix units: the products that kernels can use, and their division among subgroups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pwconv import shaders
from pwconv.vk.cooperative_matrix import Matrix
from pwconv.vk.physical_device import DeviceInfo

# Halves to a vector: what conv2d_pw_coopmat.comp moves at a time.
_VECTOR = 8


class MatrixPlan(NamedTuple):
    """A product that the device lists, and the subgroups along N and M of a workgroup's block."""

    matrix: Matrix
    subgroups_n: int
    subgroups_m: int


def unmet(variant: shaders.Variant, info: DeviceInfo) -> str | None:
    """Return what the device's matrix units lack to run a variant, or None."""
    plan = _PLANS.get(variant.family)
    if plan is None or plan(variant, info):
        return None
    return "a product of float16 matrices, summed in float32, that divides its blocks"


def plan_matrices(variant: shaders.Variant, info: DeviceInfo) -> MatrixPlan | None:
    """Return how a block of float16 products, summed in float32, is shared by subgroups.

    The product with the most terms goes first; None if no product of the device fits.
    """
    block_m, block_n, block_k = (
        variant.defines[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K")
    )
    fitting = [
        plan
        for plan in _shared(variant, info)
        if block_n % (plan.subgroups_n * plan.matrix.m) == 0
        and block_m % (plan.subgroups_m * plan.matrix.n) == 0
        and block_k % plan.matrix.k == 0
    ]

    def rank(plan: MatrixPlan) -> tuple[int, int]:
        # The nearer a subgroup's part of the block is to a square, the less it reads.
        part = block_n // plan.subgroups_n, block_m // plan.subgroups_m
        return _terms(plan.matrix), -abs(part[0] - part[1])

    return max(fitting, key=rank, default=None)


def plan_pair_matrices(variant: shaders.Variant, info: DeviceInfo) -> MatrixPlan | None:
    """Return the same for a pair, whose subgroups share a step's hidden channels as N.

    Each subgroup has sums of its own over all outputs: the fewer, the better.
    """
    block_m, block_n, block_k, block_h = (
        variant.defines[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "BLOCK_H")
    )
    fitting = [
        plan
        for plan in _shared(variant, info)
        if block_h % (plan.subgroups_n * plan.matrix.m) == 0
        and block_h % (plan.subgroups_n * plan.matrix.k) == 0
        and block_m % (plan.subgroups_m * plan.matrix.n) == 0
        and block_n % plan.matrix.m == 0
        and block_k % plan.matrix.k == 0
    ]
    return max(fitting, key=lambda p: (_terms(p.matrix), -p.subgroups_n), default=None)


def has_flexible_matrix(variant: shaders.Variant, info: DeviceInfo) -> bool:
    """Return whether the device multiplies a workgroup's blocks of float16 as one matrix each."""
    return any(
        matrix.flexible
        and matrix.scope == "workgroup"
        and matrix.invocations == variant.defines["THREADS"]
        and _halves(matrix)
        and variant.defines["BLOCK_N"] % matrix.m == 0
        and variant.defines["BLOCK_M"] % matrix.n == 0
        and variant.defines["BLOCK_K"] % matrix.k == 0
        for matrix in info.matrices
    )


def flexible_pair_matrix(variant: shaders.Variant, info: DeviceInfo) -> Matrix | None:
    """Return the granularity of the sizes of a pair's matrices, or None where it does not fit.

    N and K are rounded up to it; the rest are the variant's. Positions lie along rows.
    """
    block_m, block_h = variant.defines["BLOCK_M"], variant.defines["BLOCK_H"]
    fitting = (
        matrix
        for matrix in info.matrices
        if matrix.flexible
        and matrix.scope == "workgroup"
        and matrix.invocations == variant.defines["THREADS"]
        and _halves(matrix)
        and block_m % matrix.m == 0
        and block_h % matrix.n == 0
        and block_h % matrix.k == 0
    )
    return next(fitting, None)


def _shared(variant: shaders.Variant, info: DeviceInfo) -> Iterator[MatrixPlan]:
    """Yield every way to share a block among subgroups with a product that the device lists."""
    # A driver that does not tell has 0.
    size = info.limits["subgroupSize"]
    subgroups = variant.defines["THREADS"] // size if size else 0
    for matrix in info.matrices:
        whole_vectors = matrix.n % _VECTOR == 0 and matrix.k % _VECTOR == 0
        if matrix.scope == "subgroup" and not matrix.flexible and _halves(matrix) and whole_vectors:
            for rows in _divisors(subgroups):
                yield MatrixPlan(matrix, rows, subgroups // rows)


def _terms(matrix: Matrix) -> int:
    return matrix.m * matrix.n * matrix.k


def _halves(matrix: Matrix) -> bool:
    # Sums in float16 would lower precision.
    return (matrix.operand, matrix.accumulator) == ("float16", "float32")


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


_PLANS: dict[str, Callable[[shaders.Variant, DeviceInfo], object]] = {
    "conv2d_pw_coopmat": plan_matrices,
    "conv2d_pw_coopmat2": has_flexible_matrix,
    "conv2d_pw_pair_coopmat": plan_pair_matrices,
    "conv2d_pw_pair_coopmat2": flexible_pair_matrix,
}
