"""Small files made after bug reports of other engines, with their right outputs.

Each is NAME.onnx and NAME.npz of in_INPUT and out_OUTPUT, from ONNX Runtime 1.32.0, or from float64
where that of onnx.reference differs from it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pwconv
from support.networks import assert_right

pytest.importorskip("onnx")
CASES = sorted((Path(__file__).parent / "cases").glob("*.onnx"))
# Of the stored outputs, relative to the largest: they were computed in float32.
STORED = 1e-5


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case(device, path, dtype, storage):
    stored = np.load(path.with_suffix(".npz"))
    inputs = {name[3:]: stored[name] for name in stored.files if name.startswith("in_")}
    outputs = {name[4:]: stored[name] for name in stored.files if name.startswith("out_")}
    graph = pwconv.from_onnx(
        path,
        device=device,
        dtype=dtype,
        storage=storage,
        shapes={name: array.shape for name, array in inputs.items()},
    )
    about = assert_right(graph, inputs)
    assert about.keys() == outputs.keys()
    for name, wanted in outputs.items():
        assert about[name].shape == wanted.shape
        if dtype == "float32":
            assert np.abs(about[name] - wanted).max() <= STORED * np.abs(wanted).max()
