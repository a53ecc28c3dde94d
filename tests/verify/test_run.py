"""Verifying a device: nothing is found on a sound one, and each planted fault is, by its name."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv import dispatch, shaders
from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.ops import convolution, matmul
from pwconv.ops.limits import Limits
from pwconv.verify.report import describe, results_table, to_document
from pwconv.verify.run import FAMILIES, Verification, selected, verify
from pwconv.verify.trials import Workbench
from pwconv.vk import pipelines
from pwconv.vk.commands import Plan
from support import inside

NOT_VERIFIED = re.compile("bench_")

# The families whose variants differ by type and storage alone.
SIMPLE = [
    *("conv2d_dw", "conv2d_grouped", "elementwise", "max_pool", "rearrange"),
    *("avg_pool", "reduce", "resize", "softmax", "upsample"),  # and global_avg_pool
]
WAYS = {"texture3d_fp32": False, "buffer_fp16": False, "buffer_fp32": True, "texture3d_fp16": True}
# Of each other family what compiles fastest, and most of it in other choices of types and storages.
QUICK = [
    "tiled_fp32_texture2d_m1n1",
    "tiled_fp16_buffer_m1n1",
    "staged_texture3d_fp32_buffer_32x32",
    pytest.param("staged_buffer_fp16_texture2d_32x32", marks=pytest.mark.exhaustive),
    pytest.param("four_buffers_fp32", marks=pytest.mark.exhaustive),
    "linear_tiled_texture3d_fp16_buffer_m1n1k1l1",
    pytest.param("linear_tiled_texture3d_fp32_texture2d_m4n1k1l4", marks=pytest.mark.exhaustive),
    "linear_tiled_buffer_fp16acc16_buffer_m1n1",
    "linear_sliced_texture3d_fp32_texture2d_m1n1s16l1",
    pytest.param("linear_sliced_buffer_fp32_buffer_m1n1", marks=pytest.mark.exhaustive),
    "linear_staged_buffer_fp32_buffer_64x32",
    "pair_staged_buffer_fp32_buffer_64x48x16",
    pytest.param("pair_staged_texture3d_fp16_texture2d_32x96x16", marks=pytest.mark.exhaustive),
    "gather_channels",
    "subsample",
    "nchw_to_texture3d",
    "texture3d_to_nchw",
    "copy_rows",
    "pack_fp_linear_weight",
    *(
        pytest.param(f"{family}_{way}", marks=[pytest.mark.exhaustive] * crossed)
        for family in SIMPLE
        for way, crossed in WAYS.items()
    ),
]
CONV = "conv2d_pw_tiled_fp32_buffer_m1n1k1"
HALF = "conv2d_pw_tiled_fp16_buffer_m1n1k1"
ROWS = "conv2d_pw_staged_buffer_fp32_buffer_32x32x32s4"
LINEAR = "linear_tiled_buffer_fp32_buffer_m1n1k1"
LINEAR_LANES = "linear_tiled_texture3d_fp32_buffer_m4n1k1l4"
COPIES = "upsample_texture3d_fp32"


def test_every_family_is_verified_or_left_out_on_purpose():
    left = {family for family in shaders.families() if family not in FAMILIES}
    assert all(map(NOT_VERIFIED.match, left))
    assert set(FAMILIES) <= set(shaders.families())


@pytest.mark.parametrize("part", QUICK)
def test_a_sound_device_passes(device, part):
    variants = selected([part])
    told = []
    found = verify(
        inside.another_context(device), variants, lambda name, share: told.append((name, share))
    )
    assert [str(f) for result in found.failed for f in result.failures] == []
    assert not found.lost
    assert [r.variant for r in found.results] == [
        v for v in variants if v.name not in found.skipped
    ]
    for variant in variants:
        lack = variant.unmet(device.info.limits, device.info.features)
        assert (variant.name in found.skipped) == bool(lack)
    assert [name for name, _ in told] == [v.name for v in variants]
    assert all(0 <= share < 1 for _, share in told)


def test_each_case_is_what_its_name_says(device):
    (variant,) = selected([CONV])
    most = device.info.limits["maxImageDimension3D"]
    with Workbench(inside.another_context(device)) as bench:
        trials = {trial.case: trial for trial in FAMILIES[variant.family](bench, variant)}
    shapes = {name: trial.expected.shape for name, trial in trials.items()}
    for name, axis in (("widest", 3), ("tallest", 2)):
        assert 0.98 * most <= shapes[name][axis] <= most
    n, c, _, _ = shapes["deepest"]
    assert 0.98 * most <= n * -(-c // 4) <= most
    assert not trials["zero"].expected.any()
    assert (trials["constant"].expected[:, : trials["constant"].channels] == 38).all()
    lit = np.argwhere(trials["one-hot"].expected.any(axis=1))
    assert len(lit) == 1
    special = trials["not finite"].expected
    assert np.isnan(special).any()
    assert np.isinf(special).any()
    assert np.isfinite(special).any()
    for name in ("identity", "zero", "one-hot", "constant"):
        assert not trials[name].bound.any()
    # Exact but for the activation: a sum that is wrong is so by 1.
    assert trials["large-K"].bound.max() < 0.1
    for name in ("ragged", "widest", "denormal"):
        assert (trials[name].bound[:, : trials[name].channels] > 0).all()


LOOPS = [
    "conv2d_pw_tiled_fp32_buffer_m1n1k1",
    "linear_tiled_buffer_fp32_buffer_m1n1k1",
    "conv2d_dw_texture3d_fp32",
    "conv2d_grouped_texture3d_fp32",
    "avg_pool_buffer_fp32",
    "global_avg_pool_buffer_fp32",
    "max_pool_buffer_fp32",
    "reduce_buffer_fp32",
]


@pytest.mark.parametrize("name", LOOPS)
def test_each_loop_over_sizes_has_a_case_as_long_as_any_that_is_planned(device, monkeypatch, name):
    """A driver that ends loops sooner than Mesa's llvmpipe is found."""
    (variant,) = (v for v in selected([name]) if v.name == name)
    planned = []
    plan = Context.plan
    monkeypatch.setattr(
        Context,
        "plan",
        lambda *a, trips=0, **kw: planned.append(trips) or plan(*a, trips=trips, **kw),
    )
    with Workbench(inside.another_context(device)) as bench:
        (trial,) = (t for t in FAMILIES[variant.family](bench, variant) if t.case == "longest loop")
        trial.plan()
    few = {"conv2d_dw": 1023, "avg_pool": 1023, "global_avg_pool": 500, "max_pool": 1023}
    assert few.get(variant.family, MOST_TRIPS - 1024) <= max(planned) <= MOST_TRIPS


