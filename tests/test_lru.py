"""The least recently used entry is dropped."""

from __future__ import annotations

from pwconv.lru import LruCache


def test_the_least_recently_used_is_dropped():
    cache = LruCache(2)
    assert cache.keep("a", 1) == 1
    assert cache.keep("a", 2) == 1
    assert cache.keep("b", 2) == 2
    assert cache.find("a") == 1
    assert cache.find("c") is None
    cache.keep("c", 3)
    assert dict(cache) == {"a": 1, "c": 3}
    assert cache["a"] == 1  # no use
    cache.keep("d", 4)
    assert dict(cache) == {"c": 3, "d": 4}


def test_an_entry_may_be_kept_while_others_are_dropped():
    """As the finalizer of an entry, or another thread during it, may do."""
    cache: LruCache[str, object] = LruCache(2)

    class Entry:
        def __del__(self) -> None:
            cache.keep("late", "kept")

    cache.keep("first", Entry())
    cache.clear()
    assert cache.find("late") == "kept"
    cache.keep("a", 1)
    cache.keep("b", 2)
    assert list(cache) == ["a", "b"]
