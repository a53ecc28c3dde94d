"""The form of heuristics.toml: reading, checking and writing its entries."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pwconv.errors import PwconvError


@dataclass(frozen=True)
class Entry:
    """A table of the file.

    Attributes
    ----------
    where : str
        File, kind and name, for messages.
    says : Mapping
        Its values by key, those of the tables that it is like among them.
    """

    where: str
    says: Mapping[str, Any]


_Check = tuple[Callable[[Any], Any], str]


def _whole(least: int) -> _Check:
    return lambda v: type(v) is int and v >= least, f"an integer of at least {least}"


def _one_of(*names: str) -> _Check:
    return lambda v: type(v) is str and v in names, f"one of {', '.join(names)}"


def _list_of(each: Callable[[str], Any], words: str) -> _Check:
    return (
        lambda v: type(v) is list and v and all(type(text) is str and each(text) for text in v),
        f"a list of {words}",
    )


def _is_date(value: Any) -> bool:
    return isinstance(value, date) and not isinstance(value, datetime)


def _is_workgroup(value: Any) -> bool:
    return type(value) is list and len(value) == 3 and all(v in _WORKGROUP_SIZES for v in value)


_WORKGROUP_SIZES = [2**n for n in range(11)]
_TILE = re.compile(r"\w+( from [0-9]+)?", re.ASCII)
_SIZE = re.compile(r"(m|n|k|hidden|flop|blocks) (<=|>=|%) [1-9][0-9]*")
_TEXT = (lambda v: type(v) is str and bool(v) and v.isprintable(), "a line of text")
_SECONDS = (lambda v: type(v) is float and 0 < v < float("inf"), "a positive number of seconds")

# What a key may be, as a test and in words.
_CHECKS: dict[str, _Check] = {
    "type": _one_of("discrete", "integrated", "virtual", "cpu", "other"),
    **dict.fromkeys(("vendor_id", "driver_id"), _whole(0)),
    "matrices": (
        lambda v: type(v) is list and all(map(_TEXT[0], v)),
        "a list of strings as '16x16x16 subgroup'",
    ),
    "storage": _one_of("texture3d", "buffer"),
    "dtype": _one_of("float32", "float16"),
    **dict.fromkeys(("subgroup_size", "m", "n", "k"), _whole(1)),
    "sizes": _list_of(_SIZE.fullmatch, "bounds as 'n <= 64', 'k >= 64' or 'n % 64'"),
    "tiles": _list_of(_TILE.fullmatch, "tiles as '64x64x16', or '64x64x16 from 512' blocks"),
    **dict.fromkeys(("name", "why", "device", "driver", "family"), _TEXT),
    **dict.fromkeys(("variant", "default_variant"), _TEXT),
    "workgroup": (_is_workgroup, "three powers of 2, each at most 1024"),
    "weight_storage": _one_of("auto", "texture2d", "buffer"),
    "pays": (lambda v: type(v) is bool, "true or false"),
    **dict.fromkeys(("seconds", "default_seconds"), _SECONDS),
    "date": (_is_date, "a date as 2026-11-22"),
}
# Of these a rule or default may list those that suit.
_SEVERAL = {"type", "vendor_id", "driver_id", "subgroup_size", "storage", "dtype"}

_DEVICE = {"type", "vendor_id", "driver_id", "subgroup_size"}
_ORIGIN = {"device", "driver", "date"}
_MEASURED = {"workgroup", "seconds", "default_variant", "default_seconds", "why"}
_PRODUCT = {"storage", "dtype", "family", "sizes", "workgroup", "weight_storage"}
_TILES, _PAYS = {"name", "why", "tiles"}, {"name", "why", "pays"}
# Keys that an entry must have, and those that it may have besides.
_Form = tuple[set[str], set[str]]
_POINT: _Form = (
    {*_DEVICE, "matrices", "storage", "dtype", "m", "n", "k", "variant", *_ORIGIN},
    _MEASURED,
)


def _forms(required: set[str], optional: set[str]) -> dict[str, _Form]:
    """Return the forms of a kind's rules and defaults, of which a rule alone says the device."""
    defaults = optional | _ORIGIN
    return {"rules": (required, defaults | _DEVICE), "defaults": (required, defaults)}


