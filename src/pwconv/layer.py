"""What layers share: a packed weight, a plan for each shape, and calls on arrays and tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pwconv.activation import ActivationLike, parse_activation
from pwconv.device import Device, DeviceLike, resolve_device
from pwconv.dtypes import FLOAT16, Array, DType, as_dtype, as_float_array
from pwconv.errors import UnsupportedError
from pwconv.explanation import Explanation
from pwconv.kernels import transfer
from pwconv.lru import LruCache
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
from pwconv.vk.commands import Dispatch, Plan
from pwconv.vk.resources import Resource, next_uid
from pwconv.weights import PackedWeight, Parameters, check_bias, pack

if TYPE_CHECKING:
    import numpy.typing as npt

_PLANS_KEPT = 32
_RESULTS_KEPT = 256


class Layer(ABC):
    """A weight packed once, called at any shape; its subclasses document what it is made of.

    A subclass says what shapes there are, and which plan computes one.
    """

    _bias_axis: ClassVar[str]
    """What the bias's axis is called in errors."""

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
        self._activation = parse_activation(activation)
        self._named_activation = activation
        self._converts = dtype is not None
        self._weight = self._pack(weight, dtype)
        self._dtype = self._weight.dtype
        self._accumulate = self._parse_accumulate(accumulate)
        # Says at once what the device lacks, rather than at the first call.
        self._require_variant(storage_order(self._device._context, storage)[0])
        self._bias_array = check_bias(bias, self._weight.shape[1], self._bias_axis)
        self._parameters = Parameters(self._weight, self._bias_array)
        context = self._device._context
        self._uid = next_uid()
        self._recordings = context.recordings
        self._submit_again = context.queue.submit_again
        self._results: dict[int, tuple[Shape, DType, str]] = {}  # by the uid of x
        self._plans: LruCache[tuple[str, Shape], tuple[Plan, Shape, str]] = LruCache(_PLANS_KEPT)

    @property
    def weight(self) -> PackedWeight:
        """The packed weight."""
        return self._weight

    @property
    def bias(self) -> Array | None:
        """A copy of the bias in float32, or None."""
        return None if self._bias_array is None else self._bias_array.copy()

    @property
    def activation(self) -> Any:
        """As the layer was made."""
        return self._named_activation

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
    def _settings(self) -> dict[str, Any]:
        """Return the arguments of the layer that only its class has."""

    def __reduce__(self) -> tuple[Any, ...]:
        settings = {
            "activation": self.activation,
            "dtype": self._dtype.name if self._converts else None,
            "accumulate": self.accumulate,
            "storage": self._storage,
            **self._settings(),
        }
        return partial(type(self), **settings), (self._weight, self.bias)

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
        out_shape = self._output_shape(x_shape)
        if 0 in out_shape:
            raise ValueError(f"shape is {x_shape}: a batch of 0 runs nothing")
        stored = self._array_shape(x_shape) if storage == "auto" else x_shape
        stored_out, chosen = self._choose_storage(stored, self._storages_from(storage))
        plan, _, reason = self._plan(chosen, stored, stored_out)
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
            weight_storage=self._weight.storage,
            reason=reason,
        )

    @abstractmethod
    def _output_shape(self, x_shape: Shape) -> Shape:
        """Return the output's shape.

        Raises
        ------
        ValueError
            x cannot have this shape.
        """

    def _array_shape(self, x_shape: Shape) -> Shape:
        """Return the shape of the tensor that an array becomes on its way through a call."""
        return x_shape

    @abstractmethod
    def _check_packed(self, weight: PackedWeight) -> None:
        """Raise for a packed weight that the layer does not take."""

    @abstractmethod
    def _weight_matrix(self, weight: Array) -> Array:
        """Return a weight as [N, K] or [B, N, K], or raise for one that the layer does not take."""

    @abstractmethod
    def _weight_storage(self, storage: str, dtype: DType, shape: Shape) -> str:
        """Return how to pack a weight, where activations are stored so."""

    @abstractmethod
    def _require_variant(self, storage: str) -> None:
        """Raise UnsupportedError where the device runs no variant of the layer at all."""

    @abstractmethod
    def _make_plan(self, storage: str, x_shape: Shape, out_shape: Shape) -> tuple[Plan, str]:
        """Return a plan, and why its variant."""

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

    def _dispatch(self, x: Tensor, out: Tensor) -> Dispatch:
        plan, _, _ = self._plan(x.storage, x.shape, out.shape)
        return self._bind(plan, x.resource, out.resource)

    def _bind(self, plan: Plan, x: Resource, out: Resource) -> Dispatch:
        resources = {
            "t_in": x,
            "t_out": out,
            "t_residual": x,
            "t_scale": x,
            **self._parameters.bindings(plan.variant),
        }
        return Dispatch(plan, resources)

    def _plan(self, storage: str, x_shape: Shape, out_shape: Shape) -> tuple[Plan, Shape, str]:
        """Return the plan for a shape, the output's shape, and why the plan's variant."""
        lock = self._device._context.lock
        with lock:
            known = self._plans.find((storage, x_shape))
            if known is not None:
                return known
        plan, reason = self._make_plan(storage, x_shape, out_shape)
        with lock:
            return self._plans.keep((storage, x_shape), (plan, out_shape, reason))

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

    def _pack(self, weight: Any, dtype: Any) -> PackedWeight:
        if isinstance(weight, PackedWeight):
            self._check_packed(weight)
            if dtype is not None and as_dtype(dtype) != weight.dtype:
                raise ValueError(
                    f"dtype is {dtype!r} and weight is packed as {weight.dtype}; pack it with "
                    f"pack_linear_weight(…, dtype={dtype!r})"
                )
            return weight
        array = self._weight_matrix(as_float_array(weight, "weight"))
        storage = self._weight_storage(
            storage_order(self._device._context, self._storage)[0],
            array.dtype if dtype is None else as_dtype(dtype),
            array.shape,
        )
        return pack(self._device, array, transposed=True, dtype=dtype, storage=storage)

    def _parse_accumulate(self, accumulate: Any) -> DType:
        wanted = as_dtype(accumulate, "accumulate")
        if wanted == FLOAT16 and self._dtype != FLOAT16:
            raise ValueError(
                "accumulate is 'float16' and dtype is float32; use dtype='float16', or leave "
                "accumulate at 'float32'"
            )
        return wanted

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
        out_shape = self._output_shape(x_shape)
        shapes = {"x": x_shape, "the output": out_shape}
        return out_shape, choose_storage(self._device._context, shapes, self._dtype, storages)

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
