"""Files that go into a graph of a model and come out of it: arrays and images."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pwconv.documents import require_writable
from pwconv.dtypes import Array
from pwconv.errors import PwconvError
from pwconv.importer.build import reached
from pwconv.importer.model import Model

# Of an output [N, classes].
_FEWEST_CLASSES, _SHOWN_CLASSES = 2, 5
_ARRAYS = (".npy", ".npz")
_MOST_ARRAY_BYTES = 2**32  # in an archive, where a small file may be any number of them
_LONGEST_REASON = 200
_MOST_PIXELS = 2**28  # of an image, resized
_UNREADABLE = (
    *(ValueError, EOFError, KeyError, AttributeError, MemoryError, OverflowError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
# Lengths of the axis of channels: grey, RGB.
_CHANNELS = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Normalization:
    """How an image becomes an input: ``(pixel / 255 − mean) / std``, by channel.

    ``layout`` is "nchw", "nhwc", or "auto", which looks for the axis of 1 or 3.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "auto"


def read_inputs(
    model: Model,
    given: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    normalization: Normalization,
) -> dict[str, Array]:
    """Read the inputs of a model from files, ``NAME=FILE`` or, of a single input, ``FILE``.

    Raises
    ------
    PwconvError
        A file is no array and no image, or there is no such input.
    OSError
    """
    arrays: dict[str, Array] = {}
    needed = reached(model, list(model.inputs), model.outputs)
    for text in given:
        name = max((n for n in model.inputs if text.startswith(f"{n}=")), key=len, default="")
        if not name:
            name = text.partition("=")[0] if "=" in text else ""
        path = Path(text[len(name) + 1 :] if name else text)
        if not name and path.suffix == ".npz":
            found = _read_archive(path)
        else:
            if not name:
                if len(model.inputs) != 1:
                    raise PwconvError(
                        f"--input {text}: say of which input, NAME=FILE; {_inputs(model)}"
                    )
                (name,) = model.inputs
            if name not in model.inputs:
                raise PwconvError(f"--input {text}: there is no input {name!r}; {_inputs(model)}")
            if path.suffix in _ARRAYS:
                found = {name: _read_array(path)}
            else:
                found = {name: _read_image(path, name, model, shapes.get(name), normalization)}
        for name, array in found.items():
            if name not in model.inputs:
                raise PwconvError(f"--input {text}: there is no input {name!r}; {_inputs(model)}")
            if name in arrays:
                raise PwconvError(f"--input {text}: {name!r} is given twice; give it once")
            if shapes.get(name, array.shape) != array.shape:
                raise PwconvError(
                    f"--input {text}: {name!r} has shape {array.shape} there, and {shapes[name]} "
                    "by --shape; leave that out"
                )
            arrays[name] = array
    missing = [name for name in model.inputs if name in needed and name not in arrays]
    if missing:
        raise PwconvError(f"give --input {missing[0]}=FILE; {_inputs(model)}")
    return {name: array for name, array in arrays.items() if name in needed}


def check_shapes(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise unless every input has a shape where no file gives one; a batch is 1 if need be.

    Raises
    ------
    PwconvError
    """
    needed = reached(model, list(model.inputs), model.outputs)
    for name, declared in model.inputs.items():
        open_axes = declared is None or not all(isinstance(n, int) for n in declared[1:])
        if open_axes and name in needed and name not in shapes:
            raise PwconvError(
                f"the shape of {name!r} is not fixed: give --shape {name}=LENGTH,…; "
                f"{_inputs(model)}"
            )


def check_output(path: Path, outputs: Collection[str]) -> None:
    """Raise unless outputs of these names can be written there: before they are computed.

    Raises
    ------
    PwconvError
    """
    ending = path.suffix.lower()
    if ending != ".npz" and (ending != ".npy" or len(set(outputs)) != 1):
        raise PwconvError(f"--output {path}: it must end with .npz, or with .npy for one output")
    require_writable(path)


def write_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write outputs as .npz, or one of them as .npy.

    Raises
    ------
    OSError
    """
    if path.suffix.lower() == ".npy":
        (output,) = outputs.values()
        with path.open("wb") as file:
            np.save(file, output)
        return
    # As numpy.savez does, but that takes names for its own arguments.
    with zipfile.ZipFile(path, "w") as archive:
        for name, output in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, output)


