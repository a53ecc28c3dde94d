"""Every Vulkan call that can fail does, once and for good: nothing leaks, and the device goes on.

A scenario is run once to see which calls it makes, from which places; then again and again, each
time with one of them failing, on a device of its own.
"""

from __future__ import annotations

import functools
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

import pwconv
from pwconv import reference
from support import injector as vulkan
from support import inside
from support.accuracy import assert_within, random_problem
from support.injector import RESULTS, Fault, Injector, injected

ERRORS = {
    vulkan.OUT_OF_HOST_MEMORY: pwconv.OutOfMemoryError,
    vulkan.OUT_OF_DEVICE_MEMORY: pwconv.OutOfMemoryError,
    vulkan.TOO_MANY_OBJECTS: pwconv.OutOfMemoryError,
    vulkan.MEMORY_MAP_FAILED: pwconv.OutOfMemoryError,
    vulkan.FRAGMENTED_POOL: pwconv.OutOfMemoryError,
    vulkan.FRAGMENTATION: pwconv.OutOfMemoryError,
    vulkan.OUT_OF_POOL_MEMORY: pwconv.OutOfMemoryError,
    vulkan.DEVICE_LOST: pwconv.DeviceLostError,
    vulkan.LAYER_NOT_PRESENT: pwconv.UnsupportedError,
    vulkan.EXTENSION_NOT_PRESENT: pwconv.UnsupportedError,
    vulkan.FEATURE_NOT_PRESENT: pwconv.UnsupportedError,
    vulkan.FORMAT_NOT_SUPPORTED: pwconv.UnsupportedError,
    vulkan.INITIALIZATION_FAILED: pwconv.PwconvError,
    vulkan.INVALID_SHADER: pwconv.PwconvError,
    vulkan.INCOMPLETE: pwconv.PwconvError,
    vulkan.UNKNOWN: pwconv.PwconvError,
}
# Results that are no failures.
HARMLESS = (vulkan.NOT_READY, vulkan.TIMEOUT)
# Answers, of which pwconv says what they mean.
ANSWERS = {
    ("vkCreateInstance", vulkan.INCOMPATIBLE_DRIVER): pwconv.NoDeviceError,
    ("vkEnumeratePhysicalDevices", vulkan.INITIALIZATION_FAILED): pwconv.NoDeviceError,
    (
        "vkGetPhysicalDeviceImageFormatProperties",
        vulkan.FORMAT_NOT_SUPPORTED,
    ): pwconv.UnsupportedError,
}
# Of the loader: where it runs out of memory, a driver's manifest is broken as a rule.
LOADING = (
    "vkEnumerateInstanceVersion",
    "vkEnumerateInstanceLayerProperties",
    "vkEnumerateInstanceExtensionProperties",
    "vkCreateInstance",
    "vkEnumeratePhysicalDevices",
)
ERRORS_OF_LOADING = {
    **ERRORS,
    **dict.fromkeys(
        (
            vulkan.OUT_OF_HOST_MEMORY,
            vulkan.OUT_OF_DEVICE_MEMORY,
            vulkan.INITIALIZATION_FAILED,
            vulkan.UNKNOWN,
        ),
        pwconv.NoDeviceError,
    ),
}
ADVICE = ("Release tensors", "Close this pwconv.Device", "pdate", "Try again")


@dataclass
class Problems:
    """Inputs, and what must come of them, computed once."""

    x: np.ndarray
    taller: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    square: np.ndarray

    @classmethod
    def make(cls, rng: np.random.Generator) -> Problems:
        x, weight, bias = random_problem(rng, 13, 7, (9, 11), "float32")
        taller = rng.standard_normal((13, 17, 11)).astype(np.float32)
        square = (rng.standard_normal((13, 13)) / 4).astype(np.float32)
        return cls(x, taller, weight, bias, square)

    def check(self, y: np.ndarray) -> None:
        """Assert a layer's result on x."""
        expected = reference.conv2d_pw(self.x, self.weight, self.bias)
        bound = reference.conv2d_pw_bound(self.x, self.weight, self.bias, dtype="float32")
        assert_within(y, expected, bound)

    def check_graph(self, x: np.ndarray, y: np.ndarray) -> None:
        """Assert the graph's result on x: its sums are of order one, and few."""
        h = reference.conv2d_pw(x, self.square, activation="relu")
        expected = reference.conv2d_pw(h, self.square) + x
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)


