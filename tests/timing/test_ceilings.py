"""The ceilings' kernels do the work whose rate is given."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from pwconv import shaders
from pwconv.staging import download_chunks, upload_buffer
from pwconv.timing.ceilings import measurable
from pwconv.timing.clocks import ArithmeticKernel
from pwconv.vk import api as vk
from pwconv.vk.commands import Dispatch, Recording
from pwconv.vk.resources import DEVICE, Buffer
from support import inside


def contents(device: pwconv.Device, buffer: Buffer) -> np.ndarray:
    array = np.empty((1, 1, buffer.size // 4), np.float32)
    queue = inside.context(device).queue

    def submit(_: object, to: Buffer) -> int:
        region = vk.VkBufferCopy(size=buffer.size)
        return queue.run_once(
            lambda cb: vk.vkCmdCopyBuffer(cb, buffer.handle, to.handle, 1, [region])
        )

    download_chunks(inside.context(device), array, submit)
    return array[0, 0]


def test_the_copy_copies(own_device, rng):
    context = inside.context(own_device)
    array = rng.standard_normal(4 * 4 * 1000, np.float32)
    source, target = (Buffer(context, array.nbytes, DEVICE) for _ in range(2))
    upload_buffer(context, array, source)
    variant = shaders.variant("bench_copy", vectors="x4")
    plan = inside.context(own_device).plan(variant, (1000, 1, 1), {"invocations": 1000})
    inside.context(own_device).submit(Dispatch(plan, {"source": source, "target": target}))
    np.testing.assert_array_equal(contents(own_device, target), array)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_multiply_adds_are_done(own_device, precision):
    if precision == "fp16" and "shaderFloat16" not in own_device.info.features:
        pytest.skip(f"{own_device.info.name} lacks the feature shaderFloat16")
    context = inside.context(own_device)
    variant = shaders.variant("bench_fma", dtype=precision)
    kernel = ArithmeticKernel(context, variant, 300)
    defines = variant.defines
    for iterations, expected in ((0, None), (3, defines["CHAINS"])):
        dispatch = kernel.dispatch(iterations)
        recording = Recording(context.queue, [[dispatch]])
        recording.submit()
        result = contents(own_device, dispatch.bound[0]).reshape(300, 4)
        if expected is None:  # the chains' beginnings, summed
            chains = (np.arange(300)[:, None] + np.arange(defines["CHAINS"])) & 63
            np.testing.assert_array_equal(result[:, 0], chains.sum(1) / 64)
        else:  # each tends to 1
            np.testing.assert_array_equal(result, expected)
    assert kernel.flop == 2 * 4 * defines["CHAINS"] * defines["STEPS"] * 300


def test_matrix_products_are_done(own_device):
    found = measurable(inside.context(own_device))
    if not found:
        pytest.skip(f"{own_device.info.name} lacks the feature cooperativeMatrix")
    context = inside.context(own_device)
    subgroup = own_device.info.limits["subgroupSize"]
    for matrix, variant in found:
        kernel = ArithmeticKernel(context, variant, 256, matrix)
        chains, steps = variant.defines["CHAINS"], variant.defines["STEPS"]
        dispatch = kernel.dispatch(2)
        recording = Recording(context.queue, [[dispatch]])
        recording.submit()
        totals = contents(own_device, dispatch.bound[0]).reshape(-1, subgroup).sum(1)
        # Ones times ones: K a product, on top of the chain's number.
        elements = matrix.m * matrix.n
        expected = elements * (chains * (chains - 1) // 2 + chains * steps * 2 * matrix.k)
        np.testing.assert_array_equal(totals, expected)
        assert kernel.flop == 2 * elements * matrix.k * chains * steps * len(totals)
