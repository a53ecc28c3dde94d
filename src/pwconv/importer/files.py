"""Files that go into a graph of a model and come out of it: arrays and images."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pwconv.dtypes import Array
from pwconv.errors import PwconvError
from pwconv.importer.model import Model

# Of an output [N, classes].
_FEWEST_CLASSES, _SHOWN_CLASSES = 2, 5
_ARRAYS = (".npy", ".npz")
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
    for text in given:
        name, separator, rest = text.partition("=")
        path = Path(rest if separator else text)
        if not separator and path.suffix == ".npz":
            arrays |= _read_archive(path)
            continue
        if not separator:
            if len(model.inputs) != 1:
                raise PwconvError(
                    f"--input {text}: say of which input, NAME=FILE; {_inputs(model)}"
                )
            (name,) = model.inputs
        if name not in model.inputs:
            raise PwconvError(f"--input {text}: there is no input {name!r}; {_inputs(model)}")
        if path.suffix in _ARRAYS:
            arrays[name] = _read_array(path)
        else:
            arrays[name] = _read_image(path, name, model, shapes.get(name), normalization)
    missing = [name for name in model.inputs if name not in arrays]
    if missing:
        raise PwconvError(f"give --input {missing[0]}=FILE; {_inputs(model)}")
    return arrays


def write_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write outputs as .npz, or one of them as .npy.

    Raises
    ------
    PwconvError
    OSError
    """
    if path.suffix == ".npy" and len(outputs) == 1:
        (output,) = outputs.values()
        np.save(path, output)
    elif path.suffix == ".npz":
        np.savez(path, **outputs)  # type: ignore[arg-type]  # which takes keywords besides
    else:
        raise PwconvError(f"--output {path}: it must end with .npz, or with .npy for one output")


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
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise PwconvError(f"{path} cannot be read as an array: {error}") from None
    if isinstance(found, np.ndarray):
        return found
    if len(found.files) != 1:
        raise PwconvError(f"{path} has {len(found.files)} arrays; give it without NAME=")
    return np.asarray(found[found.files[0]])


def _read_archive(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: np.asarray(found[name]) for name in found.files}
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise PwconvError(f"{path} cannot be read as arrays: {error}") from None


def _read_image(
    path: Path,
    name: str,
    model: Model,
    shape: tuple[int, ...] | None,
    normalization: Normalization,
) -> Array:
    """Return an image at the size of an input, normalized unless that is of whole numbers."""
    try:
        from PIL import Image, UnidentifiedImageError
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
    try:
        with Image.open(path) as image:
            converted = image.convert(_CHANNELS.get(channels, "RGB"))
            h, w = (
                n if isinstance(n, int) else own
                for n, own in zip(size, (image.height, image.width), strict=True)
            )
            pixels = np.asarray(converted.resize((w, h), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise PwconvError(f"{path} cannot be read as an image: {error}") from None
    pixels = pixels.reshape(h, w, -1)
    if model.types[name].kind == "f":
        scaled = pixels.astype(np.float32) / 255
        mean, std = (
            np.asarray(each, np.float32) for each in (normalization.mean, normalization.std)
        )
        pixels = (scaled - mean) / std
    return pixels[None] if last else pixels.transpose(2, 0, 1)[None]
