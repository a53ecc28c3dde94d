"""Shapes whose indices could pass 32 bits: refused before anything is allocated, by a limit's name.

Nothing here is computed: devices with the largest limits that Vulkan can express, or the smallest
that matter, plan over shapes that would take gigabytes.
"""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import pwconv
from pwconv import ops, shaders, transfer
from pwconv.context import Context
from pwconv.dtypes import FLOAT16, FLOAT32
from pwconv.layout import Shape4, weight_rows_bytes
from pwconv.ops import Choice, Epilogue, Site, linear, matmul, pair
from pwconv.ops.cases import no_numbers
from pwconv.ops.convolution import Problem, plan_convolution
from pwconv.ops.depthwise import Kernels
from pwconv.ops.pair import PairProblem
from pwconv.ops.window import Geometry
from pwconv.tensor import choose_storage
from pwconv.vk.commands import Plan
from pwconv.vk.physical_device import ImageLimit
from pwconv.weights import packed_storage
from support import inside
from support.cards import FIXED, FLEXIBLE, KHR, NV, card

HUGE = {
    "maxStorageBufferRange": 2**32 - 1,
    "maxImageDimension2D": 2**15,
    "maxImageDimension3D": 2**14,
    "maxComputeWorkGroupSize": (1024, 1024, 64),
}


def huge_device(groups: int, **limits: Any) -> Any:
    """A device that nothing but the widths of integers limits, which makes no pipelines."""
    counts = {"maxComputeWorkGroupCount": (groups, groups, groups)}
    found = card(features=NV, matrices=(FIXED, *FLEXIBLE), **{**HUGE, **counts, **limits})
    extent = (2**14, 2**14, 2**14)
    image = {(f, d): ImageLimit(extent, 2**44) for f in (109, 97) for d in (2, 3)}
    return inside.paper_context(
        found.info,
        physical=SimpleNamespace(image_limits=image),
        pipelines=SimpleNamespace(get=lambda *_: None),
    )


@pytest.fixture(params=[65535, 2**31 - 1], ids=["65535 groups", "2**31 groups"])
def context(request) -> Context:
    return huge_device(request.param)


