"""from_onnx: shapes, names, cuts, recognized activations, and what is wrong with a file."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import pwconv
from support.models import make_model, node, run_elsewhere
from support.networks import assert_as_elsewhere

# Of ONNX Runtime's own result, which is in float32.


@pytest.fixture
def classifier(rng):
    """Return a network with a stem, a residual block and a head, of any H and W."""
    weights = {
        "w0": rng.standard_normal((8, 3, 3, 3), np.float32) / 5,
        "b0": rng.standard_normal(8, np.float32),
        "w1": rng.standard_normal((8, 1, 3, 3), np.float32) / 3,
        "scale": rng.uniform(0.5, 2, 8).astype(np.float32),
        "bias": rng.standard_normal(8, np.float32),
        "mean": rng.standard_normal(8, np.float32),
        "var": rng.uniform(0.5, 2, 8).astype(np.float32),
        "w2": rng.standard_normal((5, 8), np.float32),
        "b2": rng.standard_normal(5, np.float32),
    }
    nodes = [
        node("Conv", "images:0 w0 b0", "c", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Sigmoid", "c", "s"),
        node("Mul", "c s", "m"),
        node("Conv", "m w1", "/block/dw", group=8, pads=[1, 1, 1, 1]),
        node("BatchNormalization", "/block/dw scale bias mean var", "n"),
        node("Add", "n m", "r"),
        node("Relu", "r", "a"),
        node("GlobalAveragePool", "a", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f w2 b2", "logits", transB=1),
    ]
    return make_model(nodes, {"images:0": ["N", 3, "H", "W"]}, ["logits", "a"], weights)


def test_sizes_are_given_and_changed(device, rng, classifier):
    graph = pwconv.from_onnx(classifier, device=device, shapes={"images:0": (1, 3, 13, 17)})
    packed = graph.memory().weights
    for shape in ((1, 3, 13, 17), (3, 3, 8, 9), (1, 3, 13, 17)):
        graph.resize({"images:0": shape})
        x = rng.standard_normal(shape, np.float32)
        assert_as_elsewhere(graph, classifier, {"images:0": x})
    assert graph.memory().weights == packed
    assert graph.check({"images:0": x}).passed


def test_nodes_are_fused(device, classifier):
    graph = pwconv.from_onnx(classifier, device=device, shapes={"images:0": (1, 3, 13, 17)})
    kinds = [node.kind for node in graph.profile(1).nodes]
    assert kinds == ["conv2d", "conv2d_dw", "add", "global_avg_pool", "conv2d_pw"]


def test_paths_and_bytes(device, rng, classifier, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(classifier, path)
    x = rng.standard_normal((1, 3, 13, 17), np.float32)
    found = [
        pwconv.from_onnx(each, device=device, shapes={"images:0": x.shape}).run({"images:0": x})
        for each in (classifier, path, str(path), path.read_bytes())
    ]
    for each in found[1:]:
        np.testing.assert_array_equal(each["logits"], found[0]["logits"])


def test_cut_at_any_value(device, rng, classifier):
    x = rng.standard_normal((1, 3, 13, 17), np.float32)
    shapes = {"images:0": x.shape}
    first = pwconv.from_onnx(classifier, device=device, shapes=shapes, outputs=["m", "/block/dw"])
    parts = first.run({"images:0": x})
    assert parts.keys() == {"m", "/block/dw"}
    inputs = {"m": parts["m"], "/block/dw": parts["/block/dw"]}
    second = pwconv.from_onnx(
        classifier,
        device=device,
        inputs=inputs,
        shapes={name: array.shape for name, array in inputs.items()},
    )
    whole = pwconv.from_onnx(classifier, device=device, shapes=shapes).run({"images:0": x})
    np.testing.assert_allclose(second.run(inputs)["logits"], whole["logits"], 1e-4)


FORMS = {
    "silu": [node("Sigmoid", "x", "s"), node("Mul", "x s", "y")],
    "hardswish": [
        node("Add", "x three", "a"),
        node("Clip", "a zero six", "b"),
        node("Div", "b six", "c"),
        node("Mul", "c x", "y"),
    ],
    "hardswish, divided last": [
        node("Add", "three x", "a"),
        node("Clip", "a zero six", "b"),
        node("Mul", "x b", "c"),
        node("Div", "c six", "y"),
    ],
    "gelu": [
        node("Div", "x root", "a"),
        node("Erf", "a", "b"),
        node("Add", "b one", "c"),
        node("Mul", "x c", "d"),
        node("Mul", "d half", "y"),
    ],
    "mish": [node("Softplus", "x", "a"), node("Tanh", "a", "b"), node("Mul", "x b", "y")],
    "hardsigmoid": [
        node("Add", "x three", "a"),
        node("Clip", "a zero six", "b"),
        node("Div", "b six", "y"),
    ],
}
NUMBERS = {
    name: np.array(value, np.float32)
    for name, value in {
        "zero": 0, "half": 0.5, "one": 1, "root": 2**0.5, "three": 3, "six": 6,
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_activations_of_several_nodes(device, rng, form):
    model = make_model(
        [node("Relu", "in", "r"), node("Neg", "r", "x"), *FORMS[form]],
        {"in": (1, 5, 7, 3)},
        ["y"],
        NUMBERS,
    )
    graph = pwconv.from_onnx(model, device=device)
    assert len(graph._current().program.dispatches) == 3
    assert_as_elsewhere(graph, model, {"in": rng.standard_normal((1, 5, 7, 3), np.float32)})


def test_a_product_that_is_no_activation(device, rng):
    nodes = [node("Sigmoid", "x", "s"), node("Mul", "s z", "y")]
    model = make_model(nodes, {"x": (1, 5, 7, 3), "z": (1, 5, 7, 3)}, ["y"])
    inputs = {name: rng.standard_normal((1, 5, 7, 3), np.float32) for name in "xz"}
    assert_as_elsewhere(pwconv.from_onnx(model, device=device), model, inputs)


# Of opset 9, where attributes hold what are inputs now.
OLD = {
    "Unsqueeze": (node("Unsqueeze", "w", "v", axes=[0, 2]), (3, 5)),
    "Squeeze": (node("Squeeze", "w", "v", axes=[0]), (1, 3, 1, 1)),
    "Clip": (node("Clip", "w", "v", min=-0.25, max=0.5), (3, 1, 1)),
    "Pad": (node("Pad", "w", "v", pads=[1, 0, 0, 0, 0, 0], value=2.0), (2, 1, 1)),
    "Slice": (node("Slice", "w", "v", axes=[0], starts=[1], ends=[4]), (5, 1, 1)),
    "ReduceSum": (node("ReduceSum", "w", "v", axes=[0], keepdims=0), (2, 3, 1, 1)),
    "Split": (node("Split", "w", "u v", axis=0, split=[2, 3]), (5, 1, 1)),
}


@pytest.mark.parametrize("kind", OLD)
def test_constants_of_old_opsets(device, rng, kind):
    folded, shape = OLD[kind]
    nodes = [folded, node("Mul", "x v", "y")]
    constants = {"w": rng.standard_normal(shape, np.float32)}
    model = make_model(nodes, {"x": (1, 3, 4, 5)}, ["y"], constants, opset=9)
    x = rng.standard_normal((1, 3, 4, 5), np.float32)
    assert_as_elsewhere(pwconv.from_onnx(model, device=device), model, {"x": x})


def test_an_activation_of_an_old_opset(device, rng):
    nodes = [
        node("Add", "x three", "a"),
        node("Clip", "a", "b", min=0.0, max=6.0),
        node("Mul", "x b", "c"),
        node("Div", "c six", "y"),
    ]
    model = make_model(nodes, {"x": (1, 5, 7, 3)}, ["y"], NUMBERS, opset=10)
    graph = pwconv.from_onnx(model, device=device)
    assert len(graph._current().program.dispatches) == 1
    assert_as_elsewhere(graph, model, {"x": rng.standard_normal((1, 5, 7, 3), np.float32)})


@pytest.mark.parametrize(
    ("split", "settings"),
    [("two", {}), ("sizes", {}), ("_", {"keepdims": 0}), ("_", {})],
    ids=str,
)
def test_parts_of_a_sequence(device, rng, split, settings):
    """Written by torch's exporter, where it does not optimize, for chunk."""
    nodes = [
        node("SplitToSequence", f"x {split}" if split != "_" else "x", "s", axis=1, **settings),
        node("SequenceAt", "s first", "a"),
        node("SequenceAt", "s last", "b"),
        node("Relu", "a", "y"),
        node("Neg", "b", "z"),
    ]
    numbers = {"two": 2, "sizes": [1, 4], "first": 0, "last": -1}
    constants = {name: np.array(value, np.int64) for name, value in numbers.items()}
    model = make_model(nodes, {"x": (2, 5, 3, 4)}, ["y", "z"], constants)
    graph = pwconv.from_onnx(model, device=device)
    assert_as_elsewhere(graph, model, {"x": rng.standard_normal((2, 5, 3, 4), np.float32)})
    with pytest.raises(pwconv.UnsupportedError, match="its sequence is taken as a whole"):
        pwconv.from_onnx(model, device=device, outputs=["s"])


