"""The entries of heuristics.toml, what they decide, and what is wrong with others."""

from __future__ import annotations

import contextlib
import datetime
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv import heuristics, heuristics_file, shaders
from pwconv.context import Context, Denied
from pwconv.ops import linear, matmul
from pwconv.ops.convolution import Problem
from pwconv.ops.pair import PairProblem, choose_pair
from pwconv.ops.window import Geometry
from pwconv.tune.store import Key, Winner, export
from support import inside
from support.cards import FIXED, FLEXIBLE, KHR, NV, card

TYPES = ("discrete", "integrated", "virtual", "cpu", "other")
DTYPES, STORAGES = ("float32", "float16"), ("texture3d", "buffer")
DAY = datetime.date(2026, 11, 27)

SHIPPED = inside.heuristics_text()
ENTRIES = inside.heuristics_entries()
EVERY = [
    (kind, section, entry)
    for kind, sections in ENTRIES.items()
    for section, entries in sections.items()
    for entry in entries
]
# They stand in for a rule whose variant cannot run.
NOT_MEASURED = {"flexible matrices, few channels, long K"}


def cards() -> Iterator[Context]:
    """Yield a device of each type, with each kind of matrices."""
    for kind, (features, matrices) in itertools.product(
        TYPES, ((frozenset(), ()), (KHR, (FIXED,)), (NV, (FIXED, *FLEXIBLE)))
    ):
        yield card(kind, features, matrices)


def problem(
    k: int,
    n: int,
    size: int,
    dtype: str = "float32",
    storage: str = "buffer",
    batch: int = 1,
    geometry: Geometry = Geometry(),  # noqa: B008  frozen
) -> Problem:
    x_shape = (batch, k, size, size)
    types = np.dtype(dtype), np.dtype("float32")
    return Problem(storage, x_shape, geometry.output_shape(x_shape, n), *types, geometry)


def chosen(context: Context, wanted: Problem) -> heuristics.Choice:
    return matmul.choose(context, wanted, "buffer")


def point(context: Context, variant: str, **values: Any) -> dict[str, Any]:
    """Return a point at M = 64², N = 96, K = 48 of a device."""
    key = context.info.key
    return {
        **key._asdict(),
        "matrices": list(key.matrices),
        **{"dtype": "float32", "storage": "buffer", "m": 4096, "n": 96, "k": 48},
        "variant": variant,
        **{"device": "Card", "driver": "driver 1", "date": DAY},
        **values,
    }


def another(context: Context, wanted: Problem) -> str:
    """Return a variant that is able, and not the one chosen."""
    name = chosen(context, wanted).variant.name
    able = matmul.candidates(context, wanted, "buffer")
    return next(other for other in able if other != name and "staged" in other)


def with_points(*points: dict[str, Any]) -> Any:
    text = heuristics_file.to_text("conv2d_pw", points)
    return inside.other_heuristics(f"{SHIPPED}\n{text}")


# -- the entries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "section", "entry"), EVERY, ids=lambda v: getattr(v, "where", v))
def test_an_entry_names_what_there_is(kind, section, entry):
    says = entry.says
    families = [f for f in shaders.families() if f.startswith(f"{kind}_")]
    tiles = {v.axes["tile"] for f in families for v in shaders.variants(f)}
    if section == "points":
        assert says["variant"] in shaders.names()
    if "family" in says:
        assert shaders.variants(says["family"])
        tiles &= {v.axes["tile"] for v in shaders.variants(says["family"])}
    assert {each.partition(" ")[0] for each in says.get("tiles", ())} <= tiles


def test_what_was_measured_says_where_and_when():
    for kind, section, entry in EVERY:
        measured = {"device", "driver", "date"} <= entry.says.keys()
        if section == "rules":
            assert measured != (entry.says["name"] in NOT_MEASURED), (kind, entry.where)
        assert measured or "date" not in entry.says
        if section == "defaults":
            assert not entry.says.keys() & {"type", "vendor_id", "driver_id", "subgroup_size"}


