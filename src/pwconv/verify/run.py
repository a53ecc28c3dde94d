"""Every variant that a device can run, on every case."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

# Else numpy imports it when it is first used: Ctrl-C there leaves the lock of the import held, on
# which the threads that compile would wait for ever.
import numpy.random  # noqa: F401

from pwconv import shaders
from pwconv.context import Context
from pwconv.errors import ClosedError, DeviceLostError, PwconvError, UnsupportedError
from pwconv.ops import operators
from pwconv.shaders import Variant
from pwconv.verify import movement
from pwconv.verify.diagnosis import Failure, run_trial
from pwconv.verify.trials import Trial, Workbench, operator_trials
from pwconv.vk.pipelines import compiler_threads

_Trials = Callable[[Workbench, Variant], Iterator[Trial]]

# The families that the others are checked with come first. Those of `pwconv bench` are left out.
FAMILIES: dict[str, _Trials] = {
    **movement.TRIALS,
    **{
        family: partial(operator_trials, operator=operator)
        for operator in operators().values()
        for family in operator.families
    },
}


@dataclass(frozen=True)
class Result:
    """A variant, how many cases it was run on, and those that it failed."""

    variant: Variant
    cases: int
    failures: tuple[Failure, ...]

    @property
    def passed(self) -> bool:
        """True if every case was right."""
        return not self.failures


@dataclass
class Verification:
    """Results of a verification."""

    results: list[Result] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # why it cannot be run, by variant
    lost: str = ""  # the error that ended it before its time
    seconds: float = 0.0

    @property
    def failed(self) -> list[Result]:
        """Results with failures."""
        return [result for result in self.results if not result.passed]


def selected(parts: Sequence[str]) -> list[Variant]:
    """Return the variants to verify: all, or those with one of some parts in their names.

    Raises
    ------
    PwconvError
        A part that no name contains.
    """
    everything = [v for family in FAMILIES for v in shaders.variants(family)]
    for part in parts:
        if not any(part in v.name for v in everything):
            raise PwconvError(
                f"no variant's name contains {part!r}; families are {', '.join(FAMILIES)}"
            )
    return [v for v in everything if not parts or any(part in v.name for part in parts)]


def verify(
    context: Context,
    variants: Sequence[Variant],
    on_progress: Callable[[str, float], None] = lambda *_: None,
) -> Verification:
    """Run variants on their cases.

    Parameters
    ----------
    context : Context
        Opened without a deny list: what is on it is to be tried again.
    variants : sequence of Variant
        Of one family and type, one after the other.
    on_progress : callable
        Told the name of each variant before it is run, and the share that is done.
    """
    found = Verification()
    start = time.perf_counter()
    done = 0
    able = [variant for variant in variants if not context.unmet(variant)]
    with _compiled_ahead(context, able):
        # Neighbours of a family and type share inputs.
        for _, group in itertools.groupby(variants, lambda v: (v.family, v.axes.get("dtype"))):
            with Workbench(context) as bench:
                for variant in group:
                    on_progress(variant.name, done / len(variants))
                    done += 1
                    if found.lost:
                        found.skipped[variant.name] = "the device was lost"
                    elif lack := context.unmet(variant):
                        found.skipped[variant.name] = f"it needs {lack}"
                    else:
                        _verify_one(bench, variant, found)
    found.seconds = time.perf_counter() - start
    return found


@contextmanager
def _compiled_ahead(context: Context, variants: Sequence[Variant]) -> Iterator[None]:
    """Have threads make the pipelines of variants, in order, until the end of a ``with``.

    A compilation that fails there is tried again, and reported, when its variant is run.
    """
    ended = threading.Event()
    bench = Workbench(context)  # nothing is made on it

    def compile_all(variant: Variant) -> None:
        for trial in FAMILIES[variant.family](bench, variant):
            if ended.is_set():
                return
            trial.plan()

    pool = ThreadPoolExecutor(compiler_threads(), "pwconv-verify")
    try:
        for variant in variants:
            pool.submit(compile_all, variant)
        yield
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)


def _verify_one(bench: Workbench, variant: Variant, found: Verification) -> None:
    cases = 0
    failures = []
    where = "setting up"
    try:
        for trial in FAMILIES[variant.family](bench, variant):
            where = trial.case
            failure = run_trial(trial)
            cases += 1
            if failure:
                failures.append(failure)
    except PwconvError as error:
        if isinstance(error, UnsupportedError) and not cases:
            found.skipped[variant.name] = str(error)
            return
        cases += 1
        failures.append(Failure(where, "error", message=str(error)))
        if isinstance(error, DeviceLostError | ClosedError):
            found.lost = str(error)
    found.results.append(Result(variant, cases, tuple(failures)))
