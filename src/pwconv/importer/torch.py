"""from_torch: a module of PyTorch as a graph, by way of ONNX."""

from __future__ import annotations

from typing import Any

from pwconv.graph import Graph
from pwconv.importer.onnx import from_onnx


def from_torch(module: Any, example_inputs: Any, **settings: Any) -> Graph:
    """Export a module of PyTorch to ONNX, in memory, and read that.

    Parameters
    ----------
    module : torch.nn.Module
        Exported as in ``module.eval()``.
    example_inputs : torch.Tensor or tuple of torch.Tensor
        As ``torch.onnx.export(module, example_inputs)`` takes them; the graph has their shapes.
    **settings
        As for :func:`pwconv.from_onnx`.

    Returns
    -------
    Graph
        Its inputs and outputs have the names that the export gives them.

    Raises
    ------
    ImportError
        PyTorch, onnxscript or onnx is not there.
    UnsupportedError, TypeError, ValueError, NoDeviceError
        As for :func:`pwconv.from_onnx`.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is {type(module).__name__}; it must be a torch.nn.Module")
    given = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    training = module.training
    module.eval()
    try:
        program = torch.onnx.export(module, given, dynamo=True, verbose=False)
    finally:
        module.train(training)
    assert program is not None
    program.optimize()
    return from_onnx(program.model_proto, **settings)
