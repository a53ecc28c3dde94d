"""The command line: ``pwconv``, or ``python -m pwconv``.

The needs of a single command are imported when it runs: ``pwconv --version`` is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import math
import os
import sys
import warnings
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pwconv
from pwconv.cache import cache_problem, cache_root
from pwconv.deny_list import DenyList
from pwconv.device import choose_device, open_context, require_devices
from pwconv.documents import require_writable, write_document, write_text
from pwconv.tune.store import Store
from pwconv.tune.tuner import tuning_mode

if TYPE_CHECKING:
    from pwconv.bench.cases import Shape
    from pwconv.heuristics import Choice
    from pwconv.tune.tuner import Outcome
    from pwconv.verify.run import Result, Verification

_DTYPES = ("float32", "float16")
_STORAGES = ("texture3d", "buffer")

_SHOWN_LIMITS = (
    "maxImageDimension2D",
    "maxImageDimension3D",
    "maxStorageBufferRange",
    "maxMemoryAllocationSize",
    "maxComputeSharedMemorySize",
    "maxComputeWorkGroupInvocations",
    "maxComputeWorkGroupSize",
    "maxComputeWorkGroupCount",
    "subgroupSize",
)
_LONGEST_REASON = 80  # of a denial, in characters

_INFO = """\
List the Vulkan devices and what they can do.

Of each device: limits, features, the file of its tuning, and what is on its
deny list.

example: pwconv info"""

_VERIFY = """\
Check every kernel that the device can run against float64.

Each variant runs small problems, and every element is held to a bound. The
exit status is 0 when nothing fails.

example: pwconv verify --only conv2d_pw_staged --json verify.json"""

_TUNE = """\
Measure every variant of pointwise layers, and keep the fastest.

What is found is kept in the user's cache folder; layers use it as PWCONV_TUNE
says. --export writes all that is kept of the device in the form of
heuristics.toml, for others with such a device.

example: pwconv tune --shape 96,192,128,128 --dtype float16 --export card.toml"""

_BENCH = """\
Measure graphs against the device's own ceilings.

Each shape is a graph of one node; without shapes, EdgeTAM's pointwise layers
and RepViT-M1's trunk are measured. The device's rates of copying and
multiplying give the least time of each; then comes what the host costs.

example: pwconv bench --shape 96,192,128,128 --json bench.json"""


_RUN = """\
Run a model of ONNX on files: images and arrays.

Images are resized to the input, and become (pixel / 255 - mean) / std; .npy
and .npz are taken as they are. The most likely classes of a classifier are
printed, and the shapes of other outputs.

example: pwconv run model.onnx --input x=photo.jpg --output y.npz"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error is one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # rather than end for a × that it cannot show
    try:
        try:
            options = parse_arguments(arguments)
            status = 0 if options.run(options) else 1
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
        _complain("interrupted")
    except BrokenPipeError:
        status = 1  # the reader of the pipe closed it
    except OSError as error:
        status = 1
        # Those of files have their name.
        where = "" if error.filename or not error.errno else "the output cannot be written: "
        _complain(f"error: {where}{error}")
    except pwconv.PwconvError as error:
        status = 1
        _complain(f"error: {error}")
    _give_up_output()
    raise SystemExit(status)


def _complain(text: str) -> None:
    from pwconv.terminal import make_console

    with contextlib.suppress(OSError):
        make_console(sys.stderr).print(text, style="red", soft_wrap=True)


