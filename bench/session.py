"""A session: the parts of a run, in order, each on servers of its own kind.

Owns what is started when, and that a part which fails does not keep the others from being taken. Does
not know how a figure is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from compute import Stoker, data_directory, running, started
from egress import reached
from exchange import Connection
from machine import memory
from measures import creates, first_answers, generator_ceiling, stoker_echo, warm_rounds, warm_up
from peer import Target, functions_framework, node_http, trivial
from program import CannotMeasure
from records import (
    accept_alone,
    accept_many,
    cost_of_records,
    create_many,
    gateway_bytes,
    list_of_functions,
    look_ups,
)
from results import STOKER_NODE, STOKER_PYTHON, Many, Results, spread

PARTS = ("ready", "memory", "first", "create", "warm", "records", "backlog", "functions", "egress")
FILL_MS = 3000  # until the pool of a fresh server is full: eight boots at low CPU weight
IDLE_MS = 3000  # until a server without spares has come to rest
CEILING_S = 1
ACCEPTS = 6_000
LOOK_UPS = 300


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured, and how often."""

    parts: tuple[str, ...]  # of PARTS
    peers: bool
    rounds: int
    seconds: int  # a cell
    connections: tuple[int, ...]
    functions: int
    creates: int
    starts: int
    stored: int  # records, before any is looked up
    backlog: int  # Async calls
    many: int  # functions
    stoker: tuple[str, ...]  # the command that `serve` is given to
    serve_options: tuple[str, ...]
    data_parent: Path


