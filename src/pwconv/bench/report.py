"""What a run found, and its JSON.

The document, schema 2; every duration is in seconds. A workload has layers or graphs::

    schema     2
    date       ISO 8601, UTC
    method     how kernels were timed, in words
    workload   its name, or the shapes given
    device     name, type, driver, api_version
    versions   of pwconv, numpy and Python
    peers      peer → version, or why it was not measured
    notes      what a reader must know of this run
    ceilings   name, unit ("byte/s", "flop/s"), rate, dtypes, sample, clocks
    layers     k, n, h, w, batch, count; flop; roofline: dtype → seconds, bound; runs
    graphs     name, size (H = W of its input), kind ("mixers", "network"), count; flop;
               least_bytes: dtype → bytes of inputs, weights and outputs; roofline; runs
    host       null, or call: sample of one call's Python; numpy_to_numpy and staging_copy: samples
    graph_host null, or what it is of: graph, dtype, storage; call: sample of one run's Python, not
               waited for; run: of a run, waited for, and gpu: the device's own time of one; resize:
               of going to a size known before; new_resize, first_call: of going to a new one, and
               of the call that then records

    a run      contender ("pwconv", or the peer and its method), dtype, storage, variant, tile,
               workgroup, working_set (bytes that inputs and outputs rotate over), sample, clocks,
               failure (why there is no sample); of a graph dispatches, and scratch (bytes of what
               is between its nodes); share of the roofline reached
    a sample   median, q1, q3, count, repetitions (runs in each of the ``count`` samples)
    clocks     before, after (the calibration kernel), attempts, settled
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pwconv.bench.workloads import Layer
from pwconv.documents import write_document
from pwconv.dtypes import as_dtype
from pwconv.errors import PwconvError
from pwconv.timing.ceilings import Ceiling, Roofline
from pwconv.timing.clocks import ClockCheck
from pwconv.timing.samples import Sample

SCHEMA = 2


@dataclass(frozen=True)
class Run:
    """One contender at one layer or graph; see the module's description of the document."""

    contender: str
    dtype: str
    sample: Sample | None = None
    clocks: ClockCheck | None = None
    storage: str | None = None
    variant: str | None = None
    tile: str | None = None
    workgroup: tuple[int, ...] | None = None
    working_set: int | None = None
    failure: str | None = None
    dispatches: int | None = None
    scratch: int | None = None


@dataclass(frozen=True)
class GraphFigures:
    """A graph, and what it must compute and move.

    Attributes
    ----------
    name : str
    size : int
        H and W of its input.
    kind : str
        Graphs of one kind are summed up together.
    count : int
        How often the network has it.
    flop : int
        Arithmetic operations.
    least_bytes : dict
        Of inputs, weights and outputs, each once, by dtype.
    """

    name: str
    size: int
    kind: str
    count: int
    flop: int
    least_bytes: dict[str, int]

    def __str__(self) -> str:
        return f"{self.name}@{self.size}"


@dataclass(frozen=True)
class Result:
    """What was measured, its roofline by dtype, and everyone's runs of it."""

    subject: Layer | GraphFigures
    roofline: dict[str, Roofline]
    runs: list[Run] = field(default_factory=list)

    def least_bytes(self, dtype: str) -> int:
        """Return the bytes that must cross memory."""
        if isinstance(self.subject, Layer):
            return self.subject.least_bytes(as_dtype(dtype).itemsize)
        return self.subject.least_bytes[dtype]

    def share(self, run: Run) -> float | None:
        """Return the share of the roofline that a run reached."""
        return self.roofline[run.dtype].seconds / run.sample.median if run.sample else None


@dataclass(frozen=True)
class HostCost:
    """What the host adds.

    Attributes
    ----------
    call : Sample
        Python's time for a call on resident tensors with ``out=``, submitted and not waited for.
    numpy_to_numpy : Sample
        A call from an array to an array.
    staging_copy : Sample
        Plain copies of the same bytes into and out of mapped memory, in turns with the calls.
    shape : str
        Of the last two.
    """

    call: Sample
    numpy_to_numpy: Sample
    staging_copy: Sample
    shape: str


@dataclass(frozen=True)
class GraphHostCost:
    """What the host adds to a graph that runs on resident tensors.

    Attributes
    ----------
    graph, dtype, storage : str
        What it is of.
    call : Sample
        Python's time for ``graph.run``, submitted and not waited for.
    run : Sample
        The same, waited for.
    gpu : float
        The device's own time of a run, in seconds.
    resize : Sample
        Going to a size that the graph was run at before.
    new_resize, first_call : Sample
        Going to a new size, and ``graph.run`` there, which records; not waited for.
    """

    graph: str
    dtype: str
    storage: str
    call: Sample
    run: Sample
    gpu: float
    resize: Sample
    new_resize: Sample
    first_call: Sample


