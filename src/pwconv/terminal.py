"""Terminal output of commands: console, tables, progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich import box
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


def make_table(title: str | None, *headings: str) -> Table:
    """Return a table without rows; columns are right-aligned whose headings begin with ``>``."""
    table = Table(
        title=title, box=box.SIMPLE, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0)
    )
    for heading in headings:
        table.add_column(heading.lstrip(">"), justify="right" if heading[:1] == ">" else "left")
    return table


def counted(count: int, noun: str) -> str:
    """Return a count of things, in words."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def show(console: Console, *parts: Table | str) -> None:
    """Print texts, and tables whose lines break between words only."""
    for part in parts:
        if isinstance(part, str):
            console.print(part, soft_wrap=True)
        else:
            _show_table(console, part)


def _show_table(console: Console, table: Table) -> None:
    unlimited = console.options.update(width=_UNLIMITED_WIDTH)
    for column in table.columns:
        sizes = [
            Measurement.get(console, unlimited, cell) for cell in (column.header, *column.cells)
        ]
        column.min_width = max(size.minimum for size in sizes)
        # Columns that can break are made narrower first.
        column.no_wrap = column.min_width == max(size.maximum for size in sizes)
    least = Measurement.get(console, unlimited, table).minimum
    table.width = least if least > console.width else None
    console.print(table, crop=False)


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
