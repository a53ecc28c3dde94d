"""What a graph tells of itself: times, the table, the trace, the drawing."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest

import pwconv


@pytest.fixture
def graph(device, rng):
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 8, 16, 16))
    weight = rng.standard_normal((8, 8)).astype(np.float32)
    y = graph.conv2d_pw(x, weight, activation="gelu", name='the "first"')
    z = graph.add(graph.conv2d_pw(y, weight), x)
    graph.output("sum", z)
    graph.output("pooled", graph.global_avg_pool(z, name="pool"))
    return graph


def test_a_profile(device, graph, tmp_path):
    profile = graph.profile(runs=3)
    assert [node.name for node in profile.nodes] == ['the "first"', "conv2d_pw_1 + add_1", "pool"]
    assert [node.kind for node in profile.nodes] == ["conv2d_pw", "conv2d_pw", "global_avg_pool"]
    assert all(node.time.median > 0 and node.time.count == 3 for node in profile.nodes)
    assert profile.total.median > 0
    first, second, pool = profile.nodes
    assert first.flop == second.flop == 2 * 8 * 8 * 256
    assert pool.flop == 8 * 256
    assert pool.least_bytes == 4 * (8 * 256 + 8)
    assert second.least_bytes - first.least_bytes == 4 * 8 * 256  # the residual
    assert first.variants[0].startswith("conv2d_pw_")
    assert first.share == first.roofline.seconds / first.time.median > 0
    file = tmp_path / "trace.json"
    profile.save_chrome_trace(file)
    events = json.loads(file.read_text())["traceEvents"]
    assert [event["name"] for event in events] == [node.name for node in profile.nodes]
    for event, after in itertools.pairwise(events):
        assert after["ts"] == pytest.approx(event["ts"] + event["dur"])
    with pytest.raises(ValueError, match="runs is 0"):
        graph.profile(runs=0)


def test_the_summary_has_times_once_they_are_taken(graph):
    plain = graph.summary()
    assert "µs" not in plain
    for shown in ('the "first"', "conv2d_pw_1 + add_1", "1 × 8 × 16 × 16", "32.8 k", "total"):
        assert shown in plain
    graph.profile(runs=1)
    assert "µs" in graph.summary()
    assert re.search(r"pool .* \d+%", graph.summary())
    graph.resize(x=(1, 8, 4, 4))
    assert "µs" not in graph.summary()
    graph.resize(x=(1, 8, 16, 16))
    assert "µs" in graph.summary()


def test_a_drawing(graph):
    drawing = graph.to_dot()
    assert drawing.startswith("digraph {")
    assert 'label="the \\"first\\": conv2d_pw"' in drawing
    assert drawing.count("->") == 1 + 2 + 1 + 2
    assert drawing.count("shape=ellipse") == 3
    assert '[label="1 × 8 × 1 × 1"]' in drawing


def test_what_is_told_of_a_graph_does_not_change_it(graph, rng):
    x = rng.standard_normal((1, 8, 16, 16)).astype(np.float32)
    before = graph.run(x=x)
    graph.profile(runs=2)
    graph.summary()
    graph.to_dot()
    for name, array in graph.run(x=x).items():
        np.testing.assert_array_equal(array, before[name])