@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (2, 5, 1, 3), (3, 1, 11, 13)])
@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_whole_numbers_go_in(device, rng, dtype, storage, shape):
    """Every byte is exact in both types, however the array lies."""
    nodes = [
        node("Cast", "x", "f", to=TensorProto.FLOAT),
        node("Relu", "f", "y"),
        node("Transpose", "last", "first", perm=[0, 3, 1, 2]),
        node("Cast", "first", "g", to=TensorProto.FLOAT),
        node("Relu", "g", "z"),
    ]
    n, c, h, w = shape
    shapes = {"x": shape, "last": (n, h, w, c)}
    model = make_model(nodes, shapes, ["y", "z"], elem_type=TensorProto.UINT8)
    graph = pwconv.from_onnx(model, device=device, dtype=dtype, storage=storage)
    x, last = (rng.integers(0, 256, of, np.uint8) for of in shapes.values())
    x.flat[:2] = 0, 255
    for kind in (np.uint8, np.int32, bool):
        y, z = graph.run({"x": x.astype(kind), "last": last.astype(kind)}).values()
        np.testing.assert_array_equal(y, x.astype(kind))
        np.testing.assert_array_equal(z, last.astype(kind).transpose(0, 3, 1, 2))
    assert graph.check({"x": x, "last": last[::-1][::-1]}).passed
    tensor = device.tensor(x.astype(dtype), storage=storage)
    np.testing.assert_array_equal(graph.run({"x": tensor, "last": last})["y"].numpy(), x)


