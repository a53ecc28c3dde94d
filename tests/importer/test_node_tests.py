"""ONNX's node tests of what is imported: each passes, or is refused with a reason."""

from __future__ import annotations

import io
import re
import unittest
import warnings

import onnx
import pytest

onnx_test = pytest.importorskip("onnx.backend.test")

from onnx.backend.test.loader import load_model_tests  # noqa: E402

import operator_table  # noqa: E402
from importer.node_tests import REFUSED, Prepared, PwconvBackend  # noqa: E402
from pwconv.importer.network import CONVERTS  # noqa: E402

# Where ONNX Runtime, which decides, differs from them: with align_corners and scales it takes the
# output's whole length, and not scale times length.
DIFFERENT = "test_resize_downsample_scales_linear_align_corners"


@pytest.mark.parametrize(
    "storage", ["texture3d", pytest.param("buffer", marks=pytest.mark.exhaustive)]
)
def test_node_tests(device, storage, monkeypatch):
    monkeypatch.setattr(Prepared, "device", device, raising=False)
    monkeypatch.setattr(Prepared, "storage", storage, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of making the tests' own numbers
        runner = onnx_test.BackendTest(PwconvBackend, __name__)
        count = 0
        for case in load_model_tests(kind="node"):
            kinds = {node.op_type for node in case.model.graph.node}
            if kinds <= set(CONVERTS) and not re.match(f"{DIFFERENT}|test_cast", case.name):
                runner.include(f"^{case.name}_cpu$")
                count += 1
        result = unittest.TextTestRunner(io.StringIO()).run(runner.test_suite)
    assert not result.failures, result.failures
    assert not result.errors, result.errors
    reasons = [why for _, why in result.skipped if why.startswith(REFUSED)]
    assert not [why for why in reasons if len(why) < len(f"{REFUSED}: ") + 1]
    passed = count - len(reasons)
    # docs/operators.md has the numbers for one version of onnx; others have other tests.
    published = operator_table.NODE_TESTS
    if onnx.__version__ == published.version:
        assert (passed, len(reasons)) == (published.passed, published.refused)
    assert passed >= 0.9 * published.passed