def _give_up_output() -> None:
    """Drop unwritten output; otherwise the interpreter complains of it at exit."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options; ``run`` is the command, which takes them."""
    parser = argparse.ArgumentParser("pwconv", description=pwconv.__doc__)
    parser.add_argument("--version", action="version", version=f"pwconv {pwconv.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], bool], text: str
    ) -> argparse.ArgumentParser:
        """Add a command; the text's first line describes it in the list of commands."""
        command = commands.add_parser(
            name,
            help=text[0].lower() + text.partition(".\n")[0][1:],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    add("info", _info, _INFO)
    verify = add("verify", _verify, _VERIFY)
    tune = add("tune", _tune, _TUNE)
    bench = add("bench", _bench, _BENCH)
    run = add("run", _run, _RUN)
    for command in (verify, tune, bench, run):
        command.add_argument(
            "-d",
            "--device",
            help="index, or part of a name; by default $PWCONV_DEVICE, or the first GPU",
        )
    verify.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PART",
        help="verify the variants whose names contain this; may be repeated",
    )
    lists = verify.add_mutually_exclusive_group()
    lists.add_argument(
        "--deny",
        action="store_true",
        help="put what fails on the device's deny list, and take off it what passes: layers and "
        "graphs never run what is on it",
    )
    lists.add_argument(
        "--allow-all",
        action="store_true",
        help="remove the device's deny list, and verify nothing",
    )
    either = bench.add_mutually_exclusive_group()
    for group in (tune, either):
        group.add_argument(
            "-s",
            "--shape",
            dest="shapes",
            action="append",
            type=_shape,
            metavar="K,N,H,W[,BATCH]",
            help="C_in, C_out, height and width of a pointwise convolution; may be repeated; by "
            "default those of EdgeTAM",
        )
    either.add_argument(
        "--size",
        type=int,
        help="H and W of the image for RepViT-M1's trunk, which is measured where no shape is "
        "given; by default 1024",
    )
    for command in (tune, bench):
        command.add_argument(
            "--dtype", dest="dtypes", action="append", choices=_DTYPES, help="by default both"
        )
        command.add_argument(
            "--storage",
            dest="storages",
            action="append",
            choices=_STORAGES,
            help="of activations; by default both",
        )
    tune.add_argument(
        "--export", type=Path, metavar="FILE", help="write what is kept of the device as TOML"
    )
    bench.add_argument("--no-host", action="store_true", help="leave the host's cost out")
    for command in (verify, bench):
        command.add_argument("--json", type=Path, metavar="FILE", help="write everything found")
    run.add_argument("model", type=Path)
    run.add_argument(
        "-i",
        "--input",
        dest="inputs",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="an image, .npy or .npz; the name may be left out of a single input; may be repeated",
    )
    run.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write all outputs: .npz, or .npy of one"
    )
    run.add_argument(
        "--shape",
        dest="shapes",
        action="append",
        default=[],
        type=_named_shape,
        metavar="NAME=N,C,H,W",
        help="shape of an input that is not fixed; by default that of its file; may be repeated",
    )
    run.add_argument("--dtype", choices=_DTYPES, help="by default the model's")
    run.add_argument("--storage", choices=_STORAGES, help="of activations; by default the faster")
    for name, text, kind in (("mean", "0", _numbers), ("std", "1", _divisors)):
        run.add_argument(
            f"--{name}",
            type=kind,
            default=(float(text),),
            metavar="R,G,B",
            help=f"of an image's channels, from 0 to 1; by default {text}",
        )
    run.add_argument(
        "--layout",
        choices=("auto", "nchw", "nhwc"),
        default="auto",
        help="where an image's channels lie; by default where the input has 1 or 3",
    )
    shown = run.add_mutually_exclusive_group()
    shown.add_argument("--summary", action="store_true", help="list the nodes, and run nothing")
    shown.add_argument(
        "--check", action="store_true", help="compare each node with float64, and its bound"
    )
    shown.add_argument("--profile", action="store_true", help="list the nodes with their times")
    return parser.parse_args(arguments)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers, as 0.5,0.5,0.5") from None
    if len(numbers) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text!r} is {len(numbers)} numbers; give 1 or 3")
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is not finite")
    return numbers


def _divisors(text: str) -> tuple[float, ...]:
    numbers = _numbers(text)
    if not all(numbers):
        raise argparse.ArgumentTypeError(f"{text!r} has a 0, by which nothing can be divided")
    return numbers


def _named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, separator, rest = text.rpartition("=")
    try:
        shape = tuple(int(part) for part in rest.split(","))
    except ValueError:
        shape = ()
    if not separator or min(shape, default=0) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not as x=1,3,480,640")
    return name, shape


def _shape(text: str) -> Shape:
    from pwconv.bench.cases import parse_shape

    try:
        return parse_shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _info(_: argparse.Namespace) -> bool:
    from rich.table import Table

    from pwconv.terminal import make_console, show

    found = pwconv.devices()
    require_devices(found)
    table = Table("", *(f"{device.index}" for device in found))
    for row in zip(*(_properties(device).items() for device in found), strict=True):
        table.add_row(row[0][0], *(value for _, value in row))
    console = make_console()
    show(console, table)
    problem = cache_problem()
    show(
        console,
        f"cache: nothing is kept between runs: {problem}" if problem else f"cache: {cache_root()}",
    )
    for device in found:
        show(console, _tuning(device), *_denied(device))
    return True


