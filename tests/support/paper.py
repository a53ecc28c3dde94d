"""Devices on paper: what one says of itself, from a file, and no Vulkan behind it.

Layers and graphs are made and planned on them as on any other; nothing can be run. What of pwconv
would reach Vulkan on the way is replaced, so that everything else is what a real device has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pwconv
from pwconv.context import Context
from pwconv.layout import buffer_bytes
from pwconv.tensor import VK_FORMATS
from pwconv.tune.tuner import Tuner
from pwconv.vk.cooperative_matrix import Matrix
from pwconv.vk.physical_device import ImageLimit
from pwconv.vk.resources import Buffer, Image, Requirements, image_limit
from pwconv.weights import packed_storage
from support import inside

_uids = count()


class PaperBuffer(Buffer):
    def __init__(self, device: Any = None, size: int = 0, *_: Any) -> None:
        self.size, self.uid, self.mapped = size, next(_uids), None


class PaperImage(Image):
    def __init__(self) -> None:
        self.size, self.uid = 0, next(_uids)


class PaperScratch:
    """The memory of a graph's intermediates."""

    def __init__(self, device: Any) -> None:
        self.reserved = 0

    def requirements(self, storage: str, shape: Any, dtype: Any) -> Requirements:
        return Requirements(buffer_bytes(shape, dtype.itemsize), 1, 1)

    def arena(self, storage: str, wanted: Requirements) -> Any:
        return PaperBuffer()

    def resource(self, storage: str, *_: Any) -> PaperBuffer:
        return PaperBuffer()


def read(file: Path) -> tuple[pwconv.DeviceInfo, dict[tuple[int, int], ImageLimit | None]]:
    """Return a device's description, and its largest images by format and dimensions."""
    document = json.loads(file.read_text())
    largest = document.pop("images")
    images = {
        (VK_FORMATS[dtype], dimensions): ImageLimit(tuple(found[:3]), found[3]) if found else None
        for dtype in VK_FORMATS
        for dimensions in (2, 3)
        for found in [largest[f"{dtype} {dimensions}D"]]
    }
    as_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in document["limits"].items()}
    info = pwconv.DeviceInfo(
        **{
            **document,
            "limits": as_tuples,
            "features": frozenset(document["features"]),
            "extensions": frozenset(document["extensions"]),
            "matrices": tuple(Matrix(**matrix) for matrix in document["matrices"]),
        }
    )
    return info, images


def write(device: pwconv.Device, file: Path) -> None:
    """Write what :func:`read` takes."""
    document = asdict(device.info)
    for name in ("features", "extensions"):
        document[name] = sorted(document[name])
    document["images"] = {
        f"{dtype} {dimensions}D": [*found.extent, found.size] if found else None
        for dtype, vk_format in VK_FORMATS.items()
        for dimensions in (2, 3)
        for found in [image_limit(inside.context(device), vk_format, dimensions)]
    }
    text = json.dumps(document, indent=1)
    # A line for each limit and each matrix; lists of names and numbers in one.
    text = re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda flat: " ".join(flat[0].split()), text)
    file.write_text(text.replace("[ ", "[").replace(" ]", "]") + "\n")


@contextmanager
def device(file: Path) -> Iterator[pwconv.Device]:
    """Have the device that a file describes; what is made on it is of use meanwhile."""
    info, images = read(file)
    context = inside.paper_context(
        info,
        physical=SimpleNamespace(image_limits=images),
        pipelines=SimpleNamespace(get=lambda *_: None),
        enter=lambda: None,
        queue=SimpleNamespace(submit_again=None),
    )
    made = object.__new__(pwconv.Device)
    inside.set_parts(made, context, Tuner(context, "off"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*inside.slots.pack_weight, _pack)
        patch.setattr(*inside.slots.parameter_buffer, PaperBuffer)
        patch.setattr(*inside.slots.parameter_upload, lambda *_: None)
        patch.setattr(*inside.slots.scratch, PaperScratch)
        patch.setattr(*inside.slots.unpack_rows, lambda *_: PaperBuffer())
        yield made


def _pack(
    context: Context, weight: Any, shape: Any, transposed: bool, dtype: Any, storage: str
) -> PaperBuffer | PaperImage:
    found = packed_storage(context, shape, dtype, storage)
    return PaperImage() if found == "texture2d" else PaperBuffer()
