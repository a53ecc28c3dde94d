"""The one door to pwconv's private names: a change inside it changes this file alone.

Names of modules come first, then slots, which are what ``monkeypatch.setattr`` and ``setattr`` take
to replace such a name, then names of attributes that tests replace, in capitals, and functions that
read an attribute of what they are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

import pwconv
from pwconv import (
    activation,
    cache,
    cli,
    dispatch,
    heuristics,
    reference,
    shaders,
    staging,
    weights,
)
from pwconv import context as context_module
from pwconv import device as device_module
from pwconv.bench import graphs as bench_graphs
from pwconv.graph import graph as graph_module
from pwconv.lru import LruCache
from pwconv.ops import convolution, elementwise
from pwconv.timing import ceilings, clocks
from pwconv.tune import tuner as tune
from pwconv.vk import (
    api,
    commands,
    cooperative_matrix,
    physical_device,
    pipelines,
    pools,
    process,
    queue,
)

GELU_TANH = activation._GELU_TANH
choose_device = device_module._choose
validate_by_default = device_module._validate_by_default
SLOWEST_RATE = dispatch._SLOWEST
host = cache._host
CONV_FAMILIES = convolution._FAMILIES
ELEMENTWISE_NUMBERS = elementwise._NUMBERS
convolution_weight_storage = convolution._weight_storage
heuristics_text = heuristics._text
heuristics_entries = heuristics._entries
as_pair = reference._pair
SHADERS = shaders._folder()
manifest = shaders._manifest
families = shaders._families
FINAL_ROUNDS = tune._FINAL_ROUNDS
inputs_and_outputs = tune._inputs_and_outputs
vulkan_package = api._package
raising = api._raising
FENCE_EVERY = queue._FENCE_EVERY
FIXED_MATRICES = cooperative_matrix._FIXED
FLEXIBLE_MATRICES = cooperative_matrix._FLEXIBLE
ask_matrices = cooperative_matrix._ask
compute_queue_family = physical_device._compute_queue_family
PIPELINES_MAGIC = cache._PIPELINES_MAGIC
place_barriers = commands._place_barriers
short_submissions = commands._short_submissions
Entry = commands._Entry
SignalSafeLock = process._SignalSafeLock

CONTEXT = "_context"  # of a device
RESOURCE = "_resource"  # of a tensor
SIGNALED = "_signaled"  # of a queue
SPIN = "_spin"  # of a queue
SPIN_SECONDS = "_spin_seconds"  # of a queue
WINNERS = "_winners"  # of a tuner
WAIT = "_wait"  # of a queue
WAIT_SLICE = "_wait_slice"  # of a queue

slots = SimpleNamespace(
    bench_kernels=(bench_graphs, "_kernels"),
    calibrations=(clocks, "_CALIBRATIONS"),
    chunk_bytes=(staging, "_CHUNK_BYTES"),
    compute_queue_family=(physical_device, "_compute_queue_family"),
    copy_bytes=(ceilings, "_COPY_BYTES"),
    default=(device_module, "_default"),
    graph_empty=(graph_module, "empty"),
    final_rounds=(tune, "_FINAL_ROUNDS"),
    first_rounds=(tune, "_FIRST_ROUNDS"),
    folder=(shaders, "_folder"),
    ask_matrices=(cooperative_matrix, "_ask"),
    iterations=(clocks.Clocks, "iterations"),
    kept_bytes=(pools, "_KEPT_BYTES"),
    lock_seconds=(cache, "_LOCK_SECONDS"),
    make_pipeline=(pipelines.Pipeline, "_make_pipeline"),
    most_bytes=(cache, "_MOST_PIPELINE_BYTES"),
    opened=(device_module, "_opened"),
    pack_weight=(weights, "pack_weight"),
    package=(api, "_package"),
    parameter_buffer=(weights, "Buffer"),
    parameter_upload=(weights, "upload_buffer"),
    read_pipelines=(cache, "read_pipelines"),
    samples_cpu=(ceilings, "_SAMPLES_CPU"),
    scratch=(graph_module, "Scratch"),
    seed_bytes=(ceilings, "_SEED_BYTES"),
    tune_layer=(cli, "_tune_layer"),
    unpack_rows=(weights, "unpack_rows"),
    version=(physical_device, "_version"),
    workgroups=(tune, "_WORKGROUPS"),
)


def context(device: pwconv.Device) -> Any:
    return device._context


def another_context(device: pwconv.Device) -> Any:
    """Return a context of the same open device that denies nothing and has kept nothing."""
    found = object.__new__(context_module.Context)
    vars(found).update(vars(device._context), denied=None, **_nothing_kept())
    return found


def paper_context(info: pwconv.DeviceInfo, denied: Any = None, **parts: Any) -> Any:
    """Return a context of a device that is not there: what plans are made with."""
    found = object.__new__(context_module.Context)
    parts = {"lock": nullcontext(), "require_open": lambda: None, **parts}
    given = {"info": info, "limits": info.limits, "features": info.features, "denied": denied}
    vars(found).update(given, **_nothing_kept(), **parts)
    return found


def _nothing_kept() -> dict[str, Any]:
    return {"_lacks": {}, "_able": {}, "_plans": LruCache(1024), "recordings": LruCache(256)}


def ranked_tiles(kind: str, info: pwconv.DeviceInfo, lanes: int, **problem: Any) -> list[str]:
    """Return the tiles that heuristics.toml ranks for a device and rows in a texel, best first."""
    applying = heuristics._applying(kind, info.key, **problem)
    ranked = next(entry.says["tiles"] for entry in applying if "sizes" not in entry.says)
    families = [f for f in shaders.families() if f.endswith(problem["storage"])]
    suiting = [v for f in families for v in shaders.variants(f)]
    able = {v.axes.get("tile") for v in suiting if v.defines.get("LANES", 1) == lanes}
    return [tile for tile in (each.partition(" ")[0] for each in ranked) if tile in able]


@contextmanager
def other_heuristics(text: str) -> Iterator[None]:
    """Have heuristics.toml be another text meanwhile."""
    kept = (
        *(heuristics._entries, heuristics._selected, heuristics._pays),
        heuristics._weight_storage,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heuristics, "_text", lambda: text)
        for each in kept:
            each.cache_clear()
        try:
            yield
        finally:
            for each in kept:
                each.cache_clear()


def tuner(device: pwconv.Device) -> Any:
    return device._tuner


def set_parts(device: pwconv.Device, context: Any, tuner: Any) -> None:
    """Give a device that was not opened what an open one has."""
    device._context, device._tuner = context, tuner


def lacks(context: Any) -> Any:
    return context._lacks


def plans(context: Any) -> Any:
    return context._plans


def recordings(context: Any) -> Any:
    return context.recordings


def constant_ids(variant: shaders.Variant) -> Any:
    return variant._constant_ids


def push_names(variant: shaders.Variant) -> Any:
    return variant._push_names


def push_struct(variant: shaders.Variant) -> Any:
    return variant._push_struct


def bias(layer: Any) -> Any:
    return layer._parameters.buffer


def weight(layer: Any) -> Any:
    return layer.weight


def converts(layer: Any) -> Any:
    return layer._converts


def inputs(graph: pwconv.Graph) -> Any:
    return graph._inputs


def nodes(graph: pwconv.Graph) -> Any:
    return graph._nodes


def shapes(graph: pwconv.Graph) -> Any:
    return graph._shapes


def scratch(graph: pwconv.Graph) -> Any:
    return graph._scratch


def fences(queue: Any) -> Any:
    return queue._fences


def every_fence(queue: Any) -> Any:
    return queue._every_fence


def idle_fences(queue: Any) -> Any:
    return queue._idle_fences


def returned_fences(queue: Any) -> Any:
    return queue._returned_fences


def task(layer: Any, *arguments: Any) -> Any:
    return layer._task(*arguments)


def dispatch_of(layer: Any, *arguments: Any) -> Any:
    return layer._dispatch(*arguments)


def program(graph: pwconv.Graph) -> Any:
    """Return what runs a graph at the shapes of now."""
    return graph._current().program


def finish(graph: pwconv.Graph) -> Any:
    return graph._finish()


def program_resources(program: Any) -> Any:
    return program._resources


def pipelines_of(cache: Any) -> Any:
    return cache._pipelines


def queue_wait(queue: Any) -> Any:
    return queue._wait


def vulkan_instance(context: Any) -> Any:
    return context._instance


def resource(tensor: pwconv.Tensor) -> Any:
    return tensor._resource


def header(store: Any) -> Any:
    return store._header


def encode(store: Any, *arguments: Any) -> Any:
    return store._encode(*arguments)


def is_owned(lock: Any) -> bool:
    return lock._is_owned()
