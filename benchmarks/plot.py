"""A report as a picture: bars against the peers, and for layers the roofline with each on it.

python benchmarks/plot.py benchmarks/results/nvidia-h100-edgetam.json edgetam.png
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pwconv.bench.report import Report, Result, is_ours
from pwconv.documents import require_writable
from pwconv.errors import PwconvError
from reading import read_report

# Okabe and Ito's colours, which colour-blind readers tell apart; ours come first.
_OURS = ("#0072B2", "#009E73", "#7FB8D8", "#7FCEB9")
_PEERS = ("#E69F00", "#D55E00", "#CC79A7", "#999999", "#F0E442", "#56B4E9")
_MARKERS = {"float32": "o", "float16": "s"}
_BAR_INCHES, _GAP_INCHES, _LEAST_INCHES = 0.11, 0.2, 7.5
_ROOFLINE_INCHES, _BARS_INCHES = 7.5, 5.5
_HANDLE_INCHES, _LETTER_INCHES = 0.6, 0.085  # of an entry of a legend
_MOST_TICKS = 5
# Lengths of bars compare on a linear axis only; past this range the short ones would vanish.
_LINEAR_RANGE = 40


def main() -> None:
    """Read the options, and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("result", type=Path, metavar="FILE.json", help="what compare.py wrote")
    parser.add_argument("picture", type=Path, metavar="FILE.png")
    options = parser.parse_args()
    try:
        require_writable(options.picture, endings())
        write_plot(read_report(options.result), options.picture)
    except PwconvError as error:
        sys.exit(f"error: {error}")


def endings() -> list[str]:
    """Return what a plot's name may end in.

    Raises
    ------
    PwconvError
        matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise PwconvError(f"plots need matplotlib ({error}): pip install '.[bench]'") from None
    return [f".{name}" for name in FigureCanvasAgg.filetypes]


def write_plot(report: Report, path: Path) -> None:
    """Draw a report.

    Raises
    ------
    PwconvError
        The file cannot be written.
    """
    try:
        draw(report).savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise PwconvError(f"{path} cannot be written: {error}") from None


def draw(report: Report) -> Any:
    """Return the figure: a panel for the roofline, if there are layers, and one for each type."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Of a graph, which moves more than it must between its nodes, a roofline's point says little.
    layers = [result for result in report.graphs if result.kind == "layers"]
    widths = [_ROOFLINE_INCHES] * bool(layers) + [_BARS_INCHES] * len(report.dtypes)
    row = _BAR_INCHES * max(len(report.contenders(d)) for d in report.dtypes) + _GAP_INCHES
    height = max(_LEAST_INCHES, 2.4 + row * len(report.graphs))
    figure = Figure(figsize=(sum(widths) + 0.5, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    colours = _colours(report)
    if layers:
        _draw_roofline(axes[0], report, layers, colours)
    for axis, dtype in zip(axes[-len(report.dtypes) :], report.dtypes, strict=True):
        _draw_bars(axis, report, dtype, colours)
    for axis, width in zip(axes, widths, strict=True):
        _, labels = axis.get_legend_handles_labels()
        entry = _HANDLE_INCHES + _LETTER_INCHES * max(map(len, labels))
        axis.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.7 / height),  # below the axis, where it covers nothing
            ncols=max(1, int(width / entry)),
            fontsize=9,
        )
    where = f"{report.device['name']} · {report.device['driver']}"
    what = f"{report.workload} · pwconv {report.versions['pwconv']} · {report.date[:10]}"
    # One panel is too narrow for one line.
    title = (" · " if len(widths) > 1 else "\n").join((where, what))
    figure.suptitle(title, fontsize=12, parse_math=False)  # a name may have dollar signs
    return figure


def _colours(report: Report) -> dict[str, str]:
    """Return a colour for each contender, the same at every type."""
    names = dict.fromkeys(name for dtype in report.dtypes for name in report.contenders(dtype))
    ours, peers = itertools.cycle(_OURS), itertools.cycle(_PEERS)
    return {name: next(ours if is_ours(name) else peers) for name in names}