class Session:
    """One run; what it finds, and what it could not measure, goes into the results."""

    def __init__(
        self, plan: Plan, results: Results, *, peers_directory: Path, log: Path, tell: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._results = results
        self._peers_directory = peers_directory
        self._log = log
        self._tell = tell

    def run(self) -> None:
        """Take every part of the plan."""
        plan = self._plan
        parts = set(plan.parts)
        if "ready" in parts:
            with self._part("ready"):
                self._ready()
        if "memory" in parts:
            with self._part("idle memory"), self._server("--pool", "0,0", rest_ms=IDLE_MS) as idle:
                self._tell("idle memory")
                self._results.idle = memory(idle.pid)
        if parts & {"first", "create", "warm"}:
            with self._part("stoker"), ExitStack() as stack:
                server: Stoker | None = None
                with self._part("stoker"):
                    server = stack.enter_context(self._server(rest_ms=FILL_MS))
                self._on_a_running_server(server, parts)
        if "records" in parts:
            with self._part("records"), self._server(rest_ms=FILL_MS) as server:
                self._records(server)
        if "backlog" in parts:
            with self._part("backlog"), self._server(rest_ms=FILL_MS) as server:
                self._backlog(server)
        if "functions" in parts:
            with self._part("functions"), data_directory(self._plan.data_parent) as data:
                self._functions(data)

        if "egress" in parts:
            with self._part("egress"):
                self._tell("requests of functions, directly and through the broker")
                self._results.reached = reached(
                    stoker=plan.stoker,
                    serve_options=plan.serve_options,
                    data_parent=plan.data_parent,
                    log=self._log,
                )

    def _records(self, server: Stoker) -> None:
        plan, results = self._plan, self._results
        self._tell("what records cost")
        results.kept = cost_of_records(server, rounds=plan.rounds, seconds=plan.seconds)
        with Connection(server.port) as connection:
            path = server.create(connection, "nodejs")
        self._tell("Async accepts")
        results.accept = accept_alone(server, path, count=plan.creates)
        results.accepts_per_s = accept_many(server, path, count=ACCEPTS)
        results.looked_up, results.listed = look_ups(
            server, stored=plan.stored, count=LOOK_UPS, tell=self._tell
        )

    def _backlog(self, server: Stoker) -> None:
        """Time first answers, and time them again while another function has a backlog."""
        plan = self._plan
        alone = first_answers(server, count=plan.functions, tell=self._tell)
        with Connection(server.port) as connection:
            path = server.create(connection, "nodejs")
        self._tell(f"a backlog of {plan.backlog:,} calls")
        accept_many(server, path, count=plan.backlog)
        behind = first_answers(server, count=plan.functions, tell=self._tell)
        self._results.backlog = alone["nodejs"], behind["nodejs"]

    def _functions(self, data: Path) -> None:
        plan = self._plan
        serve, options = [*plan.stoker, "serve"], [*plan.serve_options, "--pool", "0,0"]
        with started(serve, options, data=data, log=self._log) as server:
            create_many(server, count=1, tell=self._tell)
        with started(serve, options, data=data, log=self._log) as server:
            empty_bytes = gateway_bytes(server)
            create_many(server, count=plan.many - 1, tell=self._tell)
        ready = []
        for _ in range(plan.starts):
            with started(serve, options, data=data, log=self._log) as server:
                ready.append(server.ready_ms)
                grown = gateway_bytes(server) - empty_bytes
                listed = list_of_functions(server, count=LOOK_UPS // 10)
        self._results.many = Many(plan.many, listed, spread(ready), grown / plan.many)

    def _ready(self) -> None:
        taken = []
        for number in range(self._plan.starts):
            self._tell(f"start {number + 1}/{self._plan.starts}")
            with self._server() as server:
                taken.append(server.ready_ms)
        self._results.ready = spread(taken)

    def _on_a_running_server(self, server: Stoker | None, parts: set[str]) -> None:
        if server is not None and "first" in parts:
            with self._part("first answer"):
                found = first_answers(server, count=self._plan.functions, tell=self._tell)
                self._results.first_answer = found
        if server is not None and "create" in parts:
            with self._part("create"):
                self._tell("creates")
                self._results.create = creates(server, count=self._plan.creates)
        if "warm" in parts:
            with self._part("warm calls"), ExitStack() as peers:
                self._warm_calls(self._targets(server, peers))

    def _targets(self, server: Stoker | None, peers: ExitStack) -> list[Target]:
        """Start what is loaded; what does not start or answers wrongly is complained of and left out."""
        targets: list[Target] = []
        if server is not None:
            for runtime, name in (("nodejs", STOKER_NODE), ("python", STOKER_PYTHON)):
                with self._part(name):
                    targets.append(stoker_echo(server, runtime, name))
        if self._plan.peers:
            for peer in (functions_framework(self._peers_directory, self._log), node_http(self._log)):
                with self._part(peer.name):
                    targets.append(peers.enter_context(peer.start()))
        ready = []
        for target in targets:
            self._tell(f"warming {target.name}")
            with self._part(target.name):
                warm_up(target, connections=max(self._plan.connections))
                ready.append(target)
        return ready

    def _warm_calls(self, targets: list[Target]) -> None:
        plan, results = self._plan, self._results
        with self._part("load generator"), trivial(self._log).start() as nothing:
            self._tell("load generator")
            results.generator = generator_ceiling(nothing, connections=plan.connections, seconds=CEILING_S)
        for name, count, warm in warm_rounds(
            targets, connections=plan.connections, rounds=plan.rounds, seconds=plan.seconds
        ):
            results.warm.setdefault((name, count), []).append(warm)
            cell = warm.cell
            self._tell(
                f"{name}, {count} connections: {cell.requests_per_s:,.0f} req/s, p50 {cell.p50_ms:.3f} ms"
            )
            if cell.wrong or cell.errors:
                first = f"; the first: {cell.first_wrong}" if cell.wrong else ""
                results.complaints.append(
                    f"{name}, {count} connections: {cell.wrong} wrong answers, {cell.errors} errors of "
                    f"connections beside {cell.answers} right answers{first}"
                )

    def _server(self, *options: str, rest_ms: int = 0) -> AbstractContextManager[Stoker]:
        plan = self._plan
        return running(
            [*plan.stoker, "serve"],
            [*plan.serve_options, *options],
            data_parent=plan.data_parent,
            log=self._log,
            rest_ms=rest_ms,
        )

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        try:
            yield
        except CannotMeasure as error:
            self._results.complaints.append(f"{name}: {error}")
