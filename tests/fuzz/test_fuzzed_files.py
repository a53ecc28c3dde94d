"""Files that anything has happened to: ignored, or a documented error; never believed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import pwconv
from pwconv import shaders
from pwconv.cache import read_pipelines
from pwconv.ops import matmul
from pwconv.tune.store import Store
from pwconv.tune.tuner import Tuner
from support import inside

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5),
    st.sampled_from([2**31, 2**63, 10**25, -(10**25), 1e308, float("inf"), float("nan"), 1e-320]),
    st.text(max_size=4),
    st.sampled_from(["buffer", "texture3d", "float16", "x" * 101, "\ud800", "\0", "../../etc"]),
)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where in a document there is anything, itself left out."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    found = []
    for key, value in items:
        found.append((*path, key))
        if isinstance(value, (dict, list)):
            found += places(value, (*path, key))
    return found


def change_json(draw: Any, document: Any) -> bytes:
    """Put something else in some places, or leave something out."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(places(document)))
        holder = document
        try:
            for key in path:
                holder = holder[key]
            if draw(st.booleans()):
                holder[last] = draw(_JSON)
            else:
                del holder[last]
        except (KeyError, IndexError, TypeError):
            continue  # what was there is gone
        if not document:
            break
    return json.dumps(document).encode()


def change_bytes(draw: Any, data: bytes) -> bytes:
    """Flip bits, cut, repeat, nest."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "repeat", "insert", "nest"]))
        if kind == "flip" and changed:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del changed[at : at + draw(st.sampled_from([1, 8, 10**9]))]
        elif kind == "repeat":
            changed[at:at] = changed[at : at + 100]
        elif kind == "insert":
            changed[at:at] = draw(st.binary(max_size=8) | st.sampled_from([b"9" * 5000, b"1e999"]))
        else:
            depth = draw(st.sampled_from([100, 900, 990, 10**5]))
            changed[at:at] = b"[" * depth + b"]" * draw(st.sampled_from([0, depth]))
    return bytes(changed)


@pytest.fixture
def task(own_device, rng):
    """What a layer asks the tuner about at a shape."""
    weight = rng.standard_normal((6, 5)).astype(np.float32)
    layer = pwconv.PointwiseConv2d(weight, device=own_device, storage="buffer")
    return inside.task(layer, "buffer", (1, 5, 4, 4), (1, 6, 4, 4))


def test_tuning_file(fuzz, own_device, task, tmp_path, monkeypatch):
    """Whatever it says, a layer takes a variant that computes its problem."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    context = inside.context(own_device)
    default = matmul.choose(context, task.problem, task.weight_storage)
    able = matmul.candidates(context, task.problem, task.weight_storage)
    other = next(name for name in able if name != default.variant.name)
    store = Store(own_device.info)
    entry = {
        "storage": "buffer",
        "x_shape": [1, 5, 4, 4],
        "out_channels": 6,
        "dtype": "float32",
        "accumulate": "float32",
        "stride": [1, 1],
        "padding": [0, 0],
        "weight_storage": task.weight_storage,
        "variant": other,
        "workgroup": [8, 8, 1],
        "seconds": 1e-6,
        "default_variant": default.variant.name,
        "default_workgroup": list(default.workgroup),
        "default_seconds": 2e-6,
    }
    document = {**inside.header(store), "winners": [entry, {**entry, "x_shape": [1, 5, 4, 5]}]}
    store.file.parent.mkdir(parents=True)
    store.file.write_text(json.dumps(document))
    assert Tuner(context, "cached").choose(task).variant.name == other
    # One of another kernel: right nowhere, wherever it is put.
    names = st.sampled_from([v.name for v in shaders.variants("conv2d_pw_tiled")][:3])

    def case(draw):
        changed = json.loads(json.dumps(document))
        if draw(st.booleans()):
            changed["winners"][0]["variant"] = draw(names)
        if draw(st.booleans()):
            data = change_json(draw, changed)
        else:
            data = change_bytes(draw, json.dumps(changed).encode())
        store.file.write_bytes(data)
        winners, problem = store.examine()
        assert isinstance(problem, str) or problem is None
        assert not (problem and winners)
        choice = Tuner(context, "cached").choose(task)
        assert choice.variant.name in able
        plan = task.dispatch(choice).plan
        assert np.prod(plan.workgroup) <= context.limits["maxComputeWorkGroupInvocations"]

    fuzz(150, case)