@st.composite
def shapes(draw: Any) -> tuple[Shape4, int]:
    """Draw [N, C, H, W], and other channels, of at most 2**31 elements either way."""
    cuts = sorted(draw(st.tuples(*[st.integers(0, 31)] * 4)))
    n, c, h, w = (b - a for a, b in zip([0, *cuts[:3]], cuts, strict=True))
    up_to = [draw(st.integers(2**bits * 3 // 4, 2**bits)) or 1 for bits in (n, c, h, w, c)]
    return tuple(up_to[:4]), up_to[4]


storages = st.sampled_from(["buffer", "texture3d"])
dtypes = st.sampled_from([FLOAT32, FLOAT16])
# The widest row, or the most of them, that a buffer of 2**32 - 1 bytes holds.
EDGES = (
    *((1, 1, 1, 2**31 - 512), (1, 1, 2**15, 2**16 - 1), (1, 1, 2**30 - 256, 1)),
    *((1, 2**28 - 64, 1, 1), (2**28 - 64, 1, 1, 1), (2**14, 2**14 - 1, 1, 1), (3, 5, 2**13, 2**13)),
    *((1, 4 * 2**14, 2**14, 2**14), (2**14, 1, 2**14, 2**14), (1, 2**14, 1, 2**14)),
)


def fits(context: Context, storage: str, dtype: Any, *tensors: Shape4) -> bool:
    """Return whether tensors may exist: what a call asks first."""
    try:
        named = {f"tensor {i}": shape for i, shape in enumerate(tensors)}
        choose_storage(context, named, dtype, (storage,))
    except pwconv.UnsupportedError:
        return False
    return True


def assert_countable(plan: Plan) -> None:
    """Assert that the index of every invocation is a number of 32 bits."""
    for push_constants, counts in plan.parts:
        names = inside.push_names(plan.variant)
        values = dict(
            zip(names, inside.push_struct(plan.variant).unpack(push_constants), strict=True)
        )
        for axis, count, size in zip("xyz", counts, plan.workgroup, strict=True):
            assert values[f"origin_{axis}"] + count * size <= 2**32


def check(plan_all: Any) -> None:
    """Assert that plans have indices that are right, or that there is an error that says why."""
    plans, problem = [], "32 bits"
    try:
        plans = plan_all()
    except pwconv.UnsupportedError as error:
        problem = str(error)
    assert "32 bits" in problem or "trips of a loop" in problem
    for plan in plans:
        assert_countable(plan)


def on_edges(test: Any) -> Any:
    """Draw shapes, and try those on the edge in both storages and types each time."""
    edges = st.tuples(st.sampled_from(EDGES), st.sampled_from([1, 7, 2**14, 2**20]))
    return settings(max_examples=150, suppress_health_check=list(HealthCheck))(
        given(drawn=st.one_of(edges, shapes()), storage=storages, dtype=dtypes)(test)
    )


@on_edges
def test_pointwise(context, drawn, storage, dtype):
    shape, c_out = drawn
    geometry = Geometry((1, 1), (2**20, 1) if shape[2] % 2 else (0, 0))
    out_shape = geometry.output_shape(shape, c_out)
    assume(fits(context, storage, dtype, shape, out_shape))
    problem = Problem(storage, shape, out_shape, dtype, FLOAT32, geometry)
    check(lambda: [
        plan_convolution(context, Choice(variant), problem, Epilogue())
        for variant in matmul.candidates(context, problem, "buffer").values()
    ])  # fmt: skip


@on_edges
def test_linear(context, drawn, storage, dtype):
    shape, out_features = drawn
    assume(fits(context, storage, dtype, shape, (*shape[:3], out_features)))
    for batches in {1, shape[0]}:
        out_shape = (*shape[:3], out_features)
        problem = linear.Problem(storage, shape, out_shape, dtype, FLOAT32, batches)
        check(lambda problem=problem: [
            linear.plan_linear(context, Choice(variant), problem, Epilogue())
            for variant in matmul.candidates(context, problem, "buffer").values()
        ])  # fmt: skip


@pytest.mark.parametrize("scale", [1, 3, 1024])
@on_edges
def test_nodes(context, scale, drawn, storage, dtype):
    shape, _ = drawn
    c = shape[1]
    assume(fits(context, storage, dtype, shape))
    site = Site(context, storage, dtype)
    kernels = Kernels(no_numbers(c, 1, 3, 3), None)
    for operator, inputs in (
        (ops.Elementwise(function="add"), [shape, shape]),
        (ops.GlobalAvgPool(), [shape]),
        (ops.Upsample(scale=scale), [shape]),
        (
            ops.DepthwiseConvolution(
                geometry=Geometry((1, 1), (1, 1), (3, 3)), parameters=(kernels,)
            ),
            [shape],
        ),
        (ops.Concat(), [shape, shape]),
    ):
        out = operator.shape(*inputs)
        if fits(context, storage, dtype, out):
            check(lambda operator=operator, inputs=inputs, out=out: [
                each.plan for each in operator.plan(site, inputs, out)
            ])  # fmt: skip


@on_edges
def test_transfers(context, drawn, storage, dtype):
    """The first and the last chunk that an array passes through staging in."""
    shape, _ = drawn
    assume(fits(context, storage, dtype, shape))
    n, c, h, w = shape
    length, row = min(n, 2), min(h * w, 64)
    for first, channel, start in ((0, 0, 0), (n - length, (c - 1) // 4 * 4, (h * w - row) & ~7)):
        chunk = transfer.Chunk(
            slice(first, first + length), slice(channel, c), slice(start, start + row), row
        )
        assume(c - channel <= 2**16)
        tensor, staged = FakeImage() if storage == "texture3d" else FakeBuffer(), FakeBuffer()
        for dispatch in (
            transfer.upload_dispatch(context, shape, FLOAT32, chunk, staged, tensor, dtype),
            transfer.download_dispatch(context, tensor, chunk, staged, shape, dtype),
        ):
            assert_countable(dispatch.plan)


class FakeImage(pwconv.vk.resources.Image):
    """One that is not there."""

    def __init__(self) -> None: ...


class FakeBuffer(pwconv.vk.resources.Buffer):
    """One that is not there."""

    def __init__(self) -> None: ...


def test_a_grid_that_cannot_be_counted():
    """The narrow tile of a wide row takes 2**33 invocations, and a device of few groups cuts it."""
    context = huge_device(65535)
    shape = (1, 1, 1, 2**31 - 512)
    problem = Problem("buffer", shape, shape, FLOAT16, FLOAT32, Geometry())
    (variant,) = shaders.variants(
        "conv2d_pw_staged_buffer", dtype="fp16", weight="buffer", tile="32x32x32s4"
    )
    with pytest.raises(pwconv.UnsupportedError, match=r"takes 8,589,.* invocations along x"):
        plan_convolution(context, Choice(variant), problem, Epilogue())
    chosen = matmul.choose(
        huge_device(65535, maxComputeSharedMemorySize=48 << 10), problem, "buffer"
    )
    assert_countable(plan_convolution(context, chosen, problem, Epilogue()))


# -- what lies in buffers besides tensors ----------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(2**20, 1), (1, 2**20)])
def test_rows_of_a_weight_past_the_largest_buffer(n, k):
    """Padded for matrix units a weight of one channel takes 30 times its blocks, and more."""
    shape = (1, k, 8, 8)
    problem = Problem("buffer", shape, (1, n, 8, 8), FLOAT16, FLOAT32, Geometry())
    two = PairProblem("buffer", (1, 8, 8, 8), n * k, 8, FLOAT16)
    for most, fit in ((weight_rows_bytes(n, k), True), (weight_rows_bytes(n, k) - 1, False)):
        for features, matrices in ((KHR, (FIXED,)), (NV, FLEXIBLE)):
            small = card(features=features, matrices=matrices, maxStorageBufferRange=most)
            able = matmul.candidates(small, problem, "buffer")
            assert any("coopmat" in name for name in able) == fit
            assert any("staged" in name for name in able)
    rows = weight_rows_bytes(n * k, 8), weight_rows_bytes(8, n * k)
    for most, fit in ((max(rows), True), (max(rows) - 1, False)):
        small = card(features=NV, matrices=FLEXIBLE, maxStorageBufferRange=most)
        able = pair.candidates(small, two, "buffer")
        assert any("coopmat" in variant.name for variant in able) == fit


@pytest.fixture
def small(own_device, monkeypatch) -> pwconv.Device:
    """A device whose buffers hold 64 KiB, and whose images 4 KiB."""
    info = own_device.info
    limits = {**info.limits, "maxStorageBufferRange": 2**16}
    monkeypatch.setattr(
        inside.context(own_device), "info", dataclasses.replace(info, limits=limits)
    )
    monkeypatch.setattr(inside.context(own_device), "limits", limits)
    largest = {(f, d): ImageLimit((2**14,) * 3, 2**12) for f in (109, 97) for d in (2, 3)}
    monkeypatch.setattr(inside.context(own_device).physical, "image_limits", largest)
    return own_device


def test_a_depthwise_weight_past_the_largest_buffer(small):
    graph = pwconv.Graph(small)
    x = graph.input("x", (1, 4 * 456, 3, 3))
    weight = np.broadcast_to(np.float32(1), (4 * 455, 1, 3, 3))
    with pytest.raises(
        pwconv.UnsupportedError,
        match=r"node 'wide': .* of 65,664 bytes, past maxStorageBufferRange = 65,536",
    ):
        graph.conv2d_dw(x, np.broadcast_to(np.float32(1), (4 * 456, 1, 3, 3)), name="wide")
    assert graph.conv2d_dw(graph.input("y", (1, 4 * 455, 3, 3)), weight).shape[1] == 4 * 455
    # Terabytes, if it were copied.
    view = np.broadcast_to(np.float32(1), (2**31, 1, 32, 32))
    with pytest.raises(pwconv.UnsupportedError, match="maxStorageBufferRange"):
        graph.conv2d_dw(x, view)


def test_views_that_repeat_are_not_copied_before_they_are_refused(small):
    ones = np.ones((3, 3), np.float32)
    rows = np.broadcast_to(np.float32(1), (2**20, 2**20, 3))
    kernel = np.broadcast_to(np.float32(1), (2**20, 2**20, 3, 3))
    graph = pwconv.Graph(small)
    x = graph.input("x", (1, 3, 4, 4))
    for call in (
        lambda: pwconv.Linear(ones, device=small)(rows),
        lambda: pwconv.linear(rows, ones, device=small),
        lambda: small.tensor(rows),
        lambda: pwconv.PointwiseConv2d(ones, device=small)(rows.transpose(2, 0, 1)),
        lambda: pwconv.pack_linear_weight(rows, device=small),
        lambda: pwconv.PointwiseConv2d(rows[0].T, device=small),
        lambda: graph.conv2d(x, kernel),
        lambda: graph.run(x=rows),
    ):
        with pytest.raises((pwconv.UnsupportedError, ValueError)):
            call()


def test_a_texture_past_the_bytes_of_an_image(small):
    assert small.empty((1, 4, 16, 16), "float32", "texture3d").storage == "texture3d"
    assert small.empty((1, 4, 32, 16), "float16", "texture3d").storage == "texture3d"
    for shape, dtype in (((1, 4, 16, 17), "float32"), ((1, 5, 16, 16), "float32")):
        with pytest.raises(
            pwconv.UnsupportedError,
            match=r"texture of [\d,]+ bytes is past maxResourceSize = 4,096",
        ):
            small.empty(shape, dtype, "texture3d")
        assert small.empty(shape, dtype).storage == "buffer"


def test_a_packed_weight_past_the_bytes_of_an_image(small):
    context = inside.context(small)
    assert packed_storage(context, (1, 32, 32), FLOAT32, "auto") == "texture2d"
    assert packed_storage(context, (1, 33, 32), FLOAT32, "auto") == "buffer"
    with pytest.raises(pwconv.UnsupportedError, match="it packs into a texture2d of 36 × 8"):
        packed_storage(context, (1, 33, 32), FLOAT32, "texture2d")


def test_the_bytes_of_an_image_are_asked_of_the_driver(device):
    limits = inside.context(device).physical.image_limits
    device.empty((3, 4, 5), "float32", "texture3d")
    # Vulkan promises so much, wherever there is such an image at all.
    assert all(limit.size >= 2**31 - 1 for limit in limits.values() if limit)
    assert all(math.prod(limit.extent) > 0 for limit in limits.values() if limit)