def _properties(device: pwconv.DeviceInfo) -> dict[str, str]:
    """Return what a device is and can do, by name."""
    ids = f"{device.vendor_id:#x}, {device.device_id:#x}, {device.driver_id}"
    matrices = [str(matrix) for matrix in device.matrices if not matrix.flexible]
    return {
        "name": device.name,
        "type": device.type,
        "driver": device.driver,
        "vendor, device, driver": ids,
        "UUID": device.uuid or "unknown",
        "Vulkan": device.api_version,
        "usable": f"no: {device.problem}" if device.problem else "yes",
        "fp16 arithmetic": "yes" if "shaderFloat16" in device.features else "no",
        "matrix products": "\n".join(matrices or ["none"]),
        **{limit: _number(device.limits[limit]) for limit in _SHOWN_LIMITS},
    }


def _tuning(device: pwconv.DeviceInfo) -> str:
    """Return where the tuning results of a device are, and whether layers use them."""
    from pwconv.terminal import counted

    mode = f"PWCONV_TUNE={tuning_mode()}"
    store = Store(device)
    winners, problem = store.examine()
    start = f"tuning {device.index}: {store.file}"
    if problem:
        return f"{start} is ignored: {problem} ({mode})"
    if not os.path.lexists(store.file):
        made = "" if cache_problem() else "; 'pwconv tune' makes it"
        return f"{start} does not exist ({mode}){made}"
    used = "not used" if tuning_mode() == "off" else "used"
    return f"{start}, {counted(len(winners), 'winner')}, {used} ({mode})"