def layer_on_arrays(device: pwconv.Device, problems: Problems) -> None:
    layer = pwconv.PointwiseConv2d(problems.weight, problems.bias, device=device)
    problems.check(layer(problems.x))


def layer_on_tensors(device: pwconv.Device, problems: Problems) -> None:
    """In both storages, through staging in many chunks, with the weight read back."""
    packed = pwconv.pack_linear_weight(problems.weight, device=device)
    assert packed.numpy().any()
    layer = pwconv.PointwiseConv2d(packed, problems.bias, device=device)
    for storage in ("texture3d", "buffer"):
        problems.check(layer(device.tensor(problems.x, storage=storage)).numpy())


def graph(device: pwconv.Device, problems: Problems) -> None:
    """Built, run, resized, run three times at once, and on a tensor."""
    graph = _graph(device, problems)
    problems.check_graph(problems.x, graph.run(x=problems.x)["y"])
    graph.resize(x=problems.taller.shape)
    handles = [graph.run_async(x=problems.taller) for _ in range(3)]
    for handle in handles:
        problems.check_graph(problems.taller, handle.wait()["y"])
    tensor = device.tensor(problems.taller, storage=graph.storage)
    problems.check_graph(problems.taller, graph.run(x=tensor)["y"].numpy())


def profile(device: pwconv.Device, problems: Problems) -> None:
    graph = _graph(device, problems)
    assert graph.profile(runs=1).total.median > 0
    problems.check_graph(problems.x, graph.run(x=problems.x)["y"])


def _graph(device: pwconv.Device, problems: Problems) -> pwconv.Graph:
    graph = pwconv.Graph(device)
    x = graph.input("x", problems.x.shape)
    h = graph.conv2d_pw(x, problems.square, activation="relu")
    graph.output("y", graph.conv2d_pw(h, problems.square, residual=x))
    return graph


@pytest.fixture
def problems(rng: np.random.Generator) -> Problems:
    return Problems.make(rng)


@pytest.fixture
def calls(device: pwconv.Device, monkeypatch: pytest.MonkeyPatch) -> Iterator[Injector]:
    """Everything small, so that every way is taken in little time."""
    monkeypatch.setattr(*inside.slots.chunk_bytes, 2048)
    monkeypatch.setattr(*inside.slots.copy_bytes, {device.info.type: 1 << 16})
    monkeypatch.setattr(*inside.slots.seed_bytes, 1 << 14)
    monkeypatch.setattr(*inside.slots.samples_cpu, 1)
    monkeypatch.setattr(*inside.slots.calibrations, 1)
    monkeypatch.setattr(*inside.slots.iterations, lambda *_: 1)
    pwconv.devices()  # the instance that stays, and is nobody's leak
    gc.collect()
    gc.freeze()  # or each collection below goes through all of the suite
    with injected() as injector:
        yield injector
    gc.unfreeze()


def faults(calls: Injector, *, thorough: bool = True) -> list[Fault]:
    """Return what can fail of the calls just made, at the first call from each place.

    Each place gives one result, and a lost device where it can; a function's first place, where
    that is ``thorough``, all that the specification lists.
    """
    found: list[Fault] = []
    seen: set[str] = set()
    for function, nth in calls.sites.values():
        results = (*RESULTS[function], vulkan.UNKNOWN)
        if function in seen or not thorough:
            results = tuple(r for r in results if r in (RESULTS[function][0], vulkan.DEVICE_LOST))
        seen.add(function)
        found += [Fault(function, nth, result) for result in results]
    return found


