"""shaders/ to SPIR-V: every variant that variants.toml lists, and the manifest that describes them.

Run as a script, it compiles into ``src/pwconv/spirv``; what has not changed is not compiled again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from glslang import Glslang, GlslError
from spirv_reflection import reflect

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.sha256"
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"\s*$')
_VERSION = re.compile(r"^\s*#\s*version\s")
_SPIRV_VERSIONS = {f"1.{minor}": (1, minor) for minor in range(7)}


class ShaderError(Exception):
    """variants.toml or a shader's includes are wrong; the message says where and what."""


@dataclass(frozen=True)
class Variant:
    """One compiled shader: a source under one set of defines."""

    name: str
    family: str
    axes: dict[str, str]
    source: str
    spirv: str
    defines: dict[str, str | int]
    features: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)


def load_variants(path: Path) -> list[Variant]:
    """Read variants.toml: each family multiplied out over its axes.

    Raises
    ------
    ShaderError
        Unreadable TOML, an unknown or missing key, a wrong type, a choice that is named and not
        there, or two variants of one name.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ShaderError(f"{path.name}: {error}") from None
    sets = _shared_choices(path.name, document.pop("axes", {}), document.pop("tiles", {}))
    variants: dict[str, Variant] = {}
    for family, table in document.items():
        for variant in _expand(path.name, family, table, sets):
            if variant.name in variants:
                raise ShaderError(f"{path.name}: two variants are called {variant.name}")
            variants[variant.name] = variant
    return list(variants.values())


def preprocess(shaders: Path, variant: Variant) -> str:
    """Return a variant's GLSL as one text: defines after #version, includes in place.

    ``#line`` directives keep glslang's messages on the right file and line.

    Raises
    ------
    ShaderError
        A source or include that does not exist, or a source with no #version line.
    """
    source = shaders / variant.source
    if not source.is_file():
        raise ShaderError(f"variants.toml: {variant.name}: no such source: {variant.source}")
    lines: list[str] = []
    has_version = False
    for number, line in enumerate(_inline(shaders, variant.source, ()), start=1):
        lines.append(line)
        if _VERSION.match(line) and not has_version:
            has_version = True
            lines.append("#extension GL_GOOGLE_cpp_style_line_directive : require")
            lines += [f"#define {name} {value}" for name, value in variant.defines.items()]
            lines.append(f'#line {number + 1} "{variant.source}"')
    if not has_version:
        raise ShaderError(f"{variant.source}: no #version line")
    return "\n".join(lines) + "\n"


def source_digest(shaders: Path) -> str:
    """Return a SHA-256 over every file in shaders/, names and contents."""
    digest = hashlib.sha256()
    for path in sorted(file for file in shaders.rglob("*") if file.is_file()):
        contents = path.read_bytes()
        digest.update(f"{path.relative_to(shaders).as_posix()}\0{len(contents)}\0".encode())
        digest.update(contents)
    return digest.hexdigest()


def compile_all(shaders: Path, output: Path) -> list[Path]:
    """Compile every variant and write the manifest; return all files, the manifest last.

    A variant whose GLSL and compiler are those of the file already there is left as it is. Files
    of variants that no longer exist are removed.

    Raises
    ------
    ShaderError, glslang.GlslError, spirv_reflection.ReflectionError
        The first problem found.
    """
    output.mkdir(parents=True, exist_ok=True)
    compiler = Glslang()
    known = _known_digests(output)
    entries: dict[str, dict[str, Any]] = {}
    for variant in load_variants(shaders / "variants.toml"):
        text = preprocess(shaders, variant)
        key = f"{compiler.version}\0{variant.spirv}\0{text}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        path = output / f"{variant.name}.spv"
        if known.get(variant.name) != digest or not path.is_file():
            code = compiler.compile(text, name=variant.source, spirv=_SPIRV_VERSIONS[variant.spirv])
            compiler.validate(code, name=variant.name)
            path.write_bytes(code)
        entries[variant.name] = _manifest_entry(variant, path, digest)
    for stale in set(output.glob("*.spv")) - {output / entry["file"] for entry in entries.values()}:
        stale.unlink()
    manifest = output / MANIFEST
    document = {"sources": source_digest(shaders), "variants": entries}
    contents = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    manifest.write_bytes(contents)
    digest_file = output / MANIFEST_DIGEST
    digest_file.write_text(hashlib.sha256(contents).hexdigest(), encoding="ascii")
    return [*sorted(output.glob("*.spv")), digest_file, manifest]


# What a choice adds, by its name.
_Choices = dict[str, dict[str, Any]]


def _shared_choices(where: str, axes: Any, tiles: Any) -> dict[str, _Choices]:
    """Return the choices of each set of [axes] and [tiles]; a tile is its macros alone."""
    sets: dict[str, _Choices] = {}
    for kind, tables in (("axes", axes), ("tiles", tiles)):
        for name, choices in _table(f"{where}: [{kind}]", tables).items():
            here = f"{where}: [{kind}.{name}]"
            if name in sets:
                raise ShaderError(f"{here}: [axes.{name}] has the same name")
            if kind == "tiles":
                choices = {
                    choice: {"defines": _table(f"{here}: {choice}", macros)}
                    for choice, macros in _table(here, choices).items()
                }
            sets[name] = _own_choices(here, choices)
    return sets


def _choices(where: str, axis: str, given: Any, sets: dict[str, _Choices]) -> _Choices:
    """Return what a family gives for an axis: shared choices that it names, or its own."""
    if isinstance(given, list):
        given = {axis: given}
    if isinstance(given, str):
        return _shared(where, given, sets)
    if not isinstance(given, dict):
        raise ShaderError(
            f"{where}: axis {axis} must be a list of choices, the name of a set, or a table of "
            f"choices; it is {given!r}"
        )
    if len(given) != 1 or not isinstance(names := next(iter(given.values())), list):
        return _own_choices(f"{where}: {axis}", given)
    name = next(iter(given))
    choices = _shared(where, name, sets)
    for choice in names:
        if choice not in choices:
            raise ShaderError(
                f"{where}: {axis}: {name} has no choice {choice!r}; it has {', '.join(choices)}"
            )
    return _some(f"{where}: {axis}", {choice: choices[choice] for choice in names})


def _shared(where: str, name: str, sets: dict[str, _Choices]) -> _Choices:
    if name not in sets:
        raise ShaderError(f"{where}: no [axes.{name}] or [tiles.{name}]; there are {[*sets]}")
    return sets[name]


def _own_choices(where: str, table: Any) -> _Choices:
    choices = {
        name: _checked(f"{where}.{name}", added, {}, _REQUIREMENTS)
        for name, added in _table(where, table).items()
    }
    return _some(where, choices)


def _some(where: str, choices: _Choices) -> _Choices:
    if not choices:
        raise ShaderError(f"{where} must have at least one choice")
    return choices


def _expand(where: str, family: str, table: Any, sets: dict[str, _Choices]) -> list[Variant]:
    where = f"{where}: [{family}]"
    table = {"source": f"{family}.comp", "spirv": "1.3", **_table(where, table)}
    table = _checked(where, table, {"source": str, "spirv": str, "axes": dict}, _REQUIREMENTS)
    if table["spirv"] not in _SPIRV_VERSIONS:
        raise ShaderError(f"{where}: spirv is {table['spirv']!r}; use one of {[*_SPIRV_VERSIONS]}")
    axes = {axis: _choices(where, axis, given, sets) for axis, given in table["axes"].items()}
    variants = []
    for choice in itertools.product(*axes.values()):
        picked = dict(zip(axes, choice, strict=True))
        parts = [table, *(axes[axis][name] for axis, name in picked.items())]
        variants.append(
            Variant(
                name="_".join([family, *choice]),
                family=family,
                axes=picked,
                source=table["source"],
                spirv=table["spirv"],
                defines={k: v for part in parts for k, v in part["defines"].items()},
                features=sorted({name for part in parts for name in part["features"]}),
                limits={k: v for part in parts for k, v in part["limits"].items()},
            )
        )
    return variants


_REQUIREMENTS: dict[str, type] = {"defines": dict, "features": list, "limits": dict}


def _checked(
    where: str, table: Any, required: dict[str, type], optional: dict[str, type]
) -> dict[str, Any]:
    allowed = required | optional
    table = _table(where, table)
    for key, value in table.items():
        if key not in allowed:
            raise ShaderError(f"{where}: unknown key {key!r}; known are {', '.join(allowed)}")
        if not isinstance(value, allowed[key]):
            raise ShaderError(f"{where}: {key} must be a {allowed[key].__name__}, is {value!r}")
    for key in required:
        if key not in table:
            raise ShaderError(f"{where}: {key} is missing")
    return {**{key: kind() for key, kind in optional.items()}, **table}


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ShaderError(f"{where}: must be a table, is {value!r}")
    return value


def _inline(shaders: Path, name: str, including: tuple[str, ...]) -> list[str]:
    if name in including:
        raise ShaderError(f"{name} includes itself, through {' → '.join(including)}")
    lines: list[str] = []
    text = (shaders / name).read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        match = _INCLUDE.match(line)
        if not match:
            lines.append(line)
            continue
        target = f"include/{match[1]}"
        if not (shaders / target).is_file():
            raise ShaderError(f"{name}:{number}: no such include: {match[1]} (in shaders/include)")
        lines.append(f'#line 1 "{target}"')
        lines += _inline(shaders, target, (*including, name))
        lines.append(f'#line {number + 1} "{name}"')
    return lines


def _known_digests(output: Path) -> dict[str, str]:
    try:
        variants = json.loads((output / MANIFEST).read_text(encoding="utf-8"))["variants"]
        return {name: entry["digest"] for name, entry in variants.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _manifest_entry(variant: Variant, path: Path, digest: str) -> dict[str, Any]:
    code = path.read_bytes()
    return {
        "file": path.name,
        "sha256": hashlib.sha256(code).hexdigest(),
        "digest": digest,
        "family": variant.family,
        "axes": variant.axes,
        "defines": variant.defines,
        "spirv": variant.spirv,
        "features": variant.features,
        "limits": variant.limits,
        **asdict(reflect(code)),
    }


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    try:
        compile_all(root / "shaders", root / "src" / "pwconv" / "spirv")
    except (ShaderError, GlslError) as error:
        sys.exit(f"error: {error}")