def _denied(device: pwconv.DeviceInfo) -> list[str]:
    """Return which variants are not run on a device, and why."""
    deny_list = DenyList(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            denials = deny_list.read()
        except pwconv.PwconvError as error:
            return [f"denied {device.index}: the device cannot be opened: {error}"]
    if caught:
        return [f"denied {device.index}: {caught[0].message}"]
    if not denials:
        return [f"denied {device.index}: nothing"]
    return [
        f"denied {device.index}: {deny_list.file}, {len(denials)}",
        *(f"  {name}: {denial}" for name, denial in denials.items()),
    ]


def _run(options: argparse.Namespace) -> bool:
    from pwconv.terminal import make_console, progress_bar, show

    try:
        from pwconv.importer import files
        from pwconv.importer.model import read_model
    except ImportError:
        raise pwconv.PwconvError("models are read by onnx: pip install 'pwconv[onnx]'") from None
    console, shapes = make_console(), dict(options.shapes)
    try:
        model = read_model(options.model)
        if options.output:
            if options.summary or options.check:
                raise pwconv.PwconvError(
                    f"--output {options.output}: --summary and --check write no outputs; leave "
                    "one of them out"
                )
            files.check_output(options.output, model.outputs)
        arrays = {}
        if options.summary:
            files.check_shapes(model, shapes)
        else:
            normalization = files.Normalization(options.mean, options.std, options.layout)
            arrays = files.read_inputs(model, options.inputs, shapes, normalization)
        with progress_bar(console) as progress:
            progress("reading the model", 0.0)
            graph = pwconv.from_onnx(
                options.model,
                device=options.device,
                dtype=options.dtype,
                storage=options.storage or "auto",
                shapes=shapes | {name: array.shape for name, array in arrays.items()},
            )
            graph.compile(
                lambda done, total: progress(f"compiling kernels: {done} of {total}", done / total)
            )
            if options.summary:
                text = graph.summary()
            elif options.check:
                check = graph.check(arrays)
                text = str(check)
            else:
                outputs = graph.run(arrays)
        if options.summary or options.check:
            show(console, text)
            return not options.check or check.passed
        if options.output:
            files.write_outputs(options.output, outputs)
        if options.profile:
            graph.profile()
            show(console, graph.summary())
        show(console, *files.describe(outputs))
    except (TypeError, ValueError, OverflowError) as error:
        raise pwconv.PwconvError(str(error)) from None
    except MemoryError as error:
        raise pwconv.PwconvError(f"memory is exhausted: {error}") from None
    return True


def _number(value: Any) -> str:
    return " × ".join(f"{v:,}" for v in value) if isinstance(value, tuple) else f"{value:,}"


def _verify(options: argparse.Namespace) -> bool:
    from pwconv.terminal import make_console, progress_bar, show
    from pwconv.verify.report import describe, results_table, to_document
    from pwconv.verify.run import selected, verify

    console = make_console()
    variants = selected(options.only)
    if options.json:
        require_writable(options.json)
    info = choose_device(options.device)
    show(console, f"device {info}")
    deny_list = DenyList(info)
    try:
        if options.allow_all:
            show(console, *_allow_all(deny_list))
            return True
        if options.deny:  # before a minute of work rather than after it
            _require_revisable(deny_list, options)
    except OSError as error:
        raise _unwritable(deny_list.file, error) from None
    # Not a Device, which a damaged deny list does not let open.
    context = open_context(info)
    try:
        with progress_bar(console) as progress:
            found = verify(context, variants, progress)
    finally:
        context.close()
    # Files first: the reader of the output may close the pipe.
    problems: list[pwconv.PwconvError] = []
    lines = []
    try:
        lines += _deny(deny_list, found) if options.deny else _advise(deny_list, found)
    except OSError as error:
        problems.append(_unwritable(deny_list.file, error))
    lines += _write(options.json, partial(write_document, to_document(info, found)), problems)
    show(console, results_table(found), *describe(found), *lines)
    if problems:
        raise pwconv.PwconvError("; ".join(map(str, problems)))
    return bool(found.results) and not found.failed and not found.lost


def _require_revisable(deny_list: DenyList, options: argparse.Namespace) -> None:
    """Raise unless the deny list can be written."""
    deny_list.require_writable()
    _, problem = deny_list.examine()
    if problem and options.only:
        raise pwconv.PwconvError(
            f"the deny list {deny_list.file} cannot be used: {problem}. It is written anew where "
            "everything is verified: leave --only out"
        )


def _deny(deny_list: DenyList, found: Verification) -> list[str]:
    """Revise the deny list; return the changes, in lines."""
    from pwconv.terminal import counted

    before, problem = deny_list.examine()
    if problem and found.lost:
        return [
            f"the deny list {deny_list.file} cannot be used: {problem}. It was not written anew: "
            "not everything was verified"
        ]
    failed = {result.variant.name: _why(result) for result in found.failed}
    verified = [result.variant.name for result in found.results]
    after = deny_list.revise(verified, failed, anew=True)
    return [
        *(f"denied {name} ({why})" for name, why in failed.items()),
        *(f"allowed {name}: it passes now" for name in before if name not in after),
        f"deny list {deny_list.file}: {counted(len(after), 'variant')}. Devices that are opened "
        "from now on do not run what is on it; 'pwconv verify --allow-all' removes it",
    ]


def _advise(deny_list: DenyList, found: Verification) -> list[str]:
    """Return the denials that are out of date or missing, in lines."""
    denied, problem = deny_list.examine()
    lines = []
    if problem:
        lines.append(f"the deny list {deny_list.file} cannot be used: {problem}")
    if problem or any(result.variant.name not in denied for result in found.failed):
        lines.append("to keep layers and graphs from running what fails: pwconv verify --deny")
    if any(result.passed and result.variant.name in denied for result in found.results):
        lines.append(
            f"variants on the deny list {deny_list.file} pass now: 'pwconv verify --deny' takes "
            "them off it, 'pwconv verify --allow-all' removes it"
        )
    return lines


def _allow_all(deny_list: DenyList) -> list[str]:
    """Remove the deny list; return the changes, in lines."""
    if not os.path.lexists(deny_list.file):
        return [f"nothing is denied: {deny_list.file} does not exist"]
    denied, _ = deny_list.examine()
    deny_list.clear()
    return [
        *(f"allowed {name} ({denial})" for name, denial in denied.items()),
        f"removed {deny_list.file}",
    ]


def _why(result: Result) -> str:
    """Return the failure of a variant in a few words, for the deny list."""
    first = result.failures[0]
    text = f"{first.kind} in {first.case}"[:_LONGEST_REASON]
    return "".join(character for character in text if character.isprintable())


def _tune(options: argparse.Namespace) -> bool:
    from pwconv.bench.cases import edgetam_shapes
    from pwconv.terminal import counted, make_console, make_table, progress_bar, show
    from pwconv.tune.store import export
    from pwconv.tune.tuner import LEAST_GAIN

    console = make_console()
    if options.export:
        require_writable(options.export)
    headings = ("layer", "dtype", "storage", "default", ">µs", "winner", ">µs", ">gain")
    table = make_table("", *headings)
    failures = []
    with pwconv.Device(options.device) as device:
        show(console, f"device {device.info}")
        store = device._tuner.store
        runs = list(
            itertools.product(
                options.shapes or edgetam_shapes(),
                options.dtypes or _DTYPES,
                options.storages or _STORAGES,
            )
        )
        try:
            store.add({})  # before an hour of measuring rather than after it
        except OSError as error:
            raise _unwritable(store.file, error) from None
        problems: list[pwconv.PwconvError] = []
        with progress_bar(console) as progress:
            for position, (shape, dtype, storage) in enumerate(runs):
                what = f"{shape} {dtype} {storage}"
                progress(what, position / len(runs))
                try:
                    outcome = _tune_layer(device, shape, dtype, storage)
                except (pwconv.UnsupportedError, pwconv.OutOfMemoryError) as error:
                    failures.append(f"{what}: {error}")
                except OSError as error:
                    problems.append(_unwritable(store.file, error))
                    break
                else:
                    table.add_row(f"{shape}", dtype, storage, *_outcome_cells(outcome))
        winners = store.read()
    # The file first: the reader of the output may close the pipe.
    lines = _write(
        options.export,
        lambda file: write_text(export(device.info, winners, date.today()), file),
        problems,
    )
    show(console, table, *(f"failed {failure}" for failure in failures))
    show(
        console,
        "µs     median ± half the distance of the quartiles, in %\n"
        f"gain   the fastest rival against the default, the two run in turns; it wins where it is "
        f"{LEAST_GAIN:.0%} faster or more\n"
        "       and the quartiles lie apart, else the default stands",
    )
    if tuning_mode() == "off":
        show(console, "note   PWCONV_TUNE is off: layers will not use what was found")
    show(console, f"kept   {counted(len(winners), 'winner')} in {store.file}", *lines)
    if problems:  # after what was found before
        raise problems[0]
    return table.row_count > 0


def _tune_layer(device: pwconv.Device, shape: Shape, dtype: str, storage: str) -> Outcome:
    import numpy as np

    from pwconv.bench.networks import random_parameters

    parameters = random_parameters(np.random.default_rng(0), (shape.n, shape.k), np.dtype(dtype))
    layer = pwconv.PointwiseConv2d(*parameters, storage=storage, device=device)
    x_shape = (shape.batch, shape.k, shape.h, shape.w)
    out_shape, _ = layer._choose_storage(x_shape, (storage,))  # raises where it is too large
    return device._tuner.tune(layer._task(storage, x_shape, out_shape))


def _outcome_cells(outcome: Outcome) -> tuple[str, ...]:
    from pwconv.bench.table import microseconds
    from pwconv.tune.tuner import LEAST_GAIN

    default = (_label(outcome.default.choice), microseconds(outcome.default.time))
    if outcome.rival_wins:
        choice, time = outcome.winner
        ratio = outcome.default.time.median / time.median
        return (*default, _label(choice), microseconds(time), f"{ratio:.2f}×")
    if not outcome.held:
        return (*default, "", "", "clocks did not hold")
    return (*default, "the default", "", "noise" if outcome.gain >= LEAST_GAIN else "none")


def _label(choice: Choice) -> str:
    variant = choice.variant
    shape = "" if variant.workgroup else " " + "×".join(map(str, choice.workgroup))
    family = variant.family.removeprefix("conv2d_pw_").replace("_", " ")
    return f"{family} {variant.axes['tile']}{shape}"


def _bench(options: argparse.Namespace) -> bool:
    from pwconv.bench.cases import IMAGE_SIZE, edgetam_shapes, layer_case, repvit_m1
    from pwconv.bench.report import to_document
    from pwconv.bench.run import run
    from pwconv.bench.table import describe
    from pwconv.terminal import make_console, progress_bar, show

    if options.json:  # before an hour of measuring rather than after it
        require_writable(options.json)
    cases = [layer_case(shape) for shape in options.shapes or edgetam_shapes()]
    if not options.shapes:
        cases.append(repvit_m1(IMAGE_SIZE if options.size is None else options.size))
    console = make_console()
    with pwconv.Device(options.device) as device:
        show(console, f"device {device.info}")
        with progress_bar(console) as progress:
            found = run(
                device,
                " ".join(case.name for case in cases),
                cases,
                options.dtypes or _DTYPES,
                options.storages or _STORAGES,
                progress,
                host=not options.no_host,
            )
    # The file first: the reader of the output may close the pipe.
    problems: list[pwconv.PwconvError] = []
    lines = _write(options.json, partial(write_document, to_document(found)), problems)
    show(console, *describe(found), *lines)
    if problems:
        raise problems[0]
    return all(any(each.sample for each in result.runs) for result in found.graphs)


def _write(
    path: Path | None, write: Callable[[Path], None], problems: list[pwconv.PwconvError]
) -> list[str]:
    """Write a file if one was asked for; return a line that says so, or add to the problems."""
    try:
        if path:
            write(path)
            return [f"wrote {path}"]
    except pwconv.PwconvError as error:
        problems.append(error)
    return []


def _unwritable(file: Path, error: OSError) -> pwconv.PwconvError:
    return pwconv.PwconvError(f"{file} cannot be written: {error}")
