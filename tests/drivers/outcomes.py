"""How the suite went on each driver: read from pytest's JUnit reports, shown as one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from rich import box
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Outcome:
    """How the suite went on one driver.

    Attributes
    ----------
    driver : str
        The name it was asked for by.
    version : str
        What the driver says it is.
    seconds : float
        Wall time of the suite, without setting the driver up.
    passed, failed : int
        Numbers of tests; a test whose set-up or tear-down failed is failed.
    skipped : Counter
        Number of tests for each reason.
    not_run : str
        Why there was no driver to run on.
    broken : str
        Why the suite did not come to its end.
    """

    driver: str
    version: str = ""
    seconds: float = 0
    passed: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    not_run: str = ""
    broken: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing failed; a suite that was not run has not failed."""
        return not self.failed and not self.broken


def count(report: Path) -> tuple[int, int, Counter[str]]:
    """Return how many tests of a JUnit report passed and failed, and the skips by reason."""
    tests: dict[tuple[str, str], str | None] = {}  # the reason of a skip; "" failed; None passed
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("classname", ""), case.get("name", "")
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            tests[name] = ""
        elif skip is not None:
            tests.setdefault(name, skip.get("message") or "no reason given")
        else:
            tests.setdefault(name, None)
    results = Counter(tests.values())
    passed, failed = results.pop(None, 0), results.pop("", 0)
    return passed, failed, Counter({reason: n for reason, n in results.items() if reason})


def table(outcomes: Iterable[Outcome]) -> Table:
    """Return a table of a row for each driver."""
    shown = Table(box=box.ROUNDED, show_lines=True)
    for title in ("driver", "version"):
        shown.add_column(title, overflow="fold")
    for title in ("minutes", "passed", "failed", "skipped"):
        shown.add_column(title, justify="right", no_wrap=True)
    shown.add_column("why skipped, or not run", overflow="fold")
    for outcome in outcomes:
        reasons = [f"{n} × {reason}" for reason, n in outcome.skipped.most_common()]
        if outcome.not_run:
            numbers = ["–"] * 4
            reasons = [f"not run: {outcome.not_run}"]
        else:
            minutes = f"{outcome.seconds / 60:.1f}"
            counts = (outcome.passed, outcome.failed, outcome.skipped.total())
            numbers = [minutes, *map(str, counts)]
        if outcome.broken:
            reasons.insert(0, f"broken off: {outcome.broken}")
        style = "yellow" if outcome.not_run else "" if outcome.ok else "red"
        why = Text("\n".join(reasons))  # a str would be searched for markup
        shown.add_row(outcome.driver, outcome.version, *numbers, why, style=style)
    return shown
