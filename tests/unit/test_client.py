"""The client, over a transport in memory: what it sends, what it makes of answers, when it tries again."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest

import stoker.client
from stoker.client import (
    NO_PATIENCE,
    AsyncClient,
    Client,
    FunctionFailed,
    IdempotencyConflict,
    InputRejected,
    InvalidName,
    NoCapacity,
    NotFound,
    Patience,
    QuotaExceeded,
    ServerUnreachable,
    StokerError,
    Unauthenticated,
    UnexpectedAnswer,
)
from stoker.client.errors import ERROR_OF_CODE
from stoker.client.types import FunctionCreate
from stoker.edge.errors import STATUS_OF_CODE

OK = {"body": '{"sum":3}'}
QUICK = Patience(pause_s=0.001)


class Server:
    """Answers in turn, the last one for good, and notes what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, patience: Patience = QUICK, token: str | None = "secret") -> Client:
        return Client(
            "http://127.0.0.1:1",
            token,
            patience=patience,
            transport=httpx.MockTransport(self),
            environ={"STOKER_DATA": "/nowhere"},
        )

    def header(self, name: str) -> list[str | None]:
        return [request.headers.get(name) for request in self.requests]

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]


def said(status: int, body: object = None, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=OK if body is None else body, headers=headers)


def refused(status: int, code: str, retry_after: str | None = None, **members: object) -> httpx.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(status, json={"error": f"it is {code}", "code": code, **members}, headers=headers)


# -- calls -------------------------------------------------------------------------------------------


def test_a_call_sends_the_payload_as_json_text_and_returns_the_result_as_a_value() -> None:
    server = Server(said(200))

    with server.client() as client:
        result = client.invoke("demo/add", {"a": 1, "b": "ü"})

    assert result == {"sum": 3}
    (request,) = server.requests
    assert (request.method, request.url.path) == ("POST", "/compute/functions/demo/add/invoke")
    assert request.headers["authorization"] == "Bearer secret"
    (body,) = server.bodies
    assert json.loads(body["payload"]) == {"a": 1, "b": "ü"}
    assert body["invocation_type"] == "RequestResponse"


def test_a_result_has_the_type_that_is_asked_for() -> None:
    class Sum(msgspec.Struct):
        sum: int

    with Server(said(200)).client() as client:
        assert client.invoke("demo/add", returns=Sum) == Sum(3)
        with pytest.raises(msgspec.ValidationError):
            client.invoke("demo/add", returns=list[int])


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("demo/add", "/compute/functions/demo/add"),
        ("my things/50% & more", "/compute/functions/my%20things/50%25%20%26%20more"),
        ("ms.compute.demo.function.230114167", "/compute/functions/demo/230114167"),
        ("accounts.acme.ms.compute.demo.function.7", "/compute/functions/demo/7"),
    ],
)
def test_a_function_is_named_by_collection_and_name_or_by_its_subject(name: str, path: str) -> None:
    server = Server(said(200, {"body": {}}))

    with server.client() as client, pytest.raises(UnexpectedAnswer):
        client.functions.get(name)

    assert server.requests[0].url.raw_path.decode() == path


@pytest.mark.parametrize("name", ["add", "/add", "demo/", "a/b/c", ""])
def test_a_name_that_names_no_function_is_refused_before_anything_is_asked(name: str) -> None:
    server = Server(said(200))

    with server.client() as client, pytest.raises(InvalidName):
        client.invoke(name)

    assert server.requests == []


# -- trying again ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("closed"),
        httpx.ReadTimeout("late"),
        httpx.ConnectError("refused"),
        refused(503, "no_capacity"),
        refused(429, "function.busy"),
        refused(409, "idempotency.in_progress", "0"),
    ],
    ids=["lost", "closed", "late", "refused", "no_capacity", "busy", "in_progress"],
)
def test_a_call_is_sent_again_with_the_key_it_was_made_with(first: httpx.Response | Exception) -> None:
    server = Server(first, said(200))

    with server.client() as client:
        assert client.invoke("demo/add") == {"sum": 3}

    one, other = server.header("idempotency-key")
    assert one is not None
    assert len(one) >= 32
    assert one == other


