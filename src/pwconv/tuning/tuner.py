"""Select a layer's variant: the tuned one, else the heuristic's; PWCONV_TUNE says which."""

from __future__ import annotations

import dataclasses
import logging
import os

from pwconv.context import Context
from pwconv.errors import OutOfMemoryError, PwconvError
from pwconv.kernels import conv2d_pw_choice
from pwconv.kernels.conv2d_pw import Task
from pwconv.kernels.tiling import Choice
from pwconv.timing.clocks import Clocks
from pwconv.tuning.race import Outcome, race
from pwconv.tuning.store import Key, Store, Verdict

_log = logging.getLogger(__name__)

MODES = ("off", "cached", "on-demand")


def tuning_mode() -> str:
    """Return the mode in ``$PWCONV_TUNE``: "off", "cached" (the default) or "on-demand".

    Raises
    ------
    PwconvError
        It says something else.
    """
    value = os.environ.get("PWCONV_TUNE") or "cached"
    if value not in MODES:
        raise PwconvError(f"PWCONV_TUNE is {value!r}; it must be one of {', '.join(MODES)}")
    return value


class Tuner:
    """Selects variants on one device.

    Parameters
    ----------
    context : Context
    mode : "off", "cached" or "on-demand"

    Attributes
    ----------
    store : Store
    """

    def __init__(self, context: Context, mode: str) -> None:
        self.store = Store(context.info)
        self._context = context
        self._mode = mode
        self._verdicts: dict[Key, Verdict] | None = None
        self._clocks: Clocks | None = None

    def choose(self, task: Task) -> Choice:
        """Return the variant for a task; in mode "on-demand" measure it if no verdict is known.

        Raises
        ------
        UnsupportedError
            The device can run no variant, for lack of a feature or because all are denied.
        """
        default = conv2d_pw_choice.choose(self._context, task.problem, task.weight_storage)
        if self._mode == "off":
            return default
        with self._context.lock:
            choice = self._recall(task, default)
            if choice is None and self._mode == "on-demand":
                self._tune_quietly(task)
                choice = self._recall(task, default)
        return choice or default

    def tune(self, task: Task) -> Outcome:
        """Measure a task and keep the verdict, unless the clocks did not hold.

        Raises
        ------
        OutOfMemoryError
            There is no room for inputs and outputs to measure on.
        OSError
            The file cannot be written; the verdict is known to this process all the same.
        """
        with self._context.lock:
            if self._clocks is None:
                self._clocks = Clocks(self._context)
            outcome = race(self._context, self._clocks, task)
            if outcome.held:
                winner, sample = outcome.winner
                new = {
                    Key(task.problem, task.weight_storage): Verdict(
                        winner.variant.name,
                        winner.workgroup,
                        sample.median,
                        outcome.default.variant.name,
                        outcome.default.workgroup,
                        outcome.default_time.median,
                    )
                }
                self._verdicts = {**self._known(), **new}
                self._verdicts.update(self.store.add(new))
        return outcome

    def _tune_quietly(self, task: Task) -> None:
        try:
            self.tune(task)
        except (OutOfMemoryError, MemoryError) as error:
            _log.info("%s was not measured: %s", task.problem, error)
        except OSError as error:
            # Not fatal: the next process measures it again.
            _log.info("the tuning file %s was not written: %s", self.store.file, error)

    def _recall(self, task: Task, default: Choice) -> Choice | None:
        """Return the verdict on a task, if its variant can still run."""
        verdict = self._known().get(Key(task.problem, task.weight_storage))
        if verdict is None:
            return None
        if (verdict.default_variant, verdict.default_workgroup) != (
            default.variant.name,
            default.workgroup,
        ):
            _log.info("%s was measured against another default", task.problem)
            return None
        if (verdict.variant, verdict.workgroup) == (default.variant.name, default.workgroup):
            reason = f"{default.reason}; measured on this device, where nothing beats it"
            return dataclasses.replace(default, reason=reason)
        able = conv2d_pw_choice.candidates(self._context, task.problem, task.weight_storage)
        if verdict.variant not in able:
            _log.info("%r is no variant that this device runs", verdict.variant)
            return None
        reason = (
            f"tuned on this device: {verdict.seconds * 1e6:.1f} µs, against "
            f"{verdict.default_seconds * 1e6:.1f} µs of the default, {verdict.default_variant}"
        )
        return Choice(able[verdict.variant], verdict.workgroup, reason)

    def _known(self) -> dict[Key, Verdict]:
        if self._verdicts is None:
            self._verdicts = self.store.read()
        return self._verdicts