def test_outputs_that_are_others(device, rng):
    """An input itself, one value under two names, and a constant."""
    nodes = [
        node("Identity", "x", "same"),
        node("Relu", "x", "a"),
        node("Identity", "a", "b"),
        node("Shape", "x", "shape"),
    ]
    model = make_model(nodes, {"x": (2, 3, 5, 7)}, ["same", "a", "b", "shape"])
    x = rng.standard_normal((2, 3, 5, 7), np.float32)
    found = pwconv.from_onnx(model, device=device).run(x=x)
    np.testing.assert_array_equal(found["same"], x)
    np.testing.assert_array_equal(found["a"], found["b"])
    assert found["shape"].tolist() == [2, 3, 5, 7]


@pytest.mark.parametrize(
    ("declared", "kind", "axis", "sizes"),
    [
        ([1, "A", "B", 4, 5], "Softmax", 1, [(1, 2, 3, 4, 5), (1, 3, 2, 4, 5), (1, 6, 1, 4, 5)]),
        (None, "Softmax", 0, [(6,), (1, 6), (6, 1), (1, 6, 1)]),
    ],
    ids=["five axes", "any axes"],
)
def test_sizes_that_lie_alike_inside(device, rng, declared, kind, axis, sizes):
    """Inputs of other shapes are other programs, though their images are of one shape."""
    model = make_model([node(kind, "x", "y", axis=axis)], {"x": declared}, ["y"])
    graph = pwconv.from_onnx(model, device=device, shapes={"x": sizes[0]})
    for shape in (*sizes, sizes[0]):
        graph.resize(x=shape)
        assert_as_elsewhere(graph, model, {"x": rng.standard_normal(shape, np.float32)})


