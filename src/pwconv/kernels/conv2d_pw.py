"""Pointwise convolution on channels-packed textures: conv2d_pw_tiled.comp."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pwconv import shaders
from pwconv.activation import Activation
from pwconv.dispatch import Dispatcher, Plan
from pwconv.dtypes import DType, axis_name
from pwconv.errors import UnsupportedError
from pwconv.layout import Shape4, ceil_div, conv_output_size, packed_extent


@dataclass(frozen=True)
class _Preference:
    """What suits a type of device.

    Attributes
    ----------
    tiles : tuple of str
        Best first; the last fits every shape.
    enough : int
        Invocations below which the device stands partly idle, so that a smaller tile is better.
    workgroup : tuple of int
        Preferred shape.
    weight_storage : str
        Of a weight that the layer packs itself.
    """

    tiles: tuple[str, ...]
    enough: int
    workgroup: tuple[int, int, int] = (8, 8, 1)
    weight_storage: str = "auto"


# Measured over the twelve EdgeTAM shapes: "discrete" on an NVIDIA H100, where a weight in a buffer
# takes 0.6 of the time of one in a texture, and "cpu" on lavapipe. The rest is not measured.
_PREFERENCES = {
    "discrete": _Preference(("m2n2k2", "m1n1k1"), 32768, (32, 8, 1), "buffer"),
    "cpu": _Preference(("m8n2k1", "m4n1k1", "m1n1k1"), 64),
}
_PREFERENCE_ELSEWHERE = _Preference(("m4n2k1", "m4n1k1", "m1n1k1"), 4096)


@dataclass(frozen=True)
class Geometry:
    """Stride and padding, each (along H, along W)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def output_shape(self, x_shape: Shape4, out_channels: int) -> Shape4:
        """Return [N, C_out, H_out, W_out]; sizes below 1 mean that there is no output."""
        n, _, h, w = x_shape
        return (
            n,
            out_channels,
            conv_output_size(h, self.stride[0], self.padding[0]),
            conv_output_size(w, self.stride[1], self.padding[1]),
        )


def preferred_weight_storage(dispatcher: Dispatcher, dtype: DType, n: int, k: int) -> str:
    """Return how a layer should pack a weight [N, K] on this device."""
    wanted = _preference(dispatcher).weight_storage
    width, height = packed_extent(1, n, k)
    fits = width * height * 4 * dtype.itemsize <= dispatcher.limits["maxStorageBufferRange"]
    return wanted if fits else "auto"


def choose_variant(
    dispatcher: Dispatcher,
    out_shape: Shape4,
    dtype: DType,
    accumulate: DType,
    weight_storage: str,
) -> shaders.Variant:
    """Return the variant with the best tile that fits the output and keeps the device busy.

    Raises
    ------
    UnsupportedError
        The device can run none, for lack of a feature.
    """
    precision = axis_name(dtype) + ("acc16" if accumulate.itemsize == 2 else "")
    candidates = shaders.variants("conv2d_pw_tiled", dtype=precision, weight=weight_storage)
    lacks = {v.name: v.unmet(dispatcher.limits, dispatcher.features) for v in candidates}
    able = [v for v in candidates if not lacks[v.name]]
    if not able:
        raise UnsupportedError(
            f"accumulate = '{accumulate}' needs {next(iter(lacks.values()))}, which "
            f"{dispatcher.device.info.name} does not have; use accumulate='float32'"
        )
    preference = _preference(dispatcher)
    by_tile = {v.axes["tile"]: v for v in able}
    ranked = [by_tile[tile] for tile in preference.tiles]
    fitting = (
        v
        for v in ranked
        if v.defines["TILE_N4"] <= ceil_div(out_shape[1], 4)
        and math.prod(_grid(v, out_shape)) >= preference.enough
    )
    return next(fitting, ranked[-1])


def plan_conv2d_pw(
    dispatcher: Dispatcher,
    variant: shaders.Variant,
    x_shape: Shape4,
    out_shape: Shape4,
    geometry: Geometry,
    activation: Activation,
) -> Plan:
    """Plan a convolution over at least one output.

    The plan's resources are ``t_in``, ``t_out``, ``packed_weight`` and ``bias``, a buffer of
    float32 that is zero past C_out.
    """
    n, c_in, h_in, w_in = x_shape
    _, c_out, h_out, w_out = out_shape
    return dispatcher.plan(
        variant,
        _grid(variant, out_shape),
        {
            "batches": n,
            "M": h_out * w_out,
            "N": c_out,
            "N4": ceil_div(c_out, 4),
            "K4": ceil_div(c_in, 4),
            "W_out": w_out,
            "W_in": w_in,
            "H_in": h_in,
            "stride_w": geometry.stride[1],
            "stride_h": geometry.stride[0],
            "pad_w": geometry.padding[1],
            "pad_h": geometry.padding[0],
            "activation_a": activation.a,
            "activation_b": activation.b,
        },
        {"ACTIVATION": activation.number, "POINTWISE_GRID": geometry == Geometry()},
        shape=_preference(dispatcher).workgroup,
    )


def _preference(dispatcher: Dispatcher) -> _Preference:
    return _PREFERENCES.get(dispatcher.device.info.type, _PREFERENCE_ELSEWHERE)


def _grid(variant: shaders.Variant, out_shape: Shape4) -> tuple[int, int, int]:
    n, c_out, h_out, w_out = out_shape
    tile_m, tile_n4 = variant.defines["TILE_M"], variant.defines["TILE_N4"]
    return ceil_div(h_out * w_out, tile_m), ceil_div(ceil_div(c_out, 4), tile_n4), n