def test_every_call_has_a_key_of_its_own() -> None:
    server = Server(said(200))

    with server.client() as client:
        client.invoke("demo/add")
        client.submit("demo/add")
        client.invoke("demo/add", key="order-7")

    first, second, third = server.header("idempotency-key")
    assert first != second
    assert third == "order-7"


def test_a_call_without_a_key_is_not_sent_again_when_the_connection_was_lost() -> None:
    server = Server(httpx.ReadError("reset"), said(200))

    with server.client() as client, pytest.raises(ServerUnreachable) as caught:
        client.invoke("demo/add", key=None)

    assert caught.value.code == "client.connection_lost"
    assert server.header("idempotency-key") == [None]


def test_a_create_is_sent_again_only_where_it_cannot_have_been_carried_out() -> None:
    function = {
        "body": {"name": "add", "subject": "ms.compute.demo.function.1", "compute_asset": {"handler": "h"}}
    }
    create = FunctionCreate(
        name="add", compute_asset=stoker.client.types.Code(handler="h"), monitor_config={}
    )
    lost, in_use = (
        Server(httpx.ReadError("reset"), said(201, function)),
        Server(refused(429, "quota.functions", "0"), httpx.ConnectError("refused"), said(201, function)),
    )

    with lost.client() as client, pytest.raises(ServerUnreachable):
        client.functions.create(create)
    with in_use.client() as client:
        client.functions.create(create)

    assert (len(lost.requests), len(in_use.requests)) == (1, 3)


def test_a_create_sends_what_was_given_and_no_more() -> None:
    function = {"name": "add", "subject": "ms.compute.demo.function.1", "compute_asset": {"handler": "h"}}
    server = Server(said(201, {"body": function}))
    code = stoker.client.types.Code(collection_topic="demo", handler="h", read_only_fs=False)

    with server.client() as client:
        client.functions.create(FunctionCreate(name="add", compute_asset=code, monitor_config={}))

    assert server.bodies == [
        {
            "name": "add",
            "monitor_config": {},
            "compute_asset": {
                "collection_topic": "demo",
                "handler": "h",
                "runtime": "nodejs",
                "read_only_fs": False,
            },
        }
    ]


def test_a_function_that_failed_has_answered_and_is_not_called_again() -> None:
    server = Server(refused(500, "function.error", error_type="ValueError", stack="at x", invocation_id="i"))

    with server.client() as client, pytest.raises(FunctionFailed) as caught:
        client.invoke("demo/add")

    error = caught.value
    assert (error.error_type, error.stack, error.invocation_id) == ("ValueError", "at x", "i")
    assert len(server.requests) == 1


def test_retries_end_and_the_last_error_is_raised() -> None:
    server = Server(refused(503, "no_capacity"))

    with server.client(Patience(retries=2, pause_s=0.001)) as client, pytest.raises(NoCapacity):
        client.invoke("demo/add")

    assert len(server.requests) == 3


def test_a_server_that_asks_for_more_patience_than_there_is_is_not_waited_for() -> None:
    server = Server(refused(429, "quota.invocations_per_minute", "61"), said(200))

    with server.client() as client, pytest.raises(QuotaExceeded) as caught:
        client.invoke("demo/add")

    assert caught.value.retry_after_s == 61
    assert len(server.requests) == 1


def test_without_patience_nothing_is_sent_twice() -> None:
    server = Server(refused(429, "function.busy"), said(200))

    with server.client(NO_PATIENCE) as client, pytest.raises(StokerError):
        client.invoke("demo/add")

    assert len(server.requests) == 1


# -- errors ------------------------------------------------------------------------------------------


def test_every_code_of_the_server_has_an_error_of_its_own_here() -> None:
    assert set(STATUS_OF_CODE) <= set(ERROR_OF_CODE)


