"""The form of heuristics.toml: reading, checking and writing its entries."""

from __future__ import annotations

import json
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
    values : Mapping
    """

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Entries:
    """The entries of one kind, in the file's order."""

    points: tuple[Entry, ...] = ()
    rules: tuple[Entry, ...] = ()
    defaults: tuple[Entry, ...] = ()


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: type(v) is int and v >= least, f"an integer of at least {least}"


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: type(v) is str and v in names, f"one of {', '.join(names)}"


def _is_date(value: Any) -> bool:
    return isinstance(value, date) and not isinstance(value, datetime)


def _is_workgroup(value: Any) -> bool:
    return type(value) is list and len(value) == 3 and all(v in _WORKGROUP_SIZES for v in value)


def _is_tiles(value: Any) -> bool:
    return (
        type(value) is list
        and bool(value)
        and all(type(v) is dict and v.keys() == {"tile", "least_blocks"} for v in value)
        and all(_TEXT[0](v["tile"]) and _whole(0)[0](v["least_blocks"]) for v in value)
    )


def _is_divides(value: Any) -> bool:
    return (
        type(value) is dict
        and bool(value)
        and value.keys() <= {"n", "k", "hidden"}
        and all(_whole(1)[0](v) for v in value.values())
    )


_WORKGROUP_SIZES = [2**n for n in range(11)]
_TEXT = (lambda v: type(v) is str and bool(v) and v.isprintable(), "a line of text")
_SECONDS = (lambda v: type(v) is float and 0 < v < float("inf"), "a positive number of seconds")

# What a key may be, as a test and in words.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": _one_of("discrete", "integrated", "virtual", "cpu", "other"),
    "vendor_id": _whole(0),
    "driver_id": _whole(0),
    "subgroup_size": _whole(1),
    "matrices": (
        lambda v: type(v) is list and all(map(_TEXT[0], v)),
        "a list of strings as '16x16x16 subgroup'",
    ),
    "storage": _one_of("texture3d", "buffer"),
    "dtype": _one_of("float32", "float16"),
    "lanes": (lambda v: type(v) is int and v in (1, 4), "1 or 4"),
    **dict.fromkeys(("m", "n", "k", "m_max", "n_max", "k_min", "k_max", "hidden_max"), _whole(1)),
    **dict.fromkeys(("flop_min", "least_blocks", "blocks_max"), _whole(1)),
    "divides": (_is_divides, "a table of positive integers for n, k or hidden"),
    **dict.fromkeys(("name", "why", "device", "driver", "variant", "family", "tile"), _TEXT),
    "default_variant": _TEXT,
    "tiles": (_is_tiles, "a list of tables, each with a tile and its least_blocks"),
    "workgroup": (_is_workgroup, "three powers of 2, each at most 1024"),
    "weight_storage": _one_of("auto", "texture2d", "buffer"),
    "pays": (lambda v: type(v) is bool, "true or false"),
    "seconds": _SECONDS,
    "default_seconds": _SECONDS,
    "date": (_is_date, "a date as 2026-11-22"),
}
# Of these a list may say which suit.
_SEVERAL = {"type", "vendor_id", "driver_id", "subgroup_size", "storage", "dtype", "lanes"}

_DEVICE = {"type", "vendor_id", "driver_id", "subgroup_size"}
_ORIGIN = {"device", "driver", "date"}
_SAID = {"name", "why"}
_PROBLEM = {"storage", "dtype"}
_SIZES = {"m_max", "n_max", "k_min", "k_max", "flop_min", "divides", "least_blocks", "blocks_max"}
_LAUNCH = {"workgroup", "weight_storage"}


@dataclass(frozen=True)
class _Form:
    """Keys of an entry: the required ones, of some sets exactly one, and those it may have.

    ``several`` says whether a list may be given of what suits.
    """

    required: set[str]
    either: tuple[set[str], ...] = ()
    optional: frozenset[str] | set[str] = frozenset()
    several: bool = True

    def check(self, where: str, values: Any) -> None:
        """Raise :class:`PwconvError` for what an entry must not be."""
        if type(values) is not dict:
            raise PwconvError(f"{where} is {values!r}; it must be a table")
        allowed = self.required.union(self.optional, *self.either)
        for key, value in values.items():
            if key not in allowed:
                keys = ", ".join(sorted(allowed))
                raise PwconvError(f"{where} has {key!r}, which it must not; its keys are {keys}")
            suits, words = _CHECKS[key]
            listed = self.several and key in _SEVERAL and type(value) is list and value
            if not all(map(suits, value if listed else [value])):
                raise PwconvError(f"{where}: {key} is {value!r}; it must be {words}")
        measured = _ORIGIN if _ORIGIN & values.keys() else set()
        missing = (self.required | measured) - values.keys()
        if missing:
            raise PwconvError(f"{where} lacks {', '.join(sorted(missing))}")
        if self.either and sum(keys <= values.keys() for keys in self.either) != 1:
            choice = ", or ".join(" and ".join(sorted(keys)) for keys in self.either)
            raise PwconvError(f"{where} must have either {choice}")


