"""A report as a picture: bars against the peers, and for layers the roofline with each on it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

from pwconv.bench.report import Report
from pwconv.bench.views import OURS, contenders, dtypes, find_run
from pwconv.errors import PwconvError
from pwconv.timing.ceilings import Ceiling

# Okabe and Ito's colours, which colour-blind readers tell apart; ours come first.
_OURS = ("#0072B2", "#009E73", "#7FB8D8", "#7FCEB9")
_PEERS = ("#E69F00", "#D55E00", "#CC79A7", "#999999", "#F0E442", "#56B4E9")
_MARKERS = {"float32": "o", "float16": "s"}
_BAR_INCHES, _GAP_INCHES, _LEAST_INCHES = 0.11, 0.2, 7.5
_ROOFLINE_INCHES, _BARS_INCHES = 7.5, 5.5
_LEGEND_INCHES = 2.2  # of one entry
# Lengths of bars compare on a linear axis only; past this range the short ones would vanish.
_LINEAR_RANGE = 40


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
        raise PwconvError(
            f"--plot needs matplotlib ({error}): pip install 'pwconv[bench]'"
        ) from None
    return [f".{name}" for name in FigureCanvasAgg.filetypes]


def write_plot(report: Report, path: Path) -> None:
    """Draw a report.

    Raises
    ------
    PwconvError
        matplotlib is not installed, or the file cannot be written.
    """
    endings()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = dtypes(report)
    bars = max(len(contenders(report, dtype)) for dtype in names)
    row = _BAR_INCHES * bars + _GAP_INCHES
    height = max(_LEAST_INCHES, 1.8 + row * len(report.results))
    # Of a graph, which moves more than it must between its nodes, a roofline's point says little.
    rooflines = 1 if report.layers else 0
    widths = [_ROOFLINE_INCHES] * rooflines + [_BARS_INCHES] * len(names)
    figure = Figure(figsize=(sum(widths) + 0.5, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    colours = _colours(report)
    for axis in axes[:rooflines]:
        _draw_roofline(axis, report, colours)
    for axis, dtype in zip(axes[rooflines:], names, strict=True):
        _draw_bars(axis, report, dtype, colours)
    bars_legend = {
        label: handle
        for axis in axes[rooflines:]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    columns = int(sum(widths) / _LEGEND_INCHES)
    figure.legend(
        bars_legend.values(), bars_legend, loc="outside lower right", ncols=columns, fontsize=9
    )
    where = f"{report.device['name']} · {report.device['driver']}"
    what = f"{report.workload} · pwconv {report.versions['pwconv']} · {report.date[:10]}"
    # One panel is too narrow for one line.
    title = (" · " if len(widths) > 1 else "\n").join((where, what))
    figure.suptitle(title, fontsize=12, parse_math=False)  # a name may have dollar signs
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise PwconvError(f"{path} cannot be written: {error}") from None


def _colours(report: Report) -> dict[str, str]:
    """Return a colour for each contender, the same at every type."""
    names = dict.fromkeys(name for dtype in dtypes(report) for name in contenders(report, dtype))
    ours, peers = itertools.cycle(_OURS), itertools.cycle(_PEERS)
    return {name: next(ours if name.startswith(OURS) else peers) for name in names}


def _draw_roofline(axis: Any, report: Report, colours: dict[str, str]) -> None:
    from matplotlib.ticker import EngFormatter, NullFormatter

    copy = next(c for c in report.ceilings if c.unit == "byte/s")
    intensities = [
        result.subject.flop / result.least_bytes(dtype)
        for result in report.results
        for dtype in dtypes(report)
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
        axis.plot(
            corners, roof, style, color="black", lw=1.2, label=f"{ceiling.name}: {_rate(ceiling)}"
        )
    axis.plot([], [], " ", label=f"slope, copy: {copy.rate / 1e9:,.0f} GB/s")
    for dtype in dtypes(report):
        for name in contenders(report, dtype):
            if name.startswith(OURS):
                _draw_points(axis, report, name, dtype, colours[name])
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="FLOP for each byte that must move",
        ylabel="FLOP/s",
        title="Roofline; numbers name the layers at the right",
    )
    low, high = axis.get_ylim()
    axis.set_ylim(10 ** math.floor(math.log10(low)), high * 1.3)
    for line in (axis.xaxis, axis.yaxis):
        line.set_major_formatter(EngFormatter())
        line.set_minor_formatter(NullFormatter())
    axis.grid(True, which="both", alpha=0.2)
    axis.legend(loc="upper left", fontsize=9)


def _draw_points(axis: Any, report: Report, name: str, dtype: str, colour: str) -> None:
    points = []
    for number, result in enumerate(report.results, 1):
        run = find_run(result, name, dtype)
        if run and run.sample:
            intensity = result.subject.flop / result.least_bytes(dtype)
            points.append((intensity, result.subject.flop / run.sample.median, number))
    if not points:
        return
    xs, ys, numbers = zip(*points, strict=True)
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
    for x, y, number in zip(xs, ys, numbers, strict=True):
        axis.annotate(
            f"{number}",
            (x, y),
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if filled else colour,
            zorder=4,
        )


def _draw_bars(axis: Any, report: Report, dtype: str, colours: dict[str, str]) -> None:
    from matplotlib.ticker import StrMethodFormatter

    names = contenders(report, dtype)
    shown = [1e6 * result.roofline[dtype].seconds for result in report.results]
    thickness = 0.8 / len(names)
    for index, name in enumerate(names):
        rows = [
            (position, run.sample)
            for position, result in enumerate(report.results)
            if (run := find_run(result, name, dtype)) and run.sample
        ]
        if not rows:
            continue
        medians = [sample.median * 1e6 for _, sample in rows]
        shown += medians
        axis.barh(
            [position - 0.4 + thickness * (index + 0.5) for position, _ in rows],
            medians,
            thickness * 0.92,
            color=colours[name],
            label=name,
            xerr=[
                [max((s.median - s.q1) * 1e6, 0) for _, s in rows],
                [max((s.q3 - s.median) * 1e6, 0) for _, s in rows],
            ],
            error_kw={"lw": 0.8},
        )
    for position, result in enumerate(report.results):
        least = result.roofline[dtype].seconds * 1e6
        axis.plot([least, least], [position - 0.42, position + 0.42], color="black", lw=1.6)
    axis.plot([], [], color="black", lw=1.6, label="roofline")
    axis.set_yticks(
        range(len(report.results)),
        [
            f"{number}  {result.subject}" if report.layers else str(result.subject)
            for number, result in enumerate(report.results, 1)
        ],
    )
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.set(
        xlabel="µs",
        title=f"{dtype}: time a {'layer' if report.layers else 'run'}, median and quartiles",
    )
    if max(shown) > _LINEAR_RANGE * min(shown):
        axis.set_xscale("log")
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.grid(True, axis="x", which="both", alpha=0.2)


def _rate(ceiling: Ceiling) -> str:
    tera = ceiling.rate >= 1e12
    return f"{ceiling.rate / (1e12 if tera else 1e9):,.1f} {'T' if tera else 'G'}FLOP/s"
