"""Diagnosis of a wrong output: the kind of fault that the numbers show."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from pwconv.dtypes import Array
from pwconv.verify.trials import Trial

# Poison of outputs, so that elements that a kernel does not write show. A kernel may compute a NaN,
# but not the other; float16 holds it too.
NAN, NUMBER = float("nan"), -12288.0

# A result so near to what it should be, relative to the largest, was computed too coarsely.
_COARSE = 2.0**-5
# Elements compared at a time.
_PIECE = 1 << 15
# Positions that are looked for elsewhere; of an output that is shuffled any will do.
_POSITIONS_TRIED = 32


@dataclass(frozen=True)
class Failure:
    """An output that is outside its bound, and its first wrong element.

    The kind is "unwritten", "zeros", "lane swap", "row swap", "offset", "precision" or "wrong";
    or "error", where the driver failed: then there is a message, and nothing else.
    """

    case: str
    kind: str
    message: str | None = None
    wrong: int = 0  # count of wrong elements
    elements: int = 0  # count of all
    position: tuple[int, ...] = ()  # [n, c, h, w]; of a linear layer w is the feature
    past_channels: bool = False  # c is a lane past C, which must be zero
    value: float = NAN
    expected: float = NAN
    bound: float = NAN

    def __str__(self) -> str:
        if self.kind == "error":
            return f"{self.case}: {self.message}"
        lane = " (a lane past C)" if self.past_channels else ""
        return (
            f"{self.case}: {self.kind}; at {list(self.position)}{lane} {self.value:.6g} for "
            f"{self.expected:.6g} ± {self.bound:.2g}; {self.wrong:,} of {self.elements:,} wrong"
        )


def run_trial(trial: Trial) -> Failure | None:
    """Run a trial into a poisoned output; return its failure, or None."""
    found = trial.run(NAN)
    if _all_match(found, trial.expected, trial.bound):
        return None
    actual = found.astype(np.float64)
    wrong = ~_matches(actual, trial.expected, trial.bound)
    position = tuple(int(i) for i in np.argwhere(wrong)[0])
    step = float(np.finfo(found.dtype).eps)
    return Failure(
        case=trial.case,
        kind=_kind(trial, actual, wrong, step),
        wrong=int(wrong.sum()),
        elements=wrong.size,
        position=position,
        past_channels=position[1] >= trial.channels,
        value=float(actual[position]),
        expected=float(trial.expected[position]),
        bound=float(trial.bound[position]),
    )


def _all_match(*arrays: Array) -> bool:
    """Return whether all elements are right; compare as many at a time as fit a CPU cache."""
    found, expected, bound = (array.reshape(-1) for array in arrays)
    pieces = (slice(i, i + _PIECE) for i in range(0, len(found), _PIECE))
    return all(_matches(found[piece], expected[piece], bound[piece]).all() for piece in pieces)


def _matches(actual: Array, expected: Array, bound: Array) -> Array:
    with np.errstate(invalid="ignore"):
        near: Array = np.abs(actual - expected) <= bound
    if near.all():
        return near
    same: Array = near | (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    return same


def _kind(trial: Trial, actual: Array, wrong: Array, step: float) -> str:
    # Another poison tells a NaN that was there before from one that was computed.
    if np.isnan(actual[wrong]).all() and (trial.run(NUMBER)[wrong] == NUMBER).all():
        return "unwritten"
    if not actual[wrong].any():
        return "zeros"
    many = np.count_nonzero(wrong) > 1
    # One element alone fits any explanation.
    if many and _lanes_swapped(trial, actual, wrong):
        return "lane swap"
    if many and _rows_swapped(trial, actual, wrong):
        return "row swap"
    value, expected, bound = actual[wrong], trial.expected[wrong], trial.bound[wrong]
    if not np.isfinite([value, expected]).all():
        return "wrong"
    error = value - expected
    offset = np.median(error)
    rounding = bound + step * np.maximum(np.abs(value), np.abs(expected))
    if many and abs(offset) > 2 * rounding.max() and (np.abs(error - offset) <= rounding).all():
        return "offset"
    finite = np.abs(trial.expected[np.isfinite(trial.expected)])
    return "precision" if np.abs(error).max() <= _COARSE * finite.max() else "wrong"


def _lanes_swapped(trial: Trial, actual: Array, wrong: Array) -> bool:
    """Return whether one order of the four lanes of a vec4 explains every wrong element."""
    vec4s = [_vec4s(_columns(trial, array)) for array in (actual, trial.expected, trial.bound)]
    wrong_vec4s = _vec4s(_columns(trial, wrong))
    for order in itertools.permutations(range(4)):
        found, expected, bound = vec4s[0], vec4s[1][:, order], vec4s[2][:, order]
        if _matches(found, expected, bound)[wrong_vec4s].all():
            return True
    return False


def _rows_swapped(trial: Trial, actual: Array, wrong: Array) -> bool:
    """Return whether each wrong position holds the values of another."""
    found, expected, bound = (_columns(trial, a) for a in (actual, trial.expected, trial.bound))
    for position in np.flatnonzero(_columns(trial, wrong).any(0))[:_POSITIONS_TRIED]:
        same = _matches(found[:, position, None], expected, bound).all(0)
        if not np.delete(same, position).any():
            return False
    return True


def _columns(trial: Trial, array: Array) -> Array:
    """Return an output as [output channels, positions]."""
    axis = trial.channel_axis
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _vec4s(columns: Array) -> Array:
    """Return [channels, positions] as [vec4s, 4, positions]."""
    padded = np.pad(columns, ((0, -len(columns) % 4), (0, 0)))
    return padded.reshape(-1, 4, columns.shape[1])