def test_an_input_whose_shape_alone_is_used(device, rng):
    """As where an image is resized to the size of another."""
    nodes = [
        node("Shape", "x", "of_x"),
        node("Shape", "z", "of_z"),
        node("Slice", "of_x zero two", "n_c"),
        node("Slice", "of_z two four", "h_w"),
        node("Concat", "n_c h_w", "size", axis=0),
        node("Resize", "x _ _ size", "y", mode="linear"),
    ]
    numbers = {name: np.array([n]) for name, n in (("zero", 0), ("two", 2), ("four", 4))}
    model = make_model(nodes, {"x": (1, 2, 3, 4), "z": (1, 1, "H", "W")}, ["y"], numbers)
    graph = pwconv.from_onnx(model, device=device, shapes={"z": (1, 1, 6, 8)})
    x = rng.standard_normal((1, 2, 3, 4), np.float32)
    for h, w in ((6, 8), (5, 9), (6, 8)):
        z = np.zeros((1, 1, h, w), np.float32)
        graph.resize(z=z.shape)
        wanted = run_elsewhere(model, {"x": x, "z": z})["y"]
        np.testing.assert_allclose(graph.run(x=x, z=z)["y"], wanted, atol=1e-5)
    with pytest.raises(ValueError, match=r"z has shape \(1, 1, 5, 9\) and the graph is sized for"):
        graph.run(x=x, z=np.zeros((1, 1, 5, 9), np.float32))


def test_constant_outputs_are_the_callers(device):
    model = make_model([node("Relu", "x", "y"), node("Shape", "x", "s")], {"x": (1, 2)}, "ys")
    graph = pwconv.from_onnx(model, device=device)
    x = np.ones((1, 2), np.float32)
    graph.run(x=x)["s"][:] = 9
    assert graph.run(x=x)["s"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("kind", "elem_type"),
    [("Div", TensorProto.INT64), ("ReduceMean", TensorProto.INT32), ("Add", TensorProto.UINT8)],
)
def test_arithmetic_of_whole_numbers(device, kind, elem_type):
    """Where it differs from that of floats, a node is refused; and not after a cast."""
    taken = "x" if kind == "ReduceMean" else "x x"
    casts = node("Cast", "x", "f", to=TensorProto.FLOAT)
    shapes = {"x": (1, 4)}
    whole = make_model([node(kind, taken, "y")], shapes, ["y"], elem_type=elem_type, opset=13)
    with pytest.raises(pwconv.UnsupportedError, match=r"'x' is u?int[0-9]+, of which it"):
        pwconv.from_onnx(whole, device=device)
    nodes = [casts, node(kind, taken.replace("x", "f"), "y")]
    cast = make_model(nodes, shapes, ["y"], elem_type=elem_type, opset=13)
    pwconv.from_onnx(cast, device=device).run(x=np.array([[1, 2, 3, 200]], np.uint8))


def test_constants_beside_whole_numbers(device, rng):
    """They are of the input's type: ONNX's rules take no other."""
    nodes = [node("Add", "x one", "a"), node("Cast", "a", "y", to=TensorProto.FLOAT)]
    one = {"one": np.array(1, np.int64)}
    model = make_model(nodes, {"x": (2, 3)}, ["y"], one, elem_type=TensorProto.INT64)
    x = rng.integers(-99, 99, (2, 3))
    np.testing.assert_array_equal(pwconv.from_onnx(model, device=device).run(x=x)["y"], x + 1)


