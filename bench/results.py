"""The results of a run: figures, and the targets they are held against.

Does not know how a figure is taken or shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum

from load import Cell
from machine import Machine, Memory
from peer import FUNCTIONS_FRAMEWORK, NODE_HTTP

STOKER_NODE = "stoker, Node"
STOKER_PYTHON = "stoker, Python"
SATURATED_CORES = 0.85  # past this the generator itself may be what is measured


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure was distributed, milliseconds."""

    median_ms: float
    p90_ms: float
    smallest_ms: float
    count: int


def spread(values_ms: Sequence[float]) -> Spread:
    """Return the spread of at least one value."""
    ordered = sorted(values_ms)
    p90 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))]
    return Spread(statistics.median(ordered), p90, ordered[0], len(ordered))


@dataclass(frozen=True, slots=True)
class Warm:
    """One cell of the warm calls, and what the server's processes used for it."""

    cell: Cell
    server_cpu_us: float  # a call


@dataclass(frozen=True, slots=True)
class Many:
    """A server with many functions."""

    functions: int
    listed: Spread
    ready: Spread
    bytes_each: float


@dataclass(frozen=True, slots=True)
class Reached:
    """Requests of functions, by themselves and through the broker."""

    direct: Spread
    brokered: Spread


@dataclass(slots=True)
class Results:
    """What a run has found so far; what is None or absent was not asked for or could not be measured."""

    machine: Machine
    warm: dict[tuple[str, int], list[Warm]] = field(default_factory=dict)  # (name, connections) -> rounds
    generator: dict[int, Cell] = field(default_factory=dict)  # connections -> against the trivial server
    first_answer: dict[str, Spread] = field(default_factory=dict)  # by runtime
    create: Spread | None = None
    ready: Spread | None = None
    idle: list[Memory] = field(default_factory=list)  # instances too, which the target leaves out
    kept: list[float] = field(default_factory=list)  # calls a second with records by those without, a round
    accept: Spread | None = None  # of one client
    accepts_per_s: float | None = None  # of 64 clients
    looked_up: Spread | None = None
    listed: Spread | None = None
    backlog: tuple[Spread, Spread] | None = None  # first answers without and behind another's backlog
    many: Many | None = None
    reached: dict[str, Reached] = field(default_factory=dict)  # by kind: new, standing, at_once
    complaints: list[str] = field(default_factory=list)  # what failed or was answered wrongly

    @property
    def saturated(self) -> list[str]:
        """The cells in which the load generator was too busy for the figure to be the server's."""
        return [
            f"{name} at {connections}"
            for (name, connections), rounds in self.warm.items()
            if statistics.median(round_.cell.generator_cores for round_ in rounds) > SATURATED_CORES
        ]


def median(rounds: Sequence[Warm], figure: Callable[[Warm], float]) -> float:
    """Return the median over the rounds of one cell."""
    return statistics.median(figure(round_) for round_ in rounds)