@dataclass
class Tally:
    """What was injected, and what became of it."""

    places: set[tuple[str, int]] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, fault: Fault, outcome: str) -> None:
        self.places.add((fault.function, fault.nth))
        self.outcomes[outcome] += 1

    def __str__(self) -> str:
        functions = {function for function, _ in self.places}
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.items())
        return (
            f"{self.outcomes.total()} faults at {len(self.places)} places that call "
            f"{len(functions)} functions: {outcomes}"
        )


@pytest.fixture
def tally() -> Iterator[Tally]:
    """What `pytest -rP` then shows."""
    tally = Tally()
    yield tally
    print(tally)


def attempt(calls: Injector, fault: Fault, act: Callable[[], object]) -> str:
    """Act while the fault is there; assert that the error, if there is one, is the right one."""
    calls.expect(fault)
    raised: pwconv.PwconvError | None = None
    try:
        act()
    except pwconv.PwconvError as error:
        # What its frames hold is to go now.
        raised = error.with_traceback(None)
    finally:
        hit = calls.hit
        calls.expect(None)
    if raised is None:
        return "absorbed" if hit else "not reached"
    assert hit, fault
    answer = ANSWERS.get((fault.function, fault.result))
    errors = ERRORS_OF_LOADING if fault.function in LOADING else ERRORS
    assert type(raised) is (answer or errors[fault.result]), (fault, raised)
    if answer is None:
        assert fault.function in str(raised), (fault, raised)
        assert any(advice in str(raised) for advice in ADVICE), (fault, raised)
    return "error"


def assert_nothing_is_left(device: pwconv.Device, calls: Injector) -> None:
    """Assert that only what is kept for the next call exists: pipelines and recordings."""
    gc.collect()
    context = inside.context(device)
    context.resources.clear()
    context.staging.clear()
    device.synchronize()
    context.queue.collect()
    recordings = list(inside.recordings(inside.context(device)).values())
    assert set(context.live) == {recording.uid for recording in recordings}
    assert context.memory.used == 0
    pipelines = len(inside.pipelines_of(context.pipelines))
    queue = context.queue
    expected = {
        "vkCreateInstance": 1,
        "vkCreateDebugUtilsMessengerEXT": 1,
        "vkCreateDevice": 1,
        "vkCreateCommandPool": 1,
        "vkCreatePipelineCache": 1,
        "vkAllocateMemory": context.memory.block_count,
        "vkCreateComputePipelines": pipelines,
        "vkCreatePipelineLayout": pipelines,
        "vkCreateDescriptorSetLayout": pipelines,
        "vkCreateDescriptorPool": len(recordings),
        "vkAllocateCommandBuffers": len(recordings),
        "vkCreateFence": len(inside.every_fence(queue)),
    }
    assert calls.existing() == {create: count for create, count in expected.items() if count}


Scenario = Callable[[pwconv.Device, Problems], None]


def run_with(
    index: int, scenario: Scenario, problems: Problems, calls: Injector, fault: Fault
) -> str:
    """Run a scenario with a fault, and again without; return what became of the fault."""
    with pwconv.Device(index, validate=True) as device:
        outcome = attempt(calls, fault, lambda: scenario(device, problems))
        if outcome == "error" and fault.result == vulkan.DEVICE_LOST:
            gc.collect()
            for use in (
                lambda: scenario(device, problems),
                lambda: device.empty((3, 2, 2), "float32"),
                device.synchronize,
            ):
                with pytest.raises(pwconv.DeviceLostError, match=r"lost the device .* earlier"):
                    use()
            assert not device.closed
        else:
            scenario(device, problems)
            assert_nothing_is_left(device, calls)
    assert calls.existing() == {}, fault
    return outcome