def test_every_rule_and_default_decides_something():
    reasons = set()
    for context, dtype, storage in itertools.product(cards(), DTYPES, STORAGES):
        for size, channels in itertools.product(
            (1, 16, 64, 128, 512), (8, 48, 64, 96, 100, 160, 192, 256, 320, 640)
        ):
            wanted = problem(channels, channels, size, dtype, storage)
            reasons.add(chosen(context, wanted).reason)
            pair = PairProblem(storage, wanted.x_shape, 2 * channels, channels, np.dtype(dtype))
            found = choose_pair(context, pair, "buffer")
            reasons.add(found.reason if found else "")
            slices = PairProblem(storage, wanted.x_shape, 80, channels, np.dtype(dtype))
            found = choose_pair(context, slices, "buffer")
            reasons.add(found.reason if found else "")
        with contextlib.suppress(pwconv.UnsupportedError):  # for most devices K is too long
            reasons.add(chosen(context, problem(1_920_032, 8, 4, dtype, storage)).reason)
        for shape in ((1, 1, 1, 64), (1, 1, 8, 64), (1, 8, 1, 64), (1, 1, 999, 64), (1, 999, 1, 9)):
            rows = linear.Problem(
                storage, shape, (*shape[:3], 96), np.dtype(dtype), np.dtype("float32")
            )
            reasons.add(matmul.choose(context, rows, "buffer").reason)
    decided = "\n".join(reasons)
    for kind, _, entry in EVERY:
        if kind not in ("scale", "stride"):
            assert f"{entry.where}: " in decided, f"{entry.where} decides nothing"


# -- points ---------------------------------------------------------------------------------------


def test_the_nearest_point_within_a_factor_of_two_decides():
    context, at = card(), problem(48, 96, 64)
    usual, other = chosen(context, at), another(context, at)
    near = point(context, usual.variant.name, m=4096, n=96, k=80)
    with with_points(near, point(context, other)):
        choice = chosen(context, at)
        assert choice.variant.name == other
        assert choice.reason == (
            "heuristics.toml, conv2d_pw point 2: measured at M·batch = 4096, N = 96, K = 48 on "
            "Card (driver 1, 2026-11-27)"
        )
        assert "point 1" in chosen(context, problem(72, 96, 64)).reason
        assert "point 2" in chosen(context, problem(56, 96, 64)).reason
    with with_points(point(context, other)):
        for k, n, size, batch in ((24, 96, 64, 1), (48, 192, 64, 1), (96, 48, 32, 8)):
            assert chosen(context, problem(k, n, size, batch=batch)).variant.name == other
        for k, n, size, batch in ((23, 96, 64, 1), (48, 193, 64, 1), (48, 96, 32, 9)):
            assert " point " not in chosen(context, problem(k, n, size, batch=batch)).reason


def test_a_point_is_of_its_device_type_and_storage():
    context, at = card(), problem(48, 96, 64)
    other = another(context, at)
    with with_points(point(context, other)):
        for elsewhere in (card("integrated"), card(subgroupSize=64), card(features=KHR)):
            same = elsewhere.info.key == context.info.key
            assert (" point " in chosen(elsewhere, at).reason) == same
        for another_kind in (
            problem(48, 96, 64, "float16"),
            problem(48, 96, 64, storage="texture3d"),
            problem(48, 96, 128, geometry=Geometry((2, 2))),
        ):
            assert " point " not in chosen(context, another_kind).reason
    with with_points(point(context, other, vendor_id=7)):
        assert " point " not in chosen(context, at).reason


def test_of_equal_points_the_first_decides():
    context, at = card(), problem(48, 96, 64)
    other = another(context, at)
    with with_points(point(context, other, k=24), point(context, other, k=96)):
        assert "point 1" in chosen(context, at).reason


