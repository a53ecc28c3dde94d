"""from_onnx: a model of ONNX as a graph. The package onnx is imported when it is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pwconv.device import DeviceLike
from pwconv.graph import Graph


def from_onnx(
    model: Any,
    *,
    device: DeviceLike | None = None,
    dtype: Any = None,
    storage: str = "auto",
    shapes: Mapping[str, Any] | None = None,
    inputs: Iterable[str] | None = None,
    outputs: Iterable[str] | None = None,
) -> Graph:
    """Read a model of ONNX.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        Of opset 7 and newer; its weights may lie in other files of the same folder.
    device : Device, int or str, optional
        By default the default device.
    dtype : "float32" or "float16", optional
        Of activations and weights on the device; by default float32, or float16 where the model's
        inputs are.
    storage : "auto", "texture3d" or "buffer"
        As for :class:`pwconv.Graph`.
    shapes : Mapping, optional
        Shapes of inputs by name: of those that have axes of no fixed length. A first axis that has
        none is 1 by default. :meth:`pwconv.Graph.resize` changes them.
    inputs, outputs : iterable of str, optional
        Values at which the model is cut: what is before the inputs and after the outputs is left
        out. By default the model's own.

    Returns
    -------
    Graph
        Its inputs and outputs have the model's names, shapes and order of axes; names that are no
        Python identifiers go in a mapping: ``graph.run({"input:0": x})``. Arrays of whole numbers
        are converted. An input of which the model uses the shape alone may be left out of a run.

    Raises
    ------
    ImportError
        The package onnx is not there: ``pip install 'pwconv[onnx]'``.
    UnsupportedError
        There are nodes that cannot be computed; the message lists them, says at which values to
        cut, and what share of the arithmetic lies before.
    TypeError, ValueError
        The model is damaged, or an argument does not fit it.
    NoDeviceError

    Notes
    -----
    Batch norms become part of the convolutions before them. Operators are those of
    https://github.com/onnx/onnx/blob/main/docs/Operators.md.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ImportError("models are read by onnx: pip install 'pwconv[onnx]'") from None
    from pwconv.importer.build import import_model

    return import_model(
        model,
        device=device,
        dtype=dtype,
        storage=storage,
        shapes=shapes,
        inputs=inputs,
        outputs=outputs,
    )