@pytest.mark.parametrize("name", LOOPS[:2])
def test_a_driver_that_ends_a_loop_is_found(device, monkeypatch, name):
    """What is planned is short enough for llvmpipe; were it not, its users would be told."""
    for module in (dispatch, matmul):
        monkeypatch.setattr(module, "MOST_TRIPS", 2**17)
    found = verify(inside.another_context(device), [v for v in selected([name]) if v.name == name])
    wrong = {failure.case for result in found.failed for failure in result.failures}
    if "Mesa 22.3" in device.info.driver:  # Mesa 26.2's does not end it, nor does SwiftShader
        assert wrong == {"longest loop"}
    else:
        assert wrong <= {"longest loop"}


# Of the flags that kernels are specialized by, those whose two values are two pieces of code.
FLAGS = {
    *("POINTWISE_GRID", "WHOLE_STEPS", "WHOLE_BLOCKS", "RESIDUAL", "SCALE"),
    *("VECTORS_IN", "VECTORS_OUT", "ACTIVATION", "HIDDEN_ACTIVATION"),
}
# What only a graph's last activation is for.
NEVER_SET = {"conv2d_pw_pair": {"ACTIVATION"}}


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.startswith(("conv2d_pw", "linear"))])
def test_few_pipelines_have_every_flag_set_and_not(device, monkeypatch, family):
    """Compiling is what takes time on a GPU: two of them do for most variants."""
    asked: set[tuple[tuple[int, int], ...]] = set()
    monkeypatch.setattr(
        inside.context(device).pipelines,
        "get",
        lambda *arguments: asked.add((*arguments[-1].items(),)),
    )
    context = inside.another_context(device)
    with Workbench(context) as bench:
        for variant in filter(context.can_run, selected([family])):
            if variant.family != family or inside.context(device).unmet(variant):
                continue
            asked.clear()
            for trial in FAMILIES[family](bench, variant):
                if trial.case != "longest loop":  # of few variants
                    trial.plan()
            shares = variant.has_constant("SHARED")  # once of images, in buffers of positions too
            most = 2 + shares * (2 if Limits(context, variant).storage == "buffer" else 1)
            assert len(asked) <= most + (family == "conv2d_pw_coopmat2"), variant.name
            for name in FLAGS & inside.constant_ids(variant).keys():
                values = {
                    dict(constants)[inside.constant_ids(variant)[name]] for constants in asked
                }
                never = any(
                    family.startswith(start) and name in names for start, names in NEVER_SET.items()
                )
                lacks_residual = name == "RESIDUAL" and "t_residual" not in dict(variant.bindings)
                assert len(values) == (1 if never or lacks_residual else 2), (variant.name, name)


