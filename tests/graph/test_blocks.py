"""Blocks of real networks, whole, at several sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import pwconv
from support import inside
from support.mirror import Mirror, Pair, random_weight

Build = Callable[[Mirror, Pair, np.random.Generator], dict[str, Pair]]


def repvit(m: Mirror, x: Pair, rng: np.random.Generator) -> dict[str, Pair]:
    """Token mixer with squeeze-and-excitation, then a channel mixer."""
    dtype = m.dtype
    y = m.conv2d_dw(x, *random_weight(rng, dtype, 8, 1, 3, 3), padding=1)
    s = m.conv2d_pw(m.global_avg_pool(y), *random_weight(rng, dtype, 4, 8), activation="relu")
    y = m.mul(y, m.conv2d_pw(s, *random_weight(rng, dtype, 8, 4), activation="sigmoid"))
    h = m.conv2d_pw(y, *random_weight(rng, dtype, 16, 8), activation="gelu")
    return {"y": m.conv2d_pw(h, *random_weight(rng, dtype, 8, 16), residual=y)}


def mobilenet_v2(m: Mirror, x: Pair, rng: np.random.Generator) -> dict[str, Pair]:
    """Two inverted residuals, the second with a stride."""
    dtype = m.dtype
    h = m.conv2d_pw(x, *random_weight(rng, dtype, 24, 8), activation="relu6")
    h = m.conv2d_dw(h, *random_weight(rng, dtype, 24, 1, 3, 3), padding=1, activation="relu6")
    y = m.add(m.conv2d_pw(h, *random_weight(rng, dtype, 8, 24)), x)
    h = m.conv2d_pw(y, *random_weight(rng, dtype, 24, 8), activation="relu6")
    h = m.conv2d_dw(
        h, *random_weight(rng, dtype, 24, 1, 3, 3), stride=2, padding=1, activation="relu6"
    )
    return {"y": m.conv2d_pw(h, *random_weight(rng, dtype, 12, 24))}


def convnext(m: Mirror, x: Pair, rng: np.random.Generator) -> dict[str, Pair]:
    """A block whose layer norm is folded away."""
    dtype = m.dtype
    y = m.conv2d_dw(x, *random_weight(rng, dtype, 8, 1, 7, 7), padding=3)
    h = m.activation(m.conv2d_pw(y, *random_weight(rng, dtype, 32, 8)), "gelu")
    return {"y": m.add(x, m.conv2d_pw(h, *random_weight(rng, dtype, 8, 32)))}


def fpn(m: Mirror, x: Pair, rng: np.random.Generator) -> dict[str, Pair]:
    """A stem, two stages and the neck over them."""
    dtype = m.dtype
    fine = m.conv2d(
        x, *random_weight(rng, dtype, 12, 8, 3, 3), stride=2, padding=1, activation="gelu"
    )
    coarse = m.conv2d_dw(fine, *random_weight(rng, dtype, 12, 1, 3, 3), stride=2, padding=1)
    coarse = m.conv2d_pw(coarse, *random_weight(rng, dtype, 20, 12), activation="gelu")
    top = m.conv2d_pw(coarse, *random_weight(rng, dtype, 16, 20))
    merged = m.add(m.conv2d_pw(fine, *random_weight(rng, dtype, 16, 12)), m.upsample(top))
    return {"top": top, "merged": merged, "both": m.concat([merged, m.upsample(top)])}


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("build", [repvit, mobilenet_v2, convnext, fpn])
def test_a_block(device, rng, build: Build, dtype, storage):
    mirror = Mirror(device, dtype, storage)
    x = mirror.input("x", (1, 8, 16, 20))
    for name, pair in build(mirror, x, rng).items():
        mirror.output(name, pair)
    for shape in ((1, 8, 16, 20), (2, 8, 8, 12), (1, 8, 16, 20), (1, 8, 20, 4)):
        mirror.graph.resize(x=shape)
        mirror.check({"x": rng.standard_normal(shape).astype(dtype)})


@pytest.mark.parametrize(
    "storage", ["texture3d", pytest.param("buffer", marks=pytest.mark.exhaustive)]
)
def test_1000_runs_of_sizes_in_turns(device, rng, storage):
    """Equal inputs give equal bits, and nothing is left behind."""
    mirror = Mirror(device, "float32", storage)
    x = mirror.input("x", (1, 8, 6, 8))
    for name, pair in repvit(mirror, x, rng).items():
        mirror.output(name, pair)
    graph, memory, live = mirror.graph, inside.context(device).memory, inside.context(device).live
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((1, 8, 6, 8), (2, 8, 3, 5))]
    tensors = [device.tensor(array, storage=storage) for array in arrays]

    def run(n: int) -> list[pwconv.Tensor | np.ndarray]:
        graph.resize(x=arrays[n].shape)
        return [graph.run(x=arrays[n])["y"], graph.run(x=tensors[n])["y"].numpy()]

    expected = [run(n)[0] for n in (0, 1)]
    for n in (0, 1):
        run(n)
    before = memory.used, memory.reserved, len(live)
    for turn in range(500):
        for found in run(turn % 2):
            np.testing.assert_array_equal(found, expected[turn % 2])
    device.synchronize()
    inside.context(device).queue.collect()
    assert (memory.used, memory.reserved, len(live)) <= before
