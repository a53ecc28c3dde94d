"""What devices choose stays as it is, and nothing that was verified is lost, unless it is meant."""

from __future__ import annotations

import difflib

import pytest
import tables

SHOWN = 12


@pytest.mark.parametrize("name", tables.DEVICES)
def test_choices(name):
    before, now = tables.choices_file(name).read_text().splitlines(), tables.choices(name)
    lines = [
        line
        for line in difflib.unified_diff(before, now, n=0, lineterm="")
        if line[0] in "-+" and line[:3] not in ("---", "+++")
    ]
    if lines:
        fail(f"{name} chooses otherwise; {len(lines)} lines differ, among them:", lines)


def test_cases_are_not_lost():
    before = tables.pairs(tables.CASES.read_text().splitlines())
    lost = sorted(before - tables.pairs(tables.cases()))
    if lost:
        fail(f"verify lost {len(lost)} cases:", [f"{variant}: {case}" for variant, case in lost])


def fail(what: str, lines: list[str]) -> None:
    advice = f"if that is meant: {tables.WRITE}"
    pytest.fail("\n".join([what, *lines[:SHOWN], advice]), pytrace=False)