_FORMS: dict[str, dict[str, _Form]] = {
    "conv2d_pw": {"points": _POINT, **_forms(_TILES, _PRODUCT)},
    "linear": {"points": _POINT, **_forms(_TILES, _PRODUCT)},
    "conv2d_pw_pair": {"rules": _forms(_TILES, _PRODUCT - {"weight_storage"})["rules"]},
    "scale": _forms(_PAYS, {"family"}),
    "stride": _forms(_PAYS, {"storage"}),
}


def parse(text: str, file: str) -> dict[str, dict[str, list[Entry]]]:
    """Return the entries of a text by kind and section, in its order.

    ``file`` names the text in messages.

    Raises
    ------
    PwconvError
        It names the file, the entry and the key that is wrong.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PwconvError(f"{file} is no TOML: {error}") from None
    shared = document.pop("like", {})
    for kind, sections in document.items():
        if kind not in _FORMS:
            raise PwconvError(f"{file} has {kind!r}; its kinds are {', '.join(_FORMS)}")
        if type(sections) is not dict or not sections.keys() <= _FORMS[kind].keys():
            allowed = ", ".join(f"[[{kind}.{section}]]" for section in _FORMS[kind])
            raise PwconvError(f"{file}: {kind} must have no more than {allowed}")
    return {
        kind: {
            section: _entries(file, kind, section, document.get(kind, {}).get(section, []), shared)
            for section in forms
        }
        for kind, forms in _FORMS.items()
    }


def to_text(kind: str, points: Iterable[Mapping[str, Any]]) -> str:
    """Return points as TOML that :func:`parse` takes; they may be appended to the file.

    Raises
    ------
    PwconvError
        A point is not of the form.
    """
    tables = []
    for number, point in enumerate(points, 1):
        _check(f"{kind} point {number}", kind, "points", point)
        lines = [f"{key} = {_written(key, value)}" for key, value in point.items()]
        tables.append("\n".join([f"[[{kind}.points]]", *lines, ""]))
    return "\n".join(tables)


def _entries(file: str, kind: str, section: str, tables: Any, shared: Any) -> list[Entry]:
    if type(tables) is not list:
        raise PwconvError(f"{file}: {kind}.{section} must be tables, each [[{kind}.{section}]]")
    found: dict[str, Entry] = {}
    for number, table in enumerate(tables, 1):
        given = table.get("name") if type(table) is dict else None
        what = repr(given) if type(given) is str else f"{number}"
        where = f"{file}, {kind} {section.removesuffix('s')} {what}"
        if type(table) is not dict:
            raise PwconvError(f"{where} is {table!r}; it must be a table")
        says = _merged(where, table, shared)
        _check(where, kind, section, says)
        if where in found:
            raise PwconvError(f"{where} is there twice; its name must be its own")
        found[where] = Entry(where, says)
    return list(found.values())


def _merged(where: str, table: dict[str, Any], shared: Any) -> dict[str, Any]:
    """Return an entry's values and those of the tables that it is like; its own come first."""
    names = table.get("like", [])
    values = {key: value for key, value in table.items() if key != "like"}
    for name in names if type(names) is list else [names]:
        if type(shared) is not dict or type(name) is not str or type(shared.get(name)) is not dict:
            raise PwconvError(f"{where}: like is {names!r}; it must be a list of tables [like.…]")
        values = {**shared[name], **values}
    return values


def _check(where: str, kind: str, section: str, says: Mapping[str, Any]) -> None:
    """Raise :class:`PwconvError` for what an entry must not be."""
    required, optional = _FORMS[kind][section]
    for key, value in says.items():
        if key not in required | optional:
            keys = ", ".join(sorted(required | optional))
            raise PwconvError(f"{where} has {key!r}, which it must not; its keys are {keys}")
        suits, words = _CHECKS[key]
        listed = section != "points" and key in _SEVERAL and type(value) is list and value
        if not all(map(suits, value if listed else [value])):
            raise PwconvError(f"{where}: {key} is {value!r}; it must be {words}")
    measured = _ORIGIN if _ORIGIN & says.keys() else set()
    missing = (required | measured) - says.keys()
    if missing:
        raise PwconvError(f"{where} lacks {', '.join(sorted(missing))}")


def _written(key: str, value: Any) -> str:
    """Return a value as TOML has it."""
    if type(value) is list:
        return f"[{', '.join(_written(key, each) for each in value)}]"
    if type(value) is str:
        return json.dumps(value, ensure_ascii=False)  # the escapes of both are the same
    return f"{value:#x}" if key == "vendor_id" else str(value)
