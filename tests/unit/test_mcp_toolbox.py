"""The toolbox: which tools a token has, and what they ask of the routes, over in-memory stores.

Source: the operating contract, *The other doors*.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from stoker.catalog.principal import SCOPES, Principal
from stoker.edge.errors import ErrorAnswers
from stoker.edge.http import scopes
from stoker.edge.http.request import Exchange, Request
from stoker.edge.mcp.asking import ANSWER_BYTES_MAX, Answer, Asker, Credential
from stoker.edge.mcp.files import changed_items, field_of, files_of, items_of
from stoker.edge.mcp.management import managing_tools
from stoker.edge.mcp.tool import DEPTH_MAX, told, value_of
from stoker.edge.mcp.toolbox import Toolbox, UnknownTool
from stoker.model.errors import InvalidRequest
from stoker.model.limits import Limits
from stoker.testing.catalog import ACCOUNT, CatalogBench
from stoker.testing.worker import Notes

CREDENTIAL = Credential(b"Bearer admin", None)


class Log(Notes):
    """Of the edge."""

    error = Notes.warning


ERRORS = ErrorAnswers(Log(), new_id=lambda: "id")


class Routes:
    """What answers in place of the routes: keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, Any]] = []
        self.answers: list[Answer] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.called: asyncio.Queue[Exchange] = asyncio.Queue()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        query = scope["query_string"].decode()
        self.headers.append(dict(scope["headers"]))
        self.asked.append((scope["method"], scope["path"], query, json.loads(body) if body else None))
        answer = self.answers.pop(0)
        headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": False})

    def invoke(self, request: Request, exchange: Exchange) -> None:
        self.called.put_nowait(exchange)

    @property
    def asker(self) -> Asker:
        return Asker(self.app, self.invoke, ERRORS)


class Bench:
    """A toolbox over a catalog, whose routes are the test's."""

    def __init__(self) -> None:
        self.catalog = CatalogBench()
        self.routes = Routes()
        self.toolbox = Toolbox(self.catalog.fold, self.routes.asker, ERRORS, Limits())

    def names(self, *given: str, collection: str | None = None) -> list[str]:
        menu = self.toolbox.menu(a_principal(*given, collection=collection))
        return [tool.name for tool in menu.tools]

    async def call(self, name: str, **arguments: Any) -> Any:
        return await self.toolbox.call(self.toolbox.menu(a_principal("*")), CREDENTIAL, name, arguments)


def a_principal(*given: str, collection: str | None = None) -> Principal:
    return Principal(ACCOUNT, "token", frozenset(given), collection)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- which -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_has_the_tools_whose_routes_its_scope_opens_and_no_others(bench: Bench, scope: str) -> None:
    principal = a_principal(scope)

    names = set(bench.names(scope))

    for name, tool in managing_tools(Limits()).items():
        needs = [scopes.TABLE[route] for route in tool.needs]
        opened = all(
            principal.may(need.scope or "") or (need.made_by is not None and principal.may(need.made_by))
            for need in needs
        )
        assert (name in names) == opened, name


async def test_functions_are_tools_for_those_who_may_call_them(bench: Bench) -> None:
    await bench.catalog.create(name="f")
    await bench.catalog.create(name="g", collection="other")

    assert bench.names("functions:invoke")[-2:] == ["my-namespace__f", "other__g"]
    assert bench.names("functions:invoke", collection="other")[-1] == "other__g"
    assert "my-namespace__f" not in bench.names("functions:invoke", collection="other")
    assert not [name for name in bench.names("functions:write", "records:read") if "__" in name]


async def test_a_function_of_another_account_is_no_tool(bench: Bench) -> None:
    await bench.catalog.create(name="f")

    menu = bench.toolbox.menu(Principal("other", "token", frozenset({"*"})))

    assert menu.functions == {}


