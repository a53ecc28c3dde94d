"""Layers: a weight packed once, called at any shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pwconv.activation import Activation, ActivationLike
from pwconv.device import DeviceLike
from pwconv.dtypes import Array, DType
from pwconv.errors import UnsupportedError
from pwconv.kernels import conv2d_pw, conv2d_pw_choice, linear
from pwconv.layer import Layer
from pwconv.shaders import Variant
from pwconv.tensor import Shape, as_pair, shape4
from pwconv.vk.commands import Plan
from pwconv.weights import PackedWeight

if TYPE_CHECKING:
    import numpy.typing as npt


class PointwiseConv2d(Layer):
    """A 1×1 convolution: ``activation(bias[o] + Σ_i weight[o, i] · x[n, i, h, w])``.

    The weight is packed on the device once; the layer is then called with any batch, height and
    width. Calls may come from several threads.

    Parameters
    ----------
    weight : array_like or PackedWeight
        [C_out, C_in] or [C_out, C_in, 1, 1], float32 or float16; or such a weight, packed.
    bias : array_like, optional
        [C_out], float32 or float16; added in float32.
    stride, padding : int or (int, int)
        Along H and W. Padding adds zeros around the input.
    activation : str or tuple, optional
        "relu", "relu6", "hardswish", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh",
        ("clamp", low, high) or ("leaky_relu", slope).
    dtype : "float32" or "float16", optional
        Type of the weight, the input and the output on the device; the weight's by default. Arrays
        are converted to it only where it is given.
    accumulate : "float32" or "float16"
        Type in which products are summed; "float16" only with dtype float16 and shaderFloat16.
    storage : "auto", "texture3d" or "buffer"
        Storage of activations on the device; "auto" is the input tensor's, or for an array
        what suits the device, and what input and output fit.
    device : Device, int or str, optional
        By default the packed weight's, or else the default device.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type, shape or value.
    UnsupportedError
        The device cannot accumulate in float16, or hold the weight.
    OutOfMemoryError, ClosedError

    Notes
    -----
    x is [N, C_in, H, W] or [C_in, H, W]; the result is [N, C_out, H_out, W_out], or without N where
    x has none. H_out is ``(H + 2·padding − 1) // stride + 1``.

    float16 layers compute the epilogue in float32 and round once, to nearest even.

    Which compiled variant computes a shape is what ``pwconv tune`` found on this device, where it
    did, or else what a rule says; ``$PWCONV_TUNE`` may be "off", "cached" (the default) or
    "on-demand", which measures a new shape at its first call. :meth:`explain` tells.
    """

    _bias_axis = "C_out"

    def __init__(
        self,
        weight: npt.ArrayLike | PackedWeight,
        bias: npt.ArrayLike | None = None,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        activation: ActivationLike | None = None,
        dtype: npt.DTypeLike | None = None,
        accumulate: npt.DTypeLike = "float32",
        storage: str = "auto",
        device: DeviceLike | None = None,
    ) -> None:
        self._geometry = conv2d_pw.Geometry(
            as_pair(stride, "stride", least=1), as_pair(padding, "padding", least=0)
        )
        super().__init__(
            weight,
            bias,
            activation=activation,
            dtype=dtype,
            accumulate=accumulate,
            storage=storage,
            device=device,
        )

    @property
    def in_channels(self) -> int:
        """C_in."""
        return self._weight.shape[2]

    @property
    def out_channels(self) -> int:
        """C_out."""
        return self._weight.shape[1]

    @property
    def stride(self) -> tuple[int, int]:
        """Along H and W."""
        return self._geometry.stride

    @property
    def padding(self) -> tuple[int, int]:
        """Along H and W."""
        return self._geometry.padding

    def __repr__(self) -> str:
        return (
            f"pwconv.PointwiseConv2d({self.in_channels}, {self.out_channels}, "
            f"stride={self.stride}, padding={self.padding}, activation={self.activation!r}, "
            f"dtype={self._dtype})"
        )

    def _settings(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding}

    def _output_shape(self, x_shape: Shape) -> Shape:
        return conv_output_shape(x_shape, self.in_channels, self.out_channels, self._geometry)

    def _check_packed(self, weight: PackedWeight) -> None:
        if weight.shape[0] != 1:
            raise ValueError(f"weight is {weight!r}; a convolution takes a batch of one")

    def _weight_matrix(self, weight: Array) -> Array:
        matrix = weight
        if matrix.ndim == 4 and matrix.shape[2:] == (1, 1):
            matrix = matrix[:, :, 0, 0]
        if matrix.ndim != 2 or 0 in matrix.shape:
            kernels = "; pwconv.Graph has conv2d and conv2d_dw for kernels of several taps"
            raise ValueError(
                f"weight has shape {matrix.shape}; it must be [C_out, C_in] or [C_out, C_in, 1, "
                f"1], with no axis of length 0{kernels if matrix.ndim == 4 else ''}"
            )
        return matrix

    def _weight_storage(self, storage: str, dtype: DType, shape: Shape) -> str:
        return conv2d_pw_choice.preferred_weight_storage(
            self._device._context, storage, dtype, *shape
        )

    def _require_variant(self, storage: str) -> None:
        x_shape, out_shape = (1, self.in_channels, 1, 1), (1, self.out_channels, 1, 1)
        problem = conv2d_pw.Problem(
            storage, x_shape, out_shape, self._dtype, self._accumulate, self._geometry
        )
        conv2d_pw_choice.candidates(self._device._context, problem, self._weight.storage)

    def _make_plan(self, storage: str, x_shape: Shape, out_shape: Shape) -> tuple[Plan, str]:
        return self._plan_with(storage, x_shape, out_shape, self._activation)

    def _plan_with(
        self,
        storage: str,
        x_shape: Shape,
        out_shape: Shape,
        activation: Activation,
        *,
        geometry: conv2d_pw.Geometry | None = None,
        residual: bool = False,
        scale: bool = False,
    ) -> tuple[Plan, str]:
        """Return a plan, of the layer's geometry unless another is given, and why its variant."""
        task = self._task(storage, x_shape, out_shape, geometry)
        choice = self._device._tuner.choose(task)
        plan = conv2d_pw.plan_conv2d_pw(
            self._device._context,
            choice.variant,
            task.problem,
            activation,
            choice.workgroup,
            residual=residual,
            scale=scale,
        )
        return plan, choice.reason

    def _variant(
        self, storage: str, x_shape: Shape, out_shape: Shape, geometry: conv2d_pw.Geometry
    ) -> Variant:
        """Return the variant that a plan has."""
        return self._device._tuner.choose(self._task(storage, x_shape, out_shape, geometry)).variant

    def _task(
        self,
        storage: str,
        x_shape: Shape,
        out_shape: Shape,
        geometry: conv2d_pw.Geometry | None = None,
    ) -> conv2d_pw.Task:
        problem = conv2d_pw.Problem(
            storage,
            shape4(x_shape, "x"),
            shape4(out_shape, "output"),
            self._dtype,
            self._accumulate,
            geometry or self._geometry,
        )
        return conv2d_pw.Task(problem, self._weight.storage, self._activation, self._bind)


