"""from_torch: a module of PyTorch as a graph, by way of ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pwconv.errors import UnsupportedError
from pwconv.graph import Graph
from pwconv.importer.onnx import from_onnx


def from_torch(
    module: Any,
    example_inputs: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    **settings: Any,
) -> Graph:
    """Export a module of PyTorch to ONNX, in memory, and read that.

    Parameters
    ----------
    module : torch.nn.Module
        Exported as in ``module.eval()``.
    example_inputs : torch.Tensor or tuple of torch.Tensor
        As ``torch.onnx.export(module, example_inputs)`` takes them; the graph has their shapes.
    kwargs : Mapping, optional
        What the module takes by keyword.
    dynamic_shapes : Mapping or tuple, optional
        Axes that :meth:`pwconv.Graph.resize` may change, as ``torch.onnx.export`` takes them:
        ``{"x": {0: "batch", 2: "height", 3: "width"}}``. Else every axis is fixed.
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
    from torch.utils._pytree import tree_leaves

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is {type(module).__name__}; it must be a torch.nn.Module")
    if not isinstance(example_inputs, (torch.Tensor, tuple)):
        raise TypeError(
            f"example_inputs is {type(example_inputs).__name__}; it must be a torch.Tensor, or a "
            "tuple of what the module takes"
        )
    given = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    named = dict(kwargs or {})
    modes = [(each, each.training) for each in module.modules()]  # parts may be frozen
    module.eval()
    try:
        program = torch.onnx.export(
            module,
            given,
            kwargs=named,
            dynamic_shapes=dynamic_shapes,
            dynamo=True,
            verbose=False,
        )
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
    model = program.model_proto
    examples = [x for x in tree_leaves((given, named)) if isinstance(x, torch.Tensor)]
    shapes = {
        declared.name: tuple(example.shape)
        for declared, example in zip(model.graph.input, examples, strict=False)
        if example.ndim
    }
    cut = settings.get("inputs")
    chosen = {n: shape for n, shape in shapes.items() if cut is None or n in cut}
    return from_onnx(model, **{**settings, "shapes": {**chosen, **(settings.get("shapes") or {})}})


def _divisor(node: Any) -> Any:
    """Return what an average pool divides by besides its window; None where there is none."""
    return node.kwargs.get("divisor_override", node.args[6] if len(node.args) > 6 else None)
