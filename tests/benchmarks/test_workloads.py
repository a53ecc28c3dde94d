"""Workloads' shapes, counts and arithmetic."""

from __future__ import annotations

import pytest

import pwconv
from pwconv.bench.cases import Shape
from pwconv.bench.graphs import count_work
from workloads import WORKLOADS, workload


def shapes(name: str) -> list[Shape]:
    return [case.layer for case in workload(name) if case.layer]


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_workload_has_each_case_once(name):
    names = [case.name for case in workload(name)]
    assert len(names) == len(set(names))


def test_the_mixers_are_edgetams_layers(device):
    *mixers, chain = workload("edgetam-mixers")
    assert [case.name for case in mixers] == [
        "mixer 48@256",
        "mixer 96@128",
        "mixer 192@64",
        "mixer 384@32",
    ]
    layers = shapes("edgetam")
    for case, expand, project in zip(mixers, layers[0:8:2], layers[1:8:2], strict=True):
        flop, least_bytes = count_work(device, case, "float16")
        positions = expand.h * expand.w
        products = expand.k * expand.n + project.k * project.n
        assert flop == 2 * products * positions
        assert case.count == expand.count
        ends = 2 * 2 * expand.k * positions
        weights = 2 * products + 4 * (expand.n + project.n)
        assert ends + weights <= least_bytes < 1.01 * (ends + weights)  # as they are packed
    flop, _ = count_work(device, chain, "float32")
    assert round(flop / 1e9, 1) == 32.9


def test_sizes():
    assert [case.name for case in workload("edgetam", 512)][:2] == ["48→96@128", "96→48@128"]
    for name in ("edgetam", "edgetam-mixers", "repvit-m1"):
        with pytest.raises(pwconv.UnsupportedError, match="size is 33; it must be a positive mul"):
            workload(name, 33)
    with pytest.raises(pwconv.UnsupportedError, match="--size is 64; only these workloads take it"):
        workload("sd-unet", 64)


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
    pointwise = sum(x.k * x.n * x.count for x in shapes(name))
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
    layers = {str(layer): layer.count for layer in shapes("sd-unet")}
    assert layers["320→320@64"] == 40
    assert layers["1280→1280@64"] == 0
    assert layers["768→1280@1×77"] == 2 * (5 + 1)
    assert layers["1280→640@32"] == 1
    assert layers["640→1280@16"] == 1
