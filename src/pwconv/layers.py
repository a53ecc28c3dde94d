"""Layers: an operator with its weight packed once, called on arrays and tensors of any shape."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pwconv import transfer
from pwconv.activation import ActivationLike
from pwconv.device import Device, DeviceLike, resolve_device
from pwconv.dtypes import FLOAT16, Array, DType, as_dtype, as_float_array
from pwconv.errors import UnsupportedError
from pwconv.explanation import Explanation
from pwconv.lru import LruCache
from pwconv.ops import Convolution, Operator, Site, make_linear, make_pointwise
from pwconv.ops import Linear as LinearOperator
from pwconv.ops.convolution import Task
from pwconv.tensor import (
    Shape,
    Tensor,
    as_buffer,
    as_shape,
    check_storage,
    choose_storage,
    empty,
    empty_again,
    from_array,
    shape4,
    storage_order,
)
from pwconv.vk.commands import Dispatch
from pwconv.vk.resources import next_uid
from pwconv.weights import PackedWeight, Parameters, check_packed

if TYPE_CHECKING:
    import numpy.typing as npt

_PLANS_KEPT = 32
_RESULTS_KEPT = 256


class Layer(ABC):
    """An operator with its weight packed, called at any shape; its subclasses document it.

    A subclass makes the operator of its arguments.
    """

    def __init__(
        self,
        weight: npt.ArrayLike | PackedWeight,
        bias: npt.ArrayLike | None,
        *,
        activation: ActivationLike | None,
        dtype: npt.DTypeLike | None,
        accumulate: npt.DTypeLike,
        storage: str,
        device: DeviceLike | None,
    ) -> None:
        check_storage(storage)
        self._storage = storage
        self._device = resolve_device(device, weight)
        self._device._context.enter()
        self._converts = dtype is not None
        check_packed(weight, dtype)
        sums = as_dtype(accumulate, "accumulate")
        operator = self._make(weight, bias, activation=activation, accumulate=sums)
        (given,) = operator.parameters
        self._dtype = as_dtype(given.weight.dtype if dtype is None else dtype)
        if sums == FLOAT16 and self._dtype != FLOAT16:
            raise ValueError(
                "accumulate is 'float16' and dtype is float32; use dtype='float16', or leave "
                "accumulate at 'float32'"
            )
        self._accumulate = sums
        site = self._site(storage_order(self._device._context, storage)[0])
        # Says at once what the device lacks, rather than at the first call.
        operator.check(site)
        self._operator: Any = operator.pack(site)
        self._parameters: Parameters = self._operator.parameters[0]
        self._parameters.packed.belong_to(self._device)
        context = self._device._context
        self._uid = next_uid()
        self._recordings = context.recordings
        self._submit_again = context.queue.submit_again
        self._results: dict[int, tuple[Shape, DType, str]] = {}  # by the uid of x
        self._plans: LruCache[tuple[str, Shape], tuple[Dispatch, Shape]] = LruCache(_PLANS_KEPT)

    @property
    def weight(self) -> PackedWeight:
        """The packed weight."""
        return self._parameters.packed

    @property
    def bias(self) -> Array | None:
        """A copy of the bias in float32, or None."""
        bias = self._parameters.bias
        return None if bias is None else bias.copy()

    @property
    def activation(self) -> Any:
        """As the layer was made."""
        return self._operator.epilogue.activation

    @property
    def dtype(self) -> DType:
        """Of the weight, the input and the output on the device."""
        return self._dtype

    @property
    def accumulate(self) -> str:
        """What products are summed in: "float32" or "float16"."""
        return str(self._accumulate)

    @property
    def storage(self) -> str:
        """As the layer was made: "auto", "texture3d" or "buffer"."""
        return self._storage

    @property
    def device(self) -> Device:
        """The device that the layer is on."""
        return self._device

    @abstractmethod
    def _make(self, weight: Any, bias: Any, **settings: Any) -> Operator:
        """Return the operator, its parameters on the host.

        Raises
        ------
        TypeError, ValueError
        """

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of the layer that only its class has."""
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        settings = {
            "activation": self.activation,
            "dtype": self._dtype.name if self._converts else None,
            "accumulate": self.accumulate,
            "storage": self._storage,
            **self._settings(),
        }
        return partial(type(self), **settings), (self.weight, self.bias)

    def __call__(self, x: npt.ArrayLike | Tensor, *, out: Tensor | None = None) -> Any:
        """Apply the layer.

        Parameters
        ----------
        x : array_like or Tensor
            Of a shape that the class takes.
        out : Tensor, optional
            Where to write the result, of its shape and type.

        Returns
        -------
        numpy.ndarray or Tensor
            A Tensor where x or ``out`` is one, and then possibly not computed yet.

        Raises
        ------
        TypeError, ValueError
            x or ``out`` has another type, shape or device than the layer takes or gives.
        UnsupportedError
            The input or output is past the device's limits.
        OutOfMemoryError, ClosedError, DeviceLostError
        """
        try:
            # A uid stands for shape, dtype, storage and device: what was checked once, holds.
            uid = x._uid  # type: ignore[union-attr]
            result = empty_again(self._device, self._results[uid]) if out is None else out
            recording = self._recordings[self._uid, uid, result._uid]
        except (AttributeError, KeyError):
            recording = None
        if recording is None:
            return self._call(x, out)
        if not self._submit_again(recording.submit_info):
            self._device._context.submit_recorded(recording)
        return result

    def _call(self, x: Any, out: Any) -> Any:
        """Apply the layer to what it may not have been applied to before."""
        self._device._context.enter()
        if not isinstance(x, Tensor) and out is None:
            return self._from_array(self._check_array(x))
        tensor, out_shape = self._place(x, out)
        result = self._check_out(out, out_shape, tensor)
        if 0 in out_shape:
            return result
        # A tensor that was made for this call will not come again.
        key = (self._uid, tensor._uid, result._uid) if tensor is x else None
        self._device._context.submit(self._dispatch(tensor, result), key=key)
        if tensor is x:
            if len(self._results) >= _RESULTS_KEPT:
                self._results.clear()
            self._results[tensor._uid] = (out_shape, self._dtype, tensor.storage)
        return result

    def explain(self, shape: Sequence[int], storage: str = "auto") -> Explanation:
        """Tell what a call runs at a shape, and why; nothing is computed.

        What is told is what the call then takes. With ``PWCONV_TUNE=on-demand`` a convolution's new
        shape is measured here as it would be there.

        Parameters
        ----------
        shape : tuple of int
            Of x.
        storage : "auto", "texture3d" or "buffer"
            Of x, where it is a tensor; "auto" where it is an array.

        Returns
        -------
        Explanation

        Raises
        ------
        TypeError, ValueError
            A shape or storage that the layer does not take, or a batch of 0, which runs nothing.
        UnsupportedError
            The input or output is past the device's limits.
        OutOfMemoryError, ClosedError
        """
        self._device._context.enter()
        x_shape = as_shape(shape)
        check_storage(storage)
        if storage != "auto":
            self._check_tensor_storage(storage)
        out_shape = self._operator.shape(x_shape)
        if 0 in out_shape:
            raise ValueError(f"shape is {x_shape}: a batch of 0 runs nothing")
        stored = self._array_shape(x_shape) if storage == "auto" else x_shape
        stored_out, chosen = self._choose_storage(stored, self._storages_from(storage))
        dispatch, _ = self._plan(chosen, stored, stored_out)
        plan = dispatch.plan
        return Explanation(
            x_shape=x_shape,
            out_shape=out_shape,
            dtype=self._dtype.name,
            storage=chosen,
            storage_reason=self._explain_storage(storage, stored, chosen),
            variant=plan.variant.name,
            tile=plan.variant.axes["tile"],
            workgroup=plan.workgroup,
            workgroup_counts=tuple(groups for _, groups in plan.parts),
            weight_storage=self.weight.storage,
            reason=dispatch.reason,
        )

    def _array_shape(self, x_shape: Shape) -> Shape:
        """Return the shape of the tensor that an array becomes on its way through a call."""
        return x_shape

    def _from_array(self, array: Array) -> Array:
        out_shape, storage = self._choose_storage(array.shape, self._storages_from("auto"))
        x = empty(self._device, array.shape, self._dtype, storage)
        y = empty(self._device, out_shape, self._dtype, storage)
        if 0 in out_shape:
            return np.empty(out_shape, self._dtype)
        return transfer.pass_through(
            self._device._context,
            array.reshape(shape4(array.shape, "x")),
            x.resource,
            self._dispatch(x, y),
            y.resource,
            shape4(out_shape, "output"),
            self._dtype,
        ).reshape(out_shape)

    def _site(self, storage: str) -> Site:
        device = self._device
        return Site(device._context, storage, self._dtype, device._tuner)

    def _dispatch(self, x: Tensor, out: Tensor) -> Dispatch:
        dispatch, _ = self._plan(x.storage, x.shape, out.shape)
        return dispatch.bind((x.resource,), out.resource)

    def _plan(self, storage: str, x_shape: Shape, out_shape: Shape) -> tuple[Dispatch, Shape]:
        """Return the dispatch for a shape, and the output's shape."""
        lock = self._device._context.lock
        with lock:
            known = self._plans.find((storage, x_shape))
            if known is not None:
                return known
        (dispatch,) = self._operator.plan(self._site(storage), (x_shape,), out_shape)
        with lock:
            return self._plans.keep((storage, x_shape), (dispatch, out_shape))

    def _explain_storage(self, storage: str, x_shape: Shape, chosen: str) -> str:
        """Return why a call takes the storage that it takes."""
        best = self._storages_from(storage)[0]
        if chosen != best:
            try:
                self._choose_storage(x_shape, (best,))
            except UnsupportedError as error:
                return f"{best} does not take it: {error}"
        if storage != "auto":
            return "as x is"
        if self._storage != "auto":
            return "as the layer was made"
        return f"what suits a device of type {self._device.info.type}"

    def _place(self, x: Any, out: Any) -> tuple[Tensor, Shape]:
        """Return x on the device, stored so that it and its output fit, and the output's shape."""
        if isinstance(x, Tensor):
            stored, shape = x.storage, x.shape
            known = self._plans.get((stored, shape))
            if known and x.device is self._device and x.dtype == self._dtype:
                return x, known[1]
            resolve_device(self._device, x)
            if x.dtype != self._dtype:
                raise TypeError(
                    f"x is a tensor of {x.dtype} and the layer computes in {self._dtype}: make one "
                    f"with device.tensor(…, dtype='{self._dtype}')"
                )
            self._check_tensor_storage(stored)
        else:
            x = self._check_array(x)
            stored, shape = None, x.shape
        out_shape, storage = self._choose_storage(shape, self._storages(x, out))
        if stored is None:
            return from_array(self._device, x, self._dtype, storage), out_shape
        return x if stored == storage else as_buffer(x), out_shape

    def _check_array(self, x: Any) -> Array:
        array = as_float_array(x, "x")
        if array.dtype.newbyteorder("=") != self._dtype and not self._converts:
            raise TypeError(
                f"x has dtype {array.dtype} and the layer computes in {self._dtype}: cast x, or "
                f"make the layer with dtype='{self._dtype}' to have inputs converted"
            )
        return array

    def _choose_storage(self, x_shape: Shape, storages: tuple[str, ...]) -> tuple[Shape, str]:
        """Return the output's shape, and the first storage that x and the output fit."""
        out_shape = self._operator.shape(x_shape)
        able = self._operator.storages((x_shape,), storages)
        shapes = {"x": x_shape, "the output": out_shape}
        return out_shape, choose_storage(self._device._context, shapes, self._dtype, able)

    def _storages(self, x: Any, out: Any) -> tuple[str, ...]:
        """Return the storages to try for x and its output, best first."""
        if isinstance(x, Tensor):
            return self._storages_from(x.storage)
        if isinstance(out, Tensor) and self._storage == "auto":
            return (out.storage,)
        return self._storages_from("auto")

    def _storages_from(self, storage: str) -> tuple[str, ...]:
        """Return the storages to try for a tensor stored so, or for an array, which is "auto"."""
        if storage == "auto":
            return storage_order(self._device._context, self._storage)
        # A texture whose output is past a texture's limit becomes a buffer.
        may_change = self._storage == "auto" and storage == "texture3d"
        return ("texture3d", "buffer") if may_change else (storage,)

    def _check_tensor_storage(self, storage: str) -> None:
        if self._storage not in ("auto", storage):
            raise ValueError(
                f"x is stored as {storage} and the layer works on {self._storage}: make one "
                f"with device.tensor(…, storage='{self._storage}')"
            )

    def _check_out(self, out: Tensor | None, shape: Shape, x: Tensor) -> Tensor:
        if out is None:
            return empty(self._device, shape, self._dtype, x.storage)
        if not isinstance(out, Tensor):
            raise TypeError(f"out is a {type(out).__name__}; it must be a pwconv.Tensor")
        if out.device is not self._device:
            resolve_device(self._device, out)  # says what is wrong
        if out.shape != shape or out.dtype != self._dtype:
            raise ValueError(
                f"out has shape {out.shape} and dtype {out.dtype}; the result has {shape} and "
                f"{self._dtype}"
            )
        if out.storage != x.storage:
            raise ValueError(f"out is stored as {out.storage}; the result is, as x, {x.storage}")
        if out is x:
            raise ValueError("out is x; a layer cannot overwrite its own input")
        return out


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
    stride : int or (int, int)
        Along H and W.
    padding : int, (int, int) or (int, int, int, int)
        Zeros on either side along H and W; or at the top, left, bottom and right.
    activation : str or tuple, optional
        "relu", "relu6", "hardswish", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "mish",
        "softplus", "erf", "exp", "log", "sqrt", "abs", "neg", "reciprocal", ("clamp", low, high),
        ("hardsigmoid", alpha, beta), ("affine", a, b), ("leaky_relu", slope), ("elu", alpha) or
        ("pow", exponent).
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
    x has none. H_out is ``(H + top + bottom − 1) // stride + 1``.

    float16 layers compute the epilogue in float32 and round once, to nearest even.

    Which compiled variant computes a shape is what ``pwconv tune`` found on this device, where it
    did, or else what a rule says; ``$PWCONV_TUNE`` may be "off", "cached" (the default) or
    "on-demand", which measures a new shape at its first call. :meth:`explain` tells.
    """

    _operator: Convolution

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
        self._moved: dict[str, Any] = {"stride": stride, "padding": padding}
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
        return self._operator.in_channels

    @property
    def out_channels(self) -> int:
        """C_out."""
        return self._operator.out_channels

    @property
    def stride(self) -> tuple[int, int]:
        """Along H and W."""
        return self._operator.geometry.stride

    @property
    def padding(self) -> tuple[int, ...]:
        """Along H and W; or at the top, left, bottom and right, where opposite sides differ."""
        geometry = self._operator.geometry
        return geometry.padding if geometry.end == geometry.padding else geometry.sides

    def __repr__(self) -> str:
        return (
            f"pwconv.PointwiseConv2d({self.in_channels}, {self.out_channels}, "
            f"stride={self.stride}, padding={self.padding}, activation={self.activation!r}, "
            f"dtype={self._dtype})"
        )

    def _settings(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding}

    def _make(self, weight: Any, bias: Any, **settings: Any) -> Operator:
        return make_pointwise(weight, bias, **self._moved, **settings)

    def _task(self, storage: str, x_shape: Shape, out_shape: Shape) -> Task:
        """Return what a tuner measures for a shape."""
        return Task(self._operator, self._site(storage), x_shape, out_shape)


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
        "relu", "relu6", "hardswish", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "mish",
        "softplus", "erf", "exp", "log", "sqrt", "abs", "neg", "reciprocal", ("clamp", low, high),
        ("hardsigmoid", alpha, beta), ("affine", a, b), ("leaky_relu", slope), ("elu", alpha) or
        ("pow", exponent).
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

    _operator: LinearOperator

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
        return self._parameters.shape[2]

    @property
    def out_features(self) -> int:
        """N."""
        return self._parameters.shape[1]

    @property
    def batches(self) -> int:
        """B: how many weights there are."""
        return self._parameters.shape[0]

    def __repr__(self) -> str:
        batches = f"batches={self.batches}, " if self.batches > 1 else ""
        return (
            f"pwconv.Linear({self.in_features}, {self.out_features}, {batches}"
            f"activation={self.activation!r}, dtype={self._dtype})"
        )

    def _make(self, weight: Any, bias: Any, **settings: Any) -> Operator:
        return make_linear(weight, bias, **settings)

    def _array_shape(self, x_shape: Shape) -> Shape:
        if self.batches > 1:
            return self.batches, math.prod(x_shape[1:-1]), 1, x_shape[-1]
        return math.prod(x_shape[:-1]), x_shape[-1]

    def _from_array(self, array: Array) -> Array:
        out_shape = self._operator.shape(array.shape)
        self._device._context.require_open()
        if 0 in out_shape:
            return np.empty(out_shape, self._dtype)
        stored = self._array_shape(array.shape)
        # Before a view that repeats its elements becomes as large as it looks.
        self._choose_storage(stored, self._storages_from("auto"))
        return super()._from_array(array.reshape(stored)).reshape(out_shape)
