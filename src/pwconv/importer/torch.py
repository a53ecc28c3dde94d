"""from_torch: a module of PyTorch as a graph, by way of ONNX."""

from __future__ import annotations

from typing import Any

from pwconv.errors import UnsupportedError
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
    torch.onnx.OnnxExporterError
        PyTorch cannot export the module, or these inputs do not fit it.
    UnsupportedError, TypeError, ValueError, NoDeviceError
        As for :func:`pwconv.from_onnx`.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is {type(module).__name__}; it must be a torch.nn.Module")
    if not isinstance(example_inputs, (torch.Tensor, tuple)):
        raise TypeError(
            f"example_inputs is {type(example_inputs).__name__}; it must be a torch.Tensor, or a "
            "tuple of what the module takes"
        )
    given = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    modes = [(each, each.training) for each in module.modules()]  # parts may be frozen
    module.eval()
    try:
        program = torch.onnx.export(module, given, dynamo=True, verbose=False)
    finally:
        for each, training in modes:
            each.training = training
    assert program is not None
    for node in program.exported_program.graph.nodes if program.exported_program else ():
        if str(node.target).startswith("aten.avg_pool") and _divisor(node):
            # The exporter leaves it out, and says nothing.
            raise UnsupportedError(
                f"{node.name} has divisor_override={_divisor(node)}, which ONNX has not; divide by "
                "it in a layer of its own"
            )
    program.optimize()
    return from_onnx(program.model_proto, **settings)


def _divisor(node: Any) -> Any:
    """Return what an average pool divides by besides its window; None where there is none."""
    return node.kwargs.get("divisor_override", node.args[6] if len(node.args) > 6 else None)
