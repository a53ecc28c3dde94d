"""Fusion of two pointwise convolutions into one dispatch that stores no intermediate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from pwconv.graph.convolutions import PointwiseConvolution
from pwconv.graph.network import Network, Node
from pwconv.graph.operations import Operation, Setting
from pwconv.heuristics import Choice
from pwconv.kernels import conv2d_pw_pair_choice
from pwconv.kernels.conv2d_pw import Geometry
from pwconv.kernels.conv2d_pw_pair import PairProblem, plan_conv2d_pw_pair
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import OUT, Dispatch
from pwconv.vk.resources import Resource


@dataclass(frozen=True, eq=False)
class PointwisePair(Operation):
    """A pointwise convolution of another one's output.

    Input 1, where there is one, is the residual of the second.
    """

    first: PointwiseConvolution
    second: PointwiseConvolution
    choice: Choice
    kind = "conv2d_pw_pair"

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights and the biases."""
        return self.first.weight_bytes + self.second.weight_bytes

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [N, C_out, H, W], or without N."""
        return self.second.output_shape([self.first.output_shape(shapes[:1]), *shapes[1:]])

    def dispatches(
        self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        has_residual = len(shapes) > 1
        plan = plan_conv2d_pw_pair(
            setting.context,
            self.choice.variant,
            _problem(setting, shapes[0], self.first, self.second),
            self.first.activation,
            self.second.activation,
            residual=has_residual,
        )
        bindings: dict[str, Resource | int] = {}
        for which, layer in (("first", self.first.layer), ("second", self.second.layer)):
            bindings |= layer._parameters.bindings(plan.variant, which)
        bindings |= {"t_in": 0, "t_residual": 1 if has_residual else 0, "t_out": OUT}
        return [Dispatch(plan, bindings, self.choice.reason)]

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return two for each product."""
        hidden = self.first.output_shape(shapes[:1])
        return self.first.flop(shapes[:1], hidden) + self.second.flop([hidden], out_shape)


def fuse(network: Network, shapes: Sequence[Shape], setting: Setting) -> Network:
    """Return an equivalent network of fewer nodes, which keep their numbers.

    A pointwise convolution and its only reader, another one, become one node where the device has a
    faster kernel for the pair.
    """
    nodes = list(network.nodes)
    uses = network.uses
    for i in network.order:
        if uses[nodes[i].inputs[0]] == 1:
            nodes[i] = _pair(nodes, i, shapes, setting) or nodes[i]
    return dataclasses.replace(network, nodes=tuple(nodes))


def _pair(nodes: Sequence[Node], i: int, shapes: Sequence[Shape], setting: Setting) -> Node | None:
    """Return a node that computes node i and its x, or None."""
    node, before = nodes[i], nodes[nodes[i].inputs[0]]
    second, first = node.operation, before.operation
    if not (isinstance(first, PointwiseConvolution) and isinstance(second, PointwiseConvolution)):
        return None
    if len(before.inputs) > 1 or first.geometry != Geometry() or second.geometry != Geometry():
        return None
    storages = {layer._weight.storage for layer in (first.layer, second.layer)}
    if len(storages) > 1:
        return None
    choice = conv2d_pw_pair_choice.choose_pair(
        setting.context,
        _problem(setting, shapes[before.inputs[0]], first, second),
        storages.pop(),
    )
    if choice is None:
        return None
    return Node(
        f"{before.name} + {node.name}",
        PointwisePair(first, second, choice),
        (*before.inputs, *node.inputs[1:]),
    )


def _problem(
    setting: Setting, x_shape: Shape, first: PointwiseConvolution, second: PointwiseConvolution
) -> PairProblem:
    return PairProblem(
        setting.storage,
        shape4(x_shape, "x"),
        first.layer.out_channels,
        second.layer.out_channels,
        setting.dtype,
    )