def test_every_refusal_is_told_before_anything_runs(device):
    nodes = [
        node("Relu", "x", "a"),
        node("Einsum", "a", "b", equation="nchw->nhwc"),
        node("Det", "b", "c"),
        node("Relu", "c", "y"),
    ]
    model = make_model(nodes, {"x": (1, 3, 5, 7)}, ["y"])
    with pytest.raises(pwconv.UnsupportedError) as error:
        pwconv.from_onnx(model, device=device)
    text = str(error.value)
    assert "2 of the model's 4 nodes cannot be computed" in text
    assert "Einsum 'b': there is no such operator" in text
    assert "Det 'c'" in text
    assert "outputs=['a']" in text


def test_what_comes_after_a_refused_node_is_looked_at_too(device, rng):
    """By the shapes that ONNX tells: so its form is refused at once, and its share is known."""
    weights = {
        "w": rng.standard_normal((8, 3, 1, 1)).astype(np.float32),
        "v": rng.standard_normal((24, 8, 1, 1)).astype(np.float32),
        "scale": np.ones(7, np.float32),
    }
    nodes = [
        node("Conv", "x w", "a"),
        node("LayerNormalization", "a scale", "b", axis=-1),
        node("Conv", "b v", "c"),
        node("Softmax", "c", "d", axis=9),
        node("Relu", "d", "y"),
    ]
    model = make_model(nodes, {"x": (1, 3, 5, 7)}, ["y"], weights)
    with pytest.raises(pwconv.UnsupportedError) as error:
        pwconv.from_onnx(model, device=device)
    text = str(error.value)
    assert "2 of the model's 5 nodes cannot be computed" in text
    assert "LayerNormalization 'b': there is no such operator" in text
    assert "Softmax 'd': " in text
    assert "11 % of the arithmetic: cut the model by outputs=['a']" in text  # 3·8 of 3·8 + 8·24


def test_weights_that_nodes_give_are_arithmetic_too(device, rng):
    """As exporters of Paddle write them: in Constant nodes, not as initializers."""
    w = rng.standard_normal((8, 3, 1, 1)).astype(np.float32)
    v = rng.standard_normal((24, 8, 1, 1)).astype(np.float32)
    nodes = [
        node("Constant", "", "w", value=numpy_helper.from_array(w)),
        node("Constant", "", "v", value=numpy_helper.from_array(v)),
        node("Conv", "x w", "a"),
        node("LayerNormalization", "a scale", "b", axis=-1),
        node("Conv", "b v", "y"),
    ]
    model = make_model(nodes, {"x": (1, 3, 5, 7)}, ["y"], {"scale": np.ones(7, np.float32)})
    with pytest.raises(pwconv.UnsupportedError, match=r"11 % of the arithmetic"):
        pwconv.from_onnx(model, device=device)


@pytest.mark.parametrize(
    ("nodes", "share"),
    [
        ([node("MatMul", "t t2", "y")], "50 %"),
        ([node("LSTM", "t w r", "y", hidden_size=8)], "11 %"),  # 8·8 of 8·8 + 4·8·(8 + 8)
        ([node("Einsum", "t t2", "y", equation="abc,acd->abd")], None),
    ],
    ids=["MatMul", "LSTM", "Einsum"],
)
def test_arithmetic_that_others_do_counts(device, rng, nodes, share):
    arrays = {
        "v": rng.standard_normal((8, 8, 1, 1)).astype(np.float32),
        "w": rng.standard_normal((1, 32, 8)).astype(np.float32),
        "r": rng.standard_normal((1, 32, 8)).astype(np.float32),
        "rows": np.array([1, 8, 8]),
    }
    before = [
        node("Conv", "x v", "a"),
        node("Reshape", "a rows", "t2"),
        node("Transpose", "t2", "t", perm=[0, 2, 1]),
    ]
    model = make_model([*before, *nodes], {"x": (1, 8, 2, 4)}, ["y"], arrays)
    with pytest.raises(pwconv.UnsupportedError) as error:
        pwconv.from_onnx(model, device=device)
    found = re.search(r"(\d+ %) of the arithmetic", str(error.value))
    assert (found and found[1]) == share


