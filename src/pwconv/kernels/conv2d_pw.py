"""Pointwise convolution on channels-packed textures: conv2d_pw_tiled.comp."""

from __future__ import annotations

from dataclasses import dataclass

from pwconv import shaders
from pwconv.dispatch import Dispatcher, Plan
from pwconv.dtypes import DType, axis_name
from pwconv.errors import UnsupportedError
from pwconv.kernels.epilogue import Activation
from pwconv.layout import Shape4, ceil_div, conv_output_size

# Invocations below which a device stands partly idle: a smaller tile is then better than fewer
# fetches. A CPU runs its workgroups one after the other.
_ENOUGH_INVOCATIONS = {"cpu": 64}
_ENOUGH_INVOCATIONS_GPU = 16384


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


def choose_variant(
    dispatcher: Dispatcher,
    out_shape: Shape4,
    dtype: DType,
    accumulate: DType,
    weight_storage: str,
) -> shaders.Variant:
    """Return the variant with the largest tile that still keeps the device busy.

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
    enough = _ENOUGH_INVOCATIONS.get(dispatcher.device.info.type, _ENOUGH_INVOCATIONS_GPU)
    by_tile = sorted(able, key=_outputs, reverse=True)
    return next((v for v in by_tile if _invocations(v, out_shape) >= enough), by_tile[-1])


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
    )


def _outputs(variant: shaders.Variant) -> int:
    return int(variant.defines["TILE_M"] * variant.defines["TILE_N4"])


def _grid(variant: shaders.Variant, out_shape: Shape4) -> tuple[int, int, int]:
    n, c_out, h_out, w_out = out_shape
    tile_m, tile_n4 = variant.defines["TILE_M"], variant.defines["TILE_N4"]
    return ceil_div(h_out * w_out, tile_m), ceil_div(ceil_div(c_out, 4), tile_n4), n


def _invocations(variant: shaders.Variant, out_shape: Shape4) -> int:
    x, y, z = _grid(variant, out_shape)
    return x * y * z
