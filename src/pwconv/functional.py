"""Functions over arrays and tensors, for one call; a layer packs its weight once for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pwconv.activation import ActivationLike
from pwconv.device import DeviceLike, resolve_device
from pwconv.dtypes import as_dtype, as_float_array
from pwconv.layers import Linear, PointwiseConv2d
from pwconv.tensor import Tensor
from pwconv.weights import PackedWeight, pack

if TYPE_CHECKING:
    import numpy.typing as npt


def conv2d_pw(
    x: npt.ArrayLike | Tensor,
    weight: npt.ArrayLike | PackedWeight,
    bias: npt.ArrayLike | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    activation: ActivationLike | None = None,
    dtype: npt.DTypeLike | None = None,
    device: DeviceLike | None = None,
) -> Any:
    """Apply a 1×1 convolution; the weight is packed anew at each call.

    Parameters
    ----------
    x : array_like or Tensor
        [N, C_in, H, W] or [C_in, H, W].
    weight, bias, stride, padding, activation
        As for :class:`PointwiseConv2d`.
    dtype : "float32" or "float16", optional
        Type to compute in and to return; x's by default.
    device : Device, int or str, optional
        By default that of x or the packed weight, or else the default device.

    Returns
    -------
    numpy.ndarray or Tensor
        [N, C_out, H_out, W_out], or without N where x has none; a Tensor where x is one.

    Raises
    ------
    TypeError, ValueError, UnsupportedError, OutOfMemoryError, ClosedError, DeviceLostError
        As for :class:`PointwiseConv2d`.
    """
    if not isinstance(x, Tensor):
        x = as_float_array(x, "x")
    layer = PointwiseConv2d(
        weight,
        bias,
        stride=stride,
        padding=padding,
        activation=activation,
        dtype=x.dtype if dtype is None else as_dtype(dtype),
        device=resolve_device(device, x, weight),
    )
    return layer(x)


def linear(
    x: npt.ArrayLike | Tensor,
    weight: npt.ArrayLike | PackedWeight,
    bias: npt.ArrayLike | None = None,
    *,
    activation: ActivationLike | None = None,
    dtype: npt.DTypeLike | None = None,
    device: DeviceLike | None = None,
) -> Any:
    """Apply a linear layer; the weight is packed anew at each call.

    Parameters
    ----------
    x : array_like or Tensor
        [..., K].
    weight, bias, activation
        As for :class:`Linear`.
    dtype : "float32" or "float16", optional
        Type to compute in and to return; x's by default.
    device : Device, int or str, optional
        By default that of x or the packed weight, or else the default device.

    Returns
    -------
    numpy.ndarray or Tensor
        [..., N]; a Tensor where x is one.

    Raises
    ------
    TypeError, ValueError, UnsupportedError, OutOfMemoryError, ClosedError, DeviceLostError
        As for :class:`Linear`.
    """
    if not isinstance(x, Tensor):
        x = as_float_array(x, "x")
    layer = Linear(
        weight,
        bias,
        activation=activation,
        dtype=x.dtype if dtype is None else as_dtype(dtype),
        device=resolve_device(device, x, weight),
    )
    return layer(x)


def pack_linear_weight(
    weight: npt.ArrayLike,
    *,
    transposed: bool = True,
    dtype: npt.DTypeLike | None = None,
    storage: str = "auto",
    device: DeviceLike | None = None,
) -> PackedWeight:
    """Pack a weight into 4OC×4IC blocks on the device.

    Parameters
    ----------
    weight : array_like
        [N, K] or [B, N, K] where ``transposed``, else [K, N] or [B, K, N]; float32 or float16.
        N are output channels, K input channels.
    transposed : bool
        True if output channels come first, as in torch.
    dtype : "float32" or "float16", optional
        The packed type; the weight's by default. float32 is narrowed to the nearest float16, ties
        to even.
    storage : "auto", "texture2d" or "buffer"
        "auto" is the texture, or the buffer where the texture would pass the device's limit.
    device : Device, int or str, optional

    Returns
    -------
    PackedWeight

    Raises
    ------
    TypeError, ValueError
        Another element type, shape or storage.
    UnsupportedError
        It fits neither storage, or not the one asked for.
    OutOfMemoryError, ClosedError
    """
    return pack(resolve_device(device), weight, transposed=transposed, dtype=dtype, storage=storage)