@pytest.mark.parametrize(
    "scenario",
    [
        layer_on_arrays,
        pytest.param(layer_on_tensors, marks=pytest.mark.exhaustive),
        graph,
        pytest.param(profile, marks=pytest.mark.exhaustive),
    ],
)
def test_any_call_fails(request, device, problems, calls, scenario, tally):
    index = device.info.index
    with pwconv.Device(index, validate=True) as own:
        calls.expect(None)
        scenario(own, problems)
        # Results are told apart in one place, whatever was called.
        thorough = scenario is layer_on_arrays and request.config.getoption("--exhaustive")
        planned = faults(calls, thorough=thorough)
        assert_nothing_is_left(own, calls)
    assert len(planned) > 20
    reached = set()
    for fault in planned:
        outcome = run_with(index, scenario, problems, calls, fault)
        tally.add(fault, outcome)
        if outcome != "not reached":
            reached.add(fault.function)
        if outcome == "absorbed" and fault.result not in HARMLESS:
            # Something else was tried, and did: let that fail too.
            stays = replace(fault, stays=True)
            tally.add(stays, run_with(index, scenario, problems, calls, stays))
    # When fences are waited for, asked and reset is a matter of time.
    of_time = {"vkWaitForFences", "vkGetFenceStatus", "vkResetFences"}
    assert {fault.function for fault in planned} - reached <= of_time


def users(device: pwconv.Device, problems: Problems) -> Callable[[], None]:
    """Make a layer and a graph; return what calls them, each time at two sizes."""
    layer = pwconv.PointwiseConv2d(problems.weight, problems.bias, device=device)
    graph = _graph(device, problems)

    def use() -> None:
        problems.check(layer(problems.x))
        problems.check(layer(device.tensor(problems.x)).numpy())
        for x in (problems.x, problems.taller):
            graph.resize(x=x.shape)
            handle = graph.run_async(x=x)
            tensor = device.tensor(x, storage=graph.storage)
            problems.check_graph(x, graph.run(x=tensor)["y"].numpy())
            problems.check_graph(x, handle.wait()["y"])

    return use


@pytest.mark.parametrize("uses_before", [pytest.param(0, marks=pytest.mark.exhaustive), 1])
def test_the_same_layer_and_graph_go_on(device, problems, calls, tally, uses_before):
    """Whatever a failed call has left half done, the next one sets right.

    Used before, a graph goes back to a size whose intermediates have since moved.
    """
    index = device.info.index
    with pwconv.Device(index, validate=True) as own:
        use = users(own, problems)
        for _ in range(uses_before):
            use()
        calls.expect(None)
        use()
        planned = faults(calls, thorough=False)
        del use
    assert len(planned) > 10
    for fault in planned:
        if fault.result == vulkan.DEVICE_LOST:
            continue
        # What would only be tried again, fails for good.
        with pwconv.Device(index, validate=True) as own:
            use = users(own, problems)
            for _ in range(uses_before):
                use()
            tally.add(fault, attempt(calls, replace(fault, stays=True), use))
            use()
            use()
            del use
            assert_nothing_is_left(own, calls)
        assert calls.existing() == {}, fault


def test_opening_fails_at_any_call(device, problems, calls, tally):
    index = device.info.index

    calls.expect(None)
    with pwconv.Device(index, validate=True):
        planned = faults(calls)
    assert len(planned) > 40
    for fault in planned:
        outcome = attempt(calls, fault, lambda: pwconv.Device(index, validate=True).close())
        tally.add(fault, outcome)
        assert outcome == "error", fault
        gc.collect()
        assert calls.existing() == {}, fault
    with pwconv.Device(index, validate=True) as opened:
        layer_on_arrays(opened, problems)


