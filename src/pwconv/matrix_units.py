"""Matrix units: the products that kernels can use, and their division among subgroups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pwconv import shaders
from pwconv.vk.commands import Size3
from pwconv.vk.cooperative_matrix import Matrix
from pwconv.vk.physical_device import DeviceInfo

# Halves to a vector: what conv2d_pw_coopmat.comp moves at a time.
_VECTOR = 8


class MatrixPlan(NamedTuple):
    """A product that the device lists, and the subgroups along N and M of a workgroup's block."""

    matrix: Matrix
    subgroups_n: int
    subgroups_m: int

    def constants(self, along_n: str) -> dict[str, int]:
        """Return the shader's specialization constants, that of ``subgroups_n`` by a name."""
        m, n, k = self.matrix.m, self.matrix.n, self.matrix.k
        return {
            "MATRIX_M": m,
            "MATRIX_N": n,
            "MATRIX_K": k,
            along_n: self.subgroups_n,
            "SUBGROUPS_M": self.subgroups_m,
        }


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
    block_m, block_n = variant.defines["BLOCK_M"], variant.defines["BLOCK_N"]
    fitting = [
        plan for plan in _shared(variant, info) if block_n % (plan.subgroups_n * plan.matrix.m) == 0
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
    block_n, block_h = variant.defines["BLOCK_N"], variant.defines["BLOCK_H"]
    fitting = [
        plan
        for plan in _shared(variant, info)
        if block_h % (plan.subgroups_n * plan.matrix.m) == 0
        and block_h % (plan.subgroups_n * plan.matrix.k) == 0
        and block_n % plan.matrix.m == 0
    ]
    return max(fitting, key=lambda p: (_terms(p.matrix), -p.subgroups_n), default=None)


def has_flexible_matrix(variant: shaders.Variant, info: DeviceInfo) -> bool:
    """Return whether the device multiplies a workgroup's blocks of float16 as one matrix each."""
    sizes = variant.defines["BLOCK_N"], variant.defines["BLOCK_M"], variant.defines["BLOCK_K"]
    return _flexible(variant, info, sizes) is not None


def flexible_pair_matrix(variant: shaders.Variant, info: DeviceInfo) -> Matrix | None:
    """Return the granularity of the sizes of a pair's matrices, or None where it does not fit.

    N and K are rounded up to it; the rest are the variant's. Positions lie along rows.
    """
    block_h = variant.defines["BLOCK_H"]
    return _flexible(variant, info, (variant.defines["BLOCK_M"], block_h, block_h))


def _flexible(variant: shaders.Variant, info: DeviceInfo, sizes: Size3) -> Matrix | None:
    """Return the first product of a whole workgroup whose granularity divides some M, N and K."""
    m, n, k = sizes
    for matrix in info.matrices:
        whole = matrix.flexible and matrix.scope == "workgroup" and _halves(matrix)
        divides = m % matrix.m == 0 and n % matrix.n == 0 and k % matrix.k == 0
        if whole and divides and matrix.invocations == variant.defines["THREADS"]:
            return matrix
    return None


def _shared(variant: shaders.Variant, info: DeviceInfo) -> Iterator[MatrixPlan]:
    """Yield the ways to share a block's M and K among subgroups with a product that is listed."""
    # A driver that does not tell has 0.
    size = info.limits["subgroupSize"]
    subgroups = variant.defines["THREADS"] // size if size else 0
    block_m, block_k = variant.defines["BLOCK_M"], variant.defines["BLOCK_K"]
    for matrix in info.matrices:
        own = matrix.scope == "subgroup" and not matrix.flexible and _halves(matrix)
        whole_vectors = matrix.n % _VECTOR == 0 and matrix.k % _VECTOR == 0
        if own and whole_vectors and block_k % matrix.k == 0:
            for along_n in range(1, subgroups + 1):
                along_m = subgroups // along_n
                if subgroups % along_n == 0 and block_m % (along_m * matrix.n) == 0:
                    yield MatrixPlan(matrix, along_n, along_m)


def _terms(matrix: Matrix) -> int:
    return matrix.m * matrix.n * matrix.k


def _halves(matrix: Matrix) -> bool:
    # Sums in float16 would lower precision.
    return (matrix.operand, matrix.accumulator) == ("float16", "float32")


_PLANS: dict[str, Callable[[shaders.Variant, DeviceInfo], object]] = {
    "conv2d_pw_coopmat": plan_matrices,
    "conv2d_pw_coopmat2": has_flexible_matrix,
    "conv2d_pw_pair_coopmat": plan_pair_matrices,
    "conv2d_pw_pair_coopmat2": flexible_pair_matrix,
}
