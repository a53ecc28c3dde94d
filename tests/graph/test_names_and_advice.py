"""What a graph shows of names that are anything, and advises for arrays of another layout."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest

import pwconv

STRANGE = (
    *("\x1b[31mred\x1b[0m", "two\nlines", "\x00", 'a "quoted" \\ name', "back\\", "\\N \\G \\L"),
    *("[red]markup[/red]", "[/red]", ":smile:", "&amp; &lt;", "<b>x</b>", "\u202egnp", "\ud800"),
)


def doubled(device: pwconv.Device, names: tuple[str, ...]) -> pwconv.Graph:
    graph = pwconv.Graph(device)
    value = graph.input("an input\x1b[2J", (1, 1, 1, 1))
    for name in names:
        value = graph.add(value, value, name=name)
    graph.output("an output\x07", value)
    return graph


def test_tables_and_drawings_show_no_escape_codes(device):
    graph = doubled(device, STRANGE)
    summary, dot = graph.summary(), graph.to_dot()
    for text in (summary, dot, repr(graph)):
        assert all(c.isprintable() or c == "\n" for c in text)
        text.encode()
    for name in ("\\x1b[31mred\\x1b[0m", "two\\nlines", "[red]markup[/red]", "[/red]", ":smile:"):
        assert any(line.startswith(f" {name} ") for line in summary.splitlines())
    with pytest.raises(ValueError, match=r"^an input\\x1b\[2J has shape") as caught:
        graph.run(**{"an input\x1b[2J": np.ones((1, 1, 1, 2), np.float32)})
    assert str(caught.value).isprintable()


def test_labels_are_what_graphviz_reads_as_the_names(device):
    """As dot's language has it: a quoted string ends at a quote without a backslash."""
    lines = doubled(device, STRANGE).to_dot().splitlines()
    labels = [re.search(r'\[label="((?:[^"\\]|\\.)*)"[\],]', line) for line in lines[2:-1]]
    assert all(labels)
    shown = [
        label[1].replace("\\\\", "\\").replace('\\"', '"').replace("&amp;", "&")
        for label in labels
        if label
    ]
    for name in ('a "quoted" \\ name: add', "back\\: add", "\\N \\G \\L: add", "&amp; &lt;: add"):
        assert name in shown


def test_a_value_past_the_limits_names_its_node_in_print(device):
    graph = pwconv.Graph(device)
    graph.output("y", graph.upsample(graph.input("x", (1, 1, 64, 64)), 1024, name="\x1b[1m"))
    with pytest.raises(pwconv.UnsupportedError, match=r"node '\\x1b\[1m' has shape"):
        graph.summary()


# -- layouts and weights that are meant for something else ----------------------------------------


def test_images_with_channels_last(device):
    weight = np.ones((8, 3), np.float32)
    x = np.ones((1, 4, 5, 3), np.float32)
    layer = pwconv.PointwiseConv2d(weight, device=device)
    for array, axes in ((x, "(0, 3, 1, 2)"), (x[0], "(2, 0, 1)")):
        with pytest.raises(ValueError, match=re.escape(f"x.transpose{axes}")):
            layer(array)
    assert layer(x.transpose(0, 3, 1, 2)).shape == (1, 8, 4, 5)
    graph = pwconv.Graph(device)
    wrong = graph.input("wrong", x.shape)
    with pytest.raises(ValueError, match=r"x.transpose\(0, 3, 1, 2\)"):
        graph.conv2d(wrong, np.ones((2, 3, 2, 2), np.float32))
    graph = pwconv.Graph(device)
    graph.output("y", graph.conv2d_pw(graph.input("image", (1, 3, 4, 5)), weight))
    with pytest.raises(ValueError, match=r"pass image.transpose\(0, 3, 1, 2\)"):
        graph.run(image=x)
    with pytest.raises(ValueError, match=r"call graph.resize\(image=\(1, 3, 4, 4\)\)"):
        graph.run(image=x.transpose(0, 3, 1, 2)[..., :4])