@pytest.mark.parametrize("stays", [False, True])
def test_closing_fails_at_any_call(device, problems, calls, tally, stays):
    """With work in flight: whatever fails, closing once more frees everything."""
    index = device.info.index

    def open_busy() -> pwconv.Device:
        opened = pwconv.Device(index, validate=True)
        layer = pwconv.PointwiseConv2d(problems.weight, device=opened)
        layer(opened.tensor(problems.x))
        return opened

    opened = open_busy()
    calls.expect(None)
    opened.close()
    planned = faults(calls)
    # Called where waiting by a fence has failed.
    planned += [Fault("vkDeviceWaitIdle", 1, r) for r in RESULTS["vkDeviceWaitIdle"]]
    for fault in planned:
        if stays and fault.result in HARMLESS:
            continue  # work that never ends is waited for, until Ctrl-C
        fault = replace(fault, stays=stays)
        opened = open_busy()
        outcome = attempt(calls, fault, opened.close)
        tally.add(fault, outcome)
        assert opened.closed
        opened.close()
        assert calls.existing() == {}, fault
        with pytest.raises(pwconv.ClosedError):
            opened.synchronize()


def test_waiting_by_fence_and_for_idle_both_fail(device, problems, calls):
    opened = pwconv.Device(device.info.index, validate=True)
    layer = pwconv.PointwiseConv2d(problems.weight, device=opened)
    tensor = layer(opened.tensor(problems.x))
    real = inside.queue_wait(inside.context(opened).queue)

    def fail(_serial: int) -> None:
        raise pwconv.OutOfMemoryError("vkCreateFence: VkErrorOutOfHostMemory")

    setattr(inside.context(opened).queue, inside.WAIT, fail)
    fault = Fault("vkDeviceWaitIdle", 1, vulkan.OUT_OF_HOST_MEMORY)
    assert attempt(calls, fault, opened.close) == "error"
    assert calls.existing()["vkCreateDevice"] == 1  # it may still be at work
    setattr(inside.context(opened).queue, inside.WAIT, real)
    with pytest.raises(pwconv.ClosedError):
        tensor.numpy()
    opened.close()
    assert calls.existing() == {}


def test_garbage_collection_of_a_lost_device(device, problems, calls):
    opened = pwconv.Device(device.info.index, validate=True)
    fault = Fault("vkQueueSubmit", 2, vulkan.DEVICE_LOST)
    act = functools.partial(layer_on_tensors, opened, problems)
    assert attempt(calls, fault, act) == "error"
    del opened, act
    gc.collect()
    assert calls.existing() == {}


def test_the_default_device_is_replaced_when_it_is_lost(device, problems, calls, monkeypatch):
    monkeypatch.setenv("PWCONV_DEVICE", str(device.info.index))
    monkeypatch.setattr(*inside.slots.default, None)
    problems.check(pwconv.conv2d_pw(problems.x, problems.weight, problems.bias))
    fault = Fault("vkQueueSubmit", 1, vulkan.DEVICE_LOST)
    act = functools.partial(pwconv.conv2d_pw, problems.x, problems.weight, problems.bias)
    assert attempt(calls, fault, act) == "error"
    problems.check(act())
    pwconv.device.default_device().close()
    gc.collect()
    assert calls.existing() == {}


def test_a_result_of_no_known_name(device, problems, calls):
    with pwconv.Device(device.info.index) as opened:
        calls.expect(Fault("vkCreateImage", 1, -1234567))
        with pytest.raises(pwconv.PwconvError, match="vkCreateImage: unknown VkResult -1234567"):
            opened.empty((3, 2, 2), "float32", "texture3d")
        calls.expect(None)
        layer_on_arrays(opened, problems)
    assert calls.existing() == {}


@pytest.mark.parametrize("what", ["context.Queue", "context.StagingPool", "tune.tuner.Tuner"])
def test_what_fails_after_a_device_is_opened_closes_it(device, monkeypatch, what):
    def fail(*_: object) -> None:
        raise MemoryError

    pwconv.devices()
    with injected() as vulkan_calls:
        monkeypatch.setattr(f"pwconv.{what}", fail)
        with pytest.raises(MemoryError):
            pwconv.Device(device.info.index, validate=True)
        assert vulkan_calls.existing() == {}
