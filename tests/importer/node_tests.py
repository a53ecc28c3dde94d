"""ONNX's own node tests on pwconv, by its BackendTest runner.

Their parameters, such as weights, axes and shapes, are inputs of the models; they become
initializers, since pwconv takes them as constants.
"""

from __future__ import annotations

import unittest
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.base import Backend, BackendRep

import pwconv

REFUSED = "refused"
"""What the reason of a test begins with that is skipped because it is refused."""


def with_constants(model: onnx.ModelProto, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return a model of which some inputs are initializers."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    kept = [each for each in changed.graph.input if each.name not in constants]
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    changed.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items()
    )
    return changed


class Prepared(BackendRep):
    """A model that is imported when its inputs are known."""

    device: pwconv.Device
    storage: str

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model

    def run(self, inputs: Sequence[Any], **_: Any) -> tuple[np.ndarray, ...]:
        arrays = [
            numpy_helper.to_array(each) if isinstance(each, onnx.TensorProto) else np.asarray(each)
            for each in inputs
        ]
        arrays = [each.astype(np.float32) if each.dtype == np.float64 else each for each in arrays]
        names = [each.name for each in self.model.graph.input]
        given = dict(zip(names, arrays, strict=True))
        first = next((n for n in names if given[n].dtype.kind == "f" and given[n].size > 0), "")
        parameters = {n: a for n, a in given.items() if n != first}
        error: Exception | None = None
        # As computed inputs, those that may be; else all but the first as parameters.
        whole = {n: a for n, a in given.items() if a.dtype.kind != "f" or a.ndim < 1}
        for constants in (whole, parameters):
            data = {n: a for n, a in given.items() if n not in constants}
            try:
                graph = pwconv.from_onnx(
                    with_constants(self.model, constants),
                    device=self.device,
                    dtype="float32",
                    storage=self.storage,
                    shapes={n: a.shape for n, a in data.items()},
                )
                results = graph.run({n: a for n, a in data.items() if n in graph._inputs})
            except (pwconv.UnsupportedError, ValueError) as found:
                error = found
                continue
            outputs = [results[each.name] for each in self.model.graph.output]
            types = [each.type.tensor_type.elem_type for each in self.model.graph.output]
            return tuple(
                each.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
                for each, kind in zip(outputs, types, strict=True)
            )
        # The runner would take its own BackendIsNotSupposedToImplementIt for a test that passes.
        raise unittest.SkipTest(f"{REFUSED}: {error}")


class PwconvBackend(Backend):
    """What the runner calls."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> Prepared:
        return Prepared(model)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"