def _draw_roofline(
    axis: Any, report: Report, layers: Sequence[Result], colours: dict[str, str]
) -> None:
    copy = next(c for c in report.ceilings if c.unit == "byte/s")
    intensities = [
        result.flop / result.least_bytes[dtype] for result in layers for dtype in report.dtypes
    ]
    ends = min(intensities) / 2, max(intensities) * 2
    for ceiling, style in zip(
        # One that serves no type that layers compute in bounds nothing here.
        (c for c in report.ceilings if c.unit == "flop/s" and c.dtypes),
        itertools.cycle(("-", "--", "-.", ":")),
    ):
        ridge = ceiling.rate / copy.rate
        corners = sorted({ends[0], min(max(ridge, ends[0]), ends[1]), ends[1]})
        roof = [min(ceiling.rate, copy.rate * x) for x in corners]
        label = f"{ceiling.name}: {ceiling.rate / 1e12:,.3g} TFLOP/s"
        axis.plot(corners, roof, style, color="black", lw=1.2, label=label)
    axis.plot([], [], " ", label=f"slope, copy: {copy.rate / 1e9:,.0f} GB/s")
    numbers = {result.name: number for number, result in enumerate(report.graphs, 1)}
    for dtype in report.dtypes:
        for name in report.contenders(dtype):
            if is_ours(name):
                _draw_points(axis, layers, numbers, name, dtype, colours[name])
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="FLOP for each byte that must move",
        ylabel="FLOP/s",
        title="roofline; numbers name the layers at the right",
    )
    low, high = axis.get_ylim()
    axis.set_ylim(10 ** math.floor(math.log10(low)), high * 1.3)
    for line in (axis.xaxis, axis.yaxis):
        _set_log_ticks(line)
    axis.grid(True, which="both", alpha=0.2)


def _draw_points(
    axis: Any,
    layers: Sequence[Result],
    numbers: dict[str, int],
    name: str,
    dtype: str,
    colour: str,
) -> None:
    points = []
    for result in layers:
        run = result.find(name, dtype)
        if run and run.sample:
            intensity = result.flop / result.least_bytes[dtype]
            points.append((intensity, result.flop / run.sample.median, numbers[result.name]))
    if not points:
        return
    xs, ys, texts = zip(*points, strict=True)
    filled = dtype == "float32"
    axis.scatter(
        xs,
        ys,
        s=150,
        marker=_MARKERS[dtype],
        facecolors=colour if filled else "white",
        edgecolors=colour,
        linewidths=1.5,
        label=f"{name} {dtype}",
        zorder=3,
    )
    for x, y, text in zip(xs, ys, texts, strict=True):
        axis.annotate(
            f"{text}",
            (x, y),
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if filled else colour,
            zorder=4,
        )


def _draw_bars(axis: Any, report: Report, dtype: str, colours: dict[str, str]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    names = report.contenders(dtype)
    shown = [result.roofline[dtype].seconds for result in report.graphs]
    thickness = 0.8 / len(names)
    for index, name in enumerate(names):
        rows = [
            (position, run.sample)
            for position, result in enumerate(report.graphs)
            if (run := result.find(name, dtype)) and run.sample
        ]
        if not rows:
            continue
        medians = [sample.median for _, sample in rows]
        shown += medians
        axis.barh(
            [position - 0.4 + thickness * (index + 0.5) for position, _ in rows],
            medians,
            thickness * 0.92,
            color=colours[name],
            label=name,
            xerr=[
                [max(s.median - s.q1, 0) for _, s in rows],
                [max(s.q3 - s.median, 0) for _, s in rows],
            ],
            error_kw={"lw": 0.8},
        )
    for position, result in enumerate(report.graphs):
        least = result.roofline[dtype].seconds
        axis.plot([least, least], [position - 0.42, position + 0.42], color="black", lw=1.6)
    axis.plot([], [], color="black", lw=1.6, label="roofline")
    axis.set_yticks(
        range(len(report.graphs)),
        [f"{number}  {result.name}" for number, result in enumerate(report.graphs, 1)],
    )
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.set(xlabel="time of a run, median and quartiles", title=dtype)
    if max(shown) > _LINEAR_RANGE * min(shown):
        axis.set_xscale("log")
        _set_log_ticks(axis.xaxis, "s")
    else:
        axis.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS))
        axis.xaxis.set_major_formatter(EngFormatter("s"))
    axis.grid(True, axis="x", which="both", alpha=0.2)


def _set_log_ticks(line: Any, unit: str = "") -> None:
    """Label decades, and where an axis spans less than two of them 2 and 5 of each too."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    low, high = sorted(line.get_view_interval())
    line.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5), numticks=30))
    line.set_major_formatter(EngFormatter(unit))
    line.set_minor_formatter(NullFormatter())


if __name__ == "__main__":
    main()
