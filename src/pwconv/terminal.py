"""What commands print on: the console, and the bar that shows how far one is."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that shows texts as they are: drivers and users name things as they like."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def progress_bar(console: Console) -> Progress:
    """Return a bar that goes when it is done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
