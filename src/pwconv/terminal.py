"""Terminal output of commands: console, tables, progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

# Width of files and pipes, which have no width to keep to.
_UNLIMITED_WIDTH = 10_000


def make_console(stream: TextIO | None = None) -> Console:
    """Return a console on a stream, stdout by default.

    It shows texts as they are, since drivers and users name things as they like, and wraps nothing
    unless the stream is a terminal.
    """
    console = Console(file=stream, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _UNLIMITED_WIDTH
    return console


def show(console: Console, part: Table | str) -> None:
    """Print a text, or a table, whose lines break between words only."""
    if isinstance(part, str):
        console.print(part, soft_wrap=True)
        return
    unlimited = console.options.update(width=_UNLIMITED_WIDTH)
    for column in part.columns:
        sizes = [
            Measurement.get(console, unlimited, cell) for cell in (column.header, *column.cells)
        ]
        column.min_width = max(size.minimum for size in sizes)
        # Columns that can break are made narrower first.
        column.no_wrap = column.min_width == max(size.maximum for size in sizes)
    least = Measurement.get(console, unlimited, part).minimum
    part.width = least if least > console.width else None
    console.print(part, crop=False)


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, float], None]]:
    """Show a progress bar on a terminal until the block ends; yield the function that moves it.

    It takes the task's name, and the share that is done.
    """
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda what, share: progress.update(task, description=what, completed=share)