@pytest.mark.parametrize(
    ("method", "shape", "says"),
    [
        ("conv2d", (8, 1, 3, 3), "depthwise: use pwconv.Graph.conv2d_dw"),
        ("conv2d", (4, 2, 3, 3), "it may have 4 groups: pwconv.Graph.conv2d takes groups=4"),
        ("conv2d", (6, 4, 1, 1), "it may have 2 groups: pwconv.Graph.conv2d takes groups=2"),
        ("conv2d", (8, 3, 3, 3), r"C_in = 3$"),
        ("conv2d", (8, 8), "graph.conv2d_pw and graph.linear"),
        ("conv2d_pw", (8, 1, 1, 1), "depthwise: use pwconv.Graph.conv2d_dw"),
        ("conv2d_pw", (8, 8, 3, 3), "pwconv.Graph has conv2d and conv2d_dw"),
        ("conv2d_dw", (8, 8, 3, 3), r"graph.conv2d takes \[C_out, C_in, KH, KW\]"),
        ("conv2d_dw", (4, 1, 3, 3), r"8 channels; the weight takes C_in = 4$"),
    ],
)
def test_weights_of_another_method(device, method, shape, says):
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 8, 4, 5))
    with pytest.raises(ValueError, match=says):
        getattr(graph, method)(x, np.ones(shape, np.float32))


# -- objects whose methods use the graph, and attributes ------------------------------------------


class Resizing:
    """Becomes an array, and the graph another size, when it is asked to."""

    def __init__(self, graph: pwconv.Graph, array: np.ndarray, shape: tuple[int, ...]) -> None:
        self.graph, self.array, self.shape = graph, array, shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self.graph.resize(x=self.shape, y=self.shape)
        return self.array


@pytest.mark.parametrize("tensors", [False, True])
def test_an_array_that_resizes_the_graph(device, tensors):
    graph = pwconv.Graph(device)
    small, large = (1, 3, 2, 2), (1, 3, 5, 4)
    graph.output("z", graph.add(graph.input("x", small), graph.input("y", small)))
    ones = np.ones(large, np.float32)
    y: Any = device.tensor(ones, storage=graph.storage) if tensors else ones
    result = graph.run(x=Resizing(graph, ones, large), y=y)["z"]
    np.testing.assert_array_equal(np.asarray(result), 2 * ones)
    y = device.tensor(ones, storage=graph.storage) if tensors else ones
    with pytest.raises(ValueError, match=r"sized for \(1, 3, 2, 2\); call graph.resize"):
        graph.run(x=Resizing(graph, ones, small), y=y)
    assert graph.run(x=ones[..., :2, :2], y=ones[..., :2, :2])["z"].shape == small


def test_a_shape_that_resizes_the_graph(device):
    graph = pwconv.Graph(device)
    x, y = graph.input("x", (1, 3, 2, 2)), graph.input("y", (1, 3, 2, 2))
    graph.output("z", graph.add(x, y))

    class Length:
        def __index__(self) -> int:
            graph.resize(x=(1, 3, 7, 7), y=(1, 3, 7, 7))
            return 7

    graph.resize(x=(1, 3, 7, Length()))
    assert (x.shape, y.shape) == ((1, 3, 7, 7), (1, 3, 7, 7))


def test_graphs_and_values_are_not_copied(device):
    graph = doubled(device, ("a",))
    value = pwconv.Graph(device).input("x", (3,))
    for owned, says in ((graph, "a graph cannot be copied"), (value, "a value cannot be copied")):
        for call in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=says):
                call(owned)


@pytest.mark.parametrize("name", ["device", "dtype", "storage"])
def test_what_a_graph_is_made_of_is_read_only(device, name):
    graph = doubled(device, ("a",))
    before = getattr(graph, name)
    with pytest.raises(AttributeError):
        setattr(graph, name, "float16")
    assert getattr(graph, name) == before
    value = pwconv.Graph(device).input("x", (3,))
    for attribute in ("graph", "name", "shape"):
        with pytest.raises(AttributeError):
            setattr(value, attribute, None)
