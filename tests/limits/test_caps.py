"""Devices that can do less: every result is right, or an error that names the limit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pwconv
from accuracy import check_layer, check_linear, random_linear, random_problem
from drawn import Drawn
from mirror import Mirror, random_weight
from pwconv import reference
from pwconv.kernels import conv2d_pw_choice, linear
from pwconv.kernels.tiling import Choice

DTYPES = ("float32", "float16")
STORAGES = ("texture3d", "buffer")


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": (0, 3)}], ids=str)
def test_convolutions(limited, rng, settings, dtype, storage):
    for c_in, c_out, size in ((13, 7, (5, 7)), (33, 50, (23, 29))):
        x, weight, bias = random_problem(rng, c_in, c_out, size, dtype, batch=2)
        layer = pwconv.PointwiseConv2d(
            weight, bias, activation="gelu", storage=storage, device=limited.device, **settings
        )
        check_layer(layer, x, weight, bias)
