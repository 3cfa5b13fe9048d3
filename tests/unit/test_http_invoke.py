"""The invoke route: from a request on the lean path to its one answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stoker.catalog import events
from stoker.catalog.tokens import Authenticator, digest_of
from stoker.edge.errors import ErrorAnswers
from stoker.edge.http.access import Access
from stoker.edge.http.invoke import InvokeRoute, payload_of
from stoker.edge.http.request import Exchange, Request
from stoker.invocation.acceptance import Acceptance
from stoker.invocation.async_calls import AsyncCalls
from stoker.invocation.ending import Ending
from stoker.invocation.invoker import Invoker
from stoker.invocation.keyed import KeyedCalls
from stoker.invocation.live import LiveInvocations
from stoker.invocation.queue import Queue
from stoker.model.errors import FunctionBusy, InvalidRequest, NoCapacity
from stoker.model.limits import Limits
from stoker.model.outcome import END_REASON_OF_CODE, Failure
from stoker.testing.catalog import ACCOUNT, CatalogBench
from stoker.testing.invocation import FakeExecutor, MemoryStore, Recorded, an_outcome
from stoker.testing.worker import Notes


class Log(Notes):
    """Of the edge."""

    error = Notes.warning


class StoredCalls:
    """What runs calls that are stored, over a store in memory."""

    def __init__(self, bench: CatalogBench, executor: FakeExecutor) -> None:
        self.store, self.live = MemoryStore(), LiveInvocations()
        ending = Ending(self.store, self.live, Notes())
        acceptance = Acceptance(bench.catalog, self.store, Limits())
        self.queue = Queue(
            bench.catalog,
            bench.fold,
            executor,
            self.live,
            ending,
            Limits(),
            Notes(),
            counted=lambda call, outcome: None,
            clock=lambda: 0.0,
        )
        self.asynchronous = AsyncCalls(acceptance, self.queue)
        self.keyed = KeyedCalls(
            bench.catalog,
            bench.fold,
            executor,
            acceptance,
            self.live,
            ending,
            counted=lambda call, outcome: None,
            clock=lambda: 0.0,
        )


class FakeChannel:
    """Keeps the one answer."""

    def __init__(self) -> None:
        self.write_paused = False
        self.answers: list[tuple[int, dict[str, Any], list[str]]] = []

    def answer(self, *arguments: Any, **options: Any) -> None:
        # (request, status, body, headers) or without the request, as the connection has it
        status, body, headers = [one for one in arguments if not isinstance(one, Request)]
        self.answers.append((status, json.loads(body), headers.decode().splitlines()))

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the lean path has no use for {name}")


class Door:
    """The route with one function, and the answers of all its exchanges."""

    def __init__(self) -> None:
        self.bench = CatalogBench()
        self.executor = FakeExecutor()
        self.log = Log()
        for number, (token, scopes) in enumerate({"admin": ["*"], "nobody": []}.items(), 10_000):
            content = {"name": token, "digest": digest_of(token.encode()).hex(), "scopes": scopes}
            subject = str(events.token_key(ACCOUNT, token))
            self.bench.fold.apply(subject, events.encode("created", 0, **content), number)
        self.invoker = Invoker(self.bench.catalog, self.executor, Recorded(), Limits(), clock=lambda: 0.0)
        access = Access(Authenticator(self.bench.fold))
        errors = ErrorAnswers(self.log, new_id=lambda: "id")
        self.calls = StoredCalls(self.bench, self.executor)
        self.route = InvokeRoute(
            self.bench.fold, access, self.invoker, self.calls.asynchronous, self.calls.keyed, errors
        )
        self.channel = FakeChannel()

    def ask(
        self,
        body: bytes = b'{"payload":"{}","invocation_type":"RequestResponse"}',
        *,
        path: bytes = b"/compute/functions/my-namespace/my-function/invoke",
        query: bytes = b"",
        token: bytes | None = b"Bearer admin",
        key: bytes | None = None,
    ) -> Exchange:
        request = Request()
        request.method, request.path, request.query, request.body = b"POST", path, query, body
        request.authorization, request.idempotency_key = token, key
        exchange = Exchange(self.channel, request)
        self.route(request, exchange)
        return exchange

    @property
    def answer(self) -> tuple[int, dict[str, Any], list[str]]:
        (answer,) = self.channel.answers
        return answer


@pytest.fixture
async def door() -> Door:
    door = Door()
    await door.bench.create()
    return door


# -- the envelope ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "payload"),
    [
        (b'"{\\"a\\": 1}"', b'{"a": 1}'),
        (b'"\\"text\\""', b'"text"'),
        (b'"\\u00fc"', "ü".encode()),
        (b'"not json"', b"not json"),
        (b'""', b""),
        (b'{"a" : 1.0}', b'{"a" : 1.0}'),
        (b"[1, 2]", b"[1, 2]"),
        (b"null", b"null"),
        (b"3", b"3"),
        (b" true ", b"true"),
    ],
)
def test_a_payload_is_a_string_of_json_or_the_value_itself_and_is_not_written_anew(
    written: bytes, payload: bytes
) -> None:
    body = b'{"payload":' + written + b',"invocation_type":"RequestResponse"}'

    assert payload_of(body) == (payload, "RequestResponse")
    assert payload_of(bytearray(body)) == (payload, "RequestResponse")


def test_of_a_key_given_twice_the_last_counts() -> None:
    body = b'{"payload":1,"invocation_type":"Async","payload":2,"invocation_type":"RequestResponse"}'

    assert payload_of(body) == (b"2", "RequestResponse")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff", None),
        (b'{"payload":' + b"[" * 100_000, None),
        (b'{"x":' + b"[" * 100_000, None),
        (b"[]", ""),
        (b"3", ""),
        (b"{}", "/payload"),
        (b'{"payload":1}', "/invocation_type"),
        (b'{"payload":1,"invocation_type":null}', "/invocation_type"),
        (b'{"payload":1,"invocation_type":3}', "/invocation_type"),
        (b'{"payload":1,"invocation_type":"Event"}', "/invocation_type"),
        (b'{"payload":1,"invocation_type":"requestresponse"}', "/invocation_type"),
    ],
)
def test_an_envelope_that_breaks_the_contract_is_refused_with_its_field(
    body: bytes, field: str | None
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        payload_of(body)

    assert refused.value.field == field


# -- answers -----------------------------------------------------------------------------------------


async def test_a_result_is_answered_as_a_string_of_json_with_the_id_of_the_invocation(door: Door) -> None:
    door.ask()
    (call,) = door.executor.calls

    call.end(an_outcome('{"a": "ü"}'.encode()))

    status, body, headers = door.answer
    assert (status, body) == (200, {"body": '{"a": "ü"}'})
    assert headers[0].startswith("X-Invocation-Id: 0")


@pytest.mark.parametrize("code", sorted(set(END_REASON_OF_CODE) - {"schema.input"}))
async def test_every_end_of_the_table_has_its_status_and_code(door: Door, code: str) -> None:
    door.ask()
    (call,) = door.executor.calls

    call.end(an_outcome(failure=Failure(code, "why", "Error", "at handler")))

    status, body, headers = door.answer
    assert status == (504 if code == "function.timeout" else 500)
    assert (body["code"], body["error"], body["error_type"], body["stack"]) == (
        code,
        "why",
        "Error",
        "at handler",
    )
    assert headers == [f"X-Invocation-Id: {body['invocation_id']}"]


async def test_a_call_that_never_ran_tells_when_to_come_again(door: Door) -> None:
    door.ask()
    (call,) = door.executor.calls

    call.end(NoCapacity("no instance became free", retry_after_s=1))

    status, body, headers = door.answer
    assert (status, body["code"], body["retry_after"]) == (503, "no_capacity", 1)
    assert "Retry-After: 1" in headers
    assert any(line.startswith("X-Invocation-Id: ") for line in headers)


async def test_an_outcome_without_sense_is_still_an_answer(door: Door) -> None:
    door.ask()
    (call,) = door.executor.calls

    call.end(an_outcome())

    assert (door.answer[0], door.answer[1]["code"]) == (500, "platform.error")


async def test_a_call_that_is_refused_at_once_is_answered(door: Door) -> None:
    door.executor.refuses_with = FunctionBusy("1000 calls wait", retry_after_s=1)

    door.ask()

    assert (door.answer[0], door.answer[1]["code"]) == (429, "function.busy")


async def test_a_mistake_of_ours_is_answered_hides_itself_and_is_logged(door: Door) -> None:
    door.executor.refuses_with = RuntimeError("secret detail")

    door.ask()

    status, body, _ = door.answer
    assert (status, body["code"], body["id"]) == (500, "platform.error", "id")
    assert "secret detail" not in json.dumps(body)
    assert len(door.log.events) == 1
    assert door.invoker.running == 0


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"token": None}, 401, "auth.missing"),
        ({"token": b"Bearer guess"}, 401, "auth.invalid"),
        ({"token": b"Bearer nobody"}, 403, "auth.forbidden"),
        ({"path": b"/compute/functions/my-namespace/none/invoke"}, 404, "not_found"),
        ({"path": b"/compute/functions/none/my-function/invoke"}, 404, "not_found"),
        ({"path": b"/compute/functions/x/%ff/invoke"}, 404, "not_found"),
        ({"body": b"{}"}, 400, "request.invalid"),
        ({"body": b'{"payload":"nope","invocation_type":"RequestResponse"}'}, 400, "request.invalid"),
        ({"key": b" "}, 400, "request.invalid"),
        ({"key": b"k" * 256}, 400, "request.invalid"),
        ({"query": b"version=2"}, 404, "not_found"),
        ({"query": b"version=x"}, 400, "request.invalid"),
        ({"query": b"a=b&version="}, 400, "request.invalid"),
    ],
)
async def test_what_cannot_be_carried_out_runs_nothing(
    door: Door, options: dict[str, Any], status: int, code: str
) -> None:
    door.ask(**options)

    assert (door.answer[0], door.answer[1]["code"]) == (status, code)
    assert door.executor.calls == []


async def test_what_is_not_there_is_404_before_the_scope_and_the_body_are_looked_at(door: Door) -> None:
    door.ask(b"{", path=b"/compute/functions/none/none/invoke", token=b"Bearer nobody")
    door.ask(b"{", token=b"Bearer nobody")

    assert [answer[0] for answer in door.channel.answers] == [404, 403]


@pytest.mark.parametrize("query", [b"conversion=1", b"x=version=1", b"strict=false", b"strict", b""])
async def test_a_query_that_only_resembles_one_of_ours_is_ignored(door: Door, query: bytes) -> None:
    door.ask(b'{"payload":1,"invocation_type":"RequestResponse","x":2}', query=query)

    assert len(door.executor.calls) == 1


@pytest.mark.parametrize(("rest", "field"), [(b'"x":2', "/x"), (b'"a/b":2', "/a~1b"), (b'"x":"\xff"', None)])
async def test_strict_refuses_keys_that_it_does_not_know(door: Door, rest: bytes, field: str | None) -> None:
    door.ask(b'{"payload":1,"invocation_type":"RequestResponse",' + rest + b"}", query=b"strict=true")

    assert (door.answer[0], door.answer[1].get("field")) == (400, field)
    assert door.executor.calls == []


async def test_strict_takes_what_the_contract_names(door: Door) -> None:
    door.ask(query=b"strict=true")

    assert len(door.executor.calls) == 1


async def test_a_server_that_stops_takes_no_new_work(door: Door) -> None:
    door.invoker.closed = True

    door.ask()

    assert (door.answer[0], door.answer[1]["code"]) == (503, "no_capacity")
    assert door.executor.calls == []


# -- callers that leave ------------------------------------------------------------------------------


async def test_a_caller_who_leaves_cancels_the_call(door: Door) -> None:
    exchange = door.ask()

    exchange.left()

    assert door.executor.cancelled == door.executor.calls


async def test_the_end_of_a_call_whose_caller_has_left_is_nobodys_answer(door: Door) -> None:
    exchange = door.ask()
    exchange.left()

    door.executor.calls[0].end(an_outcome(b"1"))

    assert door.channel.answers == []
    assert door.invoker.running == 0


async def test_a_call_that_ended_at_once_is_not_cancelled_when_the_connection_closes(door: Door) -> None:
    door.executor.ends_at_once = an_outcome(b"1")
    exchange = door.ask()

    exchange.left()

    assert door.answer[0] == 200
    assert door.executor.cancelled == []
