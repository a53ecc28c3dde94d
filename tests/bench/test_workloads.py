"""Workloads' shapes, counts and arithmetic."""

from __future__ import annotations

import pytest

from pwconv.bench.workloads import WORKLOADS, Layer, parse_shape, workload


def test_flop_and_bytes():
    layer = Layer(48, 96, 20, 30, batch=2)
    assert layer.flop == 2 * 48 * 96 * 20 * 30 * 2
    assert layer.activation_bytes(2) == 2 * (48 + 96) * 20 * 30 * 2
    assert layer.least_bytes(4) == 4 * ((48 + 96) * 1200 + 48 * 96 + 96)
    assert str(layer) == "48→96@20×30 ×2"
    assert str(Layer(3, 8, 5, 5)) == "3→8@5"


def test_each_workload_has_each_shape_once():
    for name in WORKLOADS:
        shapes = [(x.k, x.n, x.h, x.w, x.batch) for x in workload(name)]
        assert len(shapes) == len(set(shapes))


def test_edgetam():
    layers = workload("edgetam")
    assert [str(layer) for layer in layers] == [
        "48→96@256",
        "96→48@256",
        "96→192@128",
        "192→96@128",
        "192→384@64",
        "384→192@64",
        "384→768@32",
        "768→384@32",
        "48→256@256",
        "256→32@256",
        "96→256@128",
        "256→64@128",
    ]
    assert [layer.count for layer in layers] == [2, 2, 3, 3, 15, 15, 3, 3, 1, 1, 1, 1]
    assert all(layer.flop == 603979776 for layer in layers[:8])


# The networks' published numbers of parameters: with what is not a pointwise convolution added
# (stem, normalizations, depthwise kernels, biases of the squeeze, classifier), ours come to them.
@pytest.mark.parametrize(
    ("name", "kernels", "squeeze", "published"),
    [
        ("mobilenetv2", (3, 3, 3, 3, 3, 3, 3), False, 3_504_872),
        ("efficientnet-b0", (3, 3, 5, 3, 5, 5, 3), True, 5_288_548),
    ],
)
def test_parameters_add_up_to_the_network(name, kernels, squeeze, published):
    channels = {
        "mobilenetv2": (16, 24, 32, 64, 96, 160, 320),
        "efficientnet-b0": (16, 24, 40, 80, 112, 192, 320),
    }[name]
    blocks = {"mobilenetv2": (1, 2, 3, 4, 3, 3, 1), "efficientnet-b0": (1, 2, 2, 3, 3, 4, 1)}[name]
    pointwise = sum(x.k * x.n * x.count for x in workload(name))
    stem_head_classifier = 27 * 32 + 2 * 32 + 2 * 1280 + 1280 * 1000 + 1000
    rest = 0
    before = 32
    for stage, (out, count, kernel) in enumerate(zip(channels, blocks, kernels, strict=True)):
        for _ in range(count):
            hidden = before * (6 if stage else 1)
            rest += 2 * hidden if stage else 0  # normalization after the expansion
            rest += hidden * kernel**2 + 2 * hidden + 2 * out
            rest += hidden + before // 4 if squeeze else 0
            before = out
    assert pointwise + stem_head_classifier + rest == published


def test_sd_unet_has_the_large_ones():
    layers = {str(layer): layer.count for layer in workload("sd-unet")}
    assert layers["320→320@64"] == 40
    assert layers["1280→1280@64"] == 0
    assert layers["768→1280@1×77"] == 2 * (5 + 1)
    assert layers["1280→640@32"] == 1
    assert layers["640→1280@16"] == 1


def test_a_shape_by_hand():
    assert parse_shape("16,8,4,2") == Layer(16, 8, 4, 2)
    assert parse_shape("16, 8, 4, 2, 3").batch == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("16,8,4", "has 3 numbers"),
        ("16,8,4,4,1,1", "has 6 numbers"),
        ("16,0,4,4", "N is '0'"),
        ("16,8,x,4", "H is 'x'"),
        ("16,8,4,4,-1", "batch is '-1'"),
        ("9999999,8,4,4", "K is '9999999'"),
    ],
)
def test_a_bad_shape_says_what_is_wrong(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_shape(text)
