"""Choice of the variant that computes a problem on a device, by heuristics.toml."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pwconv.dtypes import DType
from pwconv.shaders import Variant
from pwconv.vk.commands import Size3
from pwconv.vk.physical_device import DeviceInfo, DeviceKey

if TYPE_CHECKING:
    from pwconv.heuristics_file import Entry

FILE = "heuristics.toml"
WORKGROUP: Size3 = (8, 8, 1)  # where an entry says no other

# A tile that computes this much more than another, past the output channels there are, is no rival.
_WASTE_ALLOWED = 1.1
# A point decides no problem that is further from it, on an axis.
_NEAR = 2.0
_MOST = 2**63
_UNIT = "cooperativeMatrix"
_HOLDS: dict[str, Callable[[int, int], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "%": lambda size, divisor: size % divisor == 0,
}


@dataclass(frozen=True)
class Choice:
    """A variant for a problem.

    Attributes
    ----------
    variant : Variant
    workgroup : tuple of int
        Preferred shape, where the variant leaves it open.
    reason : str
        The entry that decided, and why, in a clause.
    """

    variant: Variant
    workgroup: Size3 = WORKGROUP
    reason: str = ""


class _Tile(NamedTuple):
    """A variant, the outputs M and N of one of its blocks, and the blocks that it is good from."""

    variant: Variant
    block_m: int
    block_n: int
    least_blocks: int


class _Rule(NamedTuple):
    """A rule or default, with those of its tiles that a device can run; at least one."""

    tiles: tuple[_Tile, ...]
    sizes: tuple[tuple[str, Callable[[int, int], bool], int], ...]
    workgroup: Size3
    reason: str


@functools.cache
def block_shape(variant: Variant) -> tuple[int, int]:
    """Return the positions and output channels of the block of a workgroup or invocation.

    A block of a pair, which computes every channel, has none of its own.
    """
    if variant.workgroup:
        return variant.defines["BLOCK_M"], variant.defines.get("BLOCK_N", _MOST)
    return variant.defines["TILE_M"], 4 * variant.defines["TILE_N4"]


def choose(
    kind: str,
    info: DeviceInfo,
    able: Mapping[str, Variant],
    *,
    storage: str,
    dtype: DType,
    outputs: Size3,
    k: int,
    gathered: bool = False,
) -> Choice:
    """Return the variant expected to be fastest.

    Parameters
    ----------
    kind : "conv2d_pw" or "linear"
    info : DeviceInfo
    able : Mapping
        The variants that the device can run on the problem, by name; at least one.
    storage : str
    dtype : numpy.dtype
    outputs : tuple of int
        M and N of one sample, and samples.
    k : int
    gathered : bool
        The inputs are gathered, by a stride, padding or taps: no point was measured so.
    """
    m, n, batches = outputs
    points, rules, smallest = _selected(kind, info.key, tuple(able.values()), storage, dtype.name)
    assert smallest is not None
    if points and not gathered:
        found = _nearest(points, m * batches, n, k)
        if found is not None:
            return found
    return _first(rules, m, n, k, batches) or smallest


def pair(
    info: DeviceInfo,
    able: Collection[Variant],
    *,
    storage: str,
    dtype: DType,
    outputs: Size3,
    k: int,
    hidden: int,
) -> Choice | None:
    """Return a variant expected to be faster than two dispatches, or None.

    ``hidden`` is the number of channels between the two; the rest is as for :func:`choose`.
    """
    m, n, batches = outputs
    kind = "conv2d_pw_pair"
    _, rules, _ = _selected(kind, info.key, tuple(able), storage, dtype.name)
    return _first(rules, m, n, k, batches, hidden)


def weight_storage(kind: str, info: DeviceInfo, storage: str, dtype: DType) -> str:
    """Return how a layer should pack a weight: the first entry for every size says it."""
    return _weight_storage(kind, info.key, storage, dtype.name)


def scale_pays(info: DeviceInfo, variant: Variant) -> bool:
    """Return whether a variant multiplies its input by a scale for less than a product before it.

    Of a variant that can; see :func:`pwconv.ops.convolution.takes_scale`.
    """
    return _pays("scale", info.key, family=variant.family)


def stride_pays(info: DeviceInfo, storage: str) -> bool:
    """Return whether to copy every stride-th position first, and convolve at stride 1."""
    return _pays("stride", info.key, storage=storage)


def _nearest(
    points: tuple[tuple[int, int, int, Choice], ...], m: int, n: int, k: int
) -> Choice | None:
    """Return the choice of the nearest of points M, N, K; of equals, that of the first."""
    nearest, found = _NEAR, None
    for at_m, at_n, at_k, choice in points:
        far = max(m / at_m, at_m / m, n / at_n, at_n / n, k / at_k, at_k / k)
        if far < nearest or (found is None and far == nearest):
            nearest, found = far, choice
    return found


def _first(
    rules: tuple[_Rule, ...], m: int, n: int, k: int, batches: int, hidden: int = 0
) -> Choice | None:
    """Return the choice of the first rule that the problem suits."""
    sizes = {"m": m, "n": n, "k": k, "hidden": hidden, "flop": 2 * m * n * k}
    for rule in rules:
        last = rule.tiles[-1]
        sizes["blocks"] = -(-m // last.block_m) * -(-n // last.block_n) * batches
        for name, holds, bound in rule.sizes:
            if not holds(sizes[name], bound):
                break
        else:
            if len(rule.tiles) > 1:
                return _rank(rule, m, n, batches)
            reason = f"{rule.reason} (blocks: {sizes['blocks']})"
            return Choice(last.variant, rule.workgroup, reason)
    return None


def _rank(rule: _Rule, m: int, n: int, batches: int) -> Choice:
    """Return the first tile that fills the device and wastes little, else the last one."""
    filling = []  # each with its blocks, and the output channels computed for each that there is
    for variant, block_m, block_n, least_blocks in rule.tiles:
        along_n = -(-n // block_n)
        count = -(-m // block_m) * along_n * batches
        # A block of more than 2·M rows is mostly idle, in each batch.
        if count >= least_blocks and block_m <= 2 * m:
            filling.append((variant, count, along_n * block_n / n))
    least_waste = min([waste for _, _, waste in filling], default=0.0)
    for variant, count, waste in filling:
        if waste <= least_waste * _WASTE_ALLOWED:
            reason = (
                f"the first that fills the device (blocks: {count}) and wastes little on M and N"
            )
            return Choice(variant, rule.workgroup, f"{rule.reason}, {reason}")
    reason = "no tile that M half fills cuts the output into blocks enough: the last"
    return Choice(rule.tiles[-1].variant, rule.workgroup, f"{rule.reason}, {reason}")


@functools.lru_cache(maxsize=1024)
def _selected(
    kind: str, key: DeviceKey, able: tuple[Variant, ...], storage: str, dtype: str
) -> tuple[tuple[tuple[int, int, int, Choice], ...], tuple[_Rule, ...], Choice | None]:
    """Return the points and rules that decide among some variants, and the choice without them."""
    named = {v.name: v for v in able}
    points = []
    for entry in _applying(kind, key, "points", storage=storage, dtype=dtype):
        at = entry.says
        if at["variant"] in named:
            reason = (
                f"{entry.where}: measured at M·batch = {at['m']}, N = {at['n']}, K = {at['k']} on "
                f"{at['device']} ({at['driver']}, {at['date']})"
            )
            choice = Choice(named[at["variant"]], _workgroup(entry), reason)
            points.append((at["m"], at["n"], at["k"], choice))
    rules = []
    for entry in _applying(kind, key, storage=storage, dtype=dtype):
        rule = _rule(entry, able)
        if rule.tiles:
            rules.append(rule)
        if _is_general(entry):  # it decides, or the smallest does
            break
    smallest = min(able, key=_last_resort, default=None)
    reason = f"the smallest tile: no entry of {FILE} has one that the device can run, and may"
    return (
        tuple(points),
        tuple(rules),
        None if smallest is None else Choice(smallest, WORKGROUP, reason),
    )


def _last_resort(variant: Variant) -> tuple[bool, int]:
    """Return what orders variants by the outputs of a block; those of matrix units come last."""
    return _UNIT in variant.features, math.prod(block_shape(variant))


def _is_general(entry: Entry) -> bool:
    """Return whether an entry is for every size, and no family of its own."""
    return not {"family", "sizes"} & entry.says.keys()


def _workgroup(entry: Entry) -> Size3:
    m, n, batches = entry.says.get("workgroup", WORKGROUP)
    return m, n, batches


def _rule(entry: Entry, able: tuple[Variant, ...]) -> _Rule:
    """Return a rule over those of its tiles that are able."""
    says = entry.says
    family = says.get("family")
    by_tile = {
        v.axes["tile"]: v
        for v in able
        if (v.family == family if family else _UNIT not in v.features)
    }
    tiles = []
    for each in says["tiles"]:
        tile, _, least_blocks = each.partition(" from ")
        if variant := by_tile.get(tile):
            tiles.append(_Tile(variant, *block_shape(variant), int(least_blocks or 0)))
    measured = f" ({says['device']}, {says['date']})" if "date" in says else ""
    ranked = f"; of {', '.join(t.variant.axes['tile'] for t in tiles)}" if len(tiles) > 1 else ""
    sizes = [each.split() for each in says.get("sizes", ())]
    return _Rule(
        tuple(tiles),
        tuple((name, _HOLDS[how], int(bound)) for name, how, bound in sizes),
        _workgroup(entry),
        f"{entry.where}: {says['why']}{measured}{ranked}",
    )


@functools.cache
def _weight_storage(kind: str, key: DeviceKey, storage: str, dtype: str) -> str:
    for entry in _applying(kind, key, storage=storage, dtype=dtype):
        if _is_general(entry):
            return str(entry.says.get("weight_storage", "auto"))
    return "auto"


@functools.cache
def _pays(kind: str, key: DeviceKey, **problem: str) -> bool:
    """Return what the first entry for a device and a problem says."""
    return any(entry.says["pays"] for entry in [*_applying(kind, key, **problem)][:1])


def _applying(kind: str, key: DeviceKey, *sections: str, **problem: str) -> Iterator[Entry]:
    """Yield the entries for a device and a problem of some storage and type.

    They are of some sections; of none, the rules, then the defaults.
    """
    given = {**key._asdict(), "matrices": list(key.matrices), **problem}
    for section in sections or ("rules", "defaults"):
        for entry in _entries()[kind].get(section, ()):
            says = {**given, **entry.says}
            if all(
                says[name] == value or (type(says[name]) is list and value in says[name])
                for name, value in given.items()
            ):
                yield entry


@functools.cache
def _entries() -> dict[str, dict[str, list[Entry]]]:
    from pwconv.heuristics_file import parse

    return parse(_text(), FILE)


def _text() -> str:
    from importlib import resources

    # Not a path: the package may be in a zip file.
    return (resources.files("pwconv") / FILE).read_text(encoding="utf-8")
