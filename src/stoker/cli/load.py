"""What a server does just now: numbers that only grow, taken twice, become rates, latencies and shares.

Owns what is taken from services, machines and metrics, and the arithmetic. Does not know who looks at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stoker.cli.exposition import Series, parse, value_of
from stoker.client.types import Machine, Service

Key = tuple[str, str]
"""Account, and `topic/name` of the function."""
_OTHER = "other"
_EXACT_PART = 0.1
"""A mean of which at most so much is an error of rounding is shown."""
_ROUNDING_MS = 0.0005
"""Of the mean that a service tells."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a function came to so far."""

    calls: float = 0
    errors: float = 0
    run_ms: float = 0
    exact: bool = False
    """Whether `run_ms` was counted, and not made of a rounded mean."""


@dataclass(frozen=True, slots=True)
class Place:
    """The instances of a function."""

    instances: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """A server at one moment."""

    at_s: float
    """Of a clock that is never set."""
    functions: Mapping[Key, Counts]
    places: Mapping[Key, Place]
    metrics: Series | None
    """None if the token may not see them."""


def sample_of(
    at_s: float, services: Iterable[Service], machines: Iterable[Machine], metrics: str | None
) -> Sample:
    """Return a sample of what the server answered."""
    functions: dict[Key, Counts] = {}
    names: dict[tuple[str, str, str], str] = {}
    for service in services:
        about, stats = service.metadata, service.stats
        account, topic, name = (str(about.get(key, "")) for key in ("account", "collection", "function"))
        run_ms = stats.average_processing_ms * stats.requests
        functions[account, f"{topic}/{name}"] = Counts(stats.requests, stats.errors, run_ms)
        for endpoint in service.endpoints:
            names[account, topic, str(endpoint.get("subject", "")).rpartition(".")[2]] = name
    series = None if metrics is None else parse(metrics)
    if series is not None:
        _take_metrics(functions, series)
    places: dict[Key, Place] = {}
    for machine in machines:
        topic, service_name = (machine.annotations.get(key, "") for key in ("namespace", "service"))
        name = names.get((machine.owner, topic, service_name), service_name)
        key = machine.owner, f"{topic}/{name}"
        place = places.get(key, Place())
        places[key] = Place(place.instances + 1, place.memory_bytes + _memory_of(machine))
    return Sample(at_s, functions, places, series)


def _take_metrics(functions: dict[Key, Counts], series: Series) -> None:
    """Add functions of other accounts, and of all the exact time that they ran."""
    counted: dict[Key, list[float]] = {}
    for labels, value in series.get("stoker_function_invocations_total", ()):
        found = counted.setdefault((labels.get("account", ""), labels.get("function", "")), [0, 0])
        found[0] += value
        found[1] += value if labels.get("reason") != "ok" else 0
    for labels, seconds in series.get("stoker_function_run_seconds_total", ()):
        key = labels.get("account", ""), labels.get("function", "")
        calls, errors = counted.get(key, (0, 0))
        own = functions.get(key)
        if own is not None:
            calls, errors = own.calls, own.errors
        elif key[1] == _OTHER and not calls:
            continue
        functions[key] = Counts(calls, errors, seconds * 1000, exact=True)


def _memory_of(machine: Machine) -> int:
    try:
        return int(machine.stats["CgroupStats"]["memory"]["usage"]["usage"])
    except (KeyError, TypeError, ValueError):
        return 0


# -- between two samples -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FunctionLoad:
    """A function just now."""

    account: str
    function: str
    calls_per_second: float
    errors_per_second: float
    average_ms: float | None
    """How long a call ran in the meantime; None if none did, or if it cannot be told."""
    calls: int
    """Since the server's start."""
    errors: int
    instances: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """What only administrators see."""

    run_p50_ms: float | None
    run_p95_ms: float | None
    run_p99_ms: float | None
    in_flight: int
    """Calls whose callers wait."""
    queued: int
    """Async ones that have not ended."""
    instances_max: int
    spares: int
    gateway_memory_bytes: int
    gateway_cpu_percent: float
    nats_memory_bytes: int
    nats_cpu_percent: float


@dataclass(frozen=True, slots=True)
class Load:
    """A server just now."""

    calls_per_second: float
    errors_per_second: float
    average_ms: float | None
    instances: int
    memory_bytes: int
    """Of all instances."""
    server: ServerLoad | None
    functions: Sequence[FunctionLoad] = field(default_factory=tuple)
    """The busiest first."""

    def document(self) -> dict[str, Any]:
        """Return it as JSON shows it."""
        return asdict(self)