@pytest.mark.parametrize("code", sorted(STATUS_OF_CODE))
def test_an_answer_with_a_code_raises_the_error_of_the_code(code: str) -> None:
    server = Server(refused(STATUS_OF_CODE[code], code, field="/a", hint="do this"))

    with server.client(NO_PATIENCE) as client, pytest.raises(StokerError) as caught:
        client.invoke("demo/add")

    error = caught.value
    assert type(error) is ERROR_OF_CODE[code]
    assert (str(error), error.code, error.field, error.hint) == (f"it is {code}", code, "/a", "do this")
    assert error.status == STATUS_OF_CODE[code]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "quota.of_tomorrow", QuotaExceeded),
        (500, "function.of_tomorrow", FunctionFailed),
        (404, "of.tomorrow", NotFound),
        (502, "of.tomorrow", stoker.client.PlatformFailed),
    ],
)
def test_a_code_of_a_newer_server_raises_what_it_is_most_like(
    status: int, code: str, kind: type[StokerError]
) -> None:
    with Server(refused(status, code)).client(NO_PATIENCE) as client, pytest.raises(kind) as caught:
        client.invoke("demo/add")

    assert caught.value.code == code


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"body": 7}),
        httpx.Response(502, text="Bad Gateway"),
        httpx.Response(302, headers={"Location": "/"}),
    ],
    ids=["html", "list", "number", "proxy", "redirect"],
)
def test_an_answer_that_is_not_one_of_the_api_says_so(answer: httpx.Response) -> None:
    with Server(answer).client() as client, pytest.raises(UnexpectedAnswer) as caught:
        client.invoke("demo/add")

    assert caught.value.hint


def test_who_has_no_token_is_told_where_one_was_looked_for() -> None:
    server = Server(refused(401, "auth.missing"))

    with server.client(token=None) as client, pytest.raises(Unauthenticated) as caught:
        client.runtimes()

    assert "/nowhere/token" in (caught.value.hint or "")
    assert server.header("authorization") == [None]


def test_a_payload_that_does_not_fit_is_told_with_its_place() -> None:
    with (
        Server(refused(400, "schema.input", field="/name")).client() as client,
        pytest.raises(InputRejected) as caught,
    ):
        client.invoke("demo/add")

    assert caught.value.field == "/name"


def test_a_conflict_of_keys_is_an_error_that_can_be_told_apart() -> None:
    with Server(refused(409, "idempotency.conflict")).client() as client, pytest.raises(IdempotencyConflict):
        client.invoke("demo/add", key="k")


# -- lists, waiting, streams --------------------------------------------------------------------------


def record(number: int, status: str = "ok", **rest: object) -> dict[str, object]:
    return {
        "invocation_id": f"id-{number}",
        "function": "ms.compute.demo.function.1",
        "version": 1,
        "invocation_type": "Async",
        "status": status,
        "created": "2026-01-31T12:00:00Z",
        **rest,
    }


def test_records_are_fetched_a_page_at_a_time_while_they_are_read() -> None:
    server = Server(
        said(200, {"body": {"results": [record(3), record(2)], "results_total": 3, "next_cursor": "two"}}),
        said(200, {"body": {"results": [record(1)], "results_total": 3}}),
    )

    with server.client() as client:
        found = client.invocations.list("demo/add", status=["ok", "error"])
        first = next(found)
        asked = len(server.requests)
        rest = list(found)

    assert (first.invocation_id, asked) == ("id-3", 1)
    assert [one.invocation_id for one in rest] == ["id-2", "id-1"]
    queries = [dict(request.url.params) for request in server.requests]
    assert queries == [
        {"function": "demo/add", "status": "ok,error", "limit": "200"},
        {"function": "demo/add", "status": "ok,error", "limit": "200", "cursor": "two"},
    ]


def test_no_more_records_are_asked_for_than_are_wanted() -> None:
    server = Server(
        said(200, {"body": {"results": [record(2), record(1)], "results_total": 9, "next_cursor": "x"}})
    )

    with server.client() as client:
        assert len(list(client.invocations.list(limit=2))) == 2

    assert [request.url.params["limit"] for request in server.requests] == ["2"]