async def test_what_changes_the_catalog_changes_the_state(bench: Bench) -> None:
    before = bench.toolbox.state
    await bench.catalog.create(name="f")

    assert bench.toolbox.state != before


@pytest.mark.parametrize("name", sorted(managing_tools(Limits())))
def test_the_schema_of_each_tools_arguments_is_good_and_closed(name: str) -> None:
    tool = managing_tools(Limits())[name].tool

    jsonschema_rs.meta.validate(tool.input_schema)

    assert tool.input_schema["type"] == "object"
    assert tool.input_schema["additionalProperties"] is False
    assert "limits." not in json.dumps(tool.input_schema)
    assert all(
        "description" in it or "$ref" in json.dumps(it) or "type" in json.dumps(it)
        for it in tool.input_schema["properties"].values()
    )


async def test_a_tool_that_is_not_there_is_unknown(bench: Bench) -> None:
    with pytest.raises(UnknownTool):
        await bench.call("stoker_nothing")


# -- what they ask -----------------------------------------------------------------------------------


async def test_changed_files_go_with_those_that_stay_and_only_onto_what_was_read(bench: Bench) -> None:
    items = [*items_of({"a.js": "old", "b.js": "same"})]
    shown: dict[str, Any] = {"body": {"compute_asset": {"assets": []}}}
    bench.routes.answers = [
        Answer(200, msgspec.json.encode({"body": {"assets": items}}), {"etag": '"7"'}),
        Answer(200, b'{"message":"success"}'),
        Answer(200, msgspec.json.encode(shown)),
    ]

    answer = await bench.call("stoker_update_function", function="c/f", change_files={"a.js": "new"})

    assert not answer.failed
    method, path, query, body = bench.routes.asked[1]
    assert (method, path, query) == ("PATCH", "/compute/compute-assets/c/f", "strict=true")
    assert bench.routes.headers[1][b"if-match"] == b'"7"'
    assert files_of(body["assets"]) == {"a.js": "new", "b.js": "same"}


async def test_settings_that_are_refused_after_the_code_was_changed_say_so(bench: Bench) -> None:
    bench.routes.answers = [
        Answer(200, b'{"message":"success"}'),
        Answer(400, b'{"error":"no","code":"request.invalid","field":"/size"}'),
    ]

    answer = await bench.call("stoker_update_function", function="c/f", files={"a.js": ""}, size="huge")

    members = json.loads(answer.text)
    assert answer.failed
    assert (members["field"], members["hint"].startswith("the code was changed")) == ("/size", True)


async def test_names_of_any_kind_are_one_segment_of_the_path(bench: Bench) -> None:
    bench.routes.answers = [Answer(404, b'{"error":"no","code":"not_found"}')] * 2

    await bench.call("stoker_delete_function", function="my data/a?b#c%/../x")
    await bench.call("stoker_delete_function", function="ms.compute.c.function.7")

    assert [path for _, path, _, _ in bench.routes.asked] == [
        "/compute/functions/my%20data/a%3Fb%23c%25%2F..%2Fx",
        "/compute/functions/c/7",
    ]


async def test_a_call_that_is_given_up_is_cancelled_where_it_runs(bench: Bench) -> None:
    await bench.catalog.create(name="f")
    waiting = asyncio.ensure_future(bench.call("my-namespace__f", a=1))
    exchange = await bench.routes.called.get()
    gone: list[bool] = []
    exchange.gone = lambda: gone.append(True)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert gone == [True]
    assert not exchange.open
    exchange.respond(200, b"{}")  # too late, and harmless


async def test_a_call_carries_payload_version_and_key(bench: Bench) -> None:
    waiting = asyncio.ensure_future(
        bench.call("stoker_invoke", function="c/f", payload="text", version=3, idempotency_key="k")
    )
    exchange = await bench.routes.called.get()
    exchange.respond(200, b'{"body":"[1]"}', b"X-Invocation-Id: i\r\n")

    answer = await waiting

    request = exchange.request
    assert (request.path, request.query) == (b"/compute/functions/c/f/invoke", b"version=3")
    assert (request.authorization, request.idempotency_key) == (b"Bearer admin", b"k")
    assert json.loads(request.body) == {"invocation_type": "RequestResponse", "payload": '"text"'}
    assert answer.structured == {"invocation_id": "i", "result": [1]}


