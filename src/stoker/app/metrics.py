"""Metrics, joined: what each part of the server counts, by the names under which Prometheus keeps it.

Looks at the parts when somebody asks. The names and labels are a promise: `deploy/grafana` and the page
docs/metrics.md live by them. Counts nothing itself but where the time of calls goes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from stoker import __version__
from stoker.app.calls import Calls
from stoker.app.record_keeping import RecordKeeping
from stoker.backbone.jetstream import JetStream
from stoker.catalog.fold import Fold
from stoker.edge.services import Counters
from stoker.invocation.acceptance import ASYNC, REQUEST_RESPONSE
from stoker.model.call import Call
from stoker.model.outcome import END_REASON_OF_CODE, EndReason, Outcome
from stoker.telemetry.busiest import Busiest, Followed
from stoker.telemetry.exposition import Family, Sample, counter, gauge, render
from stoker.telemetry.metrics import Phases
from stoker.telemetry.process import open_files, use_of
from stoker.worker.pool import Pool

OTHER = "other"
"""The function label of all that are not among the busiest; no name of a function is without a `/`."""
_RUN_MS = "run_ms"
_OK = EndReason.OK.value


class Measures:
    """What is counted while calls pass: by function, and where their time went."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.phases = Phases()
        self.egress: Counter[str] = Counter()

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Count a call that ran; on the path of every call."""
        self.counters.ended(call, outcome)
        timings = outcome.timings
        self.phases.ended(timings.queue_ms, timings.init_ms, timings.run_ms)
        for use in outcome.network:
            self.egress["connections"] += use.connections
            self.egress["sent"] += use.bytes_sent
            self.egress["received"] += use.bytes_received
            self.egress["refused"] += use.refused


@dataclass(frozen=True, slots=True)
class Parts:
    """What is looked at."""

    fold: Fold
    pool: Pool
    calls: Calls
    keeping: RecordKeeping
    jetstream: JetStream
    measures: Measures
    instances_max: int
    isolation: str


class Metrics:
    """All of a server's metrics."""

    def __init__(self, parts: Parts, *, started_s: float) -> None:
        self._parts = parts
        self._started_s = started_s
        self._busiest = Busiest()
        self._reconnects = 0
        parts.jetstream.connection.on_reconnect(self._reconnected)

    def text(self) -> str:
        """Return what Prometheus reads."""
        return render(self.families())

    def families(self) -> Iterator[Family]:
        """Yield every metric, as it is just now."""
        yield from self._server()
        yield from self._invocations()
        yield from self._egress()
        yield from self._queue()
        yield from self._pool()
        yield from self._backbone()
        yield from self._records()
        yield from self._processes()

    def _server(self) -> Iterator[Family]:
        about = {"version": __version__, "isolation": self._parts.isolation}
        yield gauge("stoker_build_info", "What runs here; always 1.", Sample(1, about))
        fold = self._parts.fold
        accounts: Counter[str] = Counter(identity[0] for identity in fold.functions)
        yield gauge(
            "stoker_functions",
            "Functions that are deployed, by account.",
            *(
                Sample(count, {"account": fold.tenants.name_of(account)})
                for account, count in accounts.items()
            ),
        )

    def _egress(self) -> Iterator[Family]:
        used = self._parts.measures.egress
        yield counter(
            "stoker_egress_connections_total",
            "Connections of functions to the outside; counted when their calls end.",
            Sample(used["connections"], {}),
        )
        yield counter(
            "stoker_egress_refused_total",
            "Connections that functions did not get.",
            Sample(used["refused"], {}),
        )
        yield counter(
            "stoker_egress_bytes_total",
            "What passed through them, as functions sent or received it.",
            *(Sample(used[way], {"direction": way}) for way in ("sent", "received")),
        )

    def _invocations(self) -> Iterator[Family]:
        by_reason: Counter[str] = Counter({reason.value: 0 for reason in EndReason})
        for counted in self._parts.measures.counters.all().values():
            by_reason[_OK] += counted.requests - counted.errors
            for code, count in counted.failures.items():
                by_reason[END_REASON_OF_CODE[code].value] += count
        yield counter(
            "stoker_invocations_total",
            "Runs of functions that ended, by end reason; each attempt of an Async invocation is one.",
            *(Sample(count, {"reason": reason}) for reason, count in by_reason.items()),
        )
        rows = [
            (row.labels or {"account": "", "function": OTHER}, {_OK: 0.0, **row.counts})
            for row in self._busiest.rows(self._followed())
        ]
        yield counter(
            "stoker_function_invocations_total",
            "The same of the busiest functions, and of all others together.",
            *(
                Sample(count, {**labels, "reason": reason})
                for labels, counts in rows
                for reason, count in counts.items()
                if reason != _RUN_MS
            ),
        )
        yield counter(
            "stoker_function_run_seconds_total",
            "How long they ran.",
            *(Sample(counts.get(_RUN_MS, 0.0) / 1000, labels) for labels, counts in rows),
        )
        yield self._parts.measures.phases.family(
            "stoker_invocation_phase_seconds",
            "Where the time of runs went: queue (waiting for an instance), init (giving an instance to the "
            "function, where that was needed), run (the function's code).",
        )
        yield gauge(
            "stoker_calls_in_flight",
            "Synchronous calls without an Idempotency-Key that have not ended.",
            Sample(self._parts.calls.invoker.running),
        )

    def _followed(self) -> Iterator[Followed]:
        """Every function that there is, then every one that there was and that was called."""
        counters, fold = self._parts.measures.counters, self._parts.fold
        functions = fold.functions
        for identity, entry in functions.items():
            name = f"{entry.function.collection_topic}/{entry.function.name}"
            account = fold.tenants.name_of(identity[0])
            yield _followed(identity, {"account": account, "function": name}, counters)
        for identity in counters.all():
            if identity not in functions:
                yield _followed(identity, None, counters)

    def _queue(self) -> Iterator[Family]:
        queue, ending = self._parts.calls.queue, self._parts.calls.ending
        yield gauge(
            "stoker_queue_depth",
            "Invocations that are accepted (Async, or with an Idempotency-Key) and have not ended.",
            Sample(queue.depth),
        )
        yield gauge("stoker_queue_running", "Async ones of them that run just now.", Sample(queue.running))
        yield gauge(
            "stoker_queue_oldest_seconds",
            "How long the one has waited that waits longest for its turn.",
            Sample(queue.oldest_ms / 1000),
        )
        yield counter(
            "stoker_accepted_ended_total",
            "Accepted invocations whose end is stored, by type and end reason.",
            *(
                Sample(ending.ended[type_, reason.value], {"type": type_, "reason": reason.value})
                for type_ in (ASYNC, REQUEST_RESPONSE)
                for reason in EndReason
            ),
        )
        yield counter(
            "stoker_retries_total", "Attempts that failed and are tried again.", Sample(ending.retries)
        )
        yield counter(
            "stoker_dead_letters_total",
            "Async invocations that failed to the end and left a dead letter.",
            Sample(ending.dead_letters),
        )

    def _pool(self) -> Iterator[Family]:
        pool = self._parts.pool
        serving = pool.figures["serving"]
        yield gauge("stoker_instances_serving", "Instances that belong to a function.", Sample(serving))
        yield gauge(
            "stoker_instances_max",
            "How many there may be (`instances_max`).",
            Sample(self._parts.instances_max),
        )
        yield counter(
            "stoker_instances_started_total", "Instances that were given to a function.", Sample(pool.served)
        )
        yield gauge("stoker_calls_waiting", "Calls that wait for an instance.", Sample(pool.waiting))
        each = [({"runtime": runtime}, spares) for runtime, spares in sorted(pool.spares.items())]
        yield gauge(
            "stoker_spares_ready",
            "Booted sandboxes that belong to no function yet.",
            *(Sample(spares.ready, labels) for labels, spares in each),
        )
        yield counter(
            "stoker_sandbox_boots_total",
            "Sandboxes that booted.",
            *(Sample(spares.booted, labels) for labels, spares in each),
        )
        yield counter(
            "stoker_sandbox_boot_failures_total",
            "Sandboxes that did not.",
            *(Sample(spares.failed, labels) for labels, spares in each),
        )
        yield gauge(
            "stoker_sandbox_boot_seconds",
            "What a boot takes, a moving mean.",
            *(Sample(spares.boot_ms / 1000, labels) for labels, spares in each),
        )

    def _backbone(self) -> Iterator[Family]:
        jetstream = self._parts.jetstream
        yield gauge(
            "stoker_backbone_connected",
            "1 while a NATS server is at the other end.",
            Sample(jetstream.connection.connected),
        )
        yield counter(
            "stoker_backbone_reconnects_total", "Times it was away and came back.", Sample(self._reconnects)
        )
        yield counter(
            "stoker_backbone_writes_total",
            "Writes, each of one or more messages, that were acknowledged as stored for good.",
            Sample(jetstream.writes),
        )
        yield counter("stoker_backbone_write_seconds_total", "What these took.", Sample(jetstream.write_s))
        yield counter(
            "stoker_backbone_writes_failed_total",
            "Writes that were not answered in time.",
            Sample(jetstream.writes_failed),
        )
        yield gauge(
            "stoker_storage_full",
            "1 while nothing new can be stored, as the disk is full.",
            Sample(self._parts.keeping.recorder.refusal is not None),
        )

    def _records(self) -> Iterator[Family]:
        keeping = self._parts.keeping
        lag = max(0, keeping.ledger.last_sequence - keeping.view.position)
        yield gauge(
            "stoker_view_lag_messages",
            "Stored messages that lists of invocations do not show yet.",
            Sample(lag),
        )
        yield gauge(
            "stoker_records_unstored",
            "Records of calls that ended and that are not stored yet: what a kill -9 can lose.",
            Sample(keeping.recorder.unstored),
        )
        yield counter(
            "stoker_records_lost_total",
            "Records that were given up, as the store was away for too long.",
            Sample(keeping.recorder.lost),
        )

    def _processes(self) -> Iterator[Family]:
        server = self._parts.jetstream.connection.server
        pids = {"gateway": os.getpid(), "nats": None if server is None else server.pid}
        uses = {
            name: use for name, pid in pids.items() if pid is not None and (use := use_of(pid)) is not None
        }
        yield counter(
            "stoker_process_cpu_seconds_total",
            "Processor time of the gateway and of the embedded NATS server since their starts.",
            *(Sample(use.cpu_s, {"process": name}) for name, use in uses.items()),
        )
        yield gauge(
            "stoker_process_resident_bytes",
            "Their resident memory.",
            *(Sample(use.resident_bytes, {"process": name}) for name, use in uses.items()),
        )
        yield gauge("stoker_process_open_files", "Files that the gateway has open.", Sample(open_files()))
        yield gauge(
            "stoker_process_start_time_seconds",
            "When it was started, in seconds since the epoch.",
            Sample(self._started_s),
        )

    def _reconnected(self) -> None:
        self._reconnects += 1


def _followed(key: tuple[str, str, str], labels: dict[str, str] | None, counters: Counters) -> Followed:
    counted = counters.of(key)
    counts: Counter[str] = Counter({_OK: counted.requests - counted.errors})
    for code, count in counted.failures.items():
        counts[END_REASON_OF_CODE[code].value] += count
    return Followed(key, labels, counted.requests, {**counts, _RUN_MS: counted.run_ms})
