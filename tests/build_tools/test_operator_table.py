"""docs/operators.md is what the importer declares."""

from __future__ import annotations

import re

import operator_table
import pwconv
from pwconv.importer.network import CONVERTS, DECLARATIONS


def test_the_page_is_what_is_declared():
    page = operator_table.PAGE.read_text(encoding="utf-8")
    assert page == operator_table.page(), "run python build_tools/operator_table.py"


def test_each_operator_is_declared_once():
    assert set(DECLARATIONS) == set(CONVERTS)
    assert not set(DECLARATIONS) - set(operator_table.first_opsets())


def test_what_computes_it_is_there():
    for kind, declared in DECLARATIONS.items():
        for name in re.findall("`([^`]*)`", declared.by):
            where, _, method = name.rpartition(".")
            assert hasattr(getattr(pwconv, where) if where else pwconv.Graph, method), (kind, name)


def test_opsets():
    opsets = operator_table.first_opsets()
    assert [opsets[kind] for kind in ("Conv", "Mish", "Upsample")] == ["7", "18", "7 to 9"]
