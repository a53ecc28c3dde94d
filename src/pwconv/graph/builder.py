"""Builder of a graph: its methods add nodes, one by one, over the values before."""

from __future__ import annotations

import operator as builtin
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pwconv import ops
from pwconv.device import Device, resolve_device
from pwconv.dtypes import DType, as_float_array
from pwconv.graph.network import Network, Node, naming, node_shape
from pwconv.graph.passes import WEIGHT_RULES, apply_rules
from pwconv.ops.base import Operator, Site
from pwconv.tensor import Shape, as_shape, shape4, storage_order
from pwconv.vk import process
from pwconv.weights import check_packed, packed_storage


@dataclass(frozen=True, eq=False)
class Value:
    """The output of a node; a graph's methods take and return values.

    Attributes
    ----------
    graph : Graph
    name : str
        Of the node.
    """

    graph: Builder
    name: str
    _number: int

    @property
    def shape(self) -> Shape:
        """[N, C, H, W] or [C, H, W] of images, [..., K] of rows; as the graph is sized now."""
        return self.graph._shapes[self._number]

    def __reduce__(self) -> str:
        raise TypeError("a value cannot be copied or pickled: it is one of its graph's")

    def __repr__(self) -> str:
        return f"<pwconv.graph.Value {self.name!r} {self.shape}>"


