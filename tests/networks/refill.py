"""Weights of files that come without them: drawn from a seed.

An initializer without data says in its doc_string how it is drawn: ``normal MEAN STD`` or ``uniform
LOW HIGH``.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pwconv.importer.model import read_model
from support.float64 import begin, step

_SEED = 7
# Initializers of so many elements are left out of files.
_LEAST = 8
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_BIAS = "normal 0 0.1"
# Of a batch norm's scale, bias, mean and variance.
_NORM = ("uniform 0.8 1.25", "normal 0 0.3", "normal 0 0.3", "uniform 0.5 2")
_OTHER = "uniform 0.1 0.4"


def fill(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give a model's initializers that have no data their numbers; return the model."""
    for each in model.graph.initializer:
        if each.doc_string and not each.raw_data:
            array = _drawn(each.name, each.dims, each.doc_string)
            each.CopyFrom(numpy_helper.from_array(array.astype(np.float32), each.name))
    return model


def empty(model: onnx.ModelProto, image: np.ndarray) -> onnx.ModelProto:
    """Take the data of a model's weights away, and write down how to draw them; return the model.

    The weight of a product is of such size that, for an image, what it gives has a variance of 1,
    as in a trained network.
    """
    _constants_as_initializers(model)
    read = read_model(model)
    weights = {each.name: each for each in model.graph.initializer if _is_weight(each)}
    (given,) = read.inputs
    values: dict[str, Any] = begin(read, {given: image})

    def describe(name: str, recipe: str) -> None:
        if name in weights:
            left_out = TensorProto(name=name, data_type=TensorProto.FLOAT, doc_string=recipe)
            left_out.dims.extend(weights[name].dims)
            weights[name].CopyFrom(left_out)
            values[name] = _drawn(name, left_out.dims, recipe)

    for node in read.nodes:
        if node.kind == "BatchNormalization":
            for name, recipe in zip(node.inputs[1:], _NORM, strict=True):
                describe(name, recipe)
        elif node.kind in _PRODUCTS and node.inputs[1] in weights:
            for name in node.inputs[2:]:
                describe(name, _BIAS)
            describe(node.inputs[1], "normal 0 1")
            step(node, values)
            spread = values[node.outputs[0]].std()
            describe(node.inputs[1], f"normal 0 {1 / spread:.4g}")
        else:
            for name in node.inputs:
                describe(name, _OTHER)
        step(node, values)
    return model


def refill(model: onnx.ModelProto, image: np.ndarray) -> onnx.ModelProto:
    """Draw all of a model's weights anew; return the model."""
    return fill(empty(model, image))


def _is_weight(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) >= _LEAST


def _drawn(name: str, shape: Any, recipe: str) -> np.ndarray:
    """Return numbers that depend on their name, and not on other initializers."""
    rng = np.random.default_rng([_SEED, zlib.crc32(name.encode())])
    way, first, second = recipe.split()
    return getattr(rng, way)(float(first), float(second), tuple(shape)).astype(np.float32)


def _constants_as_initializers(model: onnx.ModelProto) -> None:
    """Make what ConstantOfShape gives, of a shape that is known, initializers."""
    graph = model.graph
    shapes = {each.name: each for each in graph.initializer}
    for node in [each for each in graph.node if each.op_type == "ConstantOfShape"]:
        if node.input[0] in shapes:
            value = onnx.helper.get_attribute_value(node.attribute[0])
            shape = numpy_helper.to_array(shapes[node.input[0]])
            array = np.full(shape, numpy_helper.to_array(value)[0])
            graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
            graph.node.remove(node)
