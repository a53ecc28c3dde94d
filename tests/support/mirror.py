"""A graph and its float64 composition, built by the same calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import pwconv
from pwconv import reference
from pwconv.graph import Value
from pwconv.reference import Approximation
from support import inside
from support.accuracy import assert_within

Known = dict[str, Approximation]


def convolution(
    x: Approximation,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    dtype: Any,
    activation: Any = None,
    residual: Approximation | None = None,
    **geometry: Any,
) -> Approximation:
    """Return a convolution with its whole epilogue."""
    y = reference.convolve(x, weight, **geometry)
    if bias is not None:
        y = y.plus(reference.exact(bias[:, None, None]))
    if residual is not None:
        y = y.plus(residual)
    return y.activated(activation).stored(dtype)


def max_pool(
    x: np.ndarray,
    kernel: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    outside: float = -np.inf,
) -> np.ndarray:
    """Return the largest element under a window, tap by tap."""
    taps = np.broadcast_to(kernel, 2)
    given = (taps if stride is None else stride, dilation)
    strides, dilations = (np.broadcast_to(each, 2) for each in given)
    sides = padding if np.shape(padding) == (4,) else (*np.broadcast_to(padding, 2),) * 2
    firsts = []
    for axis, size in enumerate(x.shape[-2:]):
        step, pad = strides[axis], sides[axis]
        inside = size + pad + sides[axis + 2] - dilations[axis] * (taps[axis] - 1) - 1
        first = np.arange(-pad, inside - pad + 1, step)
        if ceil_mode and inside % step and -pad + len(first) * step < size:
            first = np.append(first, -pad + len(first) * step)
        firsts.append(first)
    y = np.full((*x.shape[:-2], *map(len, firsts)), outside)
    for tap in np.ndindex(*taps):
        rows, columns = (first + dilations[i] * tap[i] for i, first in enumerate(firsts))
        h, w = x.shape[-2:]
        in_h, in_w = (rows >= 0) & (rows < h), (columns >= 0) & (columns < w)
        at = (..., *np.ix_(in_h, in_w))
        y[at] = np.maximum(y[at], x[..., rows[in_h], :][..., columns[in_w]])
    return y


@dataclass(frozen=True, eq=False)
class Pair:
    """A value of a graph, and what computes it in float64."""

    value: Value
    compute: Callable[[Known], Approximation]


class Mirror:
    """Adds each node to a graph and to its float64 composition."""

    def __init__(
        self, device: pwconv.Device, dtype: str, storage: str, *, fuse: bool = True
    ) -> None:
        self.graph = pwconv.Graph(device, dtype, storage=storage, fuse=fuse)
        self.dtype = dtype
        self.outputs: dict[str, Pair] = {}

    def input(self, name: str, shape: tuple[int, ...]) -> Pair:
        return Pair(self.graph.input(name, shape), lambda known: known[name])

    def conv2d_pw(self, x: Pair, weight: np.ndarray, *rest: Any, **settings: Any) -> Pair:
        kernel = weight[:, :, None, None]
        return self._convolution(self.graph.conv2d_pw, x, weight, kernel, *rest, **settings)

    def conv2d(self, x: Pair, weight: np.ndarray, *rest: Any, **settings: Any) -> Pair:
        return self._convolution(self.graph.conv2d, x, weight, weight, *rest, **settings)

    def _convolution(
        self,
        add: Callable[..., Value],
        x: Pair,
        weight: np.ndarray,
        kernel: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        residual: Pair | None = None,
        **settings: Any,
    ) -> Pair:
        value = add(x.value, weight, bias, residual=residual and residual.value, **settings)

        def compute(known: Known) -> Approximation:
            return convolution(
                self.about(x, known),
                kernel,
                bias,
                residual=residual and self.about(residual, known),
                dtype=self.dtype,
                **settings,
            )

        return Pair(value, compute)

    def conv2d_dw(
        self, x: Pair, weight: np.ndarray, bias: np.ndarray | None = None, **settings: Any
    ) -> Pair:
        value = self.graph.conv2d_dw(x.value, weight, bias, **settings)
        groups = weight.shape[0]

        def compute(known: Known) -> Approximation:
            of_x = self.about(x, known)
            return convolution(of_x, weight, bias, dtype=self.dtype, groups=groups, **settings)

        return Pair(value, compute)

    def linear(
        self,
        x: Pair,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        activation: Any = None,
    ) -> Pair:
        value = self.graph.linear(x.value, weight, bias, activation=activation)

        def compute(known: Known) -> Approximation:
            y = reference.linear_rows(self.about(x, known), weight)
            if bias is not None:
                y = y.plus(reference.exact(bias))
            return y.activated(activation).stored(self.dtype)

        return Pair(value, compute)

    def activation(self, x: Pair, name: Any) -> Pair:
        value = self.graph.activation(x.value, name)
        return Pair(value, lambda known: self.about(x, known).activated(name).stored(self.dtype))

    def add(self, x: Pair, y: Pair, activation: Any = None) -> Pair:
        return self._binary("add", Approximation.plus, x, y, activation)

    def mul(self, x: Pair, y: Pair, activation: Any = None) -> Pair:
        return self._binary("mul", Approximation.times, x, y, activation)

    def _binary(
        self, kind: str, function: Callable[..., Approximation], x: Pair, y: Pair, activation: Any
    ) -> Pair:
        value = getattr(self.graph, kind)(x.value, y.value, activation=activation)

        def compute(known: Known) -> Approximation:
            result = function(self.about(x, known), self.about(y, known))
            return result.activated(activation).stored(self.dtype)

        return Pair(value, compute)

    def concat(self, pairs: list[Pair]) -> Pair:
        value = self.graph.concat([pair.value for pair in pairs])

        def compute(known: Known) -> Approximation:
            return reference.concatenate([self.about(pair, known) for pair in pairs], -3)

        return Pair(value, compute)

    def slice(self, x: Pair, start: int, stop: int) -> Pair:
        value = self.graph.slice(x.value, start, stop)

        def take(array: np.ndarray) -> np.ndarray:
            return array[..., start:stop, :, :]

        return Pair(value, lambda known: self.about(x, known).moved(take))

    def global_avg_pool(self, x: Pair) -> Pair:
        value = self.graph.global_avg_pool(x.value)
        return Pair(value, lambda known: reference.mean(self.about(x, known)).stored(self.dtype))

    def max_pool(self, x: Pair, kernel: Any, **settings: Any) -> Pair:
        value = self.graph.max_pool(x.value, kernel, **settings)

        def compute(known: Known) -> Approximation:
            of_x = self.about(x, known)
            largest = max_pool(of_x.value, kernel, **settings)
            return Approximation(largest, max_pool(of_x.error, kernel, **settings, outside=0.0))

        return Pair(value, compute)

    def upsample(self, x: Pair, scale: int = 2) -> Pair:
        value = self.graph.upsample(x.value, scale)

        def enlarge(array: np.ndarray) -> np.ndarray:
            return array.repeat(scale, axis=-2).repeat(scale, axis=-1)

        return Pair(value, lambda known: self.about(x, known).moved(enlarge))

    def node(self, method: str, *arguments: Any, **settings: Any) -> Pair:
        """Add a node that has no method here; in float64 it is what its operator says it is.

        That is what tests/ops compares with plain numpy.
        """
        values = (each.value if isinstance(each, Pair) else each for each in arguments)
        value = getattr(self.graph, method)(*values, **settings)
        nodes = inside.nodes(self.graph)
        operator, taken = nodes[-1].operator, nodes[-1].inputs
        pairs = [each for each in arguments if isinstance(each, Pair)]
        constants = [nodes[i].operator.reference() for i in taken[len(pairs) :]]

        def compute(known: Known) -> Approximation:
            inputs = [self.about(pair, known) for pair in pairs]
            return operator.expected([*inputs, *constants], np.dtype(self.dtype))

        return Pair(value, compute)

    def output(self, name: str, pair: Pair) -> None:
        self.graph.output(name, pair.value)
        self.outputs[name] = pair

    def families(self) -> list[str]:
        """Return the shader that each node is run by, at the shapes of now."""
        launches = inside.program(self.graph).dispatches.values()
        return [launch.plan.variant.family for node in launches for launch in node]

    def expected(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Approximation]:
        """Return what is known of every output for arrays that are of the graph's dtype."""
        known = {name: reference.exact(array) for name, array in inputs.items()}
        return {name: self.about(pair, known) for name, pair in self.outputs.items()}

    def check(
        self, inputs: Mapping[str, np.ndarray], results: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Assert that a run's results, of a run made here unless given, are within the bounds."""
        results = self.graph.run(**inputs) if results is None else results
        expected = self.expected(inputs)
        assert results.keys() == expected.keys()
        arrays = {name: np.asarray(result) for name, result in results.items()}
        for name, approximation in expected.items():
            assert np.isfinite(approximation.error).all()
            assert arrays[name].dtype == self.dtype
            assert_within(arrays[name], approximation.value, approximation.error)
        return arrays

    def about(self, pair: Pair, known: Known) -> Approximation:
        """Return what is known of a value; ``known`` has the inputs, and takes what it needs."""
        key = f"node {pair.value.name}"
        if key not in known:
            known[key] = pair.compute(known)
        return known[key]


def random_weight(
    rng: np.random.Generator, dtype: str, *shape: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a weight and a bias whose results are of order one."""
    products = int(np.prod(shape[1:]))
    weight = (rng.standard_normal(shape) / np.sqrt(products)).astype(dtype)
    return weight, rng.standard_normal(shape[0]).astype(dtype)