class Builder:
    """Methods of :class:`pwconv.Graph` that add nodes, and the nodes added.

    Parameters
    ----------
    device : Device
    dtype : numpy.dtype
    storage : "auto", "texture3d" or "buffer"
        As for :class:`pwconv.Graph`.
    """

    def __init__(self, device: Device, dtype: DType, storage: str) -> None:
        self._device = device
        self._dtype = dtype
        self._storage = storage
        self._lock = process.make_lock()
        self._nodes: list[Node] = []
        self._shapes: list[Shape] = []
        self._names: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._inputs: dict[str, int] = {}
        self._outputs: dict[str, int] = {}
        self._output_names: dict[int, str] = {}
        self._network: Network | None = None

    def __reduce__(self) -> str:
        raise TypeError(
            "a graph cannot be copied or pickled; build another by the same calls, and pickle the "
            "arrays of its weights"
        )

    @property
    def device(self) -> Device:
        """The device that it runs on."""
        return self._device

    @property
    def dtype(self) -> DType:
        """Of the activations and the weights on the device: float32 or float16."""
        return self._dtype

    def input(self, name: str, shape: Any) -> Value:
        """Declare an input.

        Parameters
        ----------
        name : str
            Its keyword in :meth:`run`.
        shape : tuple of int
            [N, C, H, W] or [C, H, W] of images; for :meth:`linear` and what works element by
            element any axes, stored as :class:`pwconv.Tensor` tells.

        Raises
        ------
        TypeError, ValueError
            No such shape, an axis of length 0, or a name that is taken.
        """
        wanted = input_shape(name, shape)
        with self._lock:
            self._require_building()
            self._check_name(name)
            value = self._place(Node(name, None), wanted)
            self._inputs[name] = value._number
        return value

    def constant(self, array: Any, *, name: str | None = None) -> Value:
        """Add a tensor that is the same in every run.

        Parameters
        ----------
        array : array_like
            [N, C, H, W] or [C, H, W], float32 or float16; it is copied.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        with self._adding("constant", name) as name:
            return self._append(
                name, ops.make_constant(as_float_array(array, "array"), self.dtype), ()
            )

    def conv2d_pw(
        self,
        x: Value,
        weight: Any,
        bias: Any = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        activation: Any = None,
        residual: Value | None = None,
        name: str | None = None,
    ) -> Value:
        """Add a pointwise convolution: ``activation(weight·x + bias + residual)``.

        Parameters
        ----------
        x : Value
        weight, bias, stride, padding, activation
            As for :class:`pwconv.PointwiseConv2d`; arrays are converted to the graph's dtype.
        residual : Value, optional
            Of the output's shape; added in float32, before the activation.
        name : str, optional

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError
            As for :class:`pwconv.PointwiseConv2d`; the message names the node.
        """
        with self._adding("conv2d_pw", name) as name:
            resolve_device(self.device, weight)
            check_packed(weight, self.dtype)
            operator = ops.make_pointwise(
                weight, bias, stride=stride, padding=padding, activation=activation
            )
            return self._append(name, operator, (x,), residual)

    def conv2d(
        self,
        x: Value,
        weight: Any,
        bias: Any = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        activation: Any = None,
        residual: Value | None = None,
        name: str | None = None,
    ) -> Value:
        """Add a convolution with a kernel of several taps, as a network's stem has.

        Parameters
        ----------
        x : Value
        weight : array_like
            [C_out, C_in / groups, KH, KW], float32 or float16.
        padding : int, (int, int) or (int, int, int, int)
            On either side along H and along W; or at the top, left, bottom and right.
        dilation : int or (int, int)
            Distance from tap to tap.
        groups : int
            Each C_out / groups output channels are of C_in / groups input channels. With several
            groups there is no residual; with as many as channels it is :meth:`conv2d_dw`.
        bias, stride, activation, residual, name
            As for :meth:`conv2d_pw`.

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError
            As for :meth:`conv2d_pw`.
        """
        with self._adding("conv2d", name) as name:
            settings: dict[str, Any] = {
                "stride": stride,
                "padding": padding,
                "dilation": dilation,
                "activation": activation,
            }
            operator: Operator
            count = as_groups(groups)
            if count == 1:
                operator = ops.make_dense(
                    weight,
                    bias,
                    most=lambda k: packed_storage(self._site.context, k, self.dtype, "auto"),
                    **settings,
                )
            elif np.shape(weight)[:2] == (count, 1):
                operator = ops.make_depthwise(weight, bias, **settings)
            else:
                operator = ops.make_grouped(weight, bias, groups=count, **settings)
            return self._append(name, operator, (x,), residual)

    def conv2d_dw(
        self,
        x: Value,
        weight: Any,
        bias: Any = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        activation: Any = None,
        name: str | None = None,
    ) -> Value:
        """Add a depthwise convolution: each channel by a kernel of its own, summed in float32.

        Parameters
        ----------
        x : Value
        weight : array_like
            [C, 1, KH, KW], float32 or float16.
        bias : array_like, optional
            [C].
        stride, padding, dilation, activation, name
            As for :meth:`conv2d`.

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError
            The message names the node.
        """
        with self._adding("conv2d_dw", name) as name:
            operator = ops.make_depthwise(
                weight,
                bias,
                stride=stride,
                padding=padding,
                dilation=dilation,
                activation=activation,
            )
            return self._append(name, operator, (x,))

    def conv2d_transposed(
        self,
        x: Value,
        weight: Any,
        bias: Any = None,
        *,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        activation: Any = None,
        name: str | None = None,
    ) -> Value:
        """Add a transposed convolution, summed in float32; sizes are torch.nn.ConvTranspose2d's.

        Parameters
        ----------
        x : Value
        weight : array_like
            [C_in, C_out / groups, KH, KW], float32 or float16.
        padding : int, (int, int) or (int, int, int, int)
            What is left away of the output, on either side along H and along W; or at the top,
            left, bottom and right. Below 0, what is added.
        output_padding : int or (int, int)
            Positions more at the bottom and at the right; below the stride or the dilation.
        bias, stride, dilation, groups, activation, name
            As for :meth:`conv2d`.

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError
            The message names the node.
        """
        with self._adding("conv2d_transposed", name) as name:
            operator = ops.make_transposed(
                weight,
                bias,
                stride=stride,
                padding=padding,
                output_padding=output_padding,
                dilation=dilation,
                groups=as_groups(groups),
                activation=activation,
            )
            return self._append(name, operator, (x,))

    def batch_norm(
        self,
        x: Value,
        mean: Any,
        variance: Any,
        weight: Any = None,
        bias: Any = None,
        *,
        eps: float = 1e-5,
        activation: Any = None,
        name: str | None = None,
    ) -> Value:
        """Add batch normalization: ``activation((x − mean)/√(variance + eps)·weight + bias)``.

        After a convolution that nothing else reads it becomes part of that: in float32 of what is
        done to its sums, in float16 of its weights, in float64, which are then rounded once.

        Parameters
        ----------
        x : Value
        mean, variance : array_like
            [C], float32 or float16: the statistics of training.
        weight, bias : array_like, optional
            [C]: γ and β.
        eps : float
            Added to the variance; as large as in training.
        activation, name
            As for :meth:`conv2d_pw`.

        Raises
        ------
        TypeError, ValueError, UnsupportedError
            The message names the node.
        """
        with self._adding("batch_norm", name) as name:
            operator = ops.make_batch_norm(
                mean, variance, weight, bias, eps=eps, activation=activation
            )
            return self._append(name, operator, (x,))

    def linear(
        self,
        x: Value,
        weight: Any,
        bias: Any = None,
        *,
        activation: Any = None,
        name: str | None = None,
    ) -> Value:
        """Add a linear layer, over the last axis: ``activation(weight·x + bias)``.

        Parameters
        ----------
        x : Value
            [..., K]: any axes before the last, or none. Of images that is W; their channels are
            what :meth:`conv2d_pw` works over.
        weight, bias, activation
            As for :class:`pwconv.Linear`; arrays are converted to the graph's dtype.
        name : str, optional

        Returns
        -------
        Value
            [..., N].

        Raises
        ------
        TypeError, ValueError, UnsupportedError, OutOfMemoryError
            As for :class:`pwconv.Linear`; the message names the node.

        Notes
        -----
        With a batched weight and an x of fewer than four axes, the graph's activations are buffers:
        a texture has several batches in a texel.
        """
        with self._adding("linear", name) as name:
            resolve_device(self.device, weight)
            check_packed(weight, self.dtype)
            return self._append(name, ops.make_linear(weight, bias, activation=activation), (x,))

    def activation(self, x: Value, activation: Any, *, name: str | None = None) -> Value:
        """Add an activation; it is fused into the node of x where that has an epilogue.

        Parameters
        ----------
        x : Value
        activation : str or tuple
            As for :class:`pwconv.PointwiseConv2d`.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self._elementwise("activation", activation, name, x)

    def add(self, x: Value, y: Value, *, activation: Any = None, name: str | None = None) -> Value:
        """Add ``activation(x + y)``; where it can be it becomes part of a convolution before it.

        Parameters
        ----------
        x, y : Value
            Of one shape, of any axes; or images, either of which may have length 1 along an axis.
        activation : str or tuple, optional
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self._elementwise("add", activation, name, x, y)

    def mul(self, x: Value, y: Value, *, activation: Any = None, name: str | None = None) -> Value:
        """Add ``activation(x · y)``, element by element.

        With a y of [N, C, 1, 1] it is the scale of squeeze-and-excitation; where it gains by that,
        it becomes part of a pointwise convolution after it.

        Parameters
        ----------
        x, y : Value
            Of one shape, of any axes; or images, either of which may have length 1 along an axis.
        activation : str or tuple, optional
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self._elementwise("mul", activation, name, x, y)

    def sub(self, x: Value, y: Value, *, activation: Any = None, name: str | None = None) -> Value:
        """Add the difference of two values, x − y, broadcast as :meth:`add` has it.

        Parameters
        ----------
        x, y, activation, name
            As for :meth:`add`.

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self._elementwise("sub", activation, name, x, y)

    def div(self, x: Value, y: Value, *, activation: Any = None, name: str | None = None) -> Value:
        """Add the quotient of two values, x / y, broadcast as :meth:`add` has it.

        Parameters
        ----------
        x, y, activation, name
            As for :meth:`add`.

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self._elementwise("div", activation, name, x, y)

    def minimum(
        self, x: Value, y: Value, *, activation: Any = None, name: str | None = None
    ) -> Value:
        """Add the smaller of two values, NaN if one is, broadcast as :meth:`add` has it.

        Parameters
        ----------
        x, y, activation, name
            As for :meth:`add`.

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self._elementwise("minimum", activation, name, x, y)

    def maximum(
        self, x: Value, y: Value, *, activation: Any = None, name: str | None = None
    ) -> Value:
        """Add the larger of two values, NaN if one is, broadcast as :meth:`add` has it.

        Parameters
        ----------
        x, y, activation, name
            As for :meth:`add`.

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self._elementwise("maximum", activation, name, x, y)

    def prelu(self, x: Value, slope: Any, *, name: str | None = None) -> Value:
        """Add ``x`` where it is not below 0, and else ``slope · x``.

        Parameters
        ----------
        x : Value
        slope : array_like or Value
            [C], float32 or float16, or [1] for all channels; or a value, broadcast as :meth:`add`
            has it.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        if isinstance(slope, Value):
            return self._elementwise("prelu", None, name, x, slope)
        with self._adding("prelu", name) as name:
            self._numbers({"x": x})
            array, operator = as_float_array(slope, "slope"), ops.Elementwise(function="prelu")
            if array.ndim != 1:
                raise ValueError(f"slope has shape {array.shape}; it must be [C]")
            slopes = array.reshape((*[1] * (len(x.shape) - 3), -1, 1, 1))
            if operator.shape(x.shape, slopes.shape) != x.shape:
                raise ValueError(f"slope has shape {array.shape} and x {x.shape}; it must be [C]")
            constant = ops.make_constant(slopes, self.dtype)
            return self._append(name, operator, (x, self._append(f"{name} (slope)", constant, ())))

    def concat(self, values: Iterable[Value], *, name: str | None = None) -> Value:
        """Add the concatenation of values along their channels.

        Parameters
        ----------
        values : iterable of Value
            At least one; they may differ in channels only.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        with self._adding("concat", name) as name:
            given = tuple(values)
            if not given:
                raise ValueError("values is empty; there must be at least one")
            return self._append(name, ops.Concat(), given)

    def slice(self, x: Value, start: int, stop: int, *, name: str | None = None) -> Value:
        """Add channels ``start`` … ``stop − 1`` of a value.

        Parameters
        ----------
        x : Value
        start, stop : int
            0 ≤ start < stop ≤ C.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        with self._adding("slice", name) as name:
            bounds = builtin.index(start), builtin.index(stop)
            return self._append(name, ops.Slice(start=bounds[0], stop=bounds[1]), (x,))

    def global_avg_pool(self, x: Value, *, name: str | None = None) -> Value:
        """Add the mean of each channel over H and W, summed in float32: [N, C, 1, 1].

        Parameters
        ----------
        x : Value
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self.add_op(ops.GlobalAvgPool(), x, name=name)

    def global_max_pool(self, x: Value, *, name: str | None = None) -> Value:
        """Add the largest element of each channel, [N, C, 1, 1], which is NaN if there is one.

        It is :meth:`reduce` of "max" over H and W.

        Parameters
        ----------
        x : Value
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        return self.reduce(x, "max", name=name)

    def reduce(
        self,
        x: Value,
        function: str = "mean",
        axes: Any = (2, 3),
        *,
        keepdims: bool = True,
        name: str | None = None,
    ) -> Value:
        """Add a sum, mean, extreme or norm over some of C, H and W, in float32.

        :meth:`global_avg_pool` is faster for the mean over H and W. Extremes over W and other axes
        are those over W first, in a node of its own; so are others of more than 60,000 elements,
        where what is over W is rounded to the graph's type.

        Parameters
        ----------
        x : Value
        function : "sum", "mean", "max", "min" or "l2"
            "l2" is the root of the sum of squares; "max" and "min" are NaN if there is one.
        axes : int or tuple of int
            Of [N, C, H, W]: 1 to 3, or −3 to −1, with N and without.
        keepdims : bool
            Whether axes of length 1 stay in their place.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        with self._adding("reduce", name) as name:
            operator = ops.make_reduce(function, axes, keepdims=keepdims)
            (number,) = self._numbers({"x": x})
            operator.shape(self._shapes[number])  # before a node is added
            first = operator.first(shape4(self._shapes[number], "x"))
            if first is not None:
                x = self._append(f"{name} (along W)", first, (x,))
            return self._append(name, operator, (x,))

    def softmax(self, x: Value, axis: int = 1, *, name: str | None = None) -> Value:
        """Add ``exp(x) / Σ exp(x)`` along an axis, in float32, without overflow.

        A line with a NaN or +∞, or of −∞ alone, gives NaN.

        Parameters
        ----------
        x : Value
            Of any axes.
        axis : int
            Of [N, C, H, W] as :class:`pwconv.Tensor` stores x: 1 to 3, or −3 to −1. So −1 is the
            last of any x, and 1 is C of images with N and without.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        with self._adding("softmax", name) as name:
            number = builtin.index(axis)
            operator = ops.Softmax(axis=number + 4 if number < 0 else number)
            return self._append(name, operator, (x,))

    def max_pool(
        self,
        x: Value,
        kernel: Any,
        *,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        name: str | None = None,
    ) -> Value:
        """Add the largest element under a window, which is NaN if there is one under it.

        Sizes are those of torch.nn.MaxPool2d.

        Parameters
        ----------
        x : Value
        kernel : int or (int, int)
            KH and KW, of at most 1,024 taps together.
        stride : int or (int, int), optional
            Along H and along W; the kernel's size by default.
        padding : int, (int, int) or (int, int, int, int)
            On either side, along H and along W, at most half the kernel; or at the top, left,
            bottom and right, less than the kernel. It is left out: a window over nothing else
            gives −∞.
        dilation : int or (int, int)
            Distance from tap to tap.
        ceil_mode : bool
            Whether a last window that passes the padding's end counts too, where it begins inside
            the input or the padding before it.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        with self._adding("max_pool", name) as name:
            operator = ops.make_max_pool(
                kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
            )
            return self._append(name, operator, (x,))

    def avg_pool(
        self,
        x: Value,
        kernel: Any,
        *,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        name: str | None = None,
    ) -> Value:
        """Add the mean under a window, summed in float32.

        Sizes and divisors are those of torch.nn.AvgPool2d; a window over nothing that is counted
        gives 0.

        Parameters
        ----------
        x, kernel, stride, padding, dilation, ceil_mode, name
            As for :meth:`max_pool`; padding is zeros.
        count_include_pad : bool
            Whether what a sum is divided by counts padding too. What is past the padding, under a
            last window with ``ceil_mode``, is never counted.

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        with self._adding("avg_pool", name) as name:
            operator = ops.make_avg_pool(
                kernel,
                stride=stride,
                padding=padding,
                dilation=dilation,
                ceil_mode=ceil_mode,
                count_include_pad=count_include_pad,
            )
            return self._append(name, operator, (x,))

    def upsample(self, x: Value, scale: int = 2, *, name: str | None = None) -> Value:
        """Add nearest upsampling: each element repeated along H and along W.

        Parameters
        ----------
        x : Value
        scale : int
            1 to 1024.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        with self._adding("upsample", name) as name:
            return self._append(name, ops.Upsample(scale=builtin.index(scale)), (x,))

    def resize_images(
        self,
        x: Value,
        *,
        size: Any = None,
        scales: Any = None,
        mode: str = "nearest",
        nearest_mode: str = "round_prefer_floor",
        coordinates: str = "half_pixel",
        name: str | None = None,
    ) -> Value:
        """Add other sizes of images along H and W, as ONNX's Resize has them, without antialiasing.

        Where the scale is a whole number, :meth:`upsample` is faster.

        Parameters
        ----------
        x : Value
        size : int or (int, int), optional
            H and W of the output.
        scales : float or (float, float), optional
            Of the output to the input, along H and W, 1/1024 to 1024; this or ``size``. They are
            rounded to float32, and sizes down; positions follow the scale all the same.
        mode : "nearest" or "linear"
            The element at the nearest position, or the weighted mean of the four around it.
        nearest_mode : "round_prefer_floor", "round_prefer_ceil", "floor" or "ceil"
            Which one of "nearest" is taken.
        coordinates : "half_pixel", "pytorch_half_pixel", "asymmetric" or "align_corners"
            Where in the input a position of the output is: ONNX's coordinate_transformation_mode.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        """
        with self._adding("resize", name) as name:
            operator = ops.make_resize(
                size=size,
                scales=scales,
                mode=mode,
                nearest_mode=nearest_mode,
                coordinates=coordinates,
            )
            return self._append(name, operator, (x,))

    def add_op(self, operator: Operator, *values: Value, name: str | None = None) -> Value:
        """Add an operator over values; the other methods are this one, for each kind.

        Parameters
        ----------
        operator : Operator
            Of :mod:`pwconv.ops`; weights that it has on the host are packed when the graph is run.
        *values : Value
            Its inputs, those of its epilogue included.
        name : str, optional

        Raises
        ------
        TypeError, ValueError
            The message names the node.
        UnsupportedError
            The device cannot compute it at any shape.
        """
        if not isinstance(operator, Operator):
            raise TypeError(f"operator is {_with_article(operator)}; it must be of pwconv.ops")
        with self._adding(operator.name, name) as name:
            operator.check_inputs(len(values))
            return self._append(name, operator, values)

    def output(self, name: str, value: Value) -> None:
        """Name a value as an output.

        Raises
        ------
        TypeError, ValueError
            A name that is taken, an input, or a value that is an output already.
        """
        with self._lock:
            self._require_building()
            (number,) = self._numbers({f"output {name!r}": value})
            if not isinstance(name, str) or not name:
                raise TypeError(f"name is {name!r}; it must be a string")
            if name in self._outputs:
                raise ValueError(f"output {name!r}: there is one of this name already")
            if self._nodes[number].operator is None:
                raise ValueError(
                    f"output {name!r} is the input {value.name!r} itself; nothing is computed"
                )
            if isinstance(self._nodes[number].operator, ops.Constant):
                raise ValueError(
                    f"output {name!r} is the constant {value.name!r}; nothing is computed"
                )
            if number in self._output_names:
                raise ValueError(
                    f"output {name!r}: node {value.name!r} is the output "
                    f"{self._output_names[number]!r} already"
                )
            self._outputs[name] = number
            self._output_names[number] = name

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _site(self) -> Site:
        """Where operators are packed: of the storage that suits the device best."""
        device = self._device
        storage = storage_order(device._context, self._storage)[0]
        return Site(device._context, storage, self._dtype, device._tuner)

    def _elementwise(
        self, function: str, activation: Any, name: str | None, *values: Value
    ) -> Value:
        with self._adding(function, name) as name:
            epilogue = ops.Epilogue(activation)
            operator = ops.Elementwise(function=function, epilogue=epilogue)
            return self._append(name, operator, values)

    @contextmanager
    def _adding(self, kind: str, name: str | None) -> Iterator[str]:
        """Give the name of a node that is about to be added, which errors then have."""
        with self._lock:
            if name is None:
                name = self._free_name(kind)
            with naming(name):
                self._require_building()
                self._check_name(name)
                yield name

    def _append(
        self,
        name: str,
        operator: Operator,
        values: tuple[Any, ...],
        residual: Any = None,
    ) -> Value:
        """Add a node; inside :meth:`_adding`."""
        given = dict(zip(operator.operands, values, strict=False))
        given |= {f"values[{i}]": x for i, x in enumerate(values) if i >= len(given)}
        if residual is not None:
            given["residual"] = residual
            operator = replace(operator, epilogue=replace(operator.epilogue, residual=True))
        numbers = self._numbers(given)
        operator.check(self._site)
        # The caller may change its arrays.
        parameters = tuple(each.copied() for each in operator.parameters)
        node = Node(name, replace(operator, parameters=parameters), numbers)
        return self._place(node, node_shape(node, self._shapes, named=False))

    def _place(self, node: Node, shape: Shape) -> Value:
        self._names.add(node.name)
        self._nodes.append(node)
        self._shapes.append(shape)
        return Value(self, node.name, len(self._nodes) - 1)

    def _check_name(self, name: Any) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"name is {name!r}; it must be a string")
        if name in self._names:
            raise ValueError(f"name is {name!r}, which another node or input has")

    def _free_name(self, kind: str) -> str:
        while True:
            self._counts[kind] += 1
            name = f"{kind}_{self._counts[kind]}"
            if name not in self._names:
                return name

    def _numbers(self, values: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the numbers of values, by what errors call them."""
        for name, value in values.items():
            if not isinstance(value, Value):
                raise TypeError(
                    f"{name} is {_with_article(value)}; it must be a pwconv.graph.Value, as "
                    "graph.input(...) returns"
                )
            if value.graph is not self:
                raise ValueError(f"{name}, {value!r}, is of another graph")
        return tuple(value._number for value in values.values())

    def _pack(self, operator: Operator) -> Operator:
        return operator.pack(self._site)

    def _require_building(self) -> None:
        if self._network is not None:
            raise ValueError(
                "the graph was run, resized or measured before, which ended its building; make "
                "another"
            )

    def _finish(
        self, meanwhile: Callable[[Network], AbstractContextManager[object]] | None = None
    ) -> Network:
        """Return the network, its weights packed, and refuse further nodes.

        They are packed inside the context that ``meanwhile`` returns for the network before.
        """
        with self._lock:
            if self._network is None:
                if not self._outputs:
                    raise ValueError("the graph has no output; name one with graph.output")
                network = Network(tuple(self._nodes), dict(self._inputs), dict(self._outputs))
                reached = network.reached
                unused = [x for x, i in self._inputs.items() if i not in reached]
                if unused:
                    raise ValueError(f"input {unused[0]!r} is not used: no output depends on it")
                site = self._site
                network.storages(self._shapes, storage_order(site.context, self._storage))
                network, _ = apply_rules(network, self._shapes, site, WEIGHT_RULES)
                nodes = list(network.nodes)
                with meanwhile(network) if meanwhile else nullcontext():
                    for i in network.order:
                        operator = nodes[i].operator
                        if operator and operator.parameters:
                            with naming(nodes[i].name):
                                nodes[i] = replace(nodes[i], operator=self._pack(operator))
                self._network = replace(network, nodes=tuple(nodes))
                self._nodes = nodes  # the arrays are not needed any more
            return self._network


def _with_article(value: Any) -> str:
    """Return a value's type, with the value where it is a number, for an error."""
    if value is None:
        return "None"
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIOU" or kind == "ndarray" else "a"
    number = f" ({value!r})" if isinstance(value, (int, float)) else ""
    return f"{article} {kind}{number}"


def as_groups(groups: Any) -> int:
    """Return a count of groups.

    Raises
    ------
    TypeError, ValueError
    """
    try:
        count = builtin.index(groups)
    except TypeError:
        raise TypeError(f"groups is {groups!r}; it must be an int of at least 1") from None
    if count < 1:
        raise ValueError(f"groups is {groups}; it must be at least 1")
    return count


def input_shape(name: str, shape: Any) -> Shape:
    """Return an input's shape, checked.

    Raises
    ------
    TypeError, ValueError
    """
    wanted = as_shape(shape)
    if not all(shape4(wanted, f"input {name!r}")):
        raise ValueError(f"input {name!r} has shape {wanted}; no axis may be of length 0")
    return wanted
