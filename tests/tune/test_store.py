"""The tuning file: what is written comes back, and nothing else is believed."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pwconv
from pwconv.cache import MOST_BYTES, MOST_TEXT
from pwconv.dtypes import FLOAT16, FLOAT32
from pwconv.ops.convolution import Problem
from pwconv.ops.window import Geometry
from pwconv.tune.store import Key, Store, Winner
from support import inside

INFO = pwconv.DeviceInfo(
    0, "Card", "discrete", "driver 1", "1.3.0", {}, frozenset(), frozenset(), (), "card-1-driver-1"
)
OTHER_DRIVER = dataclasses.replace(INFO, identity="card-1-driver-2")


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Store(INFO)


def key(k: int, **changes: Any) -> Key:
    geometry = changes.pop("geometry", Geometry())
    x_shape = (2, k, 7, 9)
    problem = Problem(
        "buffer", x_shape, geometry.output_shape(x_shape, 5), FLOAT32, FLOAT32, geometry
    )
    return Key(dataclasses.replace(problem, **changes), "texture2d")


def winner(microseconds: float = 3.0) -> Winner:
    return Winner("a_variant", (32, 8, 1), microseconds * 1e-6, "another", (8, 8, 1), 4.5e-6)


def written(store: Store) -> dict[str, Any]:
    store.add({key(1): winner(), key(2): winner()})
    document: dict[str, Any] = json.loads(store.file.read_text())
    return document


shapes = st.tuples(*[st.integers(1, 2**31 - 1)] * 4)
pairs = st.tuples(*[st.integers(1, 2**20)] * 2)
workgroups = st.tuples(*[st.sampled_from([1, 2, 8, 64, 1024])] * 3)
durations = st.floats(1e-9, 1e3)


@st.composite
def keys(draw: Callable[..., Any]) -> Key:
    geometry = Geometry(draw(pairs), draw(pairs), end=draw(pairs))
    x_shape = draw(shapes)
    out_shape = geometry.output_shape(x_shape, draw(st.integers(1, 2**31 - 1)))
    dtypes = st.sampled_from([FLOAT32, FLOAT16])
    storage = draw(st.sampled_from(["texture3d", "buffer"]))
    problem = Problem(storage, x_shape, out_shape, draw(dtypes), draw(dtypes), geometry)
    return Key(problem, draw(st.sampled_from(["texture2d", "buffer"])))


winners = st.builds(
    Winner,
    *(st.text(max_size=100), workgroups, durations),
    *(st.text(max_size=100), workgroups, durations),
)


@given(st.dictionaries(keys(), winners, max_size=5), st.dictionaries(keys(), winners, max_size=5))
def test_what_is_added_comes_back(store, first, second):
    store.file.unlink(missing_ok=True)
    store.add(first)
    assert store.add(second) == store.read() == Store(INFO).read() == {**first, **second}


def test_no_file_holds_nothing_and_is_no_problem(store):
    assert store.examine() == ({}, None)


def test_the_file_is_private(store):
    written(store)
    assert stat.S_IMODE(store.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.file.parent.stat().st_mode) == 0o700
    assert list(store.file.parent.iterdir()) == [store.file]


def test_a_later_winner_replaces_an_earlier_one(store):
    store.add({key(1): winner(3), key(2): winner(3)})
    store.add({key(1): winner(2)})
    assert store.read() == {key(2): winner(3), key(1): winner(2)}


@pytest.mark.parametrize(
    "different",
    [
        key(4),
        key(3, storage="texture3d"),
        key(3, dtype=FLOAT16),
        key(3, dtype=FLOAT16, accumulate=FLOAT16),
        key(3, geometry=Geometry((2, 1), (0, 0))),
        key(3, geometry=Geometry((1, 1), (0, 1))),
        key(3, geometry=Geometry((1, 1), (0, 1), end=(1, 0))),
        key(3, out_shape=(2, 6, 7, 9)),
        Key(key(3).problem, "buffer"),
    ],
    ids=str,
)
def test_a_winner_is_for_exactly_its_problem(store, different):
    store.add({key(3): winner()})
    found = store.read()
    assert key(3) in found
    assert different not in found
    store.add({different: winner(2)})
    assert store.read() == {key(3): winner(), different: winner(2)}


def test_the_oldest_go_when_there_are_too_many(store, monkeypatch):
    monkeypatch.setattr(Store, "most", 3)
    for k in (1, 2, 3, 1, 4):
        store.add({key(k): winner()})
    assert [found.problem.x_shape[1] for found in store.read()] == [3, 1, 4]


def test_as_many_as_are_kept_fit_the_size_that_is_read(store):
    name = "x" * MOST_TEXT
    largest = (2**31 - 1,) * 4
    geometry = Geometry((2**31 - 1,) * 2, (2**31 - 1,) * 2)
    problem = Problem("texture3d", largest, largest, FLOAT32, FLOAT32, geometry)
    long = Winner(name, (1024,) * 3, 1 / 3e6, name, (1024,) * 3, 1 / 3e6)
    entry = json.dumps(inside.encode(store, Key(problem, "texture2d"), long))
    assert len(entry) * store.most < MOST_BYTES


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"}",
    "no text": lambda data: bytes(range(256)),
    "zeros": lambda data: bytes(len(data)),
    "a list": lambda data: b"[]",
    "a number": lambda data: b"3",
    "no header": lambda data: b'{"winners": []}',
    "deep": lambda data: b"[" * 100_000,
    "many digits": lambda data: data.replace(b"[32, 8, 1]", b"[" + b"9" * 1_000_000 + b", 8, 1]"),
    "huge": lambda data: data + b" " * (5 << 20),
    "nan": lambda data: data.replace(b"3e-06", b"NaN"),
    "infinity": lambda data: data.replace(b"3e-06", b"1e999"),
    "negative": lambda data: data.replace(b"3e-06", b"-1.0"),
    "text for a time": lambda data: data.replace(b"3e-06", b'"3e-06"'),
    "no power of two": lambda data: data.replace(b"[32, 8, 1]", b"[33, 8, 1]"),
    "no workgroup": lambda data: data.replace(b"[32, 8, 1]", b"[0, 8, 1]"),
    "a giant workgroup": lambda data: data.replace(b"[32, 8, 1]", b"[4096, 8, 1]"),
    "a flat workgroup": lambda data: data.replace(b"[32, 8, 1]", b"[32, 8]"),
    "true for a length": lambda data: data.replace(b"[2, 1, 7, 9]", b"[true, 1, 7, 9]"),
    "no positions": lambda data: data.replace(b"[2, 1, 7, 9]", b"[2, 1, 0, 9]"),
    "no stride": lambda data: data.replace(b'"stride": [1, 1]', b'"stride": [0, 1]'),
    "another storage": lambda data: data.replace(b'"buffer"', b'"marble"'),
    "another dtype": lambda data: data.replace(b'"float32"', b'["float32"]'),
    "a long name": lambda data: data.replace(b"a_variant", b"v" * 1000),
    "no name": lambda data: data.replace(b'"a_variant"', b"null"),
    "no winners": lambda data: data.replace(b'"winners"', b'"winner"'),
    "a winner short": lambda data: data.replace(b'"seconds"', b'"second"'),
    "a newer format": lambda data: data.replace(b'"format": 3', b'"format": 4'),
    "a true format": lambda data: data.replace(b'"format": 3', b'"format": null'),
    "another version": lambda data: data.replace(b'"pwconv": "', b'"pwconv": "9'),
    "other shaders": lambda data: data.replace(b'"shaders": "', b'"shaders": "0'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_is_not_ours_is_ignored_and_replaced(store, damage, caplog):
    written(store)
    good = store.file.read_bytes()
    bad = damage(good)
    assert bad != good
    store.file.write_bytes(bad)
    start = time.monotonic()
    with caplog.at_level("INFO"):
        assert store.read() == {}
    assert time.monotonic() - start < 5
    assert f"the tuning file {store.file} is ignored: " in caplog.text
    assert all(record.levelname == "INFO" for record in caplog.records)
    assert len(caplog.text) < 1000
    store.add({key(3): winner()})
    assert store.read() == {key(3): winner()}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(data=st.data())
def test_any_value_anywhere_is_ignored_or_harmless(store, data):
    """Whatever stands in a place, reading gives valid winners or none, and never an error."""
    document = written(store)
    entry = document["winners"][0]
    target = data.draw(st.sampled_from([document, entry]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(json_values)
    store.file.write_text(json.dumps(document))
    for found_key, found in store.read().items():
        problem = found_key.problem
        assert found_key.weight_storage in ("texture2d", "buffer")
        assert problem.storage in ("texture3d", "buffer")
        assert {problem.dtype, problem.accumulate} <= {FLOAT16, FLOAT32}
        assert min(problem.x_shape) >= 1
        for size in (found.workgroup, found.default_workgroup):
            assert all(length in [2**n for n in range(11)] for length in size)
        for seconds in (found.seconds, found.default_seconds):
            assert math.isfinite(seconds)
            assert seconds > 0


@given(st.binary(max_size=200))
def test_any_bytes_are_ignored(store, data):
    store.file.parent.mkdir(parents=True, exist_ok=True)
    store.file.write_bytes(data)
    assert store.read() == {}


def test_another_drivers_file_under_our_name(store):
    written(store)
    other = Store(OTHER_DRIVER)
    assert other.file != store.file
    assert other.read() == {}
    other.file.write_bytes(store.file.read_bytes())
    assert other.read() == {}
    assert "its device is 'card-1-driver-1', not 'card-1-driver-2'" in other.examine()[1]


@pytest.mark.parametrize("kind", ["folder", "fifo", "endless", "unreadable"])
def test_what_is_no_file_is_ignored(store, kind):
    store.file.parent.mkdir(parents=True)
    if kind == "folder":
        store.file.mkdir()
    elif kind == "fifo":
        os.mkfifo(store.file)
    elif kind == "endless":
        store.file.symlink_to("/dev/zero")
    else:
        store.file.symlink_to(store.file)
    assert store.read() == {}


def test_a_folder_that_cannot_be_made(store, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        Store(INFO).add({key(1): winner()})
    assert Store(INFO).read() == {}


def test_a_failed_write_keeps_the_old_file(store, monkeypatch):
    store.add({key(1): winner()})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        store.add({key(2): winner()})
    assert store.read() == {key(1): winner()}
    assert list(store.file.parent.iterdir()) == [store.file]


def add_some(number: int) -> None:
    for n in range(10):
        Store(INFO).add({key(1 + 10 * number + n): winner(), key(1000): winner(1 + number)})


def test_processes_that_add_at_once_lose_nothing(store):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(add_some, range(4), chunksize=1)
    found = store.read()
    assert {k.problem.x_shape[1] for k in found} == {*range(1, 41), 1000}
    assert found[key(1000)] in [winner(1 + number) for number in range(4)]
    assert list(store.file.parent.iterdir()) == [store.file]