def swap_lanes(array: np.ndarray) -> np.ndarray:
    whole = array.shape[1] // 4 * 4
    array[:, 0:whole:4], array[:, 1:whole:4] = array[:, 1:whole:4], array[:, 0:whole:4].copy()
    return array


def swap_features(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(swap_lanes(np.moveaxis(array, 3, 1).copy()), 1, 3)


def swap_positions(array: np.ndarray) -> np.ndarray:
    flat = array.reshape(*array.shape[:2], -1)
    flat[..., [1, 2]] = flat[..., [2, 1]]
    return array


def swap_rows(array: np.ndarray) -> np.ndarray:
    """Of the rows of a linear layer [n, c, h, features]."""
    flat = array.reshape(-1, array.shape[3])
    flat[[0, 1]] = flat[[1, 0]]
    return array


def rounded(array: np.ndarray) -> np.ndarray:
    """Round to the nearest of 10 bits, as TF32 does."""
    bits = array.view(np.uint32)
    return ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)


def first_channels_zero(array: np.ndarray) -> np.ndarray:
    array[:, :2] = 0
    return array


def one_element(array: np.ndarray) -> np.ndarray:
    array[0, 0, 0, 0] += 100
    return array


def garbage_past_channels(array: np.ndarray) -> np.ndarray:
    array[:, -1] = 3
    return array


FAULTS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], str]] = {
    "lanes": (CONV, swap_lanes, "lane swap"),
    "lanes of rows": (ROWS, swap_lanes, "lane swap"),
    "lanes of features": (LINEAR, swap_features, "lane swap"),
    "reversed lanes": (
        COPIES,
        lambda a: a.reshape(-1, 4, *a.shape[2:])[:, ::-1].reshape(a.shape),
        "lane swap",
    ),
    "positions": (CONV, swap_positions, "row swap"),
    "rows": (LINEAR, swap_rows, "row swap"),
    "rows in lanes": (LINEAR_LANES, swap_rows, "row swap"),
    "half and a half": (HALF, lambda a: a + np.float16(0.5), "offset"),
    "an offset": (LINEAR, lambda a: a - np.float32(3), "offset"),
    "no result": (HALF, np.zeros_like, "zeros"),
    "zeros in part": (CONV, first_channels_zero, "zeros"),
    "ten bits": (CONV, rounded, "precision"),
    "twice": (CONV, lambda a: a * 2, "wrong"),
    "one element": (CONV, one_element, "wrong"),
    "not a number": (CONV, lambda a: a * np.float32("nan"), "wrong"),
}


