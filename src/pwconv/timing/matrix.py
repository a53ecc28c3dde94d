"""bench_matrix.comp: products of matrices in registers, as many as asked for."""

from __future__ import annotations

from pwconv import shaders
from pwconv.context import Context
from pwconv.vk.commands import Dispatch
from pwconv.vk.cooperative_matrix import Matrix
from pwconv.vk.resources import DEVICE, Buffer


def measurable(context: Context) -> list[tuple[Matrix, shaders.Variant]]:
    """Return the products that the device lists and the shader is built for.

    A device whose subgroup size is not known has none: its rate could not be told.
    """
    info = context.info
    return [
        (matrix, variant)
        for matrix in info.matrices
        if matrix.scope == "subgroup" and not matrix.flexible
        for variant in shaders.variants(
            "bench_matrix", product=f"{matrix.operand}_{matrix.accumulator}"
        )
        if not context.unmet(variant) and info.limits["subgroupSize"]
    ]


class MatrixKernel:
    """A kernel of a given length, that needs no memory to speak of.

    Parameters
    ----------
    context : Context
    matrix : Matrix
    variant : Variant
        As :func:`measurable` pairs them.
    invocations : int
        A multiple of the workgroup's; fewer where a buffer cannot hold a number of each.
    """

    def __init__(
        self, context: Context, matrix: Matrix, variant: shaders.Variant, invocations: int
    ) -> None:
        self._context = context
        self._matrix = matrix
        self._variant = variant
        assert variant.workgroup is not None
        width = variant.workgroup[0]
        most: int = context.limits["maxStorageBufferRange"] // 4 // width * width
        self._invocations = min(invocations, most)
        self._result = Buffer(context, 4 * self._invocations, DEVICE)

    def dispatch(self, iterations: int) -> Dispatch:
        """Return a dispatch of so many rounds of the shader's loop."""
        plan = self._context.plan(
            self._variant,
            (self._invocations, 1, 1),
            {"iterations": iterations, "factor": 1.0},
            {
                "MATRIX_M": self._matrix.m,
                "MATRIX_N": self._matrix.n,
                "MATRIX_K": self._matrix.k,
            },
        )
        return Dispatch(plan, {"result": self._result})

    def flop(self, iterations: int) -> int:
        """Return the multiplications and additions of :meth:`dispatch`."""
        defines, matrix = self._variant.defines, self._matrix
        subgroups = self._invocations // int(self._context.limits["subgroupSize"])
        products = int(defines["CHAINS"]) * int(defines["STEPS"]) * iterations * subgroups
        return 2 * matrix.m * matrix.n * matrix.k * products
