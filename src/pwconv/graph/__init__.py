"""Sequences of nodes, recorded once and resized at will."""

from pwconv.graph.builder import Value
from pwconv.graph.check import Check, CheckedNode
from pwconv.graph.graph import Graph, Memory
from pwconv.graph.runs import Handle

__all__ = ["Check", "CheckedNode", "Graph", "Handle", "Memory", "Value"]
