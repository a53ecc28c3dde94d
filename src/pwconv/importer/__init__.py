"""Models of ONNX and PyTorch as graphs."""

from pwconv.importer.onnx import from_onnx
from pwconv.importer.torch import from_torch

__all__ = ["from_onnx", "from_torch"]
