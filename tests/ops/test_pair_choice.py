"""Which pairs of convolutions become one, on which devices, and by what."""

from __future__ import annotations

import numpy as np
import pytest

from pwconv.ops.pair import PairProblem, candidates, choose_pair
from support.cards import FIXED, FLEXIBLE, KHR, NV, card


def mixer(
    channels: int, size: int, dtype: str = "float16", storage: str = "buffer", batch: int = 1
) -> PairProblem:
    shape = (batch, channels, size, size)
    return PairProblem(storage, shape, 2 * channels, channels, np.dtype(dtype))


def head(hidden: int) -> PairProblem:
    return PairProblem("buffer", (1, 48, 256, 256), hidden, 32, np.dtype("float16"))


def wide(hidden: int) -> PairProblem:
    return PairProblem("buffer", (1, 192, 64, 64), hidden, 192, np.dtype("float16"))


def chosen(context, problem: PairProblem) -> str | None:
    choice = choose_pair(context, problem, "buffer")
    return choice and choice.variant.name.removeprefix("conv2d_pw_pair_")


@pytest.mark.parametrize(
    ("problem", "variant"),
    [
        (mixer(48, 256), "coopmat2_fp16_m64h32"),
        (mixer(96, 128), "coopmat2_fp16_m64h64"),
        (mixer(192, 64), "coopmat2_fp16_m32h96"),
        (head(256), "coopmat2_fp16_m64h64"),
        (head(257), "coopmat2_fp16_m64h32"),
        (wide(768), "coopmat2_fp16_m32h96"),
        (wide(769), None),
        (mixer(384, 32), None),
        (mixer(48, 16), None),
        (mixer(48, 16, batch=16), "coopmat2_fp16_m64h32"),
        (mixer(48, 256, "float32"), None),
    ],
    ids=str,
)
def test_on_flexible_matrices(problem, variant):
    assert chosen(card("discrete", NV, FLEXIBLE), problem) == variant


@pytest.mark.parametrize(
    ("channels", "size", "variant"),
    [
        (48, 256, "coopmat_fp16_m64n48h16"),
        (96, 128, "coopmat_fp16_m64n96h32"),
        (192, 64, None),
        (96, 32, None),
    ],
)
def test_on_matrices_of_subgroups(channels, size, variant):
    assert chosen(card("discrete", KHR, (FIXED,)), mixer(channels, size)) == variant


def test_on_textures():
    textures = mixer(48, 256, storage="texture3d")
    assert chosen(card(), textures) == "staged_texture3d_fp16_buffer_128x48x8"
    assert chosen(card(), mixer(48, 256, "float32", "texture3d")) is None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_on_a_cpu(dtype):
    """Whose matrix units, where it lists some, are loops."""
    cpu = card("cpu", NV, (FIXED, *FLEXIBLE))
    precision = {"float32": "fp32", "float16": "fp16"}[dtype]
    for channels, size, tile in ((48, 64, "64x48x16"), (96, 32, "32x96x16"), (24, 8, None)):
        expected = tile and f"staged_buffer_{precision}_buffer_{tile}"
        assert chosen(cpu, mixer(channels, size, dtype)) == expected
        assert chosen(cpu, mixer(channels, size, dtype, "texture3d")) is None


@pytest.mark.parametrize("kind", ["integrated", "virtual"])
def test_where_nothing_was_measured_there_are_two(kind):
    assert chosen(card(kind, NV, (FIXED, *FLEXIBLE)), mixer(48, 256)) is None


@pytest.mark.parametrize("storage", ["buffer", "texture3d"])
def test_candidates_hold_the_problem(storage):
    context = card("discrete", NV, (FIXED, *FLEXIBLE))
    for channels in (5, 48, 50, 96, 192):
        able = candidates(context, mixer(channels, 8, storage=storage), "buffer")
        assert able
        assert all(v.defines.get("BLOCK_N", channels) >= channels for v in able)
    assert candidates(context, mixer(193, 8, storage=storage), "buffer") == []


def test_small_devices_have_no_large_tiles():
    small = card(maxComputeSharedMemorySize=16 << 10)
    assert all(
        v.shared_memory <= 16 << 10 for v in candidates(small, mixer(8, 8, "float32"), "buffer")
    )
