"""The operators there are: their shaders, and cases that every device on paper can plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pwconv import ops, reference, shaders
from pwconv.context import Context
from pwconv.ops import Choice, Site, operators
from pwconv.ops.base import Case
from pwconv.ops.limits import Limits
from pwconv.shaders import Variant
from pwconv.verify import movement
from pwconv.vk.commands import OUT
from support import inside, paper

DEVICES = sorted((Path(__file__).parents[1] / "golden" / "devices").glob("*.json"))
KINDS = sorted(operators())
WITH_SHADERS = [kind for kind in KINDS if operators()[kind].families]


@pytest.fixture(scope="module", params=DEVICES, ids=lambda file: file.stem)
def context(request: pytest.FixtureRequest) -> Iterator[Context]:
    with paper.device(request.param) as device:
        yield inside.context(device)


def variants(context: Context, kind: str) -> list[Variant]:
    """Return those of an operator that a device can run."""
    families = operators()[kind].families
    found = (variant for family in families for variant in shaders.variants(family))
    return [variant for variant in found if not context.unmet(variant)]


def test_each_kind_is_a_class():
    assert len(set(operators().values())) == len(operators())
    for kind, operator in operators().items():
        assert operator.kind == kind
        assert getattr(ops, operator.__name__) is operator
        # Else dataclass writes one: its signature.
        assert operator.__doc__
        assert not operator.__doc__.startswith(f"{operator.__name__}(")
        for name in ("shape", "plan", "reference", "cases"):
            assert not getattr(getattr(operator, name), "__isabstractmethod__", False)


def test_each_family_is_claimed_once():
    claimed = Counter(family for operator in operators().values() for family in operator.families)
    claimed.update(list(movement.TRIALS))
    claimed.update(family for family in shaders.families() if family.startswith("bench_"))
    assert claimed == dict.fromkeys(shaders.families(), 1)


@pytest.mark.parametrize("kind", WITH_SHADERS)
def test_every_variant_plans_its_cases(context, kind):
    """The forced variant, over the case's inputs and the output, at shapes that it takes."""
    for variant in variants(context, kind):
        limits = Limits(context, variant)
        site = Site(context, limits.storage, limits.dtype)
        found = list(operators()[kind].cases(limits))
        names = Counter(case.name for case in found)
        assert names
        assert set(names.values()) == {1}
        assert len({case.key for case in found}) == len(found)
        for case in found:
            node = case.operator
            out = node.output_shape(case.inputs)
            assert min(out) >= 1
            assert node.storages(case.inputs, (limits.storage,)) == (limits.storage,)
            planned = node.plan(site, case.inputs, out, choice=Choice(variant))
            assert {dispatch.plan.variant for dispatch in planned} == {variant}
            bound = [each for dispatch in planned for each in dispatch.resources.values()]
            operands = {each for each in bound if isinstance(each, int) and each != OUT}
            assert operands == set(range(len(case.inputs)))
            assert bound.count(OUT) == len(planned)


# Longest axes of images and buffers for which numbers are made here, in no time.
SMALL = {"maxImageDimension2D": 4096, "maxImageDimension3D": 389, "maxStorageBufferRange": 2**19}


@pytest.fixture(scope="module")
def small() -> Iterator[Context]:
    """A device of small limits that runs every variant."""
    (file,) = (file for file in DEVICES if file.stem == "h100")
    with paper.device(file) as device:
        context = inside.context(device)
        context.limits = {**context.limits, **SMALL}
        yield context


def cases(context: Context, kind: str) -> Iterator[tuple[Limits, Case]]:
    """Yield each case of each storage and type, for one of the variants."""
    seen = set()
    for variant in variants(context, kind):
        limits = Limits(context, variant)
        for case in operators()[kind].cases(limits):
            key = limits.storage, limits.dtype, case.name
            if key not in seen:
                seen.add(key)
                yield limits, case


@pytest.mark.parametrize("kind", WITH_SHADERS)
def test_numbers_of_cases(small, kind):
    """Of the type and the shapes told, each time the same, and of a known output."""
    for limits, case in cases(small, kind):
        made, again = case.make(), case.make()
        assert tuple(array.shape for array in made.inputs) == tuple(case.inputs)
        assert all(array.dtype == limits.dtype for array in made.inputs)
        told = [each.shape for each in case.operator.parameters]
        assert [weight.shape for weight, _ in made.parameters] == told
        arrays, others = (
            [*each.inputs, *(array for pair in each.parameters for array in pair)]
            for each in (made, again)
        )
        for array, other in zip(arrays, others, strict=True):
            np.testing.assert_array_equal(array, other)
        about = case.with_numbers(made).expected(
            [reference.given(array) for array in made.inputs], limits.dtype, exact=case.exact
        )
        assert about.value.shape == case.operator.output_shape(case.inputs)
        assert not np.isnan(about.error).any()
        # Whatever it holds: else a kernel that wrote anything would pass.
        assert np.isfinite(about.error).mean() > 0.5
        if case.name != "zero":
            assert np.any(about.value)


@pytest.mark.parametrize("kind", WITH_SHADERS)
def test_exact_cases(small, kind):
    """Their outputs are numbers of the type itself, in whatever order sums are added up."""
    for limits, case in cases(small, kind):
        if not case.exact or case.operator.epilogue.activation is not None:
            continue
        made = case.make()
        node = case.with_numbers(made)
        inputs = [reference.given(array) for array in made.inputs]
        about = node.expected(inputs, limits.dtype, exact=True)
        finite = np.isfinite(about.value)
        assert not about.error[finite].any()
        stored = about.value.astype(limits.dtype)
        np.testing.assert_array_equal(stored[finite], about.value[finite])


@pytest.mark.parametrize("kind", ["concat", "elementwise", "rearrange", "subsample", "upsample"])
def test_what_copies_adds_or_multiplies_whole_numbers_has_no_bound(small, kind):
    for limits, case in cases(small, kind):
        if case.name == "ragged, div":  # quotients are rounded
            continue
        inputs = [reference.given(array) for array in case.make().inputs]
        assert not case.operator.expected(inputs, limits.dtype).error.any()


@pytest.mark.parametrize("kind", WITH_SHADERS)
def test_a_case_without_numbers_takes_no_memory(small, kind):
    for _, case in cases(small, kind):
        for parameters in case.operator.parameters:
            assert parameters.weight.strides == (0,) * parameters.weight.ndim
            assert math.prod(parameters.shape) > 0


def test_an_operator_is_changed_by_making_another():
    node = ops.Upsample(scale=2)
    with pytest.raises(AttributeError):
        node.scale = 3
    assert replace(node, scale=3).scale == 3
    assert node.scale == 2
