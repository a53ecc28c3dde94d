"""PWCONV_TUNE's three modes: what a layer then runs, and that its numbers stay right."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable

import numpy as np
import pytest

import pwconv
from pwconv import reference, shaders
from pwconv.errors import OutOfMemoryError
from pwconv.heuristics import Choice
from pwconv.ops import matmul
from pwconv.ops.convolution import Task
from pwconv.tune import tuner as tune
from pwconv.tune.store import Key, Store, Winner
from support import inside, texels
from support.accuracy import assert_within, check_layer, random_problem
from support.leftovers import settled

SHAPE = (2, 9, 5, 7)
OpenDevice = Callable[[str], pwconv.Device]


def problem_of(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return random_problem(rng, 9, 21, (5, 7), "float32", batch=2)


def task_of(layer: pwconv.PointwiseConv2d, storage: str, shape: tuple = SHAPE) -> Task:
    out_shape = (shape[0], layer.out_channels, *shape[2:])
    return inside.task(layer, storage, shape, out_shape)


def winners_for(layer: pwconv.PointwiseConv2d, storage: str, choice: Choice) -> dict[Key, Winner]:
    """Return a winner that a choice is best, as measuring would give it."""
    task = task_of(layer, storage)
    default = matmul.choose(inside.context(layer.device), task.problem, task.weight_storage)
    winner = Winner(
        choice.variant.name, choice.workgroup, 2e-6, default.variant.name, default.workgroup, 3e-6
    )
    return {Key(task.problem, task.weight_storage): winner}


def dispatched(
    layer: pwconv.PointwiseConv2d, storage: str, shape: tuple[int, ...] = SHAPE
) -> tuple[str, tuple[int, ...]]:
    """Return the variant and workgroup that a call on a tensor really submits."""
    device = layer.device
    seen = []
    submit = inside.context(device).submit

    def spy(*dispatches, **options):
        seen.extend(dispatches)
        return submit(*dispatches, **options)

    x = device.tensor(np.ones(shape, np.float32), storage=storage)
    inside.context(device).submit = spy
    try:
        layer(x)
    finally:
        del inside.context(device).submit
    plans = [d.plan for d in seen if d.plan.variant.family.startswith("conv2d_pw")]
    assert len(plans) == 1
    return plans[0].variant.name, plans[0].workgroup


def others(
    layer: pwconv.PointwiseConv2d, storage: str
) -> list[tuple[Choice, tuple[int, int, int]]]:
    """Return every choice but the default, with the workgroup that it comes to."""
    found = tune.candidates(inside.context(layer.device), task_of(layer, storage))[1:]
    return [(choice, planned.plan.workgroup) for choice, planned in found]


@pytest.mark.parametrize(
    "storage", [pytest.param("texture3d", marks=pytest.mark.exhaustive), "buffer"]
)
def test_every_candidate_that_is_stored_is_run_and_is_right(
    device, open_device: OpenDevice, rng, storage
):
    x, weight, bias = problem_of(rng)
    packed = pwconv.pack_linear_weight(weight, device=(own := open_device("cached")))
    layer = pwconv.PointwiseConv2d(packed, bias, storage=storage, device=own)
    store = inside.tuner(own).store
    for choice, workgroup in others(layer, storage):
        store.add(winners_for(layer, storage, choice))
        setattr(inside.tuner(own), inside.WINNERS, None)  # as in a process that starts now
        layer = pwconv.PointwiseConv2d(packed, bias, activation="silu", storage=storage, device=own)
        explained = layer.explain(SHAPE, storage)
        assert dispatched(layer, storage) == (choice.variant.name, workgroup)
        assert (explained.variant, explained.workgroup) == (choice.variant.name, workgroup)
        assert explained.reason.startswith("tuned on this device: 2.0 µs, against 3.0 µs of the ")
        check_layer(layer, x, weight, bias)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_winner_is_taken_only_by_its_own_problem(open_device: OpenDevice, rng, dtype):
    _, weight, bias = problem_of(rng)
    own = open_device("cached")

    def make(**settings):
        return pwconv.PointwiseConv2d(weight, bias, dtype=dtype, device=own, **settings)

    layer = make()
    ((choice, workgroup), *_) = others(layer, "buffer")
    inside.tuner(own).store.add(winners_for(layer, "buffer", choice))
    tuned = {
        "itself": make().explain(SHAPE, "buffer"),
        "an activation": make(activation="gelu").explain(SHAPE, "buffer"),
    }
    for name, explained in tuned.items():
        assert explained.variant == choice.variant.name, name
        assert explained.workgroup == workgroup, name
    untuned = [
        make().explain((2, 9, 7, 5), "buffer"),
        make().explain((1, 9, 5, 7), "buffer"),
        make().explain(SHAPE, "texture3d"),
        make(stride=2).explain(SHAPE, "buffer"),
        make(padding=(0, 1)).explain(SHAPE, "buffer"),
    ]
    assert not any("tuned" in explained.reason for explained in untuned)


def test_a_shape_without_its_batch_is_the_same_problem(open_device: OpenDevice, rng):
    _, weight, _ = problem_of(rng)
    own = open_device("cached")
    layer = pwconv.PointwiseConv2d(weight, device=own)
    task = task_of(layer, "buffer", (1, *SHAPE[1:]))
    assert inside.task(layer, "buffer", SHAPE[1:], (21, 5, 7)).problem == task.problem


@pytest.mark.parametrize("mode", ["off", "cached", "on-demand", ""])
def test_what_each_mode_reads_measures_and_writes(
    open_device: OpenDevice, rng, quick, monkeypatch, mode
):
    x, weight, bias = problem_of(rng)
    own = open_device(mode)
    read: list[str] = []
    measured: list[Task] = []
    real_read, real_measure = Store.read, tune.measure

    def read_store(self):
        read.append("read")
        return real_read(self)

    def run(context, clocks, task):
        measured.append(task)
        return real_measure(context, clocks, task)

    monkeypatch.setattr(Store, "read", read_store)
    monkeypatch.setattr(tune, "measure", run)
    layer = pwconv.PointwiseConv2d(weight, bias, device=own)
    for _ in range(3):
        check_layer(layer, x, weight, bias)
    check_layer(pwconv.PointwiseConv2d(weight, bias, device=own), x, weight, bias)
    assert bool(read) == (mode != "off")
    # Once for each storage, however often it is called.
    assert len(measured) == (2 if mode == "on-demand" else 0)
    assert inside.tuner(own).store.file.exists() == (mode == "on-demand")


def test_on_demand_is_found_by_the_next_process(open_device: OpenDevice, rng, quick, monkeypatch):
    x, weight, bias = problem_of(rng)
    first = pwconv.PointwiseConv2d(weight, bias, device=open_device("on-demand"))
    check_layer(first, x, weight, bias)
    told = [first.explain(SHAPE, storage) for storage in ("texture3d", "buffer")]
    monkeypatch.setattr(tune, "measure", None)  # nothing is left to measure
    for mode in ("on-demand", "cached"):
        later = pwconv.PointwiseConv2d(weight, bias, device=open_device(mode))
        for before in told:
            explained = later.explain(SHAPE, before.storage)
            assert (explained.variant, explained.workgroup) == (before.variant, before.workgroup)
            assert explained.reason == before.reason
            assert dispatched(later, before.storage) == (before.variant, before.workgroup)
        check_layer(later, x, weight, bias)


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_on_demand_leaves_the_callers_tensors_alone(open_device: OpenDevice, rng, quick, storage):
    x, weight, bias = problem_of(rng)
    own = open_device("on-demand")
    layer = pwconv.PointwiseConv2d(weight, bias, device=own)
    tensor = own.tensor(x, storage=storage)
    out = texels.poisoned(own, (2, 21, 5, 7), "float32", storage)
    layer.explain(SHAPE, storage)  # measures, and computes nothing
    assert np.isnan(out.numpy()).all()
    bystander = own.tensor(x, storage=storage)
    assert layer(tensor, out=out) is out
    expected = reference.conv2d_pw(x, weight, bias)
    assert_within(out.numpy(), expected, reference.conv2d_pw_bound(x, weight, bias))
    np.testing.assert_array_equal(tensor.numpy(), x)
    np.testing.assert_array_equal(bystander.numpy(), x)


def test_on_demand_from_threads(open_device: OpenDevice, rng, quick, monkeypatch):
    _, weight, bias = problem_of(rng)
    own = open_device("on-demand")
    measured: list[Task] = []
    real = tune.measure

    def run(context, clocks, task):
        measured.append(task)
        return real(context, clocks, task)

    monkeypatch.setattr(tune, "measure", run)
    inputs = [rng.standard_normal((1, 9, 3, 2 + n)).astype(np.float32) for n in range(2)]
    shared = pwconv.PointwiseConv2d(weight, bias, device=own)
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            layer = shared if index % 2 else pwconv.PointwiseConv2d(weight, bias, device=own)
            for turn in range(4):
                x = inputs[(index + turn) % 2]
                expected = reference.conv2d_pw(x, weight, bias)
                assert_within(layer(x), expected, reference.conv2d_pw_bound(x, weight, bias))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(measured) == len({task.problem for task in measured}) == 2


@pytest.mark.parametrize("error", [OutOfMemoryError("none left"), MemoryError()], ids=repr)
def test_without_memory_to_measure_in_the_default_is_used(
    open_device: OpenDevice, rng, monkeypatch, caplog, error
):
    def fail(*_: object) -> None:
        raise error

    x, weight, bias = problem_of(rng)
    monkeypatch.setattr(tune, "acquire_resource", fail)
    own = open_device("on-demand")
    layer = pwconv.PointwiseConv2d(weight, bias, device=own)
    with caplog.at_level("INFO"):
        check_layer(layer, x, weight, bias)
    assert "was not measured" in caplog.text
    assert not inside.tuner(own).store.file.exists()
    assert "tuned" not in layer.explain(SHAPE).reason


def test_a_folder_that_cannot_be_written_costs_only_the_next_start(
    open_device: OpenDevice, rng, quick, caplog
):
    x, weight, bias = problem_of(rng)
    own = open_device("on-demand")
    inside.tuner(own).store.file.parent.write_text("no folder")
    layer = pwconv.PointwiseConv2d(weight, bias, device=own)
    with caplog.at_level("INFO"):
        check_layer(layer, x, weight, bias)
    assert "was not written" in caplog.text
    assert "this device" in layer.explain(SHAPE).reason


def test_nothing_is_kept_while_the_clocks_change(open_device: OpenDevice, rng, quick, monkeypatch):
    x, weight, bias = problem_of(rng)
    real = tune.measure
    monkeypatch.setattr(tune, "measure", lambda *task: dataclasses.replace(real(*task), held=False))
    own = open_device("on-demand")
    layer = pwconv.PointwiseConv2d(weight, bias, device=own)
    check_layer(layer, x, weight, bias)
    assert not inside.tuner(own).store.file.exists()
    assert "this device" not in layer.explain(SHAPE).reason


def rewrite(store: Store, change: Callable[[dict], object]) -> None:
    document = json.loads(store.file.read_text())
    change(document)
    store.file.write_text(json.dumps(document))


UNUSABLE: dict[str, Callable[[dict], object]] = {
    "another device": lambda d: d.update(device="another"),
    "another version": lambda d: d.update(pwconv="0.0.1"),
    "other shaders": lambda d: d.update(shaders="0" * 64),
    "an unknown variant": lambda d: d["winners"][0].update(variant="conv2d_pw_magic"),
    "unprintable": lambda d: d["winners"][0].update(variant="\ud800\x1b[2J"),
    "another layer's variant": lambda d: d["winners"][0].update(variant="bench_copy_x4"),
    "another type's variant": lambda d: d["winners"][0].update(
        variant=shaders.variants("conv2d_pw_staged_buffer", dtype="fp16")[0].name
    ),
    "another default": lambda d: d["winners"][0].update(default_variant="conv2d_pw_old"),
    "another default's workgroup": lambda d: d["winners"][0].update(default_workgroup=[2, 2, 2]),
}


@pytest.mark.parametrize("change", UNUSABLE.values(), ids=UNUSABLE)
def test_a_winner_that_cannot_be_used_is_ignored(open_device: OpenDevice, rng, caplog, change):
    x, weight, bias = problem_of(rng)
    own = open_device("cached")
    layer = pwconv.PointwiseConv2d(weight, bias, storage="buffer", device=own)
    default = dispatched(layer, "buffer")
    store = inside.tuner(own).store
    store.add(winners_for(layer, "buffer", others(layer, "buffer")[0][0]))
    rewrite(store, change)
    own = open_device("cached")
    layer = pwconv.PointwiseConv2d(weight, bias, storage="buffer", device=own)
    with caplog.at_level("INFO"):
        assert dispatched(layer, "buffer") == default
    assert len(caplog.records) == 1
    assert "tuned" not in layer.explain(SHAPE).reason
    check_layer(layer, x, weight, bias)


def test_a_variant_that_the_device_cannot_run_is_ignored(open_device: OpenDevice, rng):
    own = open_device("cached")
    unable = [
        v
        for v in shaders.variants("conv2d_pw_coopmat2")
        if v.unmet(own.info.limits, own.info.features)
    ]
    if not unable:
        pytest.skip(f"{own.info.name} runs every variant")
    x, weight, bias = problem_of(rng)
    x, weight = x.astype(np.float16), weight.astype(np.float16)
    layer = pwconv.PointwiseConv2d(weight, bias, storage="buffer", device=own)
    choice = Choice(unable[0], (8, 8, 1), "")
    inside.tuner(own).store.add(winners_for(layer, "buffer", choice))
    assert "tuned" not in layer.explain(SHAPE).reason
    check_layer(layer, x, weight, bias)


def test_a_hostile_file_costs_nothing(open_device: OpenDevice, rng):
    x, weight, bias = problem_of(rng)
    own = open_device("cached")
    inside.tuner(own).store.file.parent.mkdir(parents=True)
    inside.tuner(own).store.file.write_bytes(b"[" * 1_000_000)
    check_layer(pwconv.PointwiseConv2d(weight, bias, device=own), x, weight, bias)


@pytest.mark.parametrize("value", ["on", "ON-DEMAND", "1", " "])
def test_another_value_is_refused(monkeypatch, device, value):
    monkeypatch.setenv("PWCONV_TUNE", value)
    with pytest.raises(pwconv.PwconvError) as raised:
        pwconv.Device(device.info.index)
    assert str(raised.value) == (
        f"PWCONV_TUNE is {value!r}; it must be one of off, cached, on-demand"
    )


def test_tuning_again_and_again_does_not_grow(open_device: OpenDevice, rng, quick):
    _, weight, bias = problem_of(rng)
    own = open_device("cached")
    layer = pwconv.PointwiseConv2d(weight, bias, device=own)
    held = []
    for _ in range(3):
        inside.tuner(own).tune(task_of(layer, "buffer"))
        held.append((*settled(own), inside.context(own).memory.reserved))
    assert held[0] == held[1] == held[2]
