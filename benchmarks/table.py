"""A result as a table in Markdown, and pwconv's times over those of its peers.

python benchmarks/table.py benchmarks/results/nvidia-h100-edgetam.json
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pwconv.bench.report import Report, Result, is_ours
from pwconv.bench.table import digits
from pwconv.errors import PwconvError
from reading import read_report


def main() -> None:
    """Read the options, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("result", type=Path, metavar="FILE.json", help="what compare.py wrote")
    try:
        print("\n".join(markdown(read_report(parser.parse_args().result))))
    except PwconvError as error:
        sys.exit(f"error: {error}")


def columns(report: Report, dtype: str) -> dict[str, list[str]]:
    """Return the contenders of each column: each of ours, and each peer's, met at its best.

    TF32 is a column apart, since it is not float32.
    """
    found: dict[str, list[str]] = {}
    for label in report.contenders(dtype):
        peer = label.split()[0] + (" TF32" if label.endswith(" TF32") else "")
        found.setdefault(label if is_ours(label) else peer, []).append(label)
    return found


def best(result: Result, labels: Sequence[str], dtype: str) -> float | None:
    """Return the least time of some contenders, in seconds; None where none ran."""
    runs = [result.find(label, dtype) for label in labels]
    return min((run.sample.median for run in runs if run and run.sample), default=None)


def ratios(
    results: Sequence[Result], labels: Sequence[str], others: Sequence[str], dtype: str
) -> list[float]:
    """Return the best time of some contenders over that of others, where there are both."""
    pairs = [(best(r, labels, dtype), best(r, others, dtype)) for r in results]
    return [time / other for time, other in pairs if time and other]


def compare(report: Report) -> Iterator[str]:
    """Yield pwconv's times over each peer's, in lines."""
    for dtype in report.dtypes:
        by_name = columns(report, dtype)
        ours = [name for name in by_name if is_ours(name)]
        for results in report.kinds():
            for name in ours:
                for peer in (name for name in by_name if name not in ours):
                    if found := ratios(results, by_name[name], by_name[peer], dtype):
                        mean = math.exp(sum(map(math.log, found)) / len(found))
                        yield (
                            f"ratio  {name} takes {mean:.2f}× the time of {peer} in {dtype} "
                            f"(geometric mean of {len(found)} {results[0].kind})"
                        )


def markdown(report: Report) -> Iterator[str]:
    """Yield a table of medians in microseconds, what it is of, and the ratios."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    device = report.device
    yield f"{device['name']}, {device['driver']}, {report.date[:10]}; {versions}. Median µs:"
    yield ""
    every = [(d, name, ls) for d in report.dtypes for name, ls in columns(report, d).items()]
    cells = [["", *(f"{dtype}: {name}" for dtype, name, _ in every)], ["---"] * (len(every) + 1)]
    for result in report.graphs:
        times = [best(result, labels, dtype) for dtype, _, labels in every]
        cells.append([result.name, *(digits(t * 1e6) if t else "" for t in times)])
    yield from (f"| {' | '.join(row)} |" for row in cells)
    yield ""
    yield from (f"- {line.partition('  ')[2]}" for line in compare(report))


if __name__ == "__main__":
    main()