@dataclass
class Report:
    """Everything that a run found."""

    date: str
    method: str
    workload: str
    device: dict[str, str]
    versions: dict[str, str]
    peers: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)
    layers: list[Result] = field(default_factory=list)
    graphs: list[Result] = field(default_factory=list)
    host: HostCost | None = None
    graph_host: GraphHostCost | None = None

    @property
    def results(self) -> list[Result]:
        """Of layers and of graphs."""
        return [*self.layers, *self.graphs]


def to_document(report: Report) -> dict[str, Any]:
    """Return the report as the JSON document."""
    document = {"schema": SCHEMA, **asdict(report)}
    for ceiling, entry in zip(report.ceilings, document["ceilings"], strict=True):
        entry["clocks"]["settled"] = ceiling.clocks.settled
    document["layers"] = [_result_document(result) for result in report.layers]
    document["graphs"] = [_result_document(result) for result in report.graphs]
    return document


def from_document(document: dict[str, Any]) -> Report:
    """Return the report that a JSON document holds.

    Raises
    ------
    PwconvError
        It is of another schema.
    """
    if document.get("schema") != SCHEMA:
        raise PwconvError(
            f"the document has schema {document.get('schema')!r}; this pwconv reads {SCHEMA}"
        )
    host, graph_host = document["host"], document["graph_host"]
    texts = ("date", "method", "workload", "device", "versions", "peers", "notes")
    return Report(
        **{name: document[name] for name in texts},
        ceilings=[_ceiling(entry) for entry in document["ceilings"]],
        layers=[_result(_layer(entry), entry) for entry in document["layers"]],
        graphs=[_result(_graph(entry), entry) for entry in document["graphs"]],
        host=host and _host_cost(host),
        graph_host=graph_host and _graph_host_cost(graph_host),
    )


def write_json(report: Report, path: Path) -> None:
    """Write the document.

    Raises
    ------
    PwconvError
        The file cannot be written.
    """
    write_document(to_document(report), path)


def _result_document(result: Result) -> dict[str, Any]:
    runs = []
    for run in result.runs:
        entry = {**asdict(run), "share": result.share(run)}
        if run.clocks:
            entry["clocks"]["settled"] = run.clocks.settled
        runs.append(entry)
    return {
        **asdict(result.subject),
        "flop": result.subject.flop,
        "roofline": {dtype: asdict(least) for dtype, least in result.roofline.items()},
        "runs": runs,
    }


def _layer(entry: dict[str, Any]) -> Layer:
    return Layer(*(entry[name] for name in ("k", "n", "h", "w", "batch", "count")))


def _graph(entry: dict[str, Any]) -> GraphFigures:
    return GraphFigures(**{each.name: entry[each.name] for each in fields(GraphFigures)})


def _result(subject: Layer | GraphFigures, entry: dict[str, Any]) -> Result:
    return Result(
        subject,
        {dtype: Roofline(**least) for dtype, least in entry["roofline"].items()},
        [_run(run) for run in entry["runs"]],
    )


def _run(entry: dict[str, Any]) -> Run:
    rest = {key: value for key, value in entry.items() if key != "share"}
    return Run(
        **{
            **rest,
            "sample": rest["sample"] and Sample(**rest["sample"]),
            "clocks": rest["clocks"] and _clock_check(rest["clocks"]),
            "workgroup": rest["workgroup"] and tuple(rest["workgroup"]),
        }
    )


def _host_cost(entry: dict[str, Any]) -> HostCost:
    return HostCost(
        Sample(**entry["call"]),
        Sample(**entry["numpy_to_numpy"]),
        Sample(**entry["staging_copy"]),
        entry["shape"],
    )


def _graph_host_cost(entry: dict[str, Any]) -> GraphHostCost:
    samples = {name: Sample(**value) for name, value in entry.items() if isinstance(value, dict)}
    return GraphHostCost(**{**entry, **samples})


def _ceiling(entry: dict[str, Any]) -> Ceiling:
    return Ceiling(
        entry["name"],
        entry["unit"],
        entry["rate"],
        tuple(entry["dtypes"]),
        Sample(**entry["sample"]),
        _clock_check(entry["clocks"]),
    )


def _clock_check(entry: dict[str, Any]) -> ClockCheck:
    return ClockCheck(entry["before"], entry["after"], entry["attempts"])
