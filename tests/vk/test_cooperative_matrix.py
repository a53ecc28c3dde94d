"""The matrix products of a device: what of the driver's lists is kept."""

from __future__ import annotations

import pytest

from pwconv.errors import PwconvError
from pwconv.vk import api as vk
from pwconv.vk.cooperative_matrix import Matrix, query
from pwconv.vk.instance import resident_instance
from support import inside

FP16, FP32, FP8, BF16 = 0, 1, 1000491002, 1000141000
DEVICE_SCOPE, WORKGROUP, SUBGROUP = 1, 2, 3
FEATURES = frozenset({"cooperativeMatrix", "cooperativeMatrixFlexibleDimensions"})


@pytest.fixture
def lists(monkeypatch):
    """What a driver would fill in, by function."""
    filled: dict[str, list[tuple[int, ...]]] = {}
    monkeypatch.setattr(
        *inside.slots.ask_matrices, lambda instance, device, wanted: filled[wanted.function]
    )
    filled[inside.FIXED_MATRICES.function] = []
    filled[inside.FLEXIBLE_MATRICES.function] = []
    return filled


def test_products_are_read_in_order_and_once(lists):
    lists[inside.FIXED_MATRICES.function] = [
        (16, 8, 4, FP16, FP16, FP32, FP32, 0, SUBGROUP),
        (16, 8, 4, FP16, FP16, FP32, FP32, 0, SUBGROUP),
    ]
    lists[inside.FLEXIBLE_MATRICES.function] = [
        (32, 16, 8, BF16, BF16, FP32, FP32, 0, WORKGROUP, 128)
    ]
    assert query(None, None, FEATURES) == (
        Matrix(16, 8, 4, "float16", "float32", "subgroup"),
        Matrix(32, 16, 8, "bfloat16", "float32", "workgroup", True, 128),
    )
    assert query(None, None, frozenset()) == ()


@pytest.mark.parametrize(
    "listed",
    [
        (16, 16, 16, FP8, FP8, FP32, FP32, 0, SUBGROUP),
        (16, 16, 16, FP16, BF16, FP32, FP32, 0, SUBGROUP),
        (16, 16, 16, FP16, FP16, FP32, FP16, 0, SUBGROUP),
        (16, 16, 16, FP16, FP16, FP32, FP32, 1, SUBGROUP),
        (16, 16, 16, FP16, FP16, FP32, FP32, 0, DEVICE_SCOPE),
    ],
    ids=["type", "factors", "sums", "saturating", "scope"],
)
def test_what_pwconv_has_no_word_for_is_left_out(lists, listed):
    lists[inside.FIXED_MATRICES.function] = [listed]
    assert query(None, None, FEATURES) == ()


def test_a_device_lists_matrices_as_its_features_promise(device):
    found = any(matrix.scope == "subgroup" for matrix in device.info.matrices)
    assert found == ("cooperativeMatrix" in device.info.features)


def test_a_function_that_the_loader_lacks_is_named():
    with resident_instance() as instance, pytest.raises(PwconvError, match="no vkThere IsNone"):
        vk.instance_pointer(instance.handle, "vkThere IsNone", "int(*)(void)")