class Verdict(Enum):
    """How a figure stands to its target."""

    MET = "met"
    MISSED = "MISSED"
    NOT_MEASURED = "not measured"
    NO_TARGET = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One figure and its target, as text; `value` is the figure in its unit."""

    what: str
    value: float | None
    shown: str
    target: str
    verdict: Verdict


def ratio(
    results: Results, connections: int, peer: str, figure: Callable[[Cell], float]
) -> tuple[float, float, float] | None:
    """Return stoker's Node echo by the peer's: the median of the rounds' own ratios, the least and the most.

    A round's two figures were taken within seconds of each other, so that a slow minute of the machine
    falls on both.
    """
    ours, theirs = (results.warm.get((name, connections), []) for name in (STOKER_NODE, peer))
    ratios = [figure(a.cell) / figure(b.cell) for a, b in zip(ours, theirs, strict=False)]
    return (statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def lines(results: Results, wanted: Collection[str]) -> list[Line]:
    """Return every target of the parts that were wanted, met or not, and the distance to bare node:http."""
    found: list[Line] = []
    if "warm" in wanted:
        found += [
            _ratio_line(results, 1, FUNCTIONS_FRAMEWORK, "p50", at_most=0.5),
            _ratio_line(results, 16, FUNCTIONS_FRAMEWORK, "req/s", at_least=3.0),
            _ratio_line(results, 1, NODE_HTTP, "p50"),
            _ratio_line(results, 16, NODE_HTTP, "req/s"),
        ]
    if "first" in wanted:
        for runtime in ("nodejs", "python"):
            found.append(_spread_line(f"first answer, {runtime}", results.first_answer.get(runtime), 10))
    if "create" in wanted:
        found.append(_spread_line("create", results.create, 10))
    if "ready" in wanted:
        found.append(_spread_line("ready, empty data directory", results.ready, 3000))
    if "memory" in wanted:
        platform = [process.pss_bytes for process in results.idle if not process.sandboxed]
        idle_mb = sum(platform) / 1e6 if platform else None
        shown = "" if idle_mb is None else f"{idle_mb:.0f} MB"
        found.append(Line("idle memory (PSS)", idle_mb, shown, "<= 200 MB", _verdict(idle_mb, at_most=200)))
    if "records" in wanted:
        found += _record_lines(results)
    if "backlog" in wanted:
        behind = (
            None if results.backlog is None else results.backlog[1].median_ms - results.backlog[0].median_ms
        )
        shown = "" if behind is None else f"{_short(behind)} ms later"
        # its own run time is next to nothing: what it may wait for is one call of the other function
        found.append(Line("first answer behind a backlog", behind, shown, "", _verdict(behind)))
    if "functions" in wanted:
        many = results.many
        found.append(_spread_line("list of 2,000 functions", many.listed if many else None, 50))
        found.append(_spread_line("ready with 2,000 functions", many.ready if many else None, 3000))
        each_kb = None if many is None else many.bytes_each / 1000
        shown = "" if each_kb is None else f"{each_kb:.1f} KB"
        found.append(Line("memory of a function", each_kb, shown, "<= 20 KB", _verdict(each_kb, at_most=20)))
    if "egress" in wanted:
        found += _egress_lines(results)
    return found


def _egress_lines(results: Results) -> list[Line]:
    shown = []
    for kind, what, at_most_ms in (
        ("new", "a request on a new connection", 1),
        ("standing", "a request on a standing one", 1),
        ("at_once", "200 new connections at once", None),
    ):
        found = results.reached.get(kind)
        more_ms = None if found is None else found.brokered.median_ms - found.direct.median_ms
        text = "" if found is None else f"+{more_ms:.2f} on {found.direct.median_ms:.2f} ms"
        target = "" if at_most_ms is None else f"<= +{at_most_ms} ms"
        shown.append(Line(what, more_ms, text, target, _verdict(more_ms, at_most=at_most_ms)))
    return shown


def _record_lines(results: Results) -> list[Line]:
    kept = statistics.median(results.kept) if results.kept else None
    shown = "" if kept is None else f"{kept:.2f} ({min(results.kept):.2f}-{max(results.kept):.2f}) x"
    rate = results.accepts_per_s
    return [
        Line("req/s at 16, records / none", kept, shown, ">= 0.85 x", _verdict(kept, at_least=0.85)),
        _spread_line("Async accept, 1 client", results.accept, 5),
        Line(
            "Async accepts, 64 clients",
            rate,
            "" if rate is None else f"{rate:,.0f}/s",
            ">= 2,000/s",
            _verdict(rate, at_least=2000),
        ),
        _spread_line("look-up of a record", results.looked_up, 5),
        _spread_line("filtered list of 100 records", results.listed, 50),
    ]


def _ratio_line(
    results: Results,
    connections: int,
    peer: str,
    name: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Line:
    figure: Callable[[Cell], float] = (lambda c: c.p50_ms) if name == "p50" else (lambda c: c.requests_per_s)
    found = ratio(results, connections, peer, figure)
    value = None if found is None else found[0]
    shown = "" if found is None else f"{found[0]:.2f} ({found[1]:.2f}-{found[2]:.2f}) x"
    target = f"<= {at_most:.2f} x" if at_most else f">= {at_least:.2f} x" if at_least else ""
    verdict = _verdict(value, at_most=at_most, at_least=at_least)
    return Line(f"{name} at {connections} / {peer}", value, shown, target, verdict)


def _spread_line(what: str, found: Spread | None, at_most_ms: float) -> Line:
    value = None if found is None else found.median_ms
    shown = "" if found is None else f"{_short(found.median_ms)} (p90 {_short(found.p90_ms)}) ms"
    return Line(what, value, shown, f"<= {at_most_ms:.0f} ms", _verdict(value, at_most=at_most_ms))


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _verdict(value: float | None, *, at_most: float | None = None, at_least: float | None = None) -> Verdict:
    if value is None:
        return Verdict.NOT_MEASURED
    if at_most is None and at_least is None:
        return Verdict.NO_TARGET
    met = value <= at_most if at_most is not None else value >= (at_least or 0)
    return Verdict.MET if met else Verdict.MISSED