@pytest.mark.parametrize(("name", "fault", "kind"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found_and_named(device, monkeypatch, name, fault, kind):
    (variant,) = selected([name])
    read = Workbench.read

    def faulty(self, resource, shape, dtype):
        return fault(read(self, resource, shape, dtype))

    monkeypatch.setattr(Workbench, "read", faulty)
    trials = FAMILIES[variant.family]
    few = {variant.family: lambda *of: itertools.islice(trials(*of), 6)}  # the first tell it
    monkeypatch.setattr("pwconv.verify.run.FAMILIES", FAMILIES | few)
    found = verify(inside.another_context(device), [variant])
    (result,) = found.failed
    first = result.failures[0]
    assert first.kind == kind, str(first)
    assert len(first.position) == 4
    assert not abs(first.value - first.expected) <= first.bound


def cut_short(plan: Plan) -> Plan:
    """Leave out the last workgroup along M."""
    parts = [(push, (max(x - 1, 1), y, z)) for push, (x, y, z) in plan.parts]
    return dataclasses.replace(plan, parts=tuple(parts))


@pytest.mark.parametrize("name", [CONV, LINEAR])
def test_a_tile_that_is_not_computed_is_unwritten(device, monkeypatch, name):
    """On the device: what was not written there holds the poison."""
    (variant,) = selected([name])
    make = Context.plan

    def plan(self, chosen, *arguments, **options):
        made = make(self, chosen, *arguments, **options)
        return cut_short(made) if chosen is variant else made

    monkeypatch.setattr(Context, "plan", plan)
    (result,) = verify(inside.another_context(device), [variant]).failed
    assert result.failures[0].kind == "unwritten", str(result.failures[0])
    assert np.isnan(result.failures[0].value)
    assert "identity" in {failure.case for failure in result.failures}


def test_an_input_channel_that_is_left_out_is_found(device, monkeypatch):
    (variant,) = selected([CONV])
    make = Context.plan

    def plan(self, chosen, grid, push, *arguments, **options):
        if chosen is variant:
            push = {**push, "K": push["K"] - 1, "C": push["C"] - 1}
            push["K4"] = -(-push["K"] // 4)
        return make(self, chosen, grid, push, *arguments, **options)

    monkeypatch.setattr(Context, "plan", plan)
    (result,) = verify(inside.another_context(device), [variant]).failed
    failed = {failure.case: failure for failure in result.failures}
    assert failed["one-hot"].kind == "zeros"
    assert failed["constant"].value == failed["constant"].expected - 1


def test_a_lane_past_the_channels_is_looked_at(device, monkeypatch):
    (variant,) = selected([CONV])
    read = Workbench.read
    monkeypatch.setattr(
        Workbench, "read", lambda *arguments: garbage_past_channels(read(*arguments))
    )
    (result,) = verify(inside.another_context(device), [variant]).failed
    first = result.failures[0]
    assert first.past_channels
    assert (first.value, first.expected, first.bound) == (3, 0, 0)
    assert "(a lane past C)" in str(first)


def test_an_error_fails_a_variant_and_the_rest_goes_on(device, monkeypatch):
    variants = selected(["conv2d_pw_tiled_fp32_buffer_m1n1k1", "upsample_buffer_fp32"])
    plan = convolution.plan_convolution

    def fail(context, choice, problem, *arguments):
        if problem.x_shape[1] > 1000:
            raise pwconv.PwconvError("the compiler failed")
        return plan(context, choice, problem, *arguments)

    monkeypatch.setattr(convolution, "plan_convolution", fail)
    found = verify(inside.another_context(device), variants)
    assert [result.passed for result in found.results] == [False, True]
    assert str(found.results[0].failures[0]) == "large-K: the compiler failed"


@pytest.fixture
def compiled(monkeypatch) -> list[str]:
    """The threads that have the driver compile, which takes it a while."""
    threads = []
    real = getattr(*inside.slots.make_pipeline)

    def make(self, *arguments):
        threads.append(threading.current_thread().name)
        time.sleep(0.1)
        return real(self, *arguments)

    monkeypatch.setattr(*inside.slots.make_pipeline, make)
    return threads


def test_other_threads_compile(own_device, compiled):
    variants = selected([CONV, "upsample"])
    assert not verify(inside.another_context(own_device), variants).failed
    ahead = [name for name in compiled if name.startswith("pwconv-verify")]
    assert len(ahead) >= 10  # and not what carries arrays to the device and back
    assert threading.active_count() == 1


def test_what_does_not_compile_is_that_variants_error(own_device, monkeypatch):
    variants = selected(["conv2d_pw_tiled_fp32_buffer_m1n1k1", "upsample_buffer_fp32"])
    real = pipelines.PipelineCache.get

    def fail(self, name, *arguments):
        if name == CONV:
            raise pwconv.PwconvError("vkCreateComputePipelines: the driver failed")
        return real(self, name, *arguments)

    monkeypatch.setattr(pipelines.PipelineCache, "get", fail)
    found = verify(inside.another_context(own_device), variants)
    assert [result.passed for result in found.results] == [False, True]
    (failure,) = found.results[0].failures
    assert str(failure) == "identity: vkCreateComputePipelines: the driver failed"
    assert found.results[0].cases == 1


def test_ctrl_c_ends_it_before_the_rest_is_compiled(own_device, compiled):
    def interrupt(*_: object) -> None:
        while not compiled:
            time.sleep(0.01)
        raise KeyboardInterrupt

    variants = selected(["conv2d_pw_tiled_fp32"])
    with pytest.raises(KeyboardInterrupt):
        verify(inside.another_context(own_device), variants, interrupt)
    made = len(compiled)
    assert made < 2 * len(variants)
    time.sleep(0.3)
    assert len(compiled) == made


def test_a_lost_device_ends_it(device, monkeypatch):
    variants = selected(["conv2d_pw_tiled_fp32_buffer_m1n1k1", "upsample_buffer_fp32"])

    def lose(*_: Any, **__: Any) -> None:
        raise pwconv.DeviceLostError("the driver lost the device")

    monkeypatch.setattr(convolution, "plan_convolution", lose)
    found = verify(inside.another_context(device), variants)
    assert found.lost == "the driver lost the device"
    assert [r.failures[0].kind for r in found.results] == ["error"]
    assert found.skipped == {"upsample_buffer_fp32": "the device was lost"}
    assert "lost   the driver lost the device" in describe(found)


def test_nothing_is_left_on_the_device(own_device):
    context = inside.context(own_device)

    def used() -> int:
        assert not verify(context, selected([LINEAR, COPIES, "unpack"])).failed
        own_device.synchronize()
        context.queue.collect()
        context.resources.clear()
        return context.memory.used

    assert used() == used()


def test_an_unknown_part_is_refused():
    with pytest.raises(pwconv.PwconvError, match="no variant's name contains 'conv3d'"):
        selected(["conv3d"])
    assert len(selected([])) == len({v.name for v in selected([])})


def test_the_document_and_the_table(device, monkeypatch):
    read = Workbench.read

    def faulty(self, resource, shape, dtype):
        found = read(self, resource, shape, dtype)
        return found * np.float32("nan") if found.shape[1] == 104 else found

    monkeypatch.setattr(Workbench, "read", faulty)
    found = verify(inside.another_context(device), selected([CONV, COPIES]))
    document = json.loads(json.dumps(to_document(device.info, found), allow_nan=False))
    assert document["schema"] == 1
    assert document["device"]["name"] == device.info.name
    failed, passed = document["variants"]
    assert (failed["variant"], failed["passed"]) == (CONV, False)
    assert (passed["variant"], passed["passed"], passed["failures"]) == (COPIES, True, [])
    first = failed["failures"][0]
    assert first["value"] == "nan"
    assert isinstance(first["expected"], float)
    assert results_table(found).row_count == 2
    assert f"FAILED {CONV}" in describe(found)
    assert describe(Verification())[-1] == "0 variants, 0 cases, 0 failed, in 0 s"
