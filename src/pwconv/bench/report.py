"""Report of a benchmark run: dataclasses, and their JSON document.

The document, schema 3; every duration is in seconds::

    schema     3
    date       ISO 8601, UTC
    method     how kernels were timed, in words
    workload   its name, or the shapes given
    device     name, type, driver, api_version
    versions   of pwconv, numpy, Python and every other contender
    notes      what a reader must know of this run
    ceilings   name, unit ("byte/s", "flop/s"), rate, dtypes, sample, clocks
    graphs     name; kind ("layers", "mixers", "networks") and count, how often the network has it;
               flop; least_bytes: dtype → bytes of inputs, weights and outputs; roofline: dtype →
               seconds, bound; runs
    host       null, or what Python costs a graph: graph, dtype, storage; gpu: the device's own time
               of a run; samples: numpy_to_numpy (a run from array to array), staging_copy (plain
               copies of the same bytes into and out of mapped memory, in turns with the runs), call
               (a run on resident tensors, not waited for), run (waited for), resize (to a size
               known before), new_resize, first_call (to a new size, and the run that then records)

    a run      contender, dtype, storage, kernels (each variant with its workgroup, once),
               dispatches, scratch (bytes of what is between the nodes), working_set (bytes that
               inputs and outputs rotate over), sample, clocks, failure (why there is no sample);
               share of the roofline reached
    a sample   median, q1, q3, count, repetitions (runs in each of the ``count`` samples)
    clocks     before, after (the calibration kernel), attempts, settled
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from pwconv.timing.ceilings import Ceiling, Roofline
from pwconv.timing.clocks import ClockCheck
from pwconv.timing.stopwatch import Sample

SCHEMA = 3
OURS = "pwconv"


def is_ours(label: str) -> bool:
    """Return whether a contender is pwconv, fused or not."""
    return label.startswith(OURS)


@dataclass(frozen=True)
class Run:
    """One contender at one graph; see the module's description of the document."""

    contender: str
    dtype: str
    sample: Sample | None = None
    clocks: ClockCheck | None = None
    storage: str | None = None
    kernels: list[str] = field(default_factory=list)
    dispatches: int | None = None
    scratch: int | None = None
    working_set: int | None = None
    failure: str | None = None

    @property
    def label(self) -> str:
        """The contender's name, with the storage of ours."""
        return f"{self.contender} {self.storage}" if self.storage else self.contender


@dataclass(frozen=True)
class Result:
    """A graph, the least that it must compute and move, and everyone's runs of it."""

    name: str
    kind: str
    count: int
    flop: int
    least_bytes: dict[str, int]
    roofline: dict[str, Roofline]
    runs: list[Run]

    def find(self, label: str, dtype: str) -> Run | None:
        """Return a contender's run at a type."""
        return next((run for run in self.runs if (run.label, run.dtype) == (label, dtype)), None)

    def share(self, run: Run) -> float | None:
        """Return the share of the roofline that a run reached."""
        return self.roofline[run.dtype].seconds / run.sample.median if run.sample else None


@dataclass(frozen=True)
class HostCost:
    """Host cost of a graph; see the module's description of the document."""

    graph: str
    dtype: str
    storage: str
    gpu: float | None
    samples: dict[str, Sample]


@dataclass
class Report:
    """All results of a run; see the module's description of the document."""

    date: str
    method: str
    workload: str
    device: dict[str, str]
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)
    graphs: list[Result] = field(default_factory=list)
    host: HostCost | None = None

    @property
    def dtypes(self) -> list[str]:
        """The types that were measured, in order."""
        return list(dict.fromkeys(run.dtype for result in self.graphs for run in result.runs))

    def contenders(self, dtype: str) -> list[str]:
        """Return the labels of the contenders at a type, ours first."""
        labels = [run.label for each in self.graphs for run in each.runs if run.dtype == dtype]
        return sorted(dict.fromkeys(labels), key=lambda label: not is_ours(label))

    def kinds(self) -> list[list[Result]]:
        """Return the results that are summed up together: neighbours of one kind."""
        return [list(group) for _, group in groupby(self.graphs, key=lambda each: each.kind)]


def to_document(report: Report) -> dict[str, Any]:
    """Return the JSON document: the fields of the report, and values derived from them."""
    document = {"schema": SCHEMA, **asdict(report)}
    for ceiling, entry in zip(report.ceilings, document["ceilings"], strict=True):
        entry["clocks"]["settled"] = ceiling.clocks.settled
    for result, graph in zip(report.graphs, document["graphs"], strict=True):
        for run, entry in zip(result.runs, graph["runs"], strict=True):
            entry["share"] = result.share(run)
            if run.clocks:
                entry["clocks"]["settled"] = run.clocks.settled
    return document
