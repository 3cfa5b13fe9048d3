"""The NATS door: from a message to its one answer, and the answers of service discovery."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from stoker.catalog import events
from stoker.catalog.fold import Fold
from stoker.edge.errors import ErrorAnswers
from stoker.edge.nats.bus import Incoming
from stoker.edge.nats.discovery import WAITING_MAX, Discovery
from stoker.edge.nats.door import NatsDoor
from stoker.edge.services import Counters, Services
from stoker.edge.subjects import identity_of, listening_subject
from stoker.invocation.invoker import Invoker
from stoker.model.errors import FunctionBusy, NoCapacity, Unavailable
from stoker.model.limits import Limits
from stoker.model.outcome import Failure
from stoker.testing.catalog import CatalogBench
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.invocation import Recorded, an_outcome
from stoker.testing.invocation_bench import InvocationBench
from stoker.testing.worker import Notes

SUBJECT = "ms.compute.my-namespace.function.3970185486"
STARTED = "2026-11-26T01:02:03.004Z"


@dataclass(frozen=True)
class Message:
    """What came in."""

    subject: str = SUBJECT
    data: bytes = b"{}"
    reply: str = "_INBOX.someone"
    headers: Mapping[str, str] | None = None


class FakeBus:
    """Keeps the answers."""

    def __init__(self) -> None:
        self.answer_bytes_max = 8_000_000
        self.served: dict[str, str] = {}
        self.answers: list[tuple[str, bytes, Mapping[str, str]]] = []

    async def serve(self, subject: str, on_request: Callable[[Incoming], None], *, queue: str = "") -> None:
        self.served[subject] = queue

    def answer(self, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        self.answers.append((reply, data, headers))


class Log(Notes):
    """Of the edge."""

    error = Notes.warning


class Bench:
    """A door in front of an executor that runs nothing."""

    def __init__(self, **door: int) -> None:
        self.stored = InvocationBench()
        self.catalog = self.stored.catalog
        self.executor = self.stored.executor
        self.recorded = Recorded()
        self.log = Log()
        self.bus = FakeBus()
        self.invoker = Invoker(
            self.catalog.catalog, self.executor, self.recorded, Limits(), clock=lambda: 0.0
        )
        errors = ErrorAnswers(self.log, new_id=lambda: "id")
        self.door = NatsDoor(
            self.catalog.fold,
            self.invoker,
            self.stored.asynchronous,
            self.stored.keyed,
            errors,
            self.bus,
            self.log,
            **door,
        )

    def ask(self, **message: Any) -> None:
        self.door.request(Message(**message))

    @property
    def answer(self) -> tuple[bytes, Mapping[str, str]]:
        """The one answer, at the inbox that the message named."""
        ((reply, data, headers),) = self.bus.answers
        assert reply == "_INBOX.someone"
        return data, headers

    @property
    def error(self) -> tuple[str, dict[str, Any]]:
        """Status and body of the one answer, which is an error."""
        data, headers = self.answer
        body = json.loads(data)
        assert headers["Nats-Service-Error"] == body["error"]
        return headers["Nats-Service-Error-Code"], body


async def a_bench(**door: int) -> Bench:
    bench = Bench(**door)
    await bench.catalog.create()
    return bench


@pytest.fixture
async def bench() -> Bench:
    return await a_bench()


def a_fold() -> Fold:
    fold = Fold()
    made = events.encode("created", 1, name="acme", limits={})
    fold.apply(str(events.account_key("acc_1")), made, 1)
    return fold


# -- subjects ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "identity"),
    [
        (SUBJECT, ("default", "my-namespace", "3970185486")),
        (f"accounts.acme.{SUBJECT}", ("acc_1", "my-namespace", "3970185486")),
        (f"accounts.acc_1.{SUBJECT}", None),
        (f"accounts.nobody.{SUBJECT}", None),
    ],
)
def test_a_subject_names_account_collection_and_service(
    subject: str, identity: tuple[str, str, str] | None
) -> None:
    assert identity_of(subject, a_fold().tenants) == identity


def test_a_function_is_called_on_its_subject_and_that_of_another_account_below_the_accounts() -> None:
    function, tenants = a_function(), a_fold().tenants

    assert listening_subject(function, tenants) == "ms.compute.tools.function.3970185486"
    other = replace(function, account="acc_1")
    assert listening_subject(other, tenants) == "accounts.acme.ms.compute.tools.function.3970185486"


async def test_the_door_shares_its_subjects_with_other_servers(bench: Bench) -> None:
    await bench.door.open()

    assert bench.bus.served == {
        "ms.compute.*.function.*": "stoker",
        "accounts.*.ms.compute.*.function.*": "stoker",
    }


# -- calls -------------------------------------------------------------------------------------------


async def test_a_request_is_a_call_and_its_result_the_answer(bench: Bench) -> None:
    bench.ask(data=b'{"a": 1.0}')

    (call,) = bench.executor.calls
    assert (call.payload, call.caller) == (b'{"a": 1.0}', "nats")
    call.end(an_outcome(b'{"b": 2.0}'))
    data, headers = bench.answer
    assert data == b'{"b": 2.0}'
    assert list(headers) == ["X-Invocation-Id"]
    assert [one for one, _ in bench.recorded.ends] == [call]


async def test_no_data_is_null(bench: Bench) -> None:
    bench.ask(data=b"")

    assert bench.executor.calls[0].payload == b"null"


async def test_a_function_that_is_not_there_answers_404(bench: Bench) -> None:
    bench.ask(subject="ms.compute.my-namespace.function.1")

    assert bench.error == ("404", {"error": "no such function", "code": "not_found"})


async def test_a_function_of_one_account_is_not_there_for_another(bench: Bench) -> None:
    bench.ask(subject=f"accounts.acme.{SUBJECT}")

    assert bench.error[0] == "404"
    assert not bench.executor.calls


async def test_what_is_no_json_answers_400(bench: Bench) -> None:
    bench.ask(data=b"{")

    status, body = bench.error
    assert (status, body["code"], body["field"]) == ("400", "request.invalid", "/payload")


async def test_a_payload_against_the_schema_answers_400_and_nothing_runs() -> None:
    bench = Bench()
    await bench.catalog.create(schema={"input": {"type": "object"}})

    bench.ask(data=b"7")

    status, body = bench.error
    assert (status, body["code"]) == ("400", "schema.input")
    assert not bench.executor.calls


async def test_a_payload_past_the_limit_answers_413(bench: Bench) -> None:
    bench.ask(data=b'"' + bytes(Limits().payload_bytes_max) + b'"')

    assert bench.error[0] == "413"


async def test_a_failure_of_the_function_is_told_as_over_http(bench: Bench) -> None:
    bench.ask()
    failure = Failure("function.error", "no\nway", error_type="Error", stack="at handler")

    bench.executor.calls[0].end(an_outcome(failure=failure))

    data, headers = bench.answer
    invocation_id = headers["X-Invocation-Id"]
    assert json.loads(data) == {
        "error": "no\nway",
        "code": "function.error",
        "error_type": "Error",
        "stack": "at handler",
        "invocation_id": invocation_id,
    }
    assert headers["Nats-Service-Error-Code"] == "500"
    assert headers["Nats-Service-Error"] == "no way"


async def test_a_timeout_answers_504(bench: Bench) -> None:
    bench.ask()

    bench.executor.calls[0].end(an_outcome(failure=Failure("function.timeout", "too slow")))

    assert bench.error[0] == "504"


async def test_a_call_that_found_no_instance_answers_when_to_come_again(bench: Bench) -> None:
    bench.ask()

    bench.executor.calls[0].end(FunctionBusy("all instances are busy"))

    status, body = bench.error
    assert (status, body["code"], body["retry_after"]) == ("429", "function.busy", 1)


async def test_a_call_that_is_not_taken_is_answered_once_and_is_not_in_flight(bench: Bench) -> None:
    bench.executor.refuses_with = NoCapacity("full")

    bench.ask()

    assert bench.error[0] == "503"
    async with asyncio.timeout(10):
        await bench.door.drained(wait_ms=3_600_000)


async def test_a_call_that_ends_before_it_is_submitted_is_answered_once(bench: Bench) -> None:
    bench.executor.ends_at_once = an_outcome(b"1")

    bench.ask()

    assert bench.answer[0] == b"1"


async def test_a_mistake_of_ours_hides_its_reason_and_is_in_the_log(bench: Bench) -> None:
    bench.executor.refuses_with = RuntimeError("/etc/secret")

    bench.ask()

    status, body = bench.error
    assert (status, body["code"], body["id"]) == ("500", "platform.error", "id")
    assert "secret" not in body["error"]


async def test_a_result_that_the_server_would_not_carry_is_too_large(bench: Bench) -> None:
    bench.bus.answer_bytes_max = 10
    bench.ask()

    bench.executor.calls[0].end(an_outcome(b'"123456789"'))

    status, body = bench.error
    assert (status, body["code"]) == ("500", "function.result_too_large")


@pytest.mark.parametrize("result", [b'"12345678"', b"1"])
async def test_a_result_that_it_just_carries_is_answered(bench: Bench, result: bytes) -> None:
    bench.bus.answer_bytes_max = 10
    bench.ask()

    bench.executor.calls[0].end(an_outcome(result))

    assert bench.answer[0] == result


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"X-Invocation-Type": "Other"}, "X-Invocation-Type 'Other' is no invocation type"),
        ({"x-invocation-type": ""}, "X-Invocation-Type '' is no invocation type"),
        ({"Idempotency-Key": " "}, "an Idempotency-Key has 1 to 255 characters"),
        ({"idempotency-key": "k" * 256}, "an Idempotency-Key has 1 to 255 characters"),
    ],
)
async def test_what_the_headers_ask_for_in_vain_answers_400(
    bench: Bench, headers: dict[str, str], told: str
) -> None:
    bench.ask(headers=headers)

    status, body = bench.error
    assert (status, body["error"]) == ("400", told)
    assert not bench.executor.calls


@in_fake_time
async def test_an_async_call_is_answered_with_its_id_once_it_is_stored_and_then_runs() -> None:
    bench = await a_bench()
    bench.stored.store.held = asyncio.Event()
    bench.ask(data=b"7", headers={"X-Invocation-Type": "Async"})
    await passed(1)
    assert not bench.bus.answers

    bench.stored.store.held.set()
    await settled()

    data, headers = bench.answer
    invocation_id = headers["X-Invocation-Id"]
    assert json.loads(data) == {"invocation_id": invocation_id}
    assert bench.stored.submitted() == [invocation_id]
    assert (bench.executor.calls[0].payload, bench.executor.calls[0].caller) == (b"7", "nats")
    await bench.door.drained(wait_ms=1)


@in_fake_time
async def test_an_async_call_that_cannot_be_stored_is_refused() -> None:
    bench = await a_bench()
    bench.stored.store.fails_next.append(Unavailable("away", retry_after_s=1))

    bench.ask(headers={"X-Invocation-Type": "Async"})
    await settled()

    assert (bench.error[0], bench.error[1]["code"]) == ("503", "no_capacity")
    assert not bench.executor.calls


@in_fake_time
async def test_the_same_key_and_data_answer_the_first_outcome_and_run_nothing() -> None:
    bench = await a_bench()
    bench.ask(headers={"Idempotency-Key": "k"})
    await settled()
    bench.executor.end(bench.executor.calls[0], an_outcome(b"1"))
    await settled()

    bench.ask(headers={"Idempotency-Key": "k"})
    await settled()

    first, second = bench.bus.answers
    assert first == second
    assert first[1] == b"1"
    assert len(bench.executor.calls) == 1


@in_fake_time
async def test_the_same_key_with_other_data_is_a_conflict() -> None:
    bench = await a_bench()
    bench.ask(headers={"Idempotency-Key": "k"})
    await settled()
    bench.executor.end(bench.executor.calls[0], an_outcome(b"1"))
    await settled()
    bench.bus.answers.clear()

    bench.ask(data=b"2", headers={"Idempotency-Key": "k"})
    await settled()

    assert (bench.error[0], bench.error[1]["code"]) == ("409", "idempotency.conflict")


@in_fake_time
async def test_calls_that_are_being_stored_are_in_flight() -> None:
    bench = await a_bench(in_flight_max=1)
    bench.stored.store.held = asyncio.Event()
    bench.ask(headers={"X-Invocation-Type": "Async"})
    await passed(1)

    bench.ask()

    assert bench.error[0] == "503"
    bench.stored.store.held.set()
    await settled()
    bench.ask()
    assert len(bench.executor.calls) == 2


async def test_other_headers_are_no_hindrance(bench: Bench) -> None:
    bench.ask(headers={"X-Invocation-Type": "RequestResponse", "Traceparent": "00-1"})

    assert len(bench.executor.calls) == 1


# -- whom it answers ---------------------------------------------------------------------------------


async def test_a_message_that_nobody_waits_for_runs_nothing_and_is_in_the_log(bench: Bench) -> None:
    bench.ask(reply="")

    assert not bench.executor.calls
    assert not bench.bus.answers
    assert [event for event, _ in bench.log.events] == ["nats_request_without_reply"]


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.API.STREAM.PURGE.CATALOG",
        "accounts.default.catalog.function.tools.1",
        "_INBOX_stoker.abc.1",
        "_INBOX",
        SUBJECT,
    ],
)
async def test_an_answer_goes_nowhere_but_to_an_inbox_of_clients(bench: Bench, reply: str) -> None:
    # This server may publish what its clients may not: they must not make it do so in their place.
    bench.ask(reply=reply)

    assert not bench.executor.calls
    assert not bench.bus.answers
    assert [event for event, _ in bench.log.events] == ["nats_reply_refused"]


# -- how much it takes -------------------------------------------------------------------------------


async def test_more_calls_than_may_be_in_flight_are_turned_away_until_one_has_ended() -> None:
    bench = await a_bench(in_flight_max=2)
    bench.ask()
    bench.ask()

    bench.ask()

    status, body = bench.error
    assert (status, body["code"], body["retry_after"]) == ("503", "no_capacity", 1)
    bench.executor.calls[0].end(an_outcome(b"1"))
    bench.ask()
    assert len(bench.executor.calls) == 3


async def test_more_bytes_than_may_be_held_are_turned_away_and_one_large_call_is_not() -> None:
    bench = await a_bench(held_bytes_max=10)
    bench.ask(data=b'"12345678901234567890"')
    assert len(bench.executor.calls) == 1

    bench.ask(data=b"1")

    assert bench.error[0] == "503"
    bench.executor.calls[0].end(an_outcome(b"1"))
    bench.ask(data=b'"34567890"')
    bench.ask(data=b"")
    assert len(bench.executor.calls) == 3


async def test_a_server_that_stops_takes_no_new_call_and_waits_for_those_it_has(bench: Bench) -> None:
    bench.ask()
    bench.invoker.closed = True

    bench.ask()
    drained = asyncio.ensure_future(bench.door.drained(wait_ms=3_600_000))
    await asyncio.sleep(0)

    assert bench.error[0] == "503"
    assert not drained.done()
    bench.executor.calls[0].end(an_outcome(b"1"))
    async with asyncio.timeout(10):
        await drained
    assert len(bench.bus.answers) == 2


@in_fake_time
async def test_a_server_that_stops_does_not_wait_for_ever() -> None:
    bench = await a_bench()
    bench.ask()

    await bench.door.drained(wait_ms=30_000)

    assert not bench.bus.answers


# -- discovery ---------------------------------------------------------------------------------------


class Finder:
    """Discovery over two functions."""

    def __init__(self) -> None:
        self.catalog = CatalogBench()
        self.counters = Counters()
        self.bus = FakeBus()
        self.log = Log()
        services = Services(self.catalog.fold, self.counters)
        self.discovery = Discovery(services, self.bus, self.log, started=STARTED)

    async def open(self) -> None:
        await self.catalog.create(description="adds")
        await self.catalog.create(name="my other ünit", collection="tools")
        await self.discovery.open()

    async def ask(self, subject: str, reply: str = "_INBOX.someone") -> list[dict[str, Any]]:
        self.bus.answers.clear()
        self.discovery.request(Message(subject=subject, data=b"", reply=reply))
        await settled()
        return [json.loads(data) for _, data, _ in self.bus.answers]


@in_fake_time
async def test_every_function_answers_a_ping() -> None:
    finder = Finder()
    await finder.open()

    answers = await finder.ask("$SRV.PING")

    assert [(one["type"], one["name"], one["version"]) for one in answers] == [
        ("io.nats.micro.v1.ping_response", "my-function", "1.0.0"),
        ("io.nats.micro.v1.ping_response", "my_other__nit", "1.0.0"),
    ]
    assert answers[1]["metadata"]["function"] == "my other ünit"
    assert len({one["id"] for one in answers}) == 2
    await finder.discovery.close()


@in_fake_time
async def test_info_tells_where_a_function_is_called() -> None:
    finder = Finder()
    await finder.open()

    (info,) = await finder.ask("$SRV.INFO.my-function")

    metadata = {
        "account": "default",
        "collection": "my-namespace",
        "function": "my-function",
        "runtime": "nodejs",
    }
    assert info == {
        "type": "io.nats.micro.v1.info_response",
        "id": info["id"],
        "name": "my-function",
        "version": "1.0.0",
        "description": "adds",
        "metadata": metadata,
        "endpoints": [
            {"name": "invoke", "subject": SUBJECT, "queue_group": "stoker", "metadata": metadata},
        ],
    }
    await finder.discovery.close()


@in_fake_time
async def test_stats_tell_what_the_calls_of_one_function_came_to() -> None:
    finder = Finder()
    await finder.open()
    bench = await a_bench()
    for outcome in (an_outcome(b"1"), an_outcome(failure=Failure("function.error", "no"))):
        bench.ask()
        bench.executor.calls[-1].end(outcome)
    for call, outcome in bench.recorded.ends:
        finder.counters.ended(call, outcome)
    (ping,) = await finder.ask("$SRV.PING.my-function")

    (stats,) = await finder.ask(f"$SRV.STATS.my-function.{ping['id']}")

    assert stats["type"] == "io.nats.micro.v1.stats_response"
    assert stats["started"] == STARTED
    assert stats["endpoints"] == [
        {
            "name": "invoke",
            "subject": SUBJECT,
            "queue_group": "stoker",
            "num_requests": 2,
            "num_errors": 1,
            "last_error": "function.error",
            "processing_time": 6_000_000,
            "average_processing_time": 3_000_000,
            "data": None,
        }
    ]
    await finder.discovery.close()


@pytest.mark.parametrize(
    "subject",
    ["$SRV.INFO.nobody", "$SRV.PING.my-function.none", "$SRV.SCHEMA", "$SRV.PING.my-function.a.b", "$SRV.a"],
)
def test_nobody_answers_to_another_name_id_or_verb(subject: str) -> None:
    @in_fake_time
    async def asking() -> None:
        finder = Finder()
        await finder.open()
        assert await finder.ask(subject) == []
        await finder.discovery.close()

    asking()


@in_fake_time
async def test_discovery_answers_nowhere_but_to_an_inbox_of_clients() -> None:
    finder = Finder()
    await finder.open()

    assert await finder.ask("$SRV.PING", reply="accounts.default.catalog.x") == []
    await finder.discovery.close()


@in_fake_time
async def test_questions_that_pile_up_are_dropped_past_a_bound() -> None:
    finder = Finder()
    await finder.open()

    for _ in range(WAITING_MAX * 2):
        finder.discovery.request(Message(subject="$SRV.PING.my-function"))
    await settled()

    assert len(finder.bus.answers) == WAITING_MAX
    await finder.discovery.close()


@in_fake_time
async def test_functions_that_come_and_go_between_two_questions_are_seen_and_not_seen() -> None:
    finder = Finder()
    await finder.open()

    await finder.catalog.catalog.delete_function("default", finder.catalog.entry())

    assert [one["name"] for one in await finder.ask("$SRV.PING")] == ["my_other__nit"]
    await finder.discovery.close()