@pytest.mark.parametrize(
    "lacking",
    [
        node("Gemm", "x", "y"),
        node("Conv", "x", "y"),
        node("LSTM", "x w", "y", hidden_size=8),
        node("MatMul", "", "y"),
        helper.make_node("Conv", ["x", "w"], []),
    ],
    ids=["Gemm", "Conv", "LSTM", "MatMul", "Conv of no output"],
)
def test_arithmetic_of_what_lacks_an_operand(device, lacking):
    """It is not known, and the refusals are told all the same."""
    nodes = [node("Relu", "x", "a"), node("Det", "a", "b"), lacking]
    constants = {"w": np.ones((1, 32, 8), np.float32)}
    model = make_model(nodes, {"x": (1, 2, 8, 8)}, ["b", *lacking.output], constants)
    with pytest.raises(pwconv.UnsupportedError, match=r"Det 'b': there is no such") as error:
        pwconv.from_onnx(model, device=device)
    assert str(error.value).startswith(f"{1 + len(lacking.output)} of the model's 3 nodes")


def test_a_size_that_the_network_itself_cannot_have(device):
    """Halves of an odd length, doubled, are not it: the shapes that differ are said."""
    nodes = [
        node("MaxPool", "x", "a", kernel_shape=[2, 2], strides=[2, 2]),
        node("Upsample", "a scales", "b", mode="nearest"),
        node("Add", "x b", "y"),
    ]
    scales = {"scales": np.array([1, 1, 2, 2], np.float32)}
    model = make_model(nodes, {"x": ["N", 3, "H", "W"]}, ["y"], scales, opset=9)
    with pytest.raises(pwconv.UnsupportedError) as error:
        pwconv.from_onnx(model, device=device, shapes={"x": (1, 3, 7, 6)})
    text = str(error.value)
    assert "(1, 3, 7, 6), (1, 3, 6, 6)" in text
    assert "where 'x' is (1, 3, 7, 6): give the inputs other shapes" in text
    assert "cut the model" not in text  # nothing else computes the rest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"input 'x' has shape \(N, 3, H, 7\), which is not fixed; give shapes="),
        ({"shapes": {"x": (1, 4, 5, 7)}}, r"shapes\['x'\] is \(1, 4, 5, 7\); the model has"),
        ({"shapes": {"x": (1, 3, 0, 7)}}, "no axis may be below 1"),
        ({"shapes": {"z": (1, 3, 5, 7)}}, "shapes has 'z'; inputs are 'x'"),
        ({"outputs": ["z"]}, "outputs has 'z', which no node of the model gives"),
        ({"outputs": []}, "outputs is empty"),
        ({"inputs": ["y"], "outputs": ["y"]}, "shape"),
    ],
    ids=str,
)
def test_arguments(device, arguments, message):
    model = make_model([node("Relu", "x", "y")], {"x": ["N", 3, "H", 7]}, ["y"])
    with pytest.raises(ValueError, match=message):
        pwconv.from_onnx(model, device=device, **arguments)


def test_other_things_than_models(device, tmp_path):
    with pytest.raises(TypeError, match="model is int; it must be a path, bytes"):
        pwconv.from_onnx(3, device=device)
    with pytest.raises(FileNotFoundError):
        pwconv.from_onnx(tmp_path / "model.onnx", device=device)
    with pytest.raises(ValueError, match="model has no nodes"):
        pwconv.from_onnx(b"", device=device)


def test_nodes_in_any_order(device, rng):
    """As onnxruntime.transformers.float16 writes files, and ONNX Runtime reads them."""
    w = rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    nodes = [
        node("Add", "b c", "y"),
        node("Sigmoid", "a", "c"),
        node("Relu", "a", "b"),
        node("Conv", "x w", "a"),
    ]
    model = make_model(nodes, {"x": (1, 3, 5, 7)}, ["y"], {"w": w})
    x = rng.standard_normal((1, 3, 5, 7)).astype(np.float32)
    graph = pwconv.from_onnx(model, device=device)
    assert_as_elsewhere(graph, model, {"x": x})


