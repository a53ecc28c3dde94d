"""bench_fma.comp: fused multiply-adds in registers, as many as asked for."""

from __future__ import annotations

from pwconv import shaders
from pwconv.dispatch import Dispatch, Dispatcher
from pwconv.vk.commands import Step
from pwconv.vk.resources import DEVICE, Buffer


class FmaKernel:
    """A kernel of a given length, that needs no memory to speak of.

    Parameters
    ----------
    dispatcher : Dispatcher
    dtype : "fp32" or "fp16"
    invocations : int
        Fewer where a buffer cannot hold a vec4 of each.
    """

    def __init__(self, dispatcher: Dispatcher, dtype: str, invocations: int) -> None:
        self._dispatcher = dispatcher
        self._variant = shaders.variant("bench_fma", dtype=dtype)
        most: int = dispatcher.limits["maxStorageBufferRange"] // 16
        self._invocations = min(invocations, most)
        self._result = Buffer(dispatcher.device, 16 * self._invocations, DEVICE)

    def step(self, iterations: int) -> Step:
        """Return a dispatch of so many rounds of the shader's loop."""
        plan = self._dispatcher.plan(
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
        return Dispatch(plan, {"result": self._result}).step

    def flop(self, iterations: int) -> int:
        """Return the multiplications and additions of :meth:`step`."""
        defines = self._variant.defines
        multiply_adds = 4 * int(defines["CHAINS"]) * int(defines["STEPS"]) * iterations
        return 2 * multiply_adds * self._invocations
