"""LRU cache: a dictionary that drops the least recently used entry."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class LruCache(OrderedDict[_K, _V]):
    """Dictionary of ``most`` entries at most.

    :meth:`find` and :meth:`keep` count as use. A subscript does not, and takes no Python call: a
    layer's calls look their recording up with one.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def find(self, key: _K) -> _V | None:
        """Return the value of a key, or None."""
        value = self.get(key)
        if value is not None:
            self.move_to_end(key)
        return value

    def keep(self, key: _K, value: _V) -> _V:
        """Store a value, unless the key has one; return the key's."""
        kept = self.setdefault(key, value)
        while len(self) > self.most:
            self.popitem(last=False)
        return kept