def test_a_point_whose_variant_cannot_run_is_passed_over(tmp_path):
    context, at = card(), problem(48, 96, 64)
    usual, other = chosen(context, at), another(context, at)
    gone = point(context, "a_variant_of_an_older_version")
    with with_points(gone, point(context, other)):
        assert "point 2" in chosen(context, at).reason
        denying = inside.paper_context(context.info, Denied(frozenset({other}), tmp_path))
        found = chosen(denying, at)
        assert found.variant is usual.variant
        assert " point " not in found.reason


def test_exported_winners_decide_where_they_are_appended():
    context, at = card("integrated", KHR, (FIXED,)), problem(48, 96, 32, batch=4)
    other, usual = another(context, at), chosen(context, at).variant.name
    textures = problem(48, 96, 64, storage="texture3d")
    tiled = next(v for v in matmul.candidates(context, textures, "buffer") if "m8n2" in v)
    winners = {
        Key(at, "buffer"): Winner(other, (8, 8, 1), 1e-6, usual, (8, 8, 1), 2e-6),
        Key(textures, "buffer"): Winner(tiled, (64, 1, 1), 1e-6, "any", (8, 8, 1), 2e-6),
        Key(problem(48, 96, 128, geometry=Geometry((2, 2))), "buffer"): Winner(
            other, (8, 8, 1), 1e-6, usual, (8, 8, 1), 2e-6
        ),
    }
    text = export(context.info, winners, DAY)
    assert len(heuristics_file.parse(text, "file")["conv2d_pw"]["points"]) == 2
    with inside.other_heuristics(SHIPPED + text):
        for batch, size in ((1, 64), (4, 32), (1, 90)):
            found = chosen(context, problem(48, 96, size, batch=batch))
            assert found.variant.name == other
            assert "M·batch = 4096, N = 96, K = 48 on Card (driver 1, 2026-11-27)" in found.reason
        found = chosen(context, textures)
        assert (found.variant.name, found.workgroup) == (tiled, (64, 1, 1))


# -- devices that nobody measured -----------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("storage", STORAGES)
def test_a_device_of_any_type_has_a_default(kind, storage):
    small = {"maxComputeSharedMemorySize": 16 << 10, "maxComputeWorkGroupInvocations": 128}
    for context in (card(kind), card(kind, **small)):
        for wanted in (problem(3, 8, 1, storage=storage), problem(256, 256, 64, storage=storage)):
            choice = chosen(context, wanted)
            assert choice.variant.shared_memory <= context.limits["maxComputeSharedMemorySize"]
            assert choice.reason.startswith("heuristics.toml, conv2d_pw ")
            if kind in ("integrated", "virtual", "other"):
                assert " default " in choice.reason


def test_pays():
    for kind in TYPES:
        info = card(kind).info
        assert heuristics.stride_pays(info, "buffer")
        assert not heuristics.stride_pays(info, "texture3d")
        for family in ("conv2d_pw_tiled", "conv2d_pw_staged_buffer"):
            variant = shaders.variants(family)[0]
            pays = heuristics.scale_pays(info, variant)
            assert pays == (kind != "cpu" or family == "conv2d_pw_tiled")


# -- malformed files ------------------------------------------------------------------------------

RULE = {"name": '"a"', "why": '"b"', "tiles": '["t"]'}


