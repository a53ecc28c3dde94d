"""Sequences of nodes, recorded once and resized at will."""

from pwconv.graph.frames import Handle
from pwconv.graph.graph import Graph, Memory, Value

__all__ = ["Graph", "Handle", "Memory", "Value"]
