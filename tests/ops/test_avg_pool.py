"""Average pooling against a loop over windows."""

from __future__ import annotations

import numpy as np
import pytest

from pwconv.ops import make_avg_pool
from support import oracle

CASES = [  # kernel, stride, sides, dilation, ceil_mode
    ((3, 2), (2, 1), (1, 1, 1, 1), (1, 1), False),
    ((2, 3), (3, 2), (0, 1, 1, 0), (1, 2), True),
    ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), True),
]


def pooled(x, case, shape, *, count_padding):
    """Return the mean of each window."""
    kernel, stride, (top, left, bottom, right), dilation, _ = case
    h, w = x.shape[2:]
    y = np.zeros(shape)
    for i, j in np.ndindex(*shape[2:]):
        total, count = 0.0, 0
        for dy, dx in np.ndindex(*kernel):
            at_h = i * stride[0] - top + dy * dilation[0]
            at_w = j * stride[1] - left + dx * dilation[1]
            inside = 0 <= at_h < h and 0 <= at_w < w
            count += inside or (count_padding and at_h < h + bottom and at_w < w + right)
            total = total + x[:, :, at_h, at_w] if inside else total
        y[:, :, i, j] = total / count
    return y


@pytest.mark.parametrize("count_padding", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_means(device, rng, storage, dtype, case, count_padding):
    kernel, stride, sides, dilation, ceil_mode = case
    symmetric = sides[:2] == sides[2:]
    node = make_avg_pool(
        kernel,
        stride=stride,
        padding=sides[:2] if symmetric else sides,
        dilation=dilation,
        ceil_mode=ceil_mode,
        count_include_pad=count_padding,
    )
    x = rng.standard_normal((2, 5, 11, 13)).astype(dtype)
    shape = node.shape(x.shape)
    oracle.check(
        node,
        device,
        storage,
        [x],
        lambda x: pooled(x, case, shape, count_padding=count_padding),
        terms=kernel[0] * kernel[1],
    )


def test_windows_over_nothing_that_is_counted(device, rng, storage, dtype):
    """As of onnxruntime, and in the lanes of channels alone."""
    node = make_avg_pool(2, dilation=4, padding=1, count_include_pad=False)
    x = rng.standard_normal((2, 5, 3, 3)).astype(dtype)
    oracle.check(node, device, storage, [x], lambda x: np.zeros((2, 5, 1, 1)))


@pytest.mark.parametrize(
    ("size", "settings", "count"),
    [
        (5, {"kernel": 2, "stride": 2, "padding": (0, 0, 1, 1)}, 3),
        (4, {"kernel": 2, "stride": 2, "padding": (0, 0, 1, 1), "ceil_mode": True}, 2),
        (4, {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}, 3),
    ],
    ids=str,
)
def test_sizes(size, settings, count):
    """As torch.nn.AvgPool2d and ONNX have them."""
    assert make_avg_pool(**settings).shape((1, 1, size, size)) == (1, 1, count, count)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding": 2}, "padding is 2; it must be at most half the kernel"),
        ({"padding": (3, 0, 0, 0)}, "padding is .* at most the kernel less one tap"),
        ({"count_include_pad": 1}, "count_include_pad is 1"),
        ({"ceil_mode": 0}, "ceil_mode is 0"),
    ],
    ids=str,
)
def test_bad_arguments(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_avg_pool(3, **settings)
