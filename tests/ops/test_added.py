"""Operators as users add them, and as ``pwconv verify`` runs those that compile fast."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import pwconv
from pwconv import ops, shaders
from pwconv.ops import operators
from pwconv.verify.run import verify
from support import inside

WEIGHT = np.ones((6, 6), np.float32)
POINTWISE = ops.make_pointwise(WEIGHT)
DENSE = ops.make_dense(np.ones((6, 6, 3, 3), np.float32), padding=1)
PAIR = ops.PointwisePair(dtype=np.dtype("float32"), parameters=POINTWISE.parameters * 2)
SCALED = replace(POINTWISE, epilogue=ops.Epilogue(scale=True))


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        (ops.Elementwise(function="add"), "x", "there are 1 values; add takes 2"),
        (ops.Elementwise(function="activation"), "xx", "there are 2 values; activation takes 1"),
        (ops.GlobalAvgPool(), "xx", "there are 2 values; global_avg_pool takes 1"),
        (ops.Concat(), "", "there are 0 values; concat takes at least 1"),
        (POINTWISE, "xx", "there are 2 values; conv2d_pw takes 1"),
        (SCALED, "x", "there are 1 values; conv2d_pw takes 2"),
        (SCALED, "xx", "scale has shape (2, 6, 5, 7); it must be x's with H = W = 1, (2, 6, 1, 1)"),
        (PAIR, "p", None),
        (PAIR, "t", "x has shape (2, 3, 5, 7), 3 channels; the weight takes C_in = 6"),
        (
            ops.Upsample(scale=2, epilogue=ops.Epilogue("relu")),
            "x",
            "epilogue has activation; kernels of upsample compute none besides: add a node for it",
        ),
        (
            replace(DENSE, epilogue=ops.Epilogue(scale=True)),
            "xp",
            "epilogue has scale; kernels of conv2d compute activation and residual besides",
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
def test_nodes_of_operators(device, node, inputs, message):
    """By the public method that adds any; what is taken is not left out in silence."""
    graph = pwconv.Graph(device)
    shapes = {"x": (2, 6, 5, 7), "p": (2, 6, 1, 1), "t": (2, 3, 5, 7)}
    values = {name: graph.input(name, shape) for name, shape in shapes.items()}
    given = [values[name] for name in inputs]
    if message is None:
        assert graph.add_op(node, *given).shape == (2, 6, 1, 1)
        return
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        graph.add_op(node, *given)
    assert str(error.value).startswith(f"node '{node.name}_1': ")


def test_subsample_is_of_buffers(device):
    x = np.arange(2 * 6 * 5 * 7, dtype=np.float32).reshape(2, 6, 5, 7)
    for storage in ("auto", "buffer", "texture3d"):
        graph = pwconv.Graph(device, storage=storage)
        node = graph.add_op(ops.Subsample(stride=(2, 3)), graph.input("x", x.shape))
        graph.output("y", node)
        if storage == "texture3d":
            with pytest.raises(pwconv.UnsupportedError, match=r"node 'subsample_1': .*='buffer'"):
                graph.run(x=x)
        else:
            np.testing.assert_array_equal(graph.run(x=x)["y"], x[..., ::2, ::3])
    with pytest.raises(ValueError, match=r"stride is \(0, 1\); it must be 1 or more"):
        ops.Subsample(stride=(0, 1))


def test_no_such_function():
    with pytest.raises(ValueError, match="function is 'mod'; it must be one of activation, add"):
        ops.Elementwise(function="mod")


@pytest.mark.parametrize(
    "axes",
    [
        {"dtype": "fp32", "storage": "texture3d"},
        pytest.param({"dtype": "fp32", "storage": "buffer"}, marks=pytest.mark.exhaustive),
        pytest.param({"dtype": "fp16"}, marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_a_sound_device_passes_what_compiles_fast(device, axes):
    """Of each variant without a tile, every case: at sizes that take no time."""
    context = inside.another_context(device)
    context.limits = {**context.limits, "maxImageDimension3D": 389, "maxStorageBufferRange": 2**22}
    families = [family for operator in operators().values() for family in operator.families]
    variants = [v for family in families for v in shaders.variants(family, **axes)]
    found = verify(context, [variant for variant in variants if "tile" not in variant.axes])
    assert {each.variant.family for each in found.results} >= {"global_avg_pool", "conv2d_dw"}
    assert [str(failure) for result in found.failed for failure in result.failures] == []