def describe(outputs: Mapping[str, Array]) -> list[str]:
    """Return what outputs are, in lines: the largest of a classifier's, the shape of others."""
    lines = []
    for name, output in outputs.items():
        lines.append(f"{name}  {' × '.join(map(str, output.shape))}, {output.dtype}")
        if output.ndim == 2 and output.shape[1] >= _FEWEST_CLASSES:
            for i, row in enumerate(output):
                best = np.argsort(-row.astype(float), kind="stable")[:_SHOWN_CLASSES]
                shown = ", ".join(f"{c}: {row[c]:.4g}" for c in best)
                lines.append(f"  {i}  {shown}")
    return lines


def _inputs(model: Model) -> str:
    shown = ", ".join(
        f"{name} ({', '.join('?' if n is None else str(n) for n in shape or ())})"
        for name, shape in model.inputs.items()
    )
    return f"inputs are {shown}"


def _read_array(path: Path) -> Array:
    if path.suffix == ".npz":
        found = _read_archive(path)
        if len(found) != 1:
            raise PwconvError(f"{path} has {len(found)} arrays; give it without NAME=")
        return next(iter(found.values()))
    try:
        # Mapped first: a header may say any shape.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except _UNREADABLE as error:
        raise PwconvError(f"{path} cannot be read as an array: {_reason(error)}") from None


def _read_archive(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(each.file_size for each in archive.infolist())
        if size > _MOST_ARRAY_BYTES:
            raise PwconvError(
                f"{path} has {size:,} bytes of arrays; at most {_MOST_ARRAY_BYTES:,} are read"
            )
        with np.load(path, allow_pickle=False) as found:
            return {name: np.asarray(found[name]) for name in found.files}
    except _UNREADABLE as error:
        raise PwconvError(f"{path} cannot be read as arrays: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["it is too large"])[0][:_LONGEST_REASON]


def _read_image(
    path: Path,
    name: str,
    model: Model,
    shape: tuple[int, ...] | None,
    normalization: Normalization,
) -> Array:
    """Return an image at the size of an input, normalized unless that is of whole numbers."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise PwconvError(f"{path}: images are read by Pillow: pip install pillow") from None
    wanted: Sequence[Any] = shape or model.inputs[name] or ()
    if len(wanted) != 4:
        raise PwconvError(
            f"--input {name}={path}: it has shape {tuple(wanted)}; images have 4 axes"
        )
    last = normalization.layout == "nhwc" or (
        normalization.layout == "auto" and wanted[1] not in _CHANNELS and wanted[3] in _CHANNELS
    )
    channels, size = (wanted[3], wanted[1:3]) if last else (wanted[1], wanted[2:])
    other = wanted[1] if last else wanted[3]
    if not isinstance(channels, int) and other in _CHANNELS:
        raise PwconvError(
            f"--input {name}={path}: {_inputs(model)}, of which axis {1 if last else 3} is that of "
            f"channels; give --layout {'nchw' if last else 'nhwc'}"
        )
    if isinstance(channels, int) and channels not in _CHANNELS:
        raise PwconvError(
            f"--input {name}={path}: {name!r} has {channels} channels, and not 1 or 3"
        )
    depth = channels if isinstance(channels, int) else 3
    for option, numbers in (("--mean", normalization.mean), ("--std", normalization.std)):
        if len(numbers) not in (1, depth):
            raise PwconvError(
                f"{option} has {len(numbers)} numbers; {name!r} has channels: {depth}"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images, below
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened)
        if image.mode.startswith(("I", "F")):
            raise PwconvError(
                f"{path} has pixels of more than 8 bits, mode {image.mode}: give an .npy of them"
            )
        h, w = (
            n if isinstance(n, int) else own
            for n, own in zip(size, (image.height, image.width), strict=True)
        )
        if h * w > _MOST_PIXELS:
            raise PwconvError(
                f"--input {name}={path}: it would be {h:,} × {w:,}; at most {_MOST_PIXELS:,} "
                "pixels are made"
            )
        converted = image.convert(_CHANNELS[depth])
        pixels = np.asarray(converted.resize((w, h), Image.Resampling.BILINEAR))
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, Image.DecompressionBombError, *_UNREADABLE) as error:
        raise PwconvError(f"{path} cannot be read as an image: {_reason(error)}") from None
    pixels = pixels.reshape(h, w, -1)
    if model.types[name].kind not in "iub":
        scaled = pixels.astype(np.float32) / 255
        mean, std = (
            np.asarray(each, np.float32) for each in (normalization.mean, normalization.std)
        )
        pixels = (scaled - mean) / std
    return pixels[None] if last else pixels.transpose(2, 0, 1)[None]