class Linear(Layer):
    """A linear layer: ``activation(bias[n] + Σ_k weight[n, k] · x[…, k])``.

    The weight is packed on the device once; the layer is then called with any leading axes, or
    none. Calls may come from several threads.

    Parameters
    ----------
    weight : array_like or PackedWeight
        [N, K], or [B, N, K] for x of [B, …, K], a weight for each; float32 or float16; or such a
        weight, packed. One of [1, N, K] is taken for [N, K].
    bias : array_like, optional
        [N], float32 or float16; added in float32.
    activation : str or tuple, optional
        "relu", "relu6", "hardswish", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh",
        ("clamp", low, high) or ("leaky_relu", slope).
    dtype : "float32" or "float16", optional
        Type of the weight, the input and the output on the device; the weight's by default. Arrays
        are converted to it only where it is given.
    accumulate : "float32" or "float16"
        Type in which products are summed; "float16" only with dtype float16 and shaderFloat16.
    storage : "auto", "texture3d" or "buffer"
        Storage of activations on the device; "auto" is the input tensor's, or for an array
        what suits the device, and what input and output fit.
    device : Device, int or str, optional
        By default the packed weight's, or else the default device.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type, shape or value.
    UnsupportedError
        The device cannot accumulate in float16, or hold the weight.
    OutOfMemoryError, ClosedError

    Notes
    -----
    x is [..., K] and the result [..., N]. Arrays pass through as [M, K], or as [B, M, 1, K], which
    suits the device best; tensors are taken as they are stored, which :class:`Tensor` tells. With a
    batched weight a texture of fewer than four axes becomes a buffer: its texels hold several
    batches each.

    float16 layers compute the epilogue in float32 and round once, to nearest even.

    A rule picks the compiled variant for a shape; :meth:`explain` returns both.
    """

    _bias_axis = "N"

    def __init__(
        self,
        weight: npt.ArrayLike | PackedWeight,
        bias: npt.ArrayLike | None = None,
        *,
        activation: ActivationLike | None = None,
        dtype: npt.DTypeLike | None = None,
        accumulate: npt.DTypeLike = "float32",
        storage: str = "auto",
        device: DeviceLike | None = None,
    ) -> None:
        super().__init__(
            weight,
            bias,
            activation=activation,
            dtype=dtype,
            accumulate=accumulate,
            storage=storage,
            device=device,
        )

    @property
    def in_features(self) -> int:
        """K."""
        return self._weight.shape[2]

    @property
    def out_features(self) -> int:
        """N."""
        return self._weight.shape[1]

    @property
    def batches(self) -> int:
        """B: how many weights there are."""
        return self._weight.shape[0]

    def __repr__(self) -> str:
        batches = f"batches={self.batches}, " if self.batches > 1 else ""
        return (
            f"pwconv.Linear({self.in_features}, {self.out_features}, {batches}"
            f"activation={self.activation!r}, dtype={self._dtype})"
        )

    def _settings(self) -> dict[str, Any]:
        return {}

    def _output_shape(self, x_shape: Shape) -> Shape:
        if min(x_shape, default=0) < 0:
            raise ValueError(f"x has shape {x_shape}; no axis is shorter than 0")
        if not x_shape or x_shape[-1] != self.in_features:
            raise ValueError(
                f"x has shape {x_shape}; its last axis must be K = {self.in_features}, as the "
                "weight's"
            )
        if self.batches > 1 and (len(x_shape) < 2 or x_shape[0] != self.batches):
            raise ValueError(
                f"x has shape {x_shape}; it must be [B, …, K] with B = {self.batches}, as the "
                "weight's"
            )
        return *x_shape[:-1], self.out_features

    def _array_shape(self, x_shape: Shape) -> Shape:
        if self.batches > 1:
            return self.batches, math.prod(x_shape[1:-1]), 1, x_shape[-1]
        return math.prod(x_shape[:-1]), x_shape[-1]

    def _from_array(self, array: Array) -> Array:
        out_shape = self._output_shape(array.shape)
        self._device._context.require_open()
        if 0 in out_shape:
            return np.empty(out_shape, self._dtype)
        stored = self._array_shape(array.shape)
        # Before a view that repeats its elements becomes as large as it looks.
        self._choose_storage(stored, self._storages_from("auto"))
        return super()._from_array(array.reshape(stored)).reshape(out_shape)

    def _choose_storage(self, x_shape: Shape, storages: tuple[str, ...]) -> tuple[Shape, str]:
        return super()._choose_storage(x_shape, self._storages_for(x_shape, storages))

    def _storages_for(self, x_shape: Shape, storages: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of some storages in which no two batches of x share a texel.

        Raises
        ------
        UnsupportedError
            There is none.
        """
        if self.batches == 1 or len(x_shape) >= 4:
            return storages
        able = tuple(storage for storage in storages if storage != "texture3d")
        if not able:
            raise UnsupportedError(
                f"x has shape {x_shape}: a texture has several batches of it in a texel, and each "
                "has a weight of its own; give x four axes, [B, M, 1, K], or use storage='buffer'"
            )
        return able

    def _check_packed(self, weight: PackedWeight) -> None:
        """Any will do."""

    def _weight_matrix(self, weight: Array) -> Array:
        if weight.ndim not in (2, 3) or 0 in weight.shape:
            raise ValueError(
                f"weight has shape {weight.shape}; it must be [N, K] or [B, N, K], with no axis of "
                "length 0"
            )
        return weight

    def _weight_storage(self, storage: str, dtype: DType, shape: Shape) -> str:
        batches, n, k = shape if len(shape) == 3 else (1, *shape)
        return linear.preferred_weight_storage(
            self._device._context, storage, dtype, (batches, n, k)
        )

    def _require_variant(self, storage: str) -> None:
        x_shape = (1, 1, 1, self.in_features)
        problem = linear.Problem(storage, x_shape, 1, 1, self._dtype, self._accumulate)
        linear.candidates(self._device._context, problem, self._weight.storage)

    def _make_plan(self, storage: str, x_shape: Shape, out_shape: Shape) -> tuple[Plan, str]:
        return self._plan_with(storage, x_shape, self._activation)

    def _plan_with(self, storage: str, x_shape: Shape, activation: Activation) -> tuple[Plan, str]:
        """Return a plan, and why its variant."""
        problem = linear.Problem(
            storage,
            shape4(x_shape, "x"),
            self.out_features,
            self.batches,
            self._dtype,
            self._accumulate,
        )
        context = self._device._context
        choice = linear.choose(context, problem, self._weight.storage)
        plan = linear.plan_linear(context, choice.variant, problem, activation, choice.workgroup)
        return plan, choice.reason


def conv_output_shape(x_shape: Shape, c_in: int, c_out: int, geometry: conv2d_pw.Geometry) -> Shape:
    """Return [N, C_out, H_out, W_out] for an x of [N, C_in, H, W], or both without N.

    Raises
    ------
    ValueError
        Another shape, or an image smaller than the kernel.
    """
    if len(x_shape) not in (3, 4):
        raise ValueError(
            f"x has shape {x_shape}; it must be [N, C, H, W] or [C, H, W]: use reshape"
        )
    if min(x_shape[-3:]) < 1 or x_shape[0] < 0:
        raise ValueError(f"x has shape {x_shape}; only the batch may be 0")
    images = shape4(x_shape, "x")
    if images[1] != c_in:
        raise ValueError(
            f"x has shape {x_shape}, {images[1]} channels; the weight takes C_in = {c_in}"
            + _other_channels(x_shape, c_in, c_out)
        )
    out = geometry.output_shape(images, c_out)
    if min(out[2:]) < 1:
        raise ValueError(f"x has shape {x_shape}: {_too_small(geometry)}")
    return out if len(x_shape) == 4 else out[1:]


def _too_small(geometry: conv2d_pw.Geometry) -> str:
    """Return the H and W that a kernel needs, and the padding for a smaller image, for an error."""
    (kh, kw), (top, left) = geometry.kernel, geometry.padding
    h, w = max(1, kh - 2 * top), max(1, kw - 2 * left)
    enough = max(top, kh // 2), max(left, kw // 2)
    needs = f"H and W of at least {h}" if h == w else f"H of at least {h} and W of at least {w}"
    return (
        f"a {kh}x{kw} kernel with padding {_one(geometry.padding)} needs {needs}; "
        f"pad by {_one(enough)}, or use a larger image"
    )


def _one(pair: tuple[int, int]) -> int | tuple[int, int]:
    """Return a pair along H and W, or the number where both are the same."""
    return pair[0] if pair[0] == pair[1] else pair


def _other_channels(x_shape: Shape, c_in: int, c_out: int) -> str:
    """Return a hint for an x of other channels than the weight takes, for an error."""
    channels = x_shape[-3]
    if x_shape[-1] == c_in:
        axes = (0, 3, 1, 2) if len(x_shape) == 4 else (2, 0, 1)
        return f"; the last axis of x is: pass x.transpose{axes} if channels come last in it"
    groups = channels // c_in
    if c_in == c_out or channels % c_in or c_out % groups:
        return ""
    if c_in == 1 and c_out == channels:
        return "; a weight of one channel each is depthwise: use pwconv.Graph.conv2d_dw"
    return (
        f"; there are no groups, of which it may have {groups}: slice x's channels, use a "
        "convolution for each group, and concat what they give (pwconv.Graph)"
    )
