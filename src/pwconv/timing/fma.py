"""bench_fma.comp: fused multiply-adds in registers, as many as asked for."""

from __future__ import annotations

from pwconv import shaders
from pwconv.context import Context
from pwconv.vk.commands import Dispatch
from pwconv.vk.resources import DEVICE, Buffer


class FmaKernel:
    """A kernel of a given length, that needs no memory to speak of.

    Parameters
    ----------
    context : Context
    dtype : "fp32" or "fp16"
    invocations : int
        Fewer where a buffer cannot hold a vec4 of each.
    """

    def __init__(self, context: Context, dtype: str, invocations: int) -> None:
        self._context = context
        self._variant = shaders.variant("bench_fma", dtype=dtype)
        most: int = context.limits["maxStorageBufferRange"] // 16
        self._invocations = min(invocations, most)
        self._result = Buffer(context, 16 * self._invocations, DEVICE)

    def dispatch(self, iterations: int) -> Dispatch:
        """Return a dispatch of so many rounds of the shader's loop."""
        plan = self._context.plan(
            self._variant,
            (self._invocations, 1, 1),
            {
                "invocations": self._invocations,
                "iterations": iterations,
                # Towards 1, from anywhere: neither infinite nor denormal, in either type.
                "factor": 0.5,
                "addend": 0.5,
            },
            shape=(256, 1, 1),
        )
        return Dispatch(plan, {"result": self._result})

    def flop(self, iterations: int) -> int:
        """Return the multiplications and additions of :meth:`dispatch`."""
        defines = self._variant.defines
        multiply_adds = 4 * int(defines["CHAINS"]) * int(defines["STEPS"]) * iterations
        return 2 * multiply_adds * self._invocations
