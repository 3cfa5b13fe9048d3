"""The measures: each takes one figure of the issue from running servers.

Owns the order of the calls and what lies within a measured time. Does not know how servers are started.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from compute import Stoker, echoed, function_path
from exchange import Connection, learn, payload, wrong_answers
from load import Cell, run_wrk
from machine import cpu_s
from peer import Target
from program import CannotMeasure
from results import Spread, Warm, spread

REFILL_MS = 400  # a spare boots in some 60 ms alone, and the background has low CPU weight
SETTLE_MS = 200
CHECKED_CONNECTIONS, CHECKED_CALLS = 16, 50


def stoker_echo(server: Stoker, runtime: str, name: str) -> Target:
    """Create an echo on the server, and return it as something to load. Raises CannotMeasure."""
    with Connection(server.port) as connection:
        path = server.create(connection, runtime)
    return Target(name, server.pid, learn(server.port, lambda value: server.invoke(path, value), echoed))


def warm_up(target: Target, *, connections: int) -> None:
    """Have a target compiled and, for stoker, its instances booted, before anything counts.

    Raises CannotMeasure if an answer is another connection's, or wrong.
    """
    wrong = wrong_answers(target.exchange, connections=CHECKED_CONNECTIONS, calls=CHECKED_CALLS)
    if wrong:
        calls = CHECKED_CONNECTIONS * CHECKED_CALLS
        raise CannotMeasure(f"{wrong} of {calls} answers are not that very call's")
    run_wrk(target.exchange, connections=connections, seconds=1)


def warm_rounds(
    targets: Sequence[Target], *, connections: Sequence[int], rounds: int, seconds: int
) -> Iterator[tuple[str, int, Warm]]:
    """Load each target in turn, over and over, and give each cell with its target's name and its connections.

    Every round begins with another target. Raises CannotMeasure.
    """
    for round_ in range(rounds):
        first = round_ % max(1, len(targets))
        for count in connections:
            for target in [*targets[first:], *targets[:first]]:
                time.sleep(SETTLE_MS / 1000)
                before_s = cpu_s(target.pid)
                cell = run_wrk(target.exchange, connections=count, seconds=seconds)
                yield target.name, count, Warm(cell, (cpu_s(target.pid) - before_s) * 1e6 / cell.answers)


def generator_ceiling(trivial: Target, *, connections: Sequence[int], seconds: int) -> dict[int, Cell]:
    """Return what the load generator reaches where the server does next to nothing."""
    return {count: run_wrk(trivial.exchange, connections=count, seconds=seconds) for count in connections}


def first_answers(server: Stoker, *, count: int, tell: Callable[[str], None]) -> dict[str, Spread]:
    """Time the first call of functions with code never seen, the pool filled, each runtime in turn.

    Raises CannotMeasure.
    """
    taken: dict[str, list[float]] = {"nodejs": [], "python": []}
    with Connection(server.port) as connection:
        for number in range(count):
            tell(f"first answers {number + 1}/{count}")
            for runtime, values in taken.items():
                path = server.create(connection, runtime)
                value = payload(f"first {runtime} {number}")
                request = server.invoke(path, value)
                time.sleep(REFILL_MS / 1000)
                began = time.perf_counter()
                answer = connection.ask(request)
                values.append((time.perf_counter() - began) * 1000)
                if answer.status != 200 or echoed(answer.json()) != value:
                    raise CannotMeasure(f"a first call answers {answer.status} {answer.body[:300]!r}")
                server.delete(connection, path)
    return {runtime: spread(values) for runtime, values in taken.items()}


def creates(server: Stoker, *, count: int) -> Spread:
    """Time the creation of functions, one after the other. Raises CannotMeasure."""
    taken = []
    with Connection(server.port) as connection:
        for _ in range(count):
            request = server.new_function("nodejs")
            began = time.perf_counter()
            function_path(connection, request)
            taken.append((time.perf_counter() - began) * 1000)
    return spread(taken)
