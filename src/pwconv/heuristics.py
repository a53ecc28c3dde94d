"""Choice of the variant that computes a problem on a device, by heuristics.toml."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pwconv.dtypes import DType
from pwconv.shaders import Variant
from pwconv.vk.commands import Size3
from pwconv.vk.physical_device import DeviceInfo, DeviceKey

if TYPE_CHECKING:
    from pwconv.heuristics_file import Entries, Entry

FILE = "heuristics.toml"
WORKGROUP: Size3 = (8, 8, 1)  # where an entry says no other

# A tile that computes this much more than another, past the output channels there are, is no rival.
_WASTE_ALLOWED = 1.1
# A point decides no problem that is further from it, on an axis.
_NEAR = 2.0
_MOST = 2**63
_UNIT = "cooperativeMatrix"
_KEY = DeviceKey._fields


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
    workgroup: Size3 = (8, 8, 1)
    reason: str = ""


class _Tile(NamedTuple):
    """A variant, the outputs M and N of one of its blocks, and the blocks that it is good from."""

    variant: Variant
    block_m: int
    block_n: int
    least_blocks: int


class _Point(NamedTuple):
    """A problem that was measured, and what to run for those near it."""

    m: int
    n: int
    k: int
    choice: Choice


class _Rule(NamedTuple):
    """A rule or default for a device that can run at least one of its tiles."""

    tiles: tuple[_Tile, ...]
    ranked: bool
    workgroup: Size3
    reason: str
    m_max: int
    n_max: int
    k_min: int
    k_max: int
    hidden_max: int
    flop_min: int
    blocks_max: int
    n_divisor: int
    k_divisor: int
    hidden_divisor: int


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
    lanes: int = 1,
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
    lanes : int
        Rows in a texel.
    gathered : bool
        The inputs are gathered, by a stride, padding or taps: no point was measured so.
    """
    m, n, batches = outputs
    points, rules, smallest = _selected(
        kind, info.key, tuple(able.values()), storage, dtype.name, lanes
    )
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
    _, rules, _ = _selected(kind, info.key, tuple(able), storage, dtype.name, 1)
    return _first(rules, m, n, k, batches, hidden)


def weight_storage(kind: str, info: DeviceInfo, storage: str, dtype: DType) -> str:
    """Return how a layer should pack a weight: the first entry with ``tiles`` says it."""
    for entry in _applying(kind, info.key, storage=storage, dtype=dtype.name, lanes=1):
        if "tiles" in entry.values:
            return str(entry.values.get("weight_storage", "auto"))
    return "auto"


def scale_pays(info: DeviceInfo, variant: Variant) -> bool:
    """Return whether a variant multiplies its input by a scale for less than a product before it.

    Of a variant that can; see :func:`pwconv.ops.convolution.takes_scale`.
    """
    return _pays("scale", info.key, family=variant.family)


def stride_pays(info: DeviceInfo, storage: str) -> bool:
    """Return whether to copy every stride-th position first, and convolve at stride 1."""
    return _pays("stride", info.key, storage=storage)


def _nearest(points: tuple[_Point, ...], m: int, n: int, k: int) -> Choice | None:
    """Return the choice of the nearest point; of equals, that of the first."""
    nearest, choice = _NEAR, None
    for point in points:
        far = max(m / point.m, point.m / m, n / point.n, point.n / n, k / point.k, point.k / k)
        if far < nearest or (choice is None and far == nearest):
            nearest, choice = far, point.choice
    return choice


def _first(
    rules: tuple[_Rule, ...], m: int, n: int, k: int, batches: int, hidden: int = 0
) -> Choice | None:
    """Return the choice of the first rule that the problem suits."""
    for rule in rules:
        if (
            m > rule.m_max
            or n > rule.n_max
            or not rule.k_min <= k <= rule.k_max
            or hidden > rule.hidden_max
            or 2 * m * n * k < rule.flop_min
            or n % rule.n_divisor
            or k % rule.k_divisor
            or hidden % rule.hidden_divisor
        ):
            continue
        if rule.ranked:
            return _rank(rule, m, n, batches)
        ((variant, block_m, block_n, least_blocks),) = rule.tiles
        count = -(-m // block_m) * -(-n // block_n) * batches
        if least_blocks <= count <= rule.blocks_max:
            return Choice(variant, rule.workgroup, f"{rule.reason} (blocks: {count})")
    return None


def _rank(rule: _Rule, m: int, n: int, batches: int) -> Choice | None:
    """Return the first tile that fills the device and wastes little, else the last one.

    None where the device can run none of the tiles.
    """
    if not rule.tiles:
        return None
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
    kind: str, key: DeviceKey, able: tuple[Variant, ...], storage: str, dtype: str, lanes: int
) -> tuple[tuple[_Point, ...], tuple[_Rule, ...], Choice | None]:
    """Return the points and rules that decide among some variants, and the choice without them."""
    named = {v.name: v for v in able}
    applying = _applying(kind, key, storage=storage, dtype=dtype, lanes=lanes)
    measured = [
        _point(entry, named[entry.values["variant"]])
        for entry in _entries()[kind].points
        if entry.values["variant"] in named
        and (storage, dtype) == (entry.values["storage"], entry.values["dtype"])
        and key == _key(entry)
    ]
    rules = filter(None, (_rule(entry, able) for entry in applying))
    smallest = min(able, key=_last_resort, default=None)
    reason = f"the smallest tile: no entry of {FILE} has one that the device can run, and may"
    return (
        tuple(measured),
        tuple(rules),
        None if smallest is None else Choice(smallest, WORKGROUP, reason),
    )


