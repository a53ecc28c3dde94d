"""The deny list: what is on it is never run, and nothing but a list of our own is believed."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pwconv
from pwconv import cache, shaders
from pwconv.context import Denied
from pwconv.deny_list import Denial, DenyList
from pwconv.device import open_context
from pwconv.ops import matmul
from pwconv.tune.store import Key, Winner
from pwconv.verify.run import selected, verify
from support import inside
from support.accuracy import check_layer, check_linear, random_linear, random_problem
from support.cards import LIMITS

INFO = pwconv.DeviceInfo(
    0, "Card", "discrete", "driver 1", "1.3.0", {}, frozenset(), frozenset(), (), "card-1-driver-1"
)
NAMES = ("conv2d_pw_tiled_fp32_buffer_m1n1k1", "linear_tiled_buffer_fp16_buffer_m4n2k1")


@pytest.fixture
def deny_list(cache) -> DenyList:
    return DenyList(INFO)


def reasons(deny_list: DenyList) -> dict[str, str]:
    return {name: denial.why for name, denial in deny_list.read().items()}


def test_what_failed_comes_back_and_what_passes_goes(deny_list):
    assert deny_list.examine() == ({}, None)
    first, second = NAMES
    deny_list.revise(NAMES, {first: "zeros in identity"})
    assert reasons(deny_list) == reasons(DenyList(INFO)) == {first: "zeros in identity"}
    deny_list.revise([second], {second: "lane swap in ragged"})
    assert reasons(deny_list) == {first: "zeros in identity", second: "lane swap in ragged"}
    deny_list.revise(NAMES, {first: "offset in identity"})
    assert reasons(deny_list) == {first: "offset in identity"}
    assert stat.S_IMODE(deny_list.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(deny_list.file.parent.stat().st_mode) == 0o700
    deny_list.clear()
    deny_list.clear()
    assert deny_list.read() == {}
    assert not deny_list.file.exists()


def test_a_denial_outlives_an_upgrade(home, monkeypatch):
    """Other shaders and another version only mark it, until the variant passes."""
    first, second = NAMES
    DenyList(INFO).revise((), {first: "zeros", second: "zeros"})
    assert DenyList(INFO).read()[first] == Denial("zeros", shaders.code_digest(first), current=True)
    monkeypatch.setattr(cache, "__version__", "99.0")
    monkeypatch.setattr(shaders, "digest", lambda: "of other shaders")
    monkeypatch.setattr(shaders, "code_digest", lambda name: "changed" if name == first else None)
    upgraded = DenyList(INFO)
    denied = upgraded.read()
    assert [denied[name].current for name in NAMES] == [False, False]
    assert "not verified since" in str(denied[first])
    # One that this version does not know stays, whatever is verified.
    assert list(upgraded.revise([first], {})) == [second]
    assert reasons(upgraded) == {second: "zeros"}


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "one byte less": lambda data: data[:-1],
    "a list": lambda data: b"[]",
    "deep": lambda data: b"[" * 100_000,
    "huge": lambda data: data + b" " * (5 << 20),
    "no text": lambda data: data.replace(b"zeros", b"\xff"),
    "no name": lambda data: data.replace(f'"{NAMES[0]}"'.encode(), b"[7]"),
    "a name with an escape sequence": lambda data: data.replace(b"conv2d_pw", b"\\u001b[2J"),
    "an escape sequence": lambda data: data.replace(b"zeros", b"\\u001b[2Jzeros"),
    "two lines": lambda data: data.replace(b"zeros", b"zeros\\nallowed"),
    "a long reason": lambda data: data.replace(b"zeros", b"z" * 200),
    "no reason": lambda data: data.replace(b'"why"', b'"because"'),
    "no digest": lambda data: data.replace(b'"shader"', b'"code"'),
    "a newer format": lambda data: data.replace(b'"format": 2', b'"format": 3'),
    "another device": lambda data: data.replace(b"card-1-driver-1", b"card-1-driver-2"),
    "no denials": lambda data: data.replace(b'"denials"', b'"winners"'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_list_is_an_error_until_it_is_written_anew(deny_list, damage):
    deny_list.revise((), {NAMES[0]: "zeros"})
    good = deny_list.file.read_bytes()
    bad = damage(good)
    assert bad != good
    deny_list.file.write_bytes(bad)
    for use in (deny_list.read, lambda: deny_list.revise(NAMES, {})):
        with pytest.raises(pwconv.PwconvError, match="cannot be used") as raised:
            use()
        for expected in (deny_list.file, "pwconv verify --deny", "pwconv verify --allow-all"):
            assert str(expected) in str(raised.value)
    assert deny_list.file.read_bytes() == bad
    deny_list.revise((), {NAMES[1]: "zeros"}, anew=True)
    assert reasons(deny_list) == {NAMES[1]: "zeros"}
    deny_list.file.write_bytes(bad)
    deny_list.clear()
    assert deny_list.read() == {}


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error(deny_list, data):
    deny_list.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    deny_list.file.write_bytes(data)
    with pytest.raises(pwconv.PwconvError, match="cannot be used"):
        deny_list.read()


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_an_error(deny_list, kind):
    deny_list.file.parent.mkdir(mode=0o700, parents=True)
    (os.mkfifo if kind == "pipe" else Path.mkdir)(deny_list.file)
    with pytest.raises(pwconv.PwconvError, match="it is no regular file"):
        deny_list.read()


def test_no_device_opens_with_a_damaged_list(device, cache):
    denials = DenyList(device.info)
    denials.revise((), {NAMES[0]: "zeros"})
    denials.file.write_bytes(denials.file.read_bytes()[:-1])
    with pytest.raises(pwconv.PwconvError, match="Which kernels gave wrong results") as raised:
        pwconv.Device(device.info.index)
    assert f"pwconv verify --deny --device {device.info.index}" in str(raised.value)
    denials.clear()
    pwconv.Device(device.info.index).close()


def test_a_list_that_others_may_write_is_ignored_with_a_warning(deny_list):
    deny_list.revise((), {NAMES[0]: "zeros"})
    deny_list.file.chmod(0o666)
    with pytest.warns(RuntimeWarning, match="nothing is denied: it can be written by others"):
        assert deny_list.read() == {}
    deny_list.file.chmod(0o600)
    assert reasons(deny_list) == {NAMES[0]: "zeros"}


def test_a_failed_write_keeps_the_old_list(deny_list, tmp_path):
    deny_list.revise((), {NAMES[0]: "zeros"})
    with pytest.raises(TypeError):
        deny_list.revise((), {NAMES[1]: object()})
    assert reasons(deny_list) == {NAMES[0]: "zeros"}


def test_a_denied_variant_is_not_chosen_until_it_is_allowed(device, open_device, rng):
    x, weight, bias = random_problem(rng, 13, 27, (5, 7), "float32", batch=2)

    def layer() -> pwconv.PointwiseConv2d:
        return pwconv.PointwiseConv2d(weight, bias, storage="texture3d", device=open_device())

    denials = DenyList(device.info)
    usual = layer().explain(x.shape).variant
    others = {usual: "lane swap in identity"}
    for _ in range(3):
        denials.revise((), others)
        own = layer()
        explained = own.explain(x.shape)
        assert explained.variant not in others
        check_layer(own, x, weight, bias)
        others[explained.variant] = "zeros in random"
    denials.clear()
    assert layer().explain(x.shape).variant == usual


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_one_variant_is_enough_and_none_is_said_with_the_file(
    device, open_device, rng, monkeypatch, storage, kind
):
    """Whatever is left is taken, even what no device prefers."""
    if kind == "convolution":
        x, weight, bias = random_problem(rng, 13, 27, (5, 7), "float32", batch=2)
        make = pwconv.PointwiseConv2d
    else:
        x, weight, bias = random_linear(rng, (41, 13), (27, 13), "float32")
        make = pwconv.Linear
    candidates = matmul.candidates
    able: list[str] = []

    def spy(*arguments):
        found = candidates(*arguments)
        able[:] = found
        return found

    denials = DenyList(device.info)
    with monkeypatch.context() as patched:
        patched.setattr(matmul, "candidates", spy)
        usual = make(weight, bias, storage=storage, device=open_device())
        assert usual.explain(x.shape).variant in able
    assert len(able) > 2
    for left in (able[-1], able[0]):
        denials.clear()
        denials.revise((), {name: "zeros in identity" for name in able if name != left})
        layer = make(weight, bias, storage=storage, device=open_device())
        assert layer.explain(x.shape).variant == left
        if kind == "convolution":
            check_layer(layer, x, weight, bias)
        else:
            check_linear(layer, x, weight, bias, storage=storage)
    denials.revise((), dict.fromkeys(able, "zeros in identity"))
    with pytest.raises(pwconv.UnsupportedError, match="deny list") as raised:
        make(weight, bias, storage=storage, device=open_device()).explain(x.shape)
    for expected in (str(denials.file), device.info.name, "pwconv verify --allow-all"):
        assert expected in str(raised.value)


def test_a_tuned_winner_that_is_denied_is_not_taken(device, open_device, rng):
    x, weight, bias = random_problem(rng, 13, 27, (5, 7), "float32", batch=2)
    own = open_device()
    layer = pwconv.PointwiseConv2d(weight, bias, storage="buffer", device=own)
    task = inside.task(layer, "buffer", x.shape, (2, 27, 5, 7))
    key = Key(task.problem, task.weight_storage)
    default = matmul.choose(inside.context(own), *(task.problem, task.weight_storage))
    able = matmul.candidates(inside.context(own), task.problem, task.weight_storage)
    winner = next(name for name in able if name != default.variant.name)
    inside.tuner(own).store.add(
        {
            key: Winner(
                *(winner, (8, 8, 1), 1e-6),
                *(default.variant.name, default.workgroup, 2e-6),
            )
        }
    )

    def explained() -> str:
        fresh = pwconv.PointwiseConv2d(weight, bias, storage="buffer", device=open_device())
        return fresh.explain(x.shape).variant

    denials = DenyList(device.info)
    assert explained() == winner
    denials.revise((), {winner: "precision in random"})
    assert explained() == default.variant.name
    denials.clear()
    assert explained() == winner


def test_a_kernel_without_another_is_refused(device, open_device):
    DenyList(device.info).revise((), {"upsample_texture3d_fp32": "row swap in ragged"})
    graph = pwconv.Graph(device=open_device(), storage="texture3d")
    graph.output("y", graph.upsample(graph.input("x", (1, 4, 3, 3)), 2))
    with pytest.raises(pwconv.UnsupportedError, match="upsample_texture3d_fp32 gave wrong results"):
        graph.run(x=np.ones((1, 4, 3, 3), np.float32))


def test_a_missing_feature_is_not_put_down_to_the_list(tmp_path):
    names = frozenset(v.name for v in shaders.variants("conv2d_pw_tiled"))
    info = dataclasses.replace(INFO, limits=LIMITS)
    context = inside.paper_context(info, Denied(names, tmp_path))
    half = shaders.variants("conv2d_pw_tiled", dtype="fp16acc16")
    context.require_allowed(half)
    assert not any(map(context.can_run, half))
    with pytest.raises(pwconv.UnsupportedError, match="and 5 more"):
        context.require_allowed(shaders.variants("conv2d_pw_tiled", dtype="fp32", weight="buffer"))


def test_what_is_denied_is_verified_all_the_same(device):
    variants = selected([NAMES[0]])
    DenyList(device.info).revise((), {NAMES[0]: "zeros in identity"})
    context = open_context(device.info)  # as the command line does
    try:
        found = verify(context, variants)
    finally:
        context.close()
    assert [(r.variant.name, r.passed) for r in found.results] == [(NAMES[0], True)]


def test_the_file_is_what_the_module_says(deny_list):
    deny_list.revise((), {NAMES[0]: "zeros in identity"})
    document = json.loads(deny_list.file.read_text())
    assert sorted(document) == ["denials", "device", "format"]
    shader = shaders.code_digest(NAMES[0])
    assert document["denials"] == [
        {"variant": NAMES[0], "why": "zeros in identity", "shader": shader}
    ]