def test_waiting_asks_until_the_invocation_has_ended() -> None:
    server = Server(
        said(200, {"body": record(1, "queued")}),
        said(200, {"body": record(1, "running")}),
        said(200, {"body": record(1, "ok", result='{"sum":3}')}),
    )

    with server.client() as client:
        ended = client.invocations.wait("id-1")

    assert ended.value == {"sum": 3}
    assert [request.url.params["wait"] for request in server.requests] == ["60000"] * 3


def test_waiting_has_an_end_if_one_is_given() -> None:
    with Server(said(200, {"body": record(1, "queued")})).client() as client, pytest.raises(TimeoutError):
        client.invocations.wait("id-1", timeout_s=0)


def test_a_live_tail_yields_lines_and_ends_with_the_reason() -> None:
    stream = (
        b": following\n\n"
        b'event: log\ndata: {"invocation_id":"a","line":"one"}\n\n'
        b": nothing new\n\n"
        b'event: log\ndata: {"invocation_id":"a","line":""}\n\n'
        b'event: end\ndata: {"reason":"the server is stopping"}\n\n'
    )
    server = Server(httpx.Response(200, content=stream))

    with server.client() as client:
        lines = client.invocations.follow("demo/add")
        assert [next(lines).line, next(lines).line] == ["one", ""]
        with pytest.raises(ServerUnreachable, match="the server is stopping"):
            next(lines)


def test_a_live_tail_that_is_refused_raises_the_servers_error() -> None:
    with Server(refused(404, "not_found")).client() as client, pytest.raises(NotFound):
        next(iter(client.invocations.follow("demo/add")))


def test_a_bare_name_is_found_if_it_is_unique() -> None:
    def function(collection: str, name: str) -> dict[str, object]:
        return {"name": name, "subject": f"ms.compute.{collection}.function.{len(name)}"}

    functions = [function("a", "one"), function("a", "both"), function("b", "both")]
    server = Server(said(200, {"body": {"results": functions, "results_total": 3}}))

    with server.client() as client:
        assert client.functions.find("one") == "a/3"
        assert client.functions.find("x/y z") == "x/y z"
        with pytest.raises(NotFound, match="there is no function"):
            client.functions.find("none")
        with pytest.raises(NotFound) as caught:
            client.functions.find("both")

    assert caught.value.hint == "name one: a/4, b/4"


def test_sending_much_tells_how_far_it_is_and_starts_anew_with_a_retry() -> None:
    content = bytes(600_000)
    server = Server(httpx.ReadError("reset"), said(201, {"body": {}}))
    sent: list[int] = []

    with server.client() as client:
        client.functions.put_object("a key", content, on_progress=sent.append)

    assert [len(request.content) for request in server.requests] == [600_000] * 2
    assert server.requests[1].headers["content-length"] == "600000"
    assert "transfer-encoding" not in server.requests[1].headers
    assert sent == [262_144, 524_288, 600_000] * 2


def test_what_is_shown_once_is_in_no_repr() -> None:
    token = {"id": "tok_1", "name": "ci", "scopes": [], "token": "stk_text"}
    server = Server(said(201, {"body": token}))

    with server.client() as client:
        made = client.tokens.create("ci", ["functions:read"])

    assert made.token == "stk_text"
    assert "stk_text" not in repr(made)


# -- the async one -----------------------------------------------------------------------------------


async def test_the_async_client_does_the_same() -> None:
    server = Server(httpx.ReadError("reset"), said(200))
    client = AsyncClient(
        "http://127.0.0.1:1", "secret", patience=QUICK, transport=httpx.MockTransport(server), environ={}
    )

    async with client:
        assert await client.invoke("demo/add", [1]) == {"sum": 3}

    one, other = server.header("idempotency-key")
    assert one == other


def test_what_is_public_is_what_is_declared() -> None:
    public = {name for name in vars(stoker.client) if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(stoker.client, name), type(stoker))}

    assert public - modules == set(stoker.client.__all__)
