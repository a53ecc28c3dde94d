"""Results of earlier runs, read back from JSON."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pwconv.bench.report import SCHEMA, Report
from pwconv.errors import PwconvError


def read_report(path: Path) -> Report:
    """Return the report that a file holds.

    Raises
    ------
    PwconvError
        The file cannot be read, or is of another schema.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PwconvError(f"{path} cannot be read: {error}") from None
    if document.get("schema") != SCHEMA:
        raise PwconvError(
            f"{path} has schema {document.get('schema')!r}; this pwconv reads {SCHEMA}"
        )
    report = _build(Report, document)
    assert isinstance(report, Report)
    return report


def _build(kind: Any, value: Any) -> Any:
    """Return a value of an annotated type from what JSON holds of it."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        names = [field.name for field in dataclasses.fields(kind)]
        return kind(**{name: _build(hints[name], value[name]) for name in names})  # type: ignore[operator]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:  # with None
        return None if value is None else _build(arguments[0], value)
    if origin is dict:
        return {key: _build(arguments[1], each) for key, each in value.items()}
    if origin in (list, tuple):
        return origin(_build(arguments[0], each) for each in value)
    return value
