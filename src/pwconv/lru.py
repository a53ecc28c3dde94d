"""LRU cache: a dictionary that drops the least recently used entry."""

from __future__ import annotations

from typing import TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class LruCache(dict[_K, _V]):
    """Dictionary of ``most`` entries at most, the least recently used first.

    :meth:`find` and :meth:`keep` count as use. A subscript does not, and takes no Python call: a
    layer's calls look their recording up with one.

    The order is the dictionary's own: an OrderedDict keeps it apart, and whatever runs as it drops
    its entries, a finalizer or another thread, could leave an entry without a place.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def find(self, key: _K) -> _V | None:
        """Return the value of a key, or None."""
        value = self.pop(key, None)
        if value is not None:
            self[key] = value
        return value

    def keep(self, key: _K, value: _V) -> _V:
        """Store a value, unless the key has one; return the key's."""
        kept = self.setdefault(key, value)
        while len(self) > self.most:
            self.pop(next(iter(self)))
        return kept