def test_a_document_as_deep_as_can_be_read(own_device, tmp_path, monkeypatch):
    """What is just not too deep to be parsed is not too deep to be told about."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = Store(own_device.info)
    store.file.parent.mkdir(parents=True)
    header = json.dumps({**inside.header(store), "winners": 0})[:-2]
    for depth in (*range(1, 800, 50), *range(800, 1010)):
        nested = "[" * depth + "]" * depth
        for text in (
            f'{{"format": {nested}}}',
            header + f'[{{"x_shape": [{nested}]}}]}}',
        ):
            store.file.write_text(text)
            winners, problem = store.examine()
            assert winners == {}
            assert problem


def test_pipeline_cache(fuzz, tmp_path):
    """What is changed is not handed to the driver."""
    contents = os.urandom(200)
    whole = inside.PIPELINES_MAGIC + hashlib.sha256(contents).digest() + contents
    file = tmp_path / "cache.bin"
    file.write_bytes(whole)
    assert read_pipelines(file) == contents

    def case(draw):
        changed = change_bytes(draw, whole)
        file.write_bytes(changed)
        assert read_pipelines(file) == (contents if changed == whole else b"")

    fuzz(100, case)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipeline_cache_that_is_no_file(tmp_path):
    """A pipe that nobody writes to would be waited for without end, and zeros never end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "zeros", "folder", "nothing", "n\0ul"):
        assert read_pipelines(tmp_path / name) == b""


def test_a_pipeline_cache_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(*inside.slots.most_bytes, 1000)
    file = tmp_path / "cache.bin"
    for size, taken in ((900, True), (1000, False)):
        contents = bytes(size)
        file.write_bytes(inside.PIPELINES_MAGIC + hashlib.sha256(contents).digest() + contents)
        assert (read_pipelines(file) == contents) == taken


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the manifest and its digest, and of no shader."""
    for name in ("manifest.json", "manifest.sha256"):
        (tmp_path / name).write_bytes((inside.SHADERS / name).read_bytes())
    monkeypatch.setattr(*inside.slots.folder, lambda: tmp_path)
    monkeypatch.setattr(shaders, "__file__", str(tmp_path / "shaders.py"))
    inside.manifest.cache_clear()
    inside.families.cache_clear()
    shaders.variant.cache_clear()
    yield tmp_path
    inside.manifest.cache_clear()
    inside.families.cache_clear()
    shaders.variant.cache_clear()


def test_manifest(fuzz, copied: Path):
    """A manifest that is not the package's says nothing."""
    whole = {name: (copied / name).read_bytes() for name in ("manifest.json", "manifest.sha256")}
    assert shaders.variants("conv2d_pw_tiled")

    def case(draw):
        name = draw(st.sampled_from(sorted(whole)))
        start = draw(st.integers(0, len(whole[name])))
        changed = whole[name][:start] + change_bytes(draw, whole[name][start : start + 1000])
        if start + 1000 < len(whole[name]) and draw(st.booleans()):
            changed += whole[name][start + 1000 :]
        if changed == whole[name]:
            return
        inside.manifest.cache_clear()
        inside.families.cache_clear()
        (copied / name).write_bytes(changed)
        with pytest.raises(pwconv.PwconvError, match="install pwconv again"):
            shaders.variants("conv2d_pw_tiled")
        (copied / name).write_bytes(whole[name])

    fuzz(60, case)
