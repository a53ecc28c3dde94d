"""``pwconv tune`` on the command line: races over a workload, their verdicts kept."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from rich import box
from rich.table import Table

from pwconv.bench.options import (
    add_options,
    chosen_dtypes,
    chosen_layers,
    chosen_storages,
)
from pwconv.bench.ours import make_layer
from pwconv.bench.table import microseconds
from pwconv.bench.workloads import WORKLOADS, Layer
from pwconv.device import Device
from pwconv.errors import OutOfMemoryError, PwconvError, UnsupportedError
from pwconv.kernels.tiling import Choice
from pwconv.terminal import make_console, progress_bar
from pwconv.tuning.race import LEAST_GAIN, Outcome
from pwconv.tuning.store import Store
from pwconv.tuning.tuner import tuning_mode


def add_parser(commands: Any) -> None:
    """Add the command to a parser's."""
    tune = commands.add_parser(
        "tune", help="measure every variant of a workload's layers, and keep the fastest"
    )
    # Not those of graphs, whose convolutions other workloads have: tune edgetam, bench its mixers.
    add_options(tune, list(WORKLOADS))
    tune.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> bool:
    console = make_console()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("layer", "dtype", "storage"):
        table.add_column(heading, no_wrap=True)
    for heading in ("default", "winner"):
        table.add_column(heading, overflow="fold")
        table.add_column("µs", justify="right", no_wrap=True)
    table.add_column("gain", justify="right")
    failures = []
    with Device(options.device) as device:
        say(f"device {device.info}")
        store = device._tuner.store
        _, layers = chosen_layers(options)
        storages = chosen_storages(options, device)
        runs = list(itertools.product(layers, chosen_dtypes(options), storages))
        try:
            store.add({})  # before an hour of measuring rather than after it
        except OSError as error:
            raise _unwritable(store, error) from None
        unwritable = None
        with progress_bar(console) as progress:
            task = progress.add_task("", total=len(runs))
            for layer, dtype, storage in runs:
                what = f"{layer} {dtype} {storage}"
                progress.update(task, description=what)
                try:
                    outcome = _tune(device, layer, dtype, storage)
                except (UnsupportedError, OutOfMemoryError) as error:
                    failures.append(f"{what}: {error}")
                except OSError as error:
                    unwritable = _unwritable(store, error)
                    break
                else:
                    table.add_row(str(layer), dtype, storage, *_cells(outcome))
                progress.advance(task)
        count = len(store.read())
    console.print(table)
    for failure in failures:
        say(f"failed {failure}")
    say(
        "µs     median ± half the distance of the quartiles, in %\n"
        f"gain   the fastest rival against the default, the two run in turns; it wins where it is "
        f"{LEAST_GAIN:.0%} faster or more\n"
        "       and the quartiles lie apart, else the default stands"
    )
    if tuning_mode() == "off":
        say("note   PWCONV_TUNE is off: layers will not use what was found")
    say(f"kept   {count} {'verdict' if count == 1 else 'verdicts'} in {store.file}")
    if unwritable:  # after what was found before
        raise unwritable
    return table.row_count > 0


def _unwritable(store: Store, error: OSError) -> PwconvError:
    return PwconvError(f"{store.file} cannot be written: {error}")


def _tune(device: Device, layer: Layer, dtype: str, storage: str) -> Outcome:
    module = make_layer(device, layer, dtype, storage)
    x_shape = (layer.batch, layer.k, layer.h, layer.w)
    out_shape, _ = module._choose_storage(x_shape, (storage,))  # raises where it is too large
    return device._tuner.tune(module._task(storage, x_shape, out_shape))


def _cells(outcome: Outcome) -> tuple[str, ...]:
    winner, sample = outcome.winner
    default = (_label(outcome.default), microseconds(outcome.default_time))
    if outcome.rival_wins:
        ratio = outcome.default_time.median / sample.median
        return (*default, _label(winner), microseconds(sample), f"{ratio:.2f}×")
    if not outcome.held:
        return (*default, "", "", "clocks did not hold")
    return (*default, "the default", "", "noise" if outcome.gain >= LEAST_GAIN else "none")


def _label(choice: Choice) -> str:
    variant = choice.variant
    shape = "" if variant.workgroup else " " + "×".join(map(str, choice.workgroup))
    family = variant.family.removeprefix("conv2d_pw_").replace("_", " ")
    return f"{family} {variant.axes['tile']}{shape}"
