"""What ``pwconv bench`` and ``pwconv tune`` have in common: their options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pwconv.bench import ours
from pwconv.bench.workloads import Layer, parse_shape, workload
from pwconv.device import Device
from pwconv.errors import UnsupportedError

_DTYPES = ("float32", "float16")


def add_options(parser: argparse.ArgumentParser, workloads: Sequence[str]) -> None:
    """Add what says which of so many workloads, or which layers, to measure, and on what."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "-w",
        "--workload",
        choices=workloads,
        help="what to measure; by default edgetam",
    )
    what.add_argument(
        "-s",
        "--shape",
        dest="shapes",
        action="append",
        type=_shape,
        metavar="K,N,H,W[,BATCH]",
        help="C_in, C_out, height and width of a layer to measure; may be repeated",
    )
    parser.add_argument(
        "-d",
        "--device",
        help="index, or part of a name; by default $PWCONV_DEVICE, or the first GPU",
    )
    parser.add_argument(
        "--dtype", dest="dtypes", action="append", choices=_DTYPES, help="by default both"
    )
    parser.add_argument(
        "--storage",
        dest="storages",
        action="append",
        metavar="STORAGE",
        help="of activations; by default every one that the layers take",
    )


def chosen_layers(options: argparse.Namespace) -> tuple[str, list[Layer]]:
    """Return the workload's name, or the shapes that were given, and its layers."""
    if options.shapes:
        return " ".join(map(str, options.shapes)), options.shapes
    name = options.workload or "edgetam"
    return name, workload(name)


def chosen_dtypes(options: argparse.Namespace) -> Sequence[str]:
    """Return the types to measure."""
    return options.dtypes or _DTYPES


def chosen_storages(options: argparse.Namespace, device: Device) -> Sequence[str]:
    """Return the storages to measure.

    Raises
    ------
    UnsupportedError
        One that layers on the device do not take.
    """
    able = ours.storages(device)
    for storage in options.storages or ():
        if storage not in able:
            raise UnsupportedError(
                f"--storage is {storage!r}; layers on {device.info.name} take {', '.join(able)}"
            )
    return options.storages or able


def _shape(text: str) -> Layer:
    try:
        return parse_shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
