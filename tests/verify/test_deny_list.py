"""The deny list: what is on it is never run, and nothing but a list of our own is believed."""

from __future__ import annotations

import dataclasses
import json
import stat
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pwconv
from accuracy import check_layer, check_linear, random_linear, random_problem
from cards import LIMITS
from pwconv import shaders
from pwconv.deny_list import DenyList
from pwconv.dispatch import Denied, Dispatcher
from pwconv.kernels import conv2d_pw_choice, linear
from pwconv.tuning.store import Key, Verdict
from pwconv.verify.run import selected, verify

INFO = pwconv.DeviceInfo(
    0, "Card", "discrete", "driver 1", "1.3.0", {}, frozenset(), frozenset(), (), "card-1-driver-1"
)
NAMES = ("conv2d_pw_tiled_fp32_buffer_m1n1k1", "linear_tiled_buffer_fp16_buffer_m4n2k1")


@pytest.fixture
def deny_list(cache) -> DenyList:
    return DenyList(INFO)


def test_what_failed_comes_back_and_what_passes_goes(deny_list):
    assert deny_list.examine() == ({}, None)
    first, second = NAMES
    deny_list.revise(NAMES, {first: "zeros in identity"})
    assert deny_list.read() == DenyList(INFO).read() == {first: "zeros in identity"}
    deny_list.revise([second], {second: "lane swap in ragged"})
    assert deny_list.read() == {first: "zeros in identity", second: "lane swap in ragged"}
    deny_list.revise(NAMES, {first: "offset in identity"})
    assert deny_list.read() == {first: "offset in identity"}
    assert stat.S_IMODE(deny_list.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(deny_list.file.parent.stat().st_mode) == 0o700
    deny_list.clear()
    deny_list.clear()
    assert deny_list.read() == {}
    assert not deny_list.file.exists()


def test_another_drivers_list_is_not_ours(deny_list):
    deny_list.revise((), {NAMES[0]: "zeros"})
    other = DenyList(dataclasses.replace(INFO, identity="card-1-driver-2"))
    assert other.file != deny_list.file
    other.file.write_bytes(deny_list.file.read_bytes())
    assert other.read() == {}
    assert "its device is 'card-1-driver-1'" in other.examine()[1]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "a list": lambda data: b"[]",
    "deep": lambda data: b"[" * 100_000,
    "huge": lambda data: data + b" " * (5 << 20),
    "no variant of ours": lambda data: data.replace(NAMES[0].encode(), b"conv3d"),
    "no name": lambda data: data.replace(f'"{NAMES[0]}"'.encode(), b"[7]"),
    "an escape sequence": lambda data: data.replace(b"zeros", b"\\u001b[2Jzeros"),
    "two lines": lambda data: data.replace(b"zeros", b"zeros\\nallowed"),
    "a long reason": lambda data: data.replace(b"zeros", b"z" * 200),
    "no reason": lambda data: data.replace(b'"why"', b'"because"'),
    "other shaders": lambda data: data.replace(b'"shaders": "', b'"shaders": "0'),
    "another version": lambda data: data.replace(b'"pwconv": "', b'"pwconv": "9'),
    "a newer format": lambda data: data.replace(b'"format": 1', b'"format": 2'),
    "no denials": lambda data: data.replace(b'"denials"', b'"verdicts"'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_is_not_ours_denies_nothing_and_is_replaced(deny_list, damage, caplog):
    deny_list.revise((), {NAMES[0]: "zeros"})
    good = deny_list.file.read_bytes()
    bad = damage(good)
    assert bad != good
    deny_list.file.write_bytes(bad)
    with caplog.at_level("INFO"):
        assert deny_list.read() == {}
    assert f"the deny list {deny_list.file} is ignored: " in caplog.text
    deny_list.revise((), {NAMES[1]: "zeros"})
    assert deny_list.read() == {NAMES[1]: "zeros"}


@given(st.binary(max_size=200))
def test_any_bytes_are_ignored(deny_list, data):
    deny_list.file.parent.mkdir(parents=True, exist_ok=True)
    deny_list.file.write_bytes(data)
    assert deny_list.read() == {}


def test_a_failed_write_keeps_the_old_list(deny_list, tmp_path):
    deny_list.revise((), {NAMES[0]: "zeros"})
    with pytest.raises(TypeError):
        deny_list.revise((), {NAMES[1]: object()})
    assert deny_list.read() == {NAMES[0]: "zeros"}


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
        make, choice = pwconv.PointwiseConv2d, conv2d_pw_choice
    else:
        x, weight, bias = random_linear(rng, (41, 13), (27, 13), "float32")
        make, choice = pwconv.Linear, linear
    candidates = choice.candidates
    able: list[str] = []

    def spy(*arguments):
        found = candidates(*arguments)
        able[:] = found
        return found

    denials = DenyList(device.info)
    with monkeypatch.context() as patched:
        patched.setattr(choice, "candidates", spy)
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
    task = layer._task("buffer", x.shape, (2, 27, 5, 7))
    key = Key(task.problem, task.weight_storage)
    default = conv2d_pw_choice.choose(own._dispatcher, *(task.problem, task.weight_storage))
    able = conv2d_pw_choice.candidates(own._dispatcher, task.problem, task.weight_storage)
    winner = next(name for name in able if name != default.variant.name)
    own._tuner.store.add(
        {
            key: Verdict(
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
    device = SimpleNamespace(info=dataclasses.replace(INFO, limits=LIMITS))
    names = frozenset(v.name for v in shaders.variants("conv2d_pw_tiled"))
    dispatcher = Dispatcher(device, Denied(names, tmp_path))
    half = shaders.variants("conv2d_pw_tiled", dtype="fp16acc16")
    dispatcher.require_allowed(half)
    assert not any(map(dispatcher.can_run, half))
    with pytest.raises(pwconv.UnsupportedError, match="and 5 more"):
        dispatcher.require_allowed(
            shaders.variants("conv2d_pw_tiled", dtype="fp32", weight="buffer")
        )


def test_what_is_denied_is_verified_all_the_same(device, open_device):
    variants = selected([NAMES[0]])
    DenyList(device.info).revise((), {NAMES[0]: "zeros in identity"})
    found = verify(open_device()._logical, variants)
    assert [(r.variant.name, r.passed) for r in found.results] == [(NAMES[0], True)]


def test_the_file_is_what_the_module_says(deny_list):
    deny_list.revise((), {NAMES[0]: "zeros in identity"})
    document = json.loads(deny_list.file.read_text())
    assert sorted(document) == ["denials", "device", "format", "pwconv", "shaders"]
    assert document["denials"] == [{"variant": NAMES[0], "why": "zeros in identity"}]