async def test_an_answer_is_held_up_to_a_bound(bench: Bench) -> None:
    bench.routes.answers = [Answer(200, b"x" * (ANSWER_BYTES_MAX + 1))]

    answer = await bench.routes.asker.ask(CREDENTIAL, "GET", "/")

    assert (answer.status, answer.json()["code"]) == (413, "too_large")


async def test_a_fault_of_a_route_hides_what_it_was(bench: Bench) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("inside")

    answer = await Asker(app, bench.routes.invoke, ERRORS).ask(CREDENTIAL, "GET", "/")

    assert answer.status == 500
    assert b"inside" not in answer.body


# -- words -------------------------------------------------------------------------------------------


def test_files_that_are_no_text_are_shown_by_size_and_taken_as_base64() -> None:
    items = items_of(
        {"a.txt": "ü", "b.bin": {"base64": "AAEC"}, "c.zip": {"base64": "QQ==", "type": "archive"}}
    )

    assert files_of(items) == {
        "a.txt": "ü",
        "b.bin": {"bytes": 3, "type": "file"},
        "c.zip": {"bytes": 1, "type": "archive"},
    }


def test_a_file_that_is_not_there_cannot_be_removed() -> None:
    items = items_of({"a.js": "1"})

    assert changed_items(items, {"a.js": None}) == []
    with pytest.raises(InvalidRequest) as refused:
        changed_items(items, {"x/y.js": None})
    assert refused.value.field == "/change_files/x~1y.js"


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("/compute_asset/assets/1/asset_value", "/files/b~1c.js"),
        ("/assets/0/asset_name", "/files/a.js"),
        ("/assets/0/asset_type", "/files/a.js/asset_type"),
        ("/compute_asset/assets", "/files"),
        ("/compute_asset/collection_topic", "/collection"),
        ("/compute_asset/handler", "/handler"),
        ("/schema/input", "/schema/input"),
    ],
)
def test_a_field_of_the_api_is_told_as_the_argument_it_came_from(field: str, shown: str) -> None:
    assert field_of(field, items_of({"a.js": "", "b/c.js": ""}), "files") == shown


@pytest.mark.parametrize(("depth", "structured"), [(DEPTH_MAX, True), (DEPTH_MAX + 1, False), (900, False)])
async def test_a_result_that_is_nested_too_deeply_for_clients_is_text_alone_or_an_error_where_it_has_a_schema(
    bench: Bench, depth: int, structured: bool
) -> None:
    text = "[" * depth + "]" * depth
    await bench.catalog.create(name="f")
    await bench.catalog.create(name="g", schema={"output": {"type": "array"}})
    answers = []
    for tool in ("my-namespace__f", "my-namespace__g"):
        waiting = asyncio.ensure_future(bench.call(tool))
        (await bench.routes.called.get()).respond(200, msgspec.json.encode({"body": text}))
        answers.append(await waiting)

    untyped, typed = answers

    assert (untyped.text, untyped.failed) == (text, False)
    assert (untyped.structured is not None) == (typed.structured is not None) == structured
    assert typed.failed != structured


def test_what_is_long_but_flat_is_structured() -> None:
    assert told([{}] * 1000).structured == {"result": [{}] * 1000}


def test_half_a_surrogate_pair_costs_its_character_and_not_the_answer() -> None:
    value = value_of('{"a": "x\\ud83d", "b": "\\ud83d\\ude00"}')

    assert value == {"a": "x?", "b": "😀"}
    assert told(value).text == '{"a": "x?", "b": "😀"}'
