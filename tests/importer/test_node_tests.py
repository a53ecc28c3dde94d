"""ONNX's node tests of what is imported: each passes, or is refused with a reason."""

from __future__ import annotations

import io
import re
import unittest
import warnings

import pytest

onnx_test = pytest.importorskip("onnx.backend.test")

from onnx.backend.test.loader import load_model_tests  # noqa: E402

from importer.node_tests import Prepared, PwconvBackend  # noqa: E402
from pwconv.importer import operators  # noqa: E402, F401  # fills the registry
from pwconv.importer.network import CONVERTS  # noqa: E402

# Where ONNX Runtime, which decides, differs from them: with align_corners and scales it takes the
# output's whole length, and not scale times length.
DIFFERENT = "test_resize_downsample_scales_linear_align_corners"
LEAST_PASSED = 380


def test_node_tests(device, monkeypatch):
    monkeypatch.setattr(Prepared, "device", device, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of making the tests' own numbers
        runner = onnx_test.BackendTest(PwconvBackend, __name__)
        for case in load_model_tests(kind="node"):
            kinds = {node.op_type for node in case.model.graph.node}
            if kinds <= set(CONVERTS) and not re.match(f"{DIFFERENT}|test_cast", case.name):
                runner.include(f"^{case.name}_cpu$")
        result = unittest.TextTestRunner(io.StringIO()).run(runner.test_suite)
    assert not result.failures, result.failures
    assert not result.errors, result.errors
    refused = {test.id().split(".")[-1]: why for test, why in result.skipped}
    passed = result.testsRun - len(refused)
    assert passed >= LEAST_PASSED
    assert all(refused.values())