_POINT = _Form(
    _DEVICE | {"matrices"} | _PROBLEM | {"m", "n", "k", "variant"} | _ORIGIN,
    optional={"workgroup", "seconds", "default_variant", "default_seconds", "why"},
    several=False,
)
_ONE, _RANKED = {"family", "tile"}, {"tiles"}
_PRODUCT = _PROBLEM | _SIZES | _LAUNCH | {"lanes"}
_PAIR = _PROBLEM | _SIZES | {"hidden_max", "workgroup"}
_PAYS = _SAID | {"pays"}
_MATMUL = {
    "points": _POINT,
    "rules": _Form(_SAID, (_ONE, _RANKED), _DEVICE | _PRODUCT | _ORIGIN),
    "defaults": _Form(_SAID, (_ONE, _RANKED), _PRODUCT | _ORIGIN),
}
_FORMS: dict[str, dict[str, _Form]] = {
    "conv2d_pw": _MATMUL,
    "linear": _MATMUL,
    "conv2d_pw_pair": {"rules": _Form(_SAID | _ONE, (), _DEVICE | _PAIR | _ORIGIN)},
    "scale": {
        "rules": _Form(_PAYS, (), _DEVICE | {"family"} | _ORIGIN),
        "defaults": _Form(_PAYS, (), {"family"} | _ORIGIN),
    },
    "stride": {
        "rules": _Form(_PAYS, (), _DEVICE | {"storage"} | _ORIGIN),
        "defaults": _Form(_PAYS, (), {"storage"} | _ORIGIN),
    },
}


def parse(text: str, file: str) -> dict[str, Entries]:
    """Return the entries of a text by kind; ``file`` names it in messages.

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
    return {
        kind: Entries(**{section: _entries(file, kind, section, document) for section in forms})
        for kind, forms in _known(file, document, _FORMS)
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
        _FORMS[kind]["points"].check(f"{kind} point {number}", point)
        lines = [f"{key} = {_written(key, value)}" for key, value in point.items()]
        tables.append("\n".join([f"[[{kind}.points]]", *lines, ""]))
    return "\n".join(tables)


def _known(
    file: str, document: Mapping[str, Any], forms: dict[str, dict[str, _Form]]
) -> Iterable[tuple[str, dict[str, _Form]]]:
    """Return the kinds with their forms, once nothing else is in the document."""
    for kind, sections in document.items():
        if kind not in forms:
            raise PwconvError(f"{file} has {kind!r}; its kinds are {', '.join(forms)}")
        if type(sections) is not dict or not sections.keys() <= forms[kind].keys():
            allowed = ", ".join(f"[[{kind}.{section}]]" for section in forms[kind])
            raise PwconvError(f"{file}: {kind} must have no more than {allowed}")
    return forms.items()


def _entries(file: str, kind: str, section: str, document: Mapping[str, Any]) -> tuple[Entry, ...]:
    tables = document.get(kind, {}).get(section, [])
    if type(tables) is not list:
        raise PwconvError(f"{file}: {kind}.{section} must be tables, each [[{kind}.{section}]]")
    found = {}
    for number, values in enumerate(tables, 1):
        given = values.get("name") if type(values) is dict else None
        what = repr(given) if type(given) is str else f"{number}"
        where = f"{file}, {kind} {section.removesuffix('s')} {what}"
        _FORMS[kind][section].check(where, values)
        if where in found:
            raise PwconvError(f"{where} is there twice; its name must be its own")
        found[where] = Entry(where, values)
    return tuple(found.values())


def _written(key: str, value: Any) -> str:
    """Return a value as TOML has it."""
    if type(value) is list:
        return f"[{', '.join(_written(key, each) for each in value)}]"
    if type(value) is str:
        return json.dumps(value, ensure_ascii=False)  # the escapes of both are the same
    return f"{value:#x}" if key == "vendor_id" else str(value)