def load_between(before: Sample, now: Sample) -> Load:
    """Return what happened between two samples of one server."""
    seconds = max(now.at_s - before.at_s, 1e-3)
    keys = {**now.functions, **now.places}
    rows = [_function_load(key, before, now, seconds) for key in keys]
    rows.sort(key=lambda row: (-row.calls_per_second, -row.calls, row.account, row.function))
    timed = [row for row in rows if row.average_ms is not None]
    weight = sum(row.calls_per_second for row in timed)
    return Load(
        calls_per_second=sum(row.calls_per_second for row in rows),
        errors_per_second=sum(row.errors_per_second for row in rows),
        average_ms=(
            sum((row.average_ms or 0) * row.calls_per_second for row in timed) / weight if weight else None
        ),
        instances=sum(row.instances for row in rows),
        memory_bytes=sum(row.memory_bytes for row in rows),
        server=None if now.metrics is None else _server_load(before.metrics or {}, now.metrics, seconds),
        functions=rows,
    )


def _function_load(key: Key, before: Sample, now: Sample, seconds: float) -> FunctionLoad:
    counts, place = now.functions.get(key, Counts()), now.places.get(key, Place())
    old = before.functions.get(key, Counts(exact=counts.exact))
    if old.calls > counts.calls:  # the server was started again meanwhile
        old = Counts(exact=counts.exact)
    calls = counts.calls - old.calls
    return FunctionLoad(
        account=key[0],
        function=key[1],
        calls_per_second=calls / seconds,
        errors_per_second=max(0.0, counts.errors - old.errors) / seconds,
        average_ms=_average_ms(old, counts, calls),
        calls=int(counts.calls),
        errors=int(counts.errors),
        instances=place.instances,
        memory_bytes=place.memory_bytes,
    )


def _average_ms(old: Counts, new: Counts, calls: float) -> float | None:
    run_ms = new.run_ms - old.run_ms
    if calls <= 0 or old.exact != new.exact or run_ms < 0:
        return None
    rounding_ms = 0 if new.exact else _ROUNDING_MS * (old.calls + new.calls)
    return run_ms / calls if rounding_ms <= _EXACT_PART * run_ms else None


def _server_load(before: Series, now: Series, seconds: float) -> ServerLoad:
    def number(name: str, **labels: str) -> int:
        return int(value_of(now, name, **labels))

    def percent(process: str) -> float:
        name = "stoker_process_cpu_seconds_total"
        used_s = value_of(now, name, process=process) - value_of(before, name, process=process)
        return max(0.0, used_s) / seconds * 100

    buckets = _buckets(before, now)
    p50, p95, p99 = (quantile_ms(buckets, share) for share in (0.5, 0.95, 0.99))
    return ServerLoad(
        run_p50_ms=p50,
        run_p95_ms=p95,
        run_p99_ms=p99,
        in_flight=number("stoker_calls_in_flight"),
        queued=number("stoker_queue_depth"),
        instances_max=number("stoker_instances_max"),
        spares=number("stoker_spares_ready"),
        gateway_memory_bytes=number("stoker_process_resident_bytes", process="gateway"),
        gateway_cpu_percent=percent("gateway"),
        nats_memory_bytes=number("stoker_process_resident_bytes", process="nats"),
        nats_cpu_percent=percent("nats"),
    )


def _buckets(before: Series, now: Series) -> list[tuple[float, float]]:
    """Return upper bounds in milliseconds, each with how many runs in the meantime took no longer."""
    name = "stoker_invocation_phase_seconds_bucket"
    return sorted(
        (
            float(labels["le"]) * 1000,
            value - value_of(before, name, phase="run", le=labels["le"]),
        )
        for labels, value in now.get(name, ())
        if labels.get("phase") == "run" and "le" in labels
    )


def quantile_ms(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """Return what `share` of the runs did not exceed, straight between the bounds; None if there were none.

    Past the last bound it is that bound.
    """
    total = buckets[-1][1] if buckets else 0
    if total <= 0:
        return None
    low, below = 0.0, 0.0
    for bound, reached in buckets:
        if reached >= share * total:
            if bound == float("inf"):
                return low
            inside = reached - below
            return low + (bound - low) * ((share * total - below) / inside if inside else 1)
        low, below = bound, reached
    return low
