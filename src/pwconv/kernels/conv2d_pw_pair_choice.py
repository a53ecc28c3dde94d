"""Choice of the variant that computes two pointwise convolutions as one, where it gains."""

from __future__ import annotations

from pwconv import heuristics, shaders
from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.dtypes import axis_name
from pwconv.heuristics import Choice
from pwconv.kernels.conv2d_pw import MOST_SHARED
from pwconv.kernels.conv2d_pw_pair import PairProblem, most_channels, pair_trips
from pwconv.kernels.tiling import rows_fit

_COOPMAT, _COOPMAT2 = "conv2d_pw_pair_coopmat", "conv2d_pw_pair_coopmat2"


def candidates(
    context: Context, problem: PairProblem, weight_storage: str
) -> list[shaders.Variant]:
    """Return every variant that the device can run on the problem."""
    considered = shaders.variants(
        f"conv2d_pw_pair_staged_{problem.storage}",
        dtype=axis_name(problem.dtype),
        weight=weight_storage,
    )
    rows = (
        (problem.hidden, problem.x_shape[1]),
        (problem.out_channels, problem.hidden),
    )
    if (
        problem.storage == "buffer"
        and problem.dtype.itemsize == 2
        and all(rows_fit(context, n, k) for n, k in rows)
    ):
        considered += [*shaders.variants(_COOPMAT), *shaders.variants(_COOPMAT2)]
    return [
        v
        for v in considered
        if context.can_run(v)
        and pair_trips(v, problem.x_shape[1], problem.hidden) <= MOST_TRIPS
        and problem.x_shape[1] <= most_channels(v)[0]
        and problem.out_channels <= most_channels(v)[1]
    ]


def choose_pair(context: Context, problem: PairProblem, weight_storage: str) -> Choice | None:
    """Return a variant expected to be faster than two dispatches, or None.

    Where images are so small that two dispatches share their tiles among samples, nothing is.
    """
    if problem.x_shape[0] > 1 and problem.positions <= MOST_SHARED:
        return None
    return heuristics.pair(
        context.info,
        candidates(context, problem, weight_storage),
        storage=problem.storage,
        dtype=problem.dtype,
        outputs=(problem.positions, problem.out_channels, problem.x_shape[0]),
        k=problem.x_shape[1],
        hidden=problem.hidden,
    )