def table(head: str, **values: str) -> str:
    return "\n".join([f"[[{head}]]", *(f"{k} = {v}" for k, v in values.items()), ""])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "file is no TOML: "),
        ("[[conv3d.rules]]", "file has 'conv3d'; its kinds are conv2d_pw, linear"),
        ("[[conv2d_pw.rule]]", r"file: conv2d_pw must have no more than \[\[conv2d_pw.points\]\]"),
        ("conv2d_pw = 3", "file: conv2d_pw must have no more than"),
        ("[conv2d_pw.rules]", "file: conv2d_pw.rules must be tables"),
        ("conv2d_pw.rules = [3]", "conv2d_pw rule 1 is 3; it must be a table"),
        (table("conv2d_pw.rules", name='"a"'), "file, conv2d_pw rule 'a' lacks tiles, why"),
        (table("conv2d_pw.rules", **RULE, n_mx="3"), "rule 'a' has 'n_mx', which it must not; its"),
        (
            table("conv2d_pw.rules", **RULE, sizes='["n <= -3"]'),
            "'a': sizes is .*; it must be a list",
        ),
        (
            table("conv2d_pw.rules", **RULE, sizes='["n % 0"]'),
            "sizes is .*; it must be a list of bou",
        ),
        (
            table("conv2d_pw.rules", **RULE, sizes="[3]"),
            r"sizes is \[3\]; it must be a list of bounds",
        ),
        (table("conv2d_pw.rules", **RULE, type='"gpu"'), "type is 'gpu'; it must be one of discr"),
        (table("conv2d_pw.rules", **RULE, type='["cpu", 3]'), r"type is \['cpu', 3\]; it must be"),
        (table("conv2d_pw.rules", **RULE, type="[]"), r"type is \[\]; it must be one of"),
        (
            table("conv2d_pw.rules", **RULE, sizes='["s <= 3"]'),
            "sizes is .*; it must be a list of bou",
        ),
        (
            table("conv2d_pw.rules", **RULE, like='["b"]'),
            r"'a': like is \['b'\]; it must be a list of",
        ),
        (table("conv2d_pw.rules", **RULE, like="3"), "'a': like is 3; it must be a list of tables"),
        (
            "[like.b]\nx = 3\n" + table("linear.rules", **RULE, like='["b"]'),
            "rule 'a' has 'x', which",
        ),
        (
            table("linear.rules", **{**RULE, "tiles": '["t to 3"]'}),
            "tiles is .*; it must be a list of t",
        ),
        (table("conv2d_pw.rules", **RULE, workgroup="[3, 1, 1]"), "workgroup is .* powers of 2"),
        (table("conv2d_pw.rules", **RULE, date="2026-11-22"), "'a' lacks device, driver"),
        (table("conv2d_pw.rules", **{**RULE, "tiles": "[]"}), "tiles is .*; it must be a list"),
        (table("conv2d_pw.rules", name='"a"', why='"b"'), "'a' lacks tiles"),
        (table("conv2d_pw.rules", **RULE) * 2, "'a' is there twice"),
        (table("conv2d_pw.defaults", **RULE, type='"cpu"'), "default 'a' has 'type', which"),
        (table("scale.rules", name='"a"', why='"b"', pays="1"), "scale rule 'a': pays is 1; it"),
        (table("linear.points", m="1"), "linear point 1 lacks date, device"),
        (table("linear.points", type='["cpu"]'), r"linear point 1: type is \['cpu'\]; it must be"),
        (table("linear.points", date='"today"'), "date is 'today'; it must be a date as 2026"),
        (table("linear.points", seconds="inf"), "seconds is inf; it must be a positive number"),
    ],
)
def test_a_malformed_file_says_what_is_wrong(text, message):
    with pytest.raises(pwconv.PwconvError, match=message):
        heuristics_file.parse(text, "file")


def test_an_entry_has_the_keys_of_what_it_is_like():
    shared = '[like.b]\ntype = "cpu"\nwhy = "c"\n[like.d]\ntype = "other"\n'
    rule = table("linear.rules", name='"a"', tiles='["t"]', why='"own"', like='["b", "d"]')
    (entry,) = heuristics_file.parse(shared + rule, "file")["linear"]["rules"]
    assert entry.says == {"name": "a", "tiles": ["t"], "why": "own", "type": "cpu"}


def test_a_point_that_is_none_is_not_written():
    wrong = point(card(), "any", n=0)
    with pytest.raises(pwconv.PwconvError, match="conv2d_pw point 1: n is 0"):
        heuristics_file.to_text("conv2d_pw", [wrong])


def test_the_file_is_read_once(monkeypatch):
    context, at = card(), problem(48, 96, 64)
    chosen(context, at)
    monkeypatch.setattr(heuristics_file, "parse", None)
    chosen(context, problem(49, 97, 63))
