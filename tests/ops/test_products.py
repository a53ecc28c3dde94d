"""Matrix products: convolutions, pairs of them and linear layers against numpy's, one tap a time.

Every tile of their kernels has tests of its own; here an operator is what it says it is, with all
that it fuses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pwconv.dtypes import FLOAT32, as_dtype
from pwconv.heuristics import Choice
from pwconv.ops import (
    Convolution,
    Epilogue,
    Linear,
    PointwisePair,
    make_dense,
    make_linear,
    make_pointwise,
    matmul,
    pair,
)
from pwconv.weights import Parameters
from support import oracle
from support.accuracy import assert_within
from support.mirror import random_weight


def of_convolution(node: Convolution, kernel: np.ndarray) -> oracle.Oracle:
    """Return the oracle of a node whose weight was [C_out, C_in, KH, KW]."""
    geometry, epilogue = node.geometry, node.epilogue

    def compute(x: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        *extra, weight, bias = rest
        # The node's own order of taps is for it to know.
        taps = kernel if (weight < 0).any() else np.abs(kernel)
        if epilogue.scale:
            x = x * extra.pop()
        places = oracle.shifted(x, geometry.kernel, geometry.stride, geometry.padding)
        sums = sum(
            np.moveaxis(np.tensordot(taps[:, :, i, j].astype(float), part, (1, -3)), 0, -3)
            for (i, j), part in places
        )
        sums = sums + oracle.channelwise(bias)
        return sums + extra.pop() if extra else sums

    return compute


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch) -> None:
    """Have variants that compile fast; a pipeline serves all shapes of the same K."""

    def choose(context, problem, weight_storage):
        able = matmul.candidates(context, problem, weight_storage).values()
        able = [v for v in able if "coopmat" not in v.family]
        return Choice(min(able, key=lambda v: math.prod(v.defines.values())), (8, 8, 1), "small")

    monkeypatch.setattr(matmul, "choose", choose)


@pytest.fixture
def check_convolution(device, rng, storage, dtype):
    def check(c_out, shape, kernel=(1, 1), *, epilogue=Epilogue(), biased=True, **geometry):  # noqa: B008
        c_in = shape[-3]
        weight, bias = random_weight(rng, dtype, c_out, c_in, *kernel)
        bias = bias if biased else None
        make = make_pointwise if kernel == (1, 1) else make_dense
        node = replace(make(weight, bias, **geometry), epilogue=epilogue)
        arrays = [rng.standard_normal(shape).astype(dtype)]
        out = node.shape(shape)
        if epilogue.residual:
            arrays.append(rng.standard_normal(out).astype(dtype))
        if epilogue.scale:
            arrays.append(rng.uniform(-1, 1, (*shape[:-2], 1, 1)).astype(dtype))
        terms = c_in * math.prod(kernel) + 3
        oracle.check(node, device, storage, arrays, of_convolution(node, weight), terms=terms)
        assert node.flop([shape], out) == 2 * c_in * math.prod(kernel) * math.prod(out)

    return check


SHAPES = ((3, 13, 5, 7), (13, 11, 3), (1, 13, 1, 17), (1, 13, 1, 1))


def test_pointwise(check_convolution):
    for c_out, shape in zip((27, 5, 2, 1), SHAPES, strict=True):
        check_convolution(c_out, shape)
    check_convolution(7, SHAPES[0], biased=False)


def test_pointwise_with_all_that_it_fuses(check_convolution, dtype):
    everything = Epilogue("gelu", residual=True, scale=True)
    for c_out, shape in zip((27, 5, 2), SHAPES, strict=False):
        check_convolution(c_out, shape, epilogue=everything)
    if dtype == "float16":
        return
    for part in (replace(everything, scale=False), replace(everything, residual=False)):
        check_convolution(27, SHAPES[0], epilogue=part)


def test_pointwise_with_stride_and_padding(check_convolution):
    check_convolution(27, SHAPES[0], stride=(2, 3), padding=(2, 2))
    check_convolution(5, SHAPES[1], stride=(2, 3), padding=(2, 2))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [pytest.param((3, 3), 1, 1, marks=pytest.mark.exhaustive), ((2, 5), (2, 3), (0, 4))],
    ids=str,
)
def test_taps(check_convolution, kernel, stride, padding):
    fused = Epilogue("silu", residual=True)
    for c_out, shape in ((11, (3, 6, 7, 11)), (5, (7, 13, 7)), (1, (1, 5, 5, 5))):
        check_convolution(c_out, shape, kernel, epilogue=fused, stride=stride, padding=padding)


def test_long_sums_are_of_runs(device, rng):
    """On textures, 4,608 products are summed in runs of 128, and not as one sum.

    Adding to a sum S rounds by at most 2⁻²⁴·|S|, evenly: by 2⁻²⁴·|S|/√3 in the root of the mean
    square. Of k products of variance 1, S² is about k.
    """
    k, run = 4608, 128
    weight = rng.standard_normal((16, k), np.float32)
    x = rng.standard_normal((k, 8, 8), np.float32)
    node = make_pointwise(weight, None)
    y = oracle.run(node, oracle.site(device, "texture3d", np.float32), device, [x])
    exact = np.einsum("mk,khw->mhw", weight.astype(float), x.astype(float))
    runs = k // run
    squares = runs * sum(range(run)) + run * sum(range(runs))
    assert np.sqrt(((y - exact) ** 2).mean()) <= 2**-24 * np.sqrt(squares / 3)


@pytest.fixture
def run_linear(device, rng, storage, dtype):
    def run(shape: tuple[int, ...], *weight_shape: int, activation=None, biased=True) -> None:
        *_, n, k = weight_shape
        weight = (rng.standard_normal(weight_shape) / np.sqrt(k)).astype(dtype)
        bias = rng.standard_normal(n).astype(dtype) if biased else None
        node = make_linear(weight, bias, activation=activation)
        x = rng.standard_normal(shape).astype(dtype)

        def compute(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
            if len(weight) == 1:
                sums = np.einsum("...k,nk->...n", x, weight[0])
            else:
                sums = np.stack([each @ of.T for each, of in zip(x, weight, strict=True)])
            return sums if bias is None else sums + bias

        oracle.check(node, device, storage, [x], compute, terms=k + 1)
        out = node.shape(shape)
        assert out == (*shape[:-1], n)
        assert node.flop([shape], out) == 2 * k * math.prod(out)

    return run


def test_rows(run_linear):
    for shape in ((37,), (5, 37), (3, 7, 37), (2, 5, 3, 37), (2, 3, 1, 2, 37), (1, 1, 1, 37)):
        run_linear(shape, 29, 37)
    run_linear((5, 37), 29, 37, biased=False)
    run_linear((1, 3), 1, 3)


def test_rows_with_an_activation(run_linear):
    run_linear((11, 1, 3, 64), 32, 64, activation="gelu_tanh")


def test_batched_weights(run_linear, storage):
    run_linear((3, 7, 1, 13), 3, 11, 13)
    run_linear((2, 5, 3, 13), 2, 11, 13)
    if storage == "buffer":  # a texture has several batches in a texel
        run_linear((3, 7, 13), 3, 11, 13)
        run_linear((3, 13), 3, 11, 13)


def of_pair(hidden_activation: Callable[[np.ndarray], np.ndarray], residual: bool) -> oracle.Oracle:
    def compute(x: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        *extra, w1, b1, w2, b2 = rest
        sums = np.einsum("hk,...kyx->...hyx", w1[0], x) + b1[:, None, None]
        y = np.einsum("nh,...hyx->...nyx", w2[0], hidden_activation(sums)) + b2[:, None, None]
        return y + extra[0] if residual else y

    return compute


@pytest.mark.parametrize("hidden", ["gelu", None])
def test_pair(device, rng, request, storage, dtype, hidden):
    """What lies between is rounded, or is not: either is within the bound."""
    residual = hidden is not None
    for shape, h, n in (((3, 13, 5, 7), 21, 11), ((13, 7, 3), 9, 13)):
        k = shape[-3]
        weights = [random_weight(rng, dtype, *each) for each in ((h, k), (n, h))]
        x = rng.standard_normal(shape).astype(dtype)
        node = PointwisePair(
            dtype=as_dtype(dtype),
            hidden_activation=hidden,
            epilogue=Epilogue("tanh" if residual else None, residual=residual),
            parameters=tuple(Parameters(w[None], b.astype(FLOAT32)) for w, b in weights),
        )
        out = node.shape(shape)
        assert out == (*shape[:-3], n, *shape[-2:])
        assert node.flop([shape], out) == 2 * math.prod(out) // n * h * (k + n)
        arrays = [x, rng.standard_normal(out).astype(dtype)] if residual else [x]
        value, bound = oracle.check_reference(
            node,
            arrays,
            of_pair(oracle.ACTIVATIONS[hidden], residual),
            terms=k + h + 2,
            sizes=of_pair(lambda size: 1.5 * size + 1, residual),
        )
        # Each is compiled: seconds. Every tile has a test of its own.
        if request.config.getoption("--exhaustive"):
            at = oracle.site(device, storage, dtype)
            able = pair.candidates(at.context, node.problem(at, shape), "buffer")
            choice = Choice(min(able, key=lambda v: v.shared_memory))
            assert_within(oracle.run(node, at, device, arrays, choice=choice), value, bound)


def pointwise() -> Convolution:
    return make_pointwise(np.ones((4, 6), np.float32))


def linear(*weight_shape: int) -> Linear:
    return make_linear(np.ones(weight_shape, np.float32))


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        (pointwise(), [(2, 5, 3, 3)], "(2, 5, 3, 3), 5 channels; the weight takes C_in = 6"),
        (pointwise(), [(12, 3, 3)], "; it may have 2 groups: pwconv.Graph.conv2d takes groups=2"),
        (pointwise(), [(6, 3)], "it must be [N, C, H, W] or [C, H, W]"),
        (
            replace(pointwise(), epilogue=Epilogue(residual=True)),
            [(2, 6, 3, 3), (2, 4, 3, 1)],
            "residual has shape (2, 4, 3, 1); it must be the output's, (2, 4, 3, 3)",
        ),
        (linear(4, 6), [(2, 5)], "x has shape (2, 5); its last axis must be K = 6, as"),
        (linear(4, 6), [()], "x has shape (); its last axis must be K = 6"),
        (linear(3, 4, 6), [(2, 6)], "it must be [B, …, K] with B = 3, as the weight's"),
        (linear(3, 4, 6), [(6,)], "x has shape (6,); it must be [B, …, K] with B = 3"),
    ],
)
def test_other_shapes(node, inputs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        node.output_shape(inputs)


def test_batches_share_no_texel():
    assert linear(3, 4, 6).storages([(3, 5, 1, 6)], ("texture3d", "buffer")) == (
        "texture3d",
        "buffer",
    )
    assert linear(3, 4, 6).storages([(3, 5, 6)], ("texture3d", "buffer")) == ("buffer",)
    assert linear(4, 6).storages([(3, 6)], ("texture3d",)) == ("texture3d",)