def relu(**constants):
    return make_model([node("Relu", "x", "y")], {"x": (1, 2, 3, 4)}, ["y"], constants)


def damaged(change):
    model = relu(w=np.ones(4, np.float32))
    change(model)
    return model


DAMAGES = {
    "huge": (lambda m: m.graph.initializer[0].dims.extend([2**40, 2**40]), "at most"),
    "negative": (lambda m: m.graph.initializer[0].dims.extend([-1]), "no axis may be negative"),
    "short": (lambda m: m.graph.initializer[0].dims.extend([7]), "is damaged"),
    "type": (lambda m: setattr(m.graph.initializer[0], "data_type", 999), "element type 999"),
    "twice": (lambda m: m.graph.initializer.extend(m.graph.initializer[:1]), "be different"),
    "circle": (lambda m: m.graph.node.extend([node("Relu", "b", "a"), node("Relu", "a", "b")]),
               "takes 'b', which no node before it"),
    "same output": (lambda m: m.graph.node.extend([node("Relu", "x", "y")]), "there is already"),
    "no output": (lambda m: m.graph.ClearField("output"), "no output"),
    "an output of no name": (lambda m: setattr(m.graph.output[0], "name", ""), "'' is given by no"),
    "complex": (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 14),
                "'x' is of COMPLEX64"),
    "unknown output": (lambda m: setattr(m.graph.output[0], "name", "z"), "'z' is given by no"),
    "nameless input": (lambda m: m.graph.input[0].ClearField("name"), "input without a name"),
    "nameless output": (lambda m: m.graph.output[0].ClearField("name"), "'' is given by no"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(device, damage):
    change, message = DAMAGES[damage]
    with pytest.raises(ValueError, match=message):
        pwconv.from_onnx(damaged(change), device=device)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", "n", "c"), node("Add", "x c", "y")],
        [node("Expand", "one n", "c"), node("Add", "x c", "y")],
        [node("Tile", "one n", "c"), node("Add", "x c", "y")],
        [node("Expand", "x n", "y")],
        [node("Add", "row column", "c"), node("Add", "x c", "y")],
        [node("Less", "row column", "c"), node("Where", "c x x", "y")],
        [node("Gather", "row zeros", "c"), node("Add", "x c", "y")],
    ],
    ids=lambda nodes: f"{nodes[0].op_type} {nodes[0].input[0]}",
)
def test_constants_that_would_not_fit(device, nodes):
    row = np.ones((1, 20000), np.float32)
    constants = {
        "n": np.array([2**20, 2**20, 1, 1]) * (1, 1, 3, 4),
        "one": np.ones((1, 1, 1, 1), np.float32),
        "row": row,
        "column": row.T,
        "zeros": np.zeros(20000, np.int64),
    }
    model = make_model(nodes, {"x": (1, 1, 3, 4)}, ["y"], constants)
    with pytest.raises(pwconv.UnsupportedError, match="at most"):
        pwconv.from_onnx(model, device=device)


def test_constants_that_would_not_fit_together(device, monkeypatch):
    monkeypatch.setattr("pwconv.importer.network._MOST_FOLDED_BYTES", 10000)
    nodes = [node("ConstantOfShape", "n", each) for each in "abc"]
    model = make_model(
        [*nodes, node("Sum", "x a b c", "y")], {"x": (1000,)}, ["y"], {"n": np.array([1000])}
    )
    with pytest.raises(pwconv.UnsupportedError, match="nodes give are 12,000 bytes; at most"):
        pwconv.from_onnx(model, device=device)


