"""The table of test-drivers, from a report that pytest wrote in the test."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter

import pytest
from outcomes import Outcome, count, table
from rich.console import Console

# One test of every fate that pytest knows; the numbers are counted by hand below.
SUITE = """
import pytest

@pytest.fixture
def breaks_after():
    yield
    raise OSError

@pytest.fixture
def breaks_before():
    raise OSError

@pytest.mark.parametrize("number", range(3))
def test_passes(number): pass

def test_fails(): assert False
def test_fails_twice(breaks_after): assert False
def test_passes_and_breaks_after(breaks_after): pass
def test_breaks_before(breaks_before): pass

@pytest.mark.parametrize("number", range(2))
def test_lacks(number): pytest.skip("X lacks the feature y")

@pytest.mark.skip
def test_says_nothing(): pass

@pytest.mark.parametrize("size", [pytest.param(0, marks=pytest.mark.skip(reason="X has <1 & >0"))])
def test_characters_that_xml_escapes(size): pass

@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=report.xml"],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    return folder / "report.xml"


def shown(*outcomes):
    text = io.StringIO()
    Console(file=text, width=140).print(table(outcomes))
    return text.getvalue()


def test_every_test_is_counted_once(report):
    assert count(report) == (
        3,
        4,
        {"X lacks the feature y": 2, "unconditional skip": 1, "X has <1 & >0": 1, "known": 1},
    )


def test_a_row_names_every_reason_with_its_count():
    skipped = Counter({"X lacks the feature y": 2, "X has [no] markup": 31})
    row = shown(Outcome("swiftshader", "SwiftShader 5", 90, 307, 0, skipped))
    for text in ("swiftshader", "SwiftShader 5", "1.5", "307", " 0 ", " 33 "):
        assert text in row
    assert row.index("31 × X has [no] markup") < row.index("2 × X lacks the feature y")


def test_a_driver_that_was_not_run_shows_why_and_is_no_failure():
    missing = Outcome("lavapipe-sid", not_run="Debian's archive cannot be read for sid")
    row = shown(missing)
    assert "not run: Debian's archive cannot be read for sid" in row
    assert "0" not in row
    assert missing.ok


@pytest.mark.parametrize("outcome", [Outcome("x", failed=1), Outcome("x", broken="SIGSEGV")])
def test_a_failure_and_a_crash_are_not_ok(outcome):
    assert not outcome.ok
    assert ("broken off: SIGSEGV" in shown(outcome)) == bool(outcome.broken)
