"""The SPIR-V inside the package and what it says of itself."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from pwconv import PwconvError, shaders
from pwconv import activation as activations
from support import inside
from support.cards import card

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the package's SPIR-V that a test may damage, and of the sources beside it."""
    folder = tmp_path / "src" / "pwconv" / "spirv"
    shutil.copytree(inside.SHADERS, folder)
    monkeypatch.setattr(*inside.slots.folder, lambda: folder)
    monkeypatch.setattr(shaders, "__file__", str(folder.parent / "shaders.py"))
    inside.manifest.cache_clear()
    inside.families.cache_clear()
    shaders.variant.cache_clear()
    yield folder
    inside.manifest.cache_clear()
    inside.families.cache_clear()
    shaders.variant.cache_clear()


def test_three_tiles_for_each_precision():
    for precision in ("fp32", "fp16", "fp16acc16"):
        for weight in ("texture2d", "buffer"):
            found = shaders.variants("conv2d_pw_tiled", dtype=precision, weight=weight)
            tiles = {(v.defines["TILE_M"], v.defines["TILE_N4"]) for v in found}
            assert len(tiles) >= 3


def test_only_half_arithmetic_and_matrix_units_need_features():
    for variant in inside.manifest().values():
        if "coopmat" in variant.family or variant.family == "bench_matrix":
            assert "cooperativeMatrix" in variant.features
        else:
            half = variant.axes.get("dtype") == "fp16acc16" or "FMA_FP16" in variant.defines
            assert variant.features == (("shaderFloat16",) if half else ())


def test_what_a_device_lacks_is_named():
    variant = shaders.variant("conv2d_pw_tiled", dtype="fp16acc16", weight="buffer", tile="m1n1k1")
    limits = {
        "maxPushConstantsSize": 128,
        "maxComputeSharedMemorySize": 16 << 10,
        "maxComputeWorkGroupInvocations": 128,
        "maxComputeWorkGroupSize": (128, 128, 64),
        "maxPerStageDescriptorStorageBuffers": 6,
        "maxPerStageDescriptorStorageImages": 4,
        "maxPerStageDescriptorSampledImages": 16,
        "maxPerStageResources": 128,
    }
    halves = frozenset({"shaderFloat16"})
    assert variant.unmet(limits, halves) is None
    assert variant.unmet(limits, frozenset()) == "the feature shaderFloat16"
    tight = {**limits, "maxPushConstantsSize": 16}
    assert "maxPushConstantsSize of at least" in variant.unmet(tight, halves)
    staged = {"dtype": "fp32", "weight": "buffer"}
    large = shaders.variant("conv2d_pw_staged_buffer", tile="128x64x16", **staged)
    assert large.unmet(limits, halves) == (
        "maxComputeSharedMemorySize of at least 24576 (it is 16384)"
    )
    crowded = shaders.variant("conv2d_pw_staged_buffer", tile="64x64x16s2", **staged)
    few = {**limits, "maxComputeWorkGroupInvocations": 64}
    assert "maxComputeWorkGroupInvocations of at least 128" in crowded.unmet(few, halves)
    narrow = {**limits, "maxComputeWorkGroupSize": (64, 128, 64)}
    assert crowded.unmet(narrow, halves) == (
        "maxComputeWorkGroupSize of at least (128, 1, 1) (it is (64, 128, 64))"
    )


@pytest.mark.parametrize(
    ("name", "limit", "least"),
    [
        ("conv2d_pw_staged_buffer_fp32_buffer_64x64x16", "maxPerStageDescriptorStorageBuffers", 6),
        ("conv2d_pw_tiled_fp32_texture2d_m1n1k1", "maxPerStageDescriptorSampledImages", 4),
        ("conv2d_pw_tiled_fp32_texture2d_m1n1k1", "maxPerStageDescriptorStorageImages", 1),
        ("conv2d_pw_tiled_fp32_texture2d_m1n1k1", "maxPerStageResources", 6),
    ],
)
def test_bindings_are_counted_by_type(name, limit, least):
    variant = inside.manifest()[name]
    context = card(**{limit: least})
    assert variant.unmet(context.limits, context.features) is None
    context = card(**{limit: least - 1})
    assert variant.unmet(context.limits, context.features) == (
        f"{limit} of at least {least} (it is {least - 1})"
    )


def test_push_constants_fit_every_device():
    assert all(v.push_constant_size <= 128 for v in inside.manifest().values())


def test_constants_are_passed_by_name():
    variant = shaders.variant("texture3d_to_nchw", dtype="fp32")
    with pytest.raises(KeyError, match="origin_x"):
        variant.pack_push_constants({})
    with pytest.raises(KeyError, match="local_size_x"):
        variant.specialize({})


def test_activation_numbers_are_the_shaders():
    text = (ROOT / "shaders/include/activation.glslh").read_text()
    for name in ("NONE", "CLAMP", "LEAKY_RELU", "HARDSWISH", "SIGMOID", "SILU", "TANH", "GELU"):
        assert f"const uint ACTIVATION_{name} = {getattr(activations, f'_{name}')};" in text
    assert f"ACTIVATION_GELU_TANH = {inside.GELU_TANH};" in text


def test_damaged_code_is_refused(copied):
    variant = shaders.variant("texture3d_to_nchw", dtype="fp32")
    (copied / "texture3d_to_nchw_fp32.spv").write_bytes(b"\0" * 100)
    with pytest.raises(PwconvError, match="damaged; install pwconv again"):
        _ = variant.code


def test_no_compiled_shaders(copied):
    (copied / "manifest.json").unlink()
    with pytest.raises(PwconvError, match="no compiled shaders"):
        shaders.variants("conv2d_pw_tiled")


def test_push_constants_with_gaps_are_refused(copied):
    document = json.loads((copied / "manifest.json").read_text())
    document["variants"]["texture3d_to_nchw_fp32"]["push_constants"][0]["offset"] = 8
    contents = json.dumps(document).encode()
    (copied / "manifest.json").write_bytes(contents)
    (copied / "manifest.sha256").write_text(hashlib.sha256(contents).hexdigest())
    with pytest.raises(PwconvError, match="without gaps"):
        shaders.variants("conv2d_pw_tiled")


def test_stale_code_is_refused_beside_its_sources(copied, tmp_path):
    shutil.copytree(ROOT / "shaders", tmp_path / "shaders")
    assert shaders.variants("conv2d_pw_tiled")
    inside.manifest.cache_clear()
    inside.families.cache_clear()
    with (tmp_path / "shaders/conv2d_pw_tiled.comp").open("a") as stream:
        stream.write("// changed\n")
    with pytest.raises(PwconvError, match="has changed since the shaders were compiled"):
        shaders.variants("conv2d_pw_tiled")


def test_elementwise_numbers_are_the_shaders():
    text = (ROOT / "shaders/elementwise.comp").read_text()
    names = {
        **{"activation": "FIRST", "add": "ADD", "mul": "MULTIPLY", "sub": "SUBTRACT"},
        "div": "DIVIDE",
    }
    for function, number in inside.ELEMENTWISE_NUMBERS.items():
        name = names.get(function, function.upper())
        assert f"const uint OPERATION_{name} = {number};" in text


def test_a_kernel_writes_its_output_alone():
    """Barriers are placed by it."""
    outputs = {"t_out", "target", "staging", "packed_weight", "weight_rows", "result"}
    for family in shaders.families():
        for variant in shaders.variants(family):
            (written,) = variant.written
            assert variant.binding_names[written] in outputs
