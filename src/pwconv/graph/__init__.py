"""Sequences of nodes, recorded once and resized at will."""

from pwconv.graph.builder import Value
from pwconv.graph.frames import Handle
from pwconv.graph.graph import Graph, Memory

__all__ = ["Graph", "Handle", "Memory", "Value"]