def functions(count, circle=False):
    """Return a model of functions, each of which calls the next twice."""
    made = []
    for i in range(count):
        last = i + 1 == count and not circle
        calls = [("x", "a"), ("a", "y")]
        nodes = [
            onnx.helper.make_node(f"F{(i + 1) % count}", [a], [b], domain="d") for a, b in calls
        ]
        opsets = [onnx.helper.make_opsetid("", 19), onnx.helper.make_opsetid("d", 1)]
        body = [node("Relu", "x", "y")] if last else nodes
        made.append(onnx.helper.make_function("d", f"F{i}", ["x"], ["y"], body, opsets))
    calling = onnx.helper.make_node("F0", ["x"], ["y"], domain="d")
    model = make_model([calling], {"x": (1, 2)}, ["y"])
    model.opset_import.append(onnx.helper.make_opsetid("d", 1))
    model.functions.extend(made)
    return model


def test_functions(device):
    assert_as_elsewhere(
        pwconv.from_onnx(functions(3), device=device), functions(3), {"x": np.ones((1, 2), "f4")}
    )
    for model, message in (
        (functions(40), "model's functions are 549,755,813,888 nodes; at most"),
        (functions(2, circle=True), "100 deep, or in a circle"),
    ):
        with pytest.raises(ValueError, match=message):
            pwconv.from_onnx(model, device=device)
    model = functions(1)
    model.graph.node[0].input.extend(["x", "x"])
    with pytest.raises(ValueError, match="cannot be inlined"):
        pwconv.from_onnx(model, device=device)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no such device")
def test_a_model_without_end(device, monkeypatch):
    monkeypatch.setattr("pwconv.importer.model._MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="has 1,001 bytes or more; at most 1,000 can be read"):
        pwconv.from_onnx("/dev/zero", device=device)


def test_external_data(device, tmp_path, rng):
    weight = rng.standard_normal((4, 2, 1, 1), np.float32)
    model = make_model([node("Conv", "x w", "y")], {"x": (1, 2, 3, 5)}, ["y"], {"w": weight})
    whole = onnx.ModelProto.FromString(model.SerializeToString())
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    x = rng.standard_normal((1, 2, 3, 5), np.float32)
    graph = pwconv.from_onnx(path, device=device)
    assert_as_elsewhere(graph, whole, {"x": x})
    with pytest.raises(ValueError, match="lies in another file; give the model's path"):
        pwconv.from_onnx(path.read_bytes(), device=device)
    (tmp_path / "w.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match="the file has 5"):
        pwconv.from_onnx(path, device=device)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link", "", "x" * 300])
def test_external_data_outside_the_folder(device, tmp_path, location):
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("secret", "models/w.bin"):
        (tmp_path / name).write_bytes(bytes(32))
    (folder / "link").symlink_to(tmp_path / "secret")
    tensor = numpy_helper.from_array(np.zeros((4, 2, 1, 1), np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    model = make_model([node("Conv", "x w", "y")], {"x": (1, 2, 3, 5)}, ["y"])
    model.graph.initializer.append(tensor)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    message = "must be a file in the model's folder, and no link"
    if len(location) > 255:  # newer Pythons say of such a name that it is no file
        message = "name too long|which is not there"
    with pytest.raises(ValueError, match=message):
        pwconv.from_onnx(folder / "model.onnx", device=device)


WHOLE = make_model(
    [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Reshape", "c s", "r"),
        node("Softmax", "r", "y"),
    ],
    {"x": (1, 2, 5, 5)},
    ["y"],
    {"w": np.ones((4, 2, 3, 3), np.float32), "s": np.array([1, 4, -1])},
).SerializeToString()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes(device, data):
    """Whatever is changed, it is read, or told what is wrong."""
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        if data.draw(st.booleans()):
            damaged[at] = data.draw(st.integers(0, 255))
        else:
            del damaged[at : at + data.draw(st.integers(1, 9))]
    with contextlib.suppress(ValueError, TypeError, pwconv.UnsupportedError):
        pwconv.from_onnx(bytes(damaged), device=device)


def test_a_node_of_constants_alone(device):
    model = make_model([node("Tile", "x c", "y")], {"x": (2, 3)}, ["y"], {"c": np.array([1, 2])})
    with pytest.raises(pwconv.UnsupportedError, match=r"Tile .*; here the network computes one"):
        pwconv.from_onnx(model, device=device)
