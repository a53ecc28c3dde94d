"""The SPIR-V inside the package: variants, and the features and limits that each needs."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pwconv.errors import PwconvError

_FORMATS = {"int": "i", "uint": "I", "float": "f"}
# Device limit on the bindings of each type.
_BINDING_LIMITS = {
    "sampled_image": "maxPerStageDescriptorSampledImages",
    "storage_image": "maxPerStageDescriptorStorageImages",
    "storage_buffer": "maxPerStageDescriptorStorageBuffers",
}


@dataclass(frozen=True, eq=False)
class Variant:
    """One compiled shader.

    Attributes
    ----------
    name, family : str
    axes : Mapping
        Which choice of each axis of its family it is.
    defines : Mapping
        Preprocessor macros of the source, the tile's sizes among them.
    features, limits
        Required device features, by Vulkan's names.
    bindings : tuple of (str, str)
        Name and descriptor type, in binding order.
    written : tuple of int
        The bindings that it writes; the others it only reads.
    workgroup : tuple of int or None
        The workgroup size, where the shader has it fixed.
    shared_memory : int
        Bytes of it that a workgroup takes.
    """

    name: str
    family: str
    axes: Mapping[str, str]
    defines: Mapping[str, Any]
    features: tuple[str, ...]
    limits: Mapping[str, int]
    bindings: tuple[tuple[str, str], ...]
    written: tuple[int, ...]
    workgroup: tuple[int, int, int] | None
    shared_memory: int
    _file: str
    _sha256: str
    _constant_ids: Mapping[str, int]
    _push_names: tuple[str, ...]
    _push_struct: struct.Struct

    @functools.cached_property
    def code(self) -> bytes:
        """The SPIR-V."""
        code: bytes = (_folder() / self._file).read_bytes()
        if _sha256(code) != self._sha256:
            raise PwconvError(f"{_folder() / self._file} is damaged; install pwconv again")
        return code

    @functools.cached_property
    def binding_names(self) -> tuple[str, ...]:
        """The names of the bindings, in order."""
        return tuple(name for name, _ in self.bindings)

    @functools.cached_property
    def binding_types(self) -> tuple[str, ...]:
        """The descriptor types of the bindings, in order."""
        return tuple(kind for _, kind in self.bindings)

    @property
    def push_constant_size(self) -> int:
        """Bytes of push constants."""
        return self._push_struct.size

    def pack_push_constants(self, values: Mapping[str, float]) -> bytes:
        """Lay the named values out as the shader expects them."""
        return self._push_struct.pack(*map(values.__getitem__, self._push_names))

    def has_constant(self, name: str) -> bool:
        """Return whether it has a specialization constant of a name."""
        return name in self._constant_ids

    def specialize(self, values: Mapping[str, int]) -> dict[int, int]:
        """Return the named specialization constants by their ids."""
        return {identifier: int(values[name]) for name, identifier in self._constant_ids.items()}

    @functools.cached_property
    def _needs(self) -> tuple[tuple[str, int], ...]:
        """The least that a device must have of each limit."""
        types = self.binding_types
        return (
            *self.limits.items(),
            ("maxPushConstantsSize", self.push_constant_size),
            ("maxComputeSharedMemorySize", self.shared_memory),
            ("maxComputeWorkGroupInvocations", math.prod(self.workgroup or (1, 1, 1))),
            *((limit, types.count(kind)) for kind, limit in _BINDING_LIMITS.items()),
            ("maxPerStageResources", len(types)),
        )

    def unmet(self, limits: Mapping[str, Any], features: frozenset[str]) -> str | None:
        """Return the feature or limit that the device lacks for this variant, or None."""
        for feature in self.features:
            if feature not in features:
                return f"the feature {feature}"
        for limit, least in self._needs:
            if limits[limit] < least:
                return f"{limit} of at least {least} (it is {limits[limit]})"
        workgroup = self.workgroup or (1, 1, 1)
        most = limits["maxComputeWorkGroupSize"]
        if any(size > limit for size, limit in zip(workgroup, most, strict=True)):
            return f"maxComputeWorkGroupSize of at least {workgroup} (it is {most})"
        return None


def variants(family: str, **axes: str) -> list[Variant]:
    """Return the variants of a family with these choices, in the order of variants.toml."""
    return [v for v in _families().get(family, ()) if axes.items() <= v.axes.items()]


@functools.cache
def names() -> tuple[str, ...]:
    """Return the names of all variants."""
    return tuple(_manifest())


def families() -> list[str]:
    """Return the names of all families."""
    return list(_families())


@functools.cache
def variant(family: str, **axes: str) -> Variant:
    """Return the one variant of a family with these choices."""
    (found,) = variants(family, **axes)
    return found


def code_digest(name: str) -> str | None:
    """Return a digest of a variant's SPIR-V; None where this version has no such variant."""
    found = _manifest().get(name)
    return found._sha256 if found else None


