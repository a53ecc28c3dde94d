"""Compute pipelines, made on first use and kept in memory and on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pwconv.errors import PwconvError
from pwconv.vk import api as vk
from pwconv.vk import process
from pwconv.vk.core import Core

# A driver's compiler takes memory, some hundred megabytes at times.
_MOST_COMPILERS = 32

_DESCRIPTOR_TYPES = {"sampled_image": 2, "storage_image": 3, "storage_buffer": 7}


OnProgress = Callable[[int, int], object]
"""Told how many pipelines were compiled, and of how many that are known to be needed."""

_T = TypeVar("_T")
_Key = tuple[Any, ...]
# Not a state of the cache: it ends with the context, whatever is raised at whichever line.
_LACKING: ContextVar[dict[_Key, Callable[[], object]] | None] = ContextVar("_LACKING", default=None)


class NotCompiledError(Exception):
    """A pipeline is not compiled yet; :func:`compile_together` does it, and asks again."""


class Pipeline:
    """A shader with its specialization constants set.

    Attributes
    ----------
    descriptor_types : list of int
        VkDescriptorType of each binding, in order.
    """

    __slots__ = ("_core", "_made", "descriptor_types", "handle", "layout", "set_layout")

    def __init__(
        self,
        core: Core,
        cache: Any,
        code: bytes,
        descriptor_types: Sequence[str],
        push_constant_size: int,
        constants: Mapping[int, int],
    ) -> None:
        self._core = core
        self.descriptor_types = [_DESCRIPTOR_TYPES[name] for name in descriptor_types]
        with ExitStack() as made:
            self.set_layout = vk.make(
                made, "DescriptorSetLayout", core.handle, self._set_layout_info()
            )
            self.layout = vk.make(
                made, "PipelineLayout", core.handle, self._layout_info(push_constant_size)
            )
            made.callback(
                vk.vkDestroyPipeline,
                core.handle,
                handle := self._make_pipeline(cache, code, constants),
                None,
            )
            self.handle = handle
            self._made = made.pop_all()

    def destroy(self) -> None:
        """Destroy the pipeline and its layouts."""
        self._made.close()

    def _set_layout_info(self) -> Any:
        bindings = [
            vk.VkDescriptorSetLayoutBinding(
                binding=binding,
                descriptorType=kind,
                descriptorCount=1,
                stageFlags=vk.VK_SHADER_STAGE_COMPUTE_BIT,
            )
            for binding, kind in enumerate(self.descriptor_types)
        ]
        return vk.VkDescriptorSetLayoutCreateInfo(pBindings=bindings)

    def _layout_info(self, push_constant_size: int) -> Any:
        ranges = [
            vk.VkPushConstantRange(
                stageFlags=vk.VK_SHADER_STAGE_COMPUTE_BIT, size=push_constant_size
            )
        ]
        set_layouts = [self.set_layout]
        return vk.VkPipelineLayoutCreateInfo(
            pSetLayouts=set_layouts, pPushConstantRanges=ranges if push_constant_size else None
        )

    def _make_pipeline(self, cache: Any, code: bytes, constants: Mapping[int, int]) -> Any:
        device = self._core.handle
        module_info = vk.VkShaderModuleCreateInfo(codeSize=len(code), pCode=code)
        with ExitStack() as made:
            module = vk.make(made, "ShaderModule", device, module_info)
            entries = [
                vk.VkSpecializationMapEntry(constantID=identifier, offset=4 * position, size=4)
                for position, identifier in enumerate(constants)
            ]
            values = vk.ffi.new("uint32_t[]", list(constants.values()))
            specialization = vk.VkSpecializationInfo(
                pMapEntries=entries, dataSize=4 * len(entries), pData=values
            )
            stage = vk.VkPipelineShaderStageCreateInfo(
                stage=vk.VK_SHADER_STAGE_COMPUTE_BIT,
                module=module,
                pName="main",
                pSpecializationInfo=specialization,
            )
            info = vk.VkComputePipelineCreateInfo(stage=stage, layout=self.layout)
            return vk.vkCreateComputePipelines(device, cache, 1, [info], None)[0]


class PipelineCache:
    """VkPipelineCache with a file behind it.

    Its name tells the device, the driver build and pwconv's version; a file that does not fit is
    ignored and replaced.

    Parameters
    ----------
    file : Path
        File of the cache.
    """

    def __init__(self, core: Core, file: Path) -> None:
        # Whoever opens no device needs none of it; close finds it imported.
        from pwconv.cache import read_pipelines

        self._core = core
        self._file = file
        self._pipelines: dict[_Key, Pipeline] = {}
        # A lock for each pipeline, held while it is compiled. Not the device's lock: a thread that
        # waits here may hold that one, and compiling needs no other.
        self._locks: dict[_Key, Any] = {}
        self._saved = data = read_pipelines(file)
        info = vk.VkPipelineCacheCreateInfo(
            initialDataSize=len(data), pInitialData=vk.ffi.from_buffer(data) if data else None
        )
        self._handle = vk.vkCreatePipelineCache(core.handle, info, None)

    def get(
        self,
        name: str,
        code: bytes,
        descriptor_types: Sequence[str],
        push_constant_size: int,
        constants: Mapping[int, int],
    ) -> Pipeline:
        """Return the pipeline of shader ``name`` under these constants, made if need be.

        Compiling takes no lock of the device: other threads submit meanwhile, and compile other
        pipelines. Other threads that want the same pipeline wait for it.

        Raises
        ------
        ClosedError, DeviceLostError
        BusyError
            A signal handler or a finalizer interrupted this thread while it compiles this one.
        NotCompiledError
            Inside :func:`compile_together`.
        """
        key = (name, *constants.items())
        pipeline = self._pipelines.get(key)
        if pipeline is not None:
            return pipeline
        if (lacking := _LACKING.get()) is not None:
            lacking[key] = partial(
                self.get, name, code, descriptor_types, push_constant_size, constants
            )
            raise NotCompiledError
        lock = self._locks.setdefault(key, process.make_lock())
        process.enter(lock, f"the compilation of {name}")
        with self._core.in_use(), lock:
            pipeline = self._pipelines.get(key)
            if pipeline is not None:
                return pipeline
            # Where it fails, it is tried again.
            pipeline = self._pipelines[key] = Pipeline(
                self._core, self._handle, code, descriptor_types, push_constant_size, constants
            )
        with self._core.lock:
            self._core.check()
        return pipeline

    def close(self) -> None:
        """Write the cache file if it changed, and destroy every pipeline."""
        if self._pipelines:
            self._save()
        for pipeline in self._pipelines.values():
            pipeline.destroy()
        self._pipelines.clear()
        vk.vkDestroyPipelineCache(self._core.handle, self._handle, None)

    def _save(self) -> None:
        from pwconv.cache import write_pipelines

        # Without it the next start takes longer, and nothing else.
        with suppress(PwconvError):
            data = vk.pipeline_cache_data(self._core.handle, self._handle)
            if data != self._saved:
                write_pipelines(self._file, data)


def compile_together(
    plan: Callable[[int], _T],
    numbers: Sequence[int],
    on_progress: OnProgress = lambda *_: None,
) -> dict[int, _T]:
    """Call a function for each number, and return its results; compile what it lacks in threads.

    Parameters
    ----------
    plan : callable
        It is called again where :meth:`PipelineCache.get` did not have a pipeline.
    numbers : sequence of int
    on_progress : callable
    """
    planned: dict[int, _T] = {}
    compiled = 0
    while requests := _lacking(plan, numbers, planned):
        total = compiled + len(requests)
        for _ in _in_threads(requests):
            compiled += 1
            on_progress(compiled, total)
    return {i: planned[i] for i in numbers}


@contextmanager
def compile_ahead(plan: Callable[[int], object], numbers: Sequence[int]) -> Iterator[None]:
    """Compile what a function for each number lacks, in threads, while the block runs.

    What is not begun by its end is left to :func:`compile_together`, and what fails fails there.
    """
    requests = _lacking(plan, numbers, {})
    if not requests:
        yield
        return
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(compiler_threads(), "pwconv-compile")
    try:
        for request in requests:
            pool.submit(request)
        yield
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _lacking(
    plan: Callable[[int], _T], numbers: Sequence[int], planned: dict[int, _T]
) -> list[Callable[[], object]]:
    """Plan what is not planned yet, and return the calls that compile what it lacks."""

    def find() -> list[Callable[[], object]]:
        found: dict[_Key, Callable[[], object]] = {}
        _LACKING.set(found)
        for i in numbers:
            if i not in planned:
                with suppress(NotCompiledError):
                    planned[i] = plan(i)
        return list(found.values())

    return copy_context().run(find)


def compiler_threads() -> int:
    """Return how many threads compile: as many as processors, where memory allows it."""
    return min(os.cpu_count() or 1, _MOST_COMPILERS)


def at_once(function: Callable[..., _T], *arguments: object) -> _T:
    """Call what needs its pipelines when it asks for them, inside :func:`compile_together` too."""
    return Context().run(function, *arguments)


def _in_threads(calls: Sequence[Callable[[], object]]) -> Iterator[object]:
    """Yield the results of calls as they come, made in as many threads as there are processors."""
    if len(calls) == 1:
        yield calls[0]()
        return
    from concurrent.futures import ThreadPoolExecutor, as_completed

    with ThreadPoolExecutor(compiler_threads(), "pwconv-compile") as pool:
        try:
            for done in as_completed([pool.submit(call) for call in calls]):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
