"""Sequences of nodes, recorded once and resized at will."""

from pwconv.graph.builder import Value
from pwconv.graph.graph import Graph, Memory
from pwconv.graph.runs import Handle

__all__ = ["Graph", "Handle", "Memory", "Value"]
