"""The networks that PyTorch is measured on: the same, by the same weights, as pwconv's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv.bench.cases import Case, Shape, layer_case
from pwconv.timing.clocks import ClockCheck
from pwconv.timing.stopwatch import Sample
from support.accuracy import assert_within
from support.mirror import Mirror
from workloads import workload

torch = pytest.importorskip("torch")

LAYER = layer_case(Shape(5, 7, 3, 9, batch=2))
CASES = [*workload("edgetam-mixers", 32), *workload("repvit-m1", 32), LAYER]
MIXER, TRUNK = CASES[0], CASES[-2]


class Unnamed:
    """A mirror as what defines a graph sees it."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.dtype = mirror.dtype
        self.input, self.output = mirror.input, mirror.output

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        def add(*operands: Any, name: str, **settings: Any) -> Any:
            return getattr(self.mirror, kind)(*operands, **settings)

        return add


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_network(device, rng, case):
    from peers.torch_network import TorchNetwork

    network = TorchNetwork("float32")
    case.define(network)
    mirror = Mirror(device, "float32", "auto")
    case.define(Unnamed(mirror))
    x = rng.standard_normal(network.inputs["x"], np.float32)
    with torch.no_grad():
        theirs = network.module().double()(torch.from_numpy(x).double())
    with np.errstate(over="ignore", invalid="ignore"):  # a bound grows from layer to layer
        expected = mirror.expected({"x": x})
    assert list(expected) == list(network.outputs)
    for name, tensor in zip(network.outputs, theirs, strict=True):
        value = expected[name].value
        np.testing.assert_allclose(tensor.numpy(), value, rtol=0, atol=1e-12 * np.abs(value).max())
    if case.kind == "mixers":
        (result,), (approximation,) = mirror.graph.run(x=x).values(), expected.values()
        assert approximation.error.max() < 1e-2 * np.abs(approximation.value).max()
        assert_within(result, theirs[0].numpy(), 1.001 * approximation.error)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_layout_gives_the_same(dtype):
    from peers.torch_peer import network_calls

    results = []
    with torch.no_grad():
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.manual_seed(0)
            calls, bytes_each = network_calls(MIXER, dtype, layout, "cpu", compiled=False)
            assert bytes_each == 2 * 48 * 8 * 8 * np.dtype(dtype).itemsize
            assert len(calls) > 1
            (y,) = calls[1]()
            assert y.is_contiguous(memory_format=layout)
            results.append(y.double().numpy())
    np.testing.assert_allclose(*results, atol=1e-5 if dtype == "float32" else 2e-2)


class OnCpu:
    """Stands in for CUDA: calls run once."""

    def __init__(self, info: object) -> None:
        self.device, self.version = torch.device("cpu"), "0"

    def measure(self, calls: list[Callable[[], object]]) -> tuple[Sample, ClockCheck]:
        calls[0]()
        return Sample(1.0, 1.0, 1.0, 1, 1), ClockCheck(1.0, 1.0, 1)


def measure(monkeypatch: pytest.MonkeyPatch, case: Case, dtype: str) -> list[Any]:
    from peers import torch_peer

    monkeypatch.setattr(torch_peer, "CudaStopwatch", OnCpu)
    return torch_peer.TorchPeer(None).measure(case, dtype)


@pytest.mark.filterwarnings("default")  # those of the tracer
@pytest.mark.parametrize("case", [MIXER, TRUNK], ids=lambda case: case.name)
def test_everything_is_traced_in_one_piece(monkeypatch, case):
    whole = functools.partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    found = measure(monkeypatch, case, "float32")
    assert [run.contender for run in found] == [
        "PyTorch eager",
        "PyTorch eager NHWC",
        "PyTorch compiled",
        "PyTorch eager TF32",
        "PyTorch eager NHWC TF32",
        "PyTorch compiled TF32",
    ]
    assert [run.failure for run in found] == [None] * 6


def test_a_compiler_that_fails_costs_nothing_but_itself(monkeypatch):
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no compiler found\nat length")

    monkeypatch.setattr(torch, "compile", broken)
    eager, nhwc, compiled = measure(monkeypatch, MIXER, "float16")
    assert eager.sample is not None
    assert nhwc.sample is not None
    assert compiled.failure == "RuntimeError: no compiler found"


def test_a_layer_is_multiplied_too(monkeypatch):
    names = [run.contender for run in measure(monkeypatch, LAYER, "float16")]
    assert names[-1] == "PyTorch matmul"
    assert "PyTorch matmul" not in [run.contender for run in measure(monkeypatch, MIXER, "float16")]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_matmul_is_of_the_layers_shape(batch):
    from peers.torch_peer import matmul_calls

    calls, bytes_each = matmul_calls(Shape(5, 7, 3, 9, batch=batch), "float16", "cpu")
    assert bytes_each == (5 + 7) * 27 * batch * 2
    assert len(calls) > 1
    assert calls[0]().shape[-2:] == (7, 27)


def test_it_is_refused_without_cuda():
    from peers.cuda import CudaStopwatch

    info = pwconv.devices()[0]
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    with pytest.raises(pwconv.UnsupportedError, match="PyTorch has no CUDA device"):
        CudaStopwatch(info)