def _last_resort(variant: Variant) -> tuple[bool, int]:
    """Return what orders variants by the outputs of a block; those of matrix units come last."""
    return _UNIT in variant.features, math.prod(block_shape(variant))


def _key(entry: Entry) -> DeviceKey:
    """Return the device of a point."""
    at = entry.values
    return DeviceKey(**{**{name: at[name] for name in _KEY}, "matrices": tuple(at["matrices"])})


def _point(entry: Entry, variant: Variant) -> _Point:
    at = entry.values
    reason = (
        f"{entry.where}: measured at M·batch = {at['m']}, N = {at['n']}, K = {at['k']} on "
        f"{at['device']} ({at['driver']}, {at['date']})"
    )
    workgroup = tuple(at.get("workgroup", WORKGROUP))
    return _Point(at["m"], at["n"], at["k"], Choice(variant, workgroup, reason))


def _rule(entry: Entry, able: tuple[Variant, ...]) -> _Rule | None:
    """Return a rule over those of its tiles that are able; None where its one tile is not."""
    says: Any = entry.values
    if "tiles" in says:
        by_tile = {v.axes["tile"]: v for v in able if _UNIT not in v.features}
        wanted = [(by_tile.get(each["tile"]), each["least_blocks"]) for each in says["tiles"]]
    else:
        found = [v for v in able if (v.family, v.axes["tile"]) == (says["family"], says["tile"])]
        wanted = [(v, says.get("least_blocks", 0)) for v in found]
    tiles = tuple(_Tile(v, *block_shape(v), least) for v, least in wanted if v is not None)
    if not tiles and "tiles" not in says:
        return None
    measured = f" ({says['device']}, {says['date']})" if "date" in says else ""
    ranked = f"; of {', '.join(t.variant.axes['tile'] for t in tiles)}" if "tiles" in says else ""
    divides = says.get("divides", {})
    return _Rule(
        tiles=tiles,
        ranked="tiles" in says,
        workgroup=tuple(says.get("workgroup", WORKGROUP)),
        reason=f"{entry.where}: {says['why']}{measured}{ranked}",
        m_max=says.get("m_max", _MOST),
        n_max=says.get("n_max", _MOST),
        k_min=says.get("k_min", 0),
        k_max=says.get("k_max", _MOST),
        hidden_max=says.get("hidden_max", _MOST),
        flop_min=says.get("flop_min", 0),
        blocks_max=says.get("blocks_max", _MOST),
        n_divisor=divides.get("n", 1),
        k_divisor=divides.get("k", 1),
        hidden_divisor=divides.get("hidden", 1),
    )


@functools.cache
def _pays(kind: str, key: DeviceKey, **problem: str) -> bool:
    """Return what the first entry for a device and a problem says."""
    return any(entry.values["pays"] for entry in [*_applying(kind, key, **problem)][:1])


def _applying(kind: str, key: DeviceKey, **problem: str | int) -> Iterator[Entry]:
    """Yield the rules, then the defaults, for a device and a problem of some storage and type."""
    given = {**key._asdict(), **problem}
    entries = _entries()[kind]
    for entry in (*entries.rules, *entries.defaults):
        says = entry.values
        if all(
            value in (says[name] if type(says[name]) is list else [says[name]])
            for name, value in given.items()
            if name in says
        ):
            yield entry


@functools.cache
def _entries() -> dict[str, Entries]:
    from pwconv.heuristics_file import parse

    return parse(_text(), FILE)


def _text() -> str:
    from importlib import resources

    # Not a path: the package may be in a zip file.
    return (resources.files("pwconv") / FILE).read_text(encoding="utf-8")