@functools.cache
def digest() -> str:
    """Return the digest of the manifest, which identifies this build of the shaders."""
    return _sha256(_manifest_bytes())


@functools.cache
def _families() -> dict[str, list[Variant]]:
    found: dict[str, list[Variant]] = {}
    for variant in _manifest().values():
        found.setdefault(variant.family, []).append(variant)
    return found


@functools.cache
def _folder() -> Any:
    from importlib import resources

    # Not a path: the package may be in a zip file.
    return resources.files("pwconv") / "spirv"


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _manifest_bytes() -> bytes:
    return _read("manifest.json")


def _read(name: str) -> bytes:
    try:
        contents: bytes = (_folder() / name).read_bytes()
        return contents
    except FileNotFoundError:
        raise PwconvError(
            f"{_folder()} has no compiled shaders: install pwconv with pip, which compiles them"
        ) from None


@functools.cache
def _manifest() -> dict[str, Variant]:
    contents = _manifest_bytes()
    # It says what every shader computes: a wrong word in it would give wrong numbers.
    if _sha256(contents).encode() != _read("manifest.sha256"):
        raise PwconvError(f"{_folder() / 'manifest.json'} is damaged; install pwconv again")
    import json

    document = json.loads(contents)
    _require_current(document["sources"])
    return {name: _variant(name, entry) for name, entry in document["variants"].items()}


def _variant(name: str, entry: Mapping[str, Any]) -> Variant:
    push = entry["push_constants"]
    if [constant["offset"] for constant in push] != [4 * i for i in range(len(push))]:
        raise PwconvError(f"{name}: push constants must be 32-bit scalars without gaps")
    return Variant(
        name=name,
        family=entry["family"],
        axes=entry["axes"],
        defines=entry["defines"],
        features=tuple(entry["features"]),
        limits=entry["limits"],
        bindings=tuple((b["name"], b["type"]) for b in entry["bindings"]),
        written=tuple(b["binding"] for b in entry["bindings"] if "w" in b["access"]),
        workgroup=tuple(entry["workgroup"]) if entry["workgroup"] else None,
        shared_memory=entry["shared_memory"],
        _file=entry["file"],
        _sha256=entry["sha256"],
        _constant_ids={c["name"]: c["id"] for c in entry["specialization_constants"]},
        _push_names=tuple(constant["name"] for constant in push),
        _push_struct=struct.Struct("<" + "".join(_FORMATS[c["type"]] for c in push)),
    )


def _require_current(digest: str) -> None:
    """In an editable install, refuse SPIR-V that is older than the shaders beside it."""
    folder = Path(__file__).parents[1]
    sources = folder.parent / "shaders"
    if folder.name != "src" or not (sources / "variants.toml").is_file():
        return
    import hashlib

    current = hashlib.sha256()
    for path in sorted(file for file in sources.rglob("*") if file.is_file()):
        contents = path.read_bytes()
        current.update(f"{path.relative_to(sources).as_posix()}\0{len(contents)}\0".encode())
        current.update(contents)
    if current.hexdigest() != digest:
        raise PwconvError(
            f"{sources} has changed since the shaders were compiled: run "
            "'pip install -e .' (or 'make shaders') again"
        )
