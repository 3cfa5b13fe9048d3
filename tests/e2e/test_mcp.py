"""Agents over the Model Context Protocol, with the SDK's own client against a real server.

Source: the operating contract, *The other doors*.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import httpx2
import mcp_types as types
import pytest
from mcp.client import Client as Agent
from mcp.client.client import ConnectMode
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.e2e.conftest import Client, ServerProcess

WAIT_S_MAX = 30
"""A guard against a hang, not a promise."""
ERAS: list[ConnectMode] = ["legacy", "auto"]
"""Of the protocol: with a session that begins with a handshake, and without."""
ADD = "exports.handler = async ({ a, b }) => { console.log('adding', a, b); return { sum: a + b }; };\n"
NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
    "required": ["a", "b"],
}
SUM = {"type": "object", "properties": {"sum": {"type": "number"}}, "required": ["sum"]}
ALL = ["functions:write", "functions:invoke", "records:read"]
SLOW = "exports.handler = () => { console.log('here'); return new Promise(() => {}); }"
Handler = Callable[[Any], None]


@asynccontextmanager
async def an_agent(
    server: ServerProcess, token: str, *, mode: ConnectMode = "auto", told: Handler | None = None
) -> AsyncIterator[Agent]:
    """Give an agent that is connected with a token."""

    async def on_message(message: Any) -> None:
        if told is not None:
            told(message)

    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=WAIT_S_MAX) as http:
        transport = streamable_http_client(f"{server.url}/mcp", http_client=http)
        async with Agent(transport, mode=mode, message_handler=on_message) as agent:
            yield agent


def a_token(client: Client, scopes: list[str], **limits: Any) -> tuple[str, str]:
    """Return a new token, and its id."""
    answer = client.http.post("/tokens", json={"name": "agent", "scopes": scopes, **limits})
    assert answer.status_code == 201, answer.text
    body = answer.json()["body"]
    return body["token"], body["id"]


async def names_of(agent: Agent) -> set[str]:
    """Return the names of the tools, as the server has them now."""
    return {tool.name for tool in (await agent.list_tools(cache_mode="refresh")).tools}


async def does(agent: Agent, name: str, /, **arguments: Any) -> dict[str, Any]:
    """Return the structured result of a tool that must not fail."""
    answer = await agent.call_tool(name, arguments)
    assert not answer.is_error, answer
    assert isinstance(answer.structured_content, dict)
    return answer.structured_content


async def refuses(agent: Agent, name: str, /, **arguments: Any) -> dict[str, Any]:
    """Return the members of the error of a tool that must fail."""
    answer = await agent.call_tool(name, arguments)
    assert answer.is_error, answer
    assert isinstance(answer.content[0], types.TextContent)
    members: dict[str, Any] = json.loads(answer.content[0].text)
    return members


@contextmanager
def following(client: Client, name: str) -> Iterator[Callable[[], str]]:
    """Give what returns the id of the next invocation that prints something."""
    path = f"/compute/functions/{client.collection}/{name}/log?follow=true"
    with client.http.stream("GET", path) as tail:
        lines = tail.iter_lines()
        assert next(lines) == ": following"

        def begun() -> str:
            line = next(line for line in lines if line.startswith("data: "))
            found: str = json.loads(line.removeprefix("data: "))["invocation_id"]
            return found

        yield begun


@contextmanager
def listening(http: httpx.Client, session: dict[str, str]) -> Iterator[httpx.Response]:
    """Give the stream of announcements of a session."""
    with http.stream("GET", "/mcp", headers={**session, "Accept": "text/event-stream"}) as stream:
        assert stream.status_code == 200
        yield stream


@pytest.mark.parametrize("mode", ERAS)
async def test_an_agent_creates_a_function_sees_it_fail_reads_its_log_mends_it_and_rolls_it_back(
    client: Client, server: ServerProcess, mode: ConnectMode
) -> None:
    collection = client.collection
    token, _ = a_token(client, ALL, collection=collection, calls_per_minute=100, expires_in=600)
    function, tool = f"{collection}/add", f"{collection}__add"
    async with an_agent(server, token, mode=mode) as agent:
        assert {"stoker_create_function", "stoker_logs", "stoker_rollback"} <= await names_of(agent)

        await does(
            agent,
            "stoker_create_function",
            name="add",
            collection=collection,
            description="Adds two numbers.",
            files={"index.js": ADD},
            schema={"input": NUMBERS, "output": SUM},
        )
        listed = {one.name: one for one in (await agent.list_tools(cache_mode="refresh")).tools}[tool]
        first = await does(agent, tool, a=1, b=2)
        await does(
            agent,
            "stoker_update_function",
            function=function,
            files={"index.js": "exports.handler = (e) => {"},
        )
        broken = await refuses(agent, tool, a=1, b=2)
        await does(
            agent,
            "stoker_update_function",
            function=function,
            change_files={
                "index.js": "const add = require('./add.js');\n"
                "exports.handler = (e) => { console.log('before'); return add(e); };\n",
                "add.js": "module.exports = () => { throw new TypeError('not a number'); };\n",
            },
        )
        thrown = await refuses(agent, tool, a=1, b=2)
        log = await does(agent, "stoker_logs", invocation_id=thrown["invocation_id"])
        record = await does(agent, "stoker_get_invocation", invocation_id=thrown["invocation_id"])
        await does(
            agent,
            "stoker_update_function",
            function=function,
            change_files={"add.js": "module.exports = ({ a, b }) => ({ sum: a + b + 1000 });\n"},
        )
        mended = await does(agent, tool, a=1, b=2)
        versions = await does(agent, "stoker_versions", function=function)
        back = await does(agent, "stoker_rollback", function=function, version=1)
        last = await does(agent, tool, a=1, b=2)
        calls = await does(agent, "stoker_invocations", function=function)
        shown = await does(agent, "stoker_get_function", function=function)

    assert (listed.description or "").startswith("Adds two numbers.")
    assert (listed.input_schema, listed.output_schema) == (NUMBERS, SUM)
    assert first == last == {"sum": 3}
    assert broken["code"] == "function.load_failed"
    assert "SyntaxError" in json.dumps(broken)
    assert (thrown["code"], thrown["error"], thrown["error_type"]) == (
        "function.error",
        "not a number",
        "TypeError",
    )
    assert "add.js" in json.dumps(thrown["stack"])
    assert log == {"invocation_id": thrown["invocation_id"], "log": "before\n"}
    assert (record["status"], record["error"]["error"]) == ("error", "not a number")
    assert mended == {"sum": 1003}
    assert [version["version"] for version in versions["results"]] == [1, 2, 3, 4]
    assert versions["results"][2]["files"] == ["index.js", "add.js"]
    assert (back["version"], back["files"]) == (5, {"index.js": ADD})
    assert [call["status"] for call in calls["results"]] == ["ok", "ok", "error", "error", "ok"]
    assert (shown["version"], shown["files"]) == (5, {"index.js": ADD})


@pytest.mark.parametrize("mode", ERAS)
async def test_a_tool_that_comes_or_goes_is_announced(
    client: Client, server: ServerProcess, mode: ConnectMode
) -> None:
    token, _ = a_token(client, ["functions:invoke"], collection=client.collection)
    announced: asyncio.Queue[object] = asyncio.Queue()

    def on_message(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            announced.put_nowait(message)

    async with an_agent(server, token, mode=mode, told=on_message) as agent, asyncio.timeout(WAIT_S_MAX):
        before = await names_of(agent)
        if mode == "legacy":
            await _after(client, agent, lambda: client.function("f", ADD), announced.get)
            here = await names_of(agent)
            await _after(client, agent, lambda: _delete(client, "f"), announced.get)
        else:
            async with agent.listen(tools_list_changed=True) as events:
                following = aiter(events)
                await _after(client, agent, lambda: client.function("f", ADD), lambda: anext(following))
                here = await names_of(agent)
                await _after(client, agent, lambda: _delete(client, "f"), lambda: anext(following))
        after = await names_of(agent)

    assert (
        before
        == after
        == {"stoker_invoke", "stoker_invoke_async", "stoker_get_invocation"}
        | (before & {"stoker_cancel", "stoker_replay", "stoker_redrive"})
    )
    assert here - before == {f"{client.collection}__f"}


async def _after(
    client: Client, agent: Agent, change: Callable[[], Any], announcement: Callable[[], Any]
) -> None:
    await asyncio.to_thread(change)
    await announcement()


def _delete(client: Client, name: str) -> None:
    assert client.http.delete(f"/compute/functions/{client.collection}/{name}").status_code == 200


async def test_results_and_arguments_that_are_no_objects_are_wrapped_and_unwrapped(
    client: Client, server: ServerProcess
) -> None:
    schema = {"input": {"type": "array", "items": {"type": "integer"}}, "output": {"type": "integer"}}
    client.function("total", "exports.handler = (list) => list.reduce((a, b) => a + b, 0)", schema=schema)
    client.function("echo", "exports.handler = (event) => event")
    collection = client.collection
    async with an_agent(server, client.token) as agent:
        total = await does(agent, f"{collection}__total", payload=[1, 2, 3])
        bare = await refuses(agent, f"{collection}__total", list=[1])
        wrong = await refuses(agent, f"{collection}__total", payload=[1, "x"])
        echoed = await does(agent, f"{collection}__echo", payload=[1], big=2**60, text="ü\u2028")
        untyped = await does(agent, "stoker_invoke", function=f"{collection}/echo", payload="just text")

    assert total == {"result": 6}
    assert (bare["code"], bare["field"]) == ("request.invalid", "/payload")
    assert (wrong["code"], wrong["field"]) == ("schema.input", "/payload/1")
    assert '"x"' in wrong["error"]
    assert echoed["payload"] == [1]
    assert untyped["result"] == "just text"


async def test_calls_in_the_background_are_queued_cancelled_and_tried_again(
    client: Client, server: ServerProcess
) -> None:
    collection = client.collection
    client.function("fails", "exports.handler = () => { throw new Error('no'); }", retry={"attempts": 1})
    client.function(
        "slow", "exports.handler = () => new Promise(() => {})", monitor_config={"store_payload": True}
    )
    fails, slow = f"{collection}/fails", f"{collection}/slow"
    async with an_agent(server, client.token) as agent:
        failed = await does(agent, "stoker_invoke_async", function=fails, payload={"n": 1})
        ended = await does(agent, "stoker_get_invocation", wait_ms=WAIT_S_MAX * 1000, **failed)
        letters = await does(agent, "stoker_dead_letters", function=fails)
        redriven = await does(agent, "stoker_redrive", function=fails, **failed)
        again = await does(agent, "stoker_get_invocation", wait_ms=WAIT_S_MAX * 1000, **redriven)
        queued = await does(agent, "stoker_invoke_async", function=slow, payload=1)
        await does(agent, "stoker_cancel", **queued)
        cancelled = await does(agent, "stoker_get_invocation", **queued)
        replayed = await does(agent, "stoker_replay", **queued)
        await does(agent, "stoker_cancel", **replayed)
        missing = await refuses(agent, "stoker_get_invocation", invocation_id=str(uuid4()))

    assert (ended["status"], ended["attempts"]) == ("error", 1)
    assert [letter["invocation_id"] for letter in letters["results"]] == [failed["invocation_id"]]
    assert again["replay_of"] == failed["invocation_id"]
    assert (cancelled["status"], cancelled["payload"]) == ("cancelled", "1")
    assert replayed["invocation_id"] != queued["invocation_id"]
    assert missing["code"] == "not_found"


@pytest.mark.parametrize("mode", ERAS)
async def test_an_agent_that_gives_up_a_call_cancels_it(
    client: Client, server: ServerProcess, mode: ConnectMode
) -> None:
    client.function("slow", SLOW)
    async with an_agent(server, client.token, mode=mode) as agent, asyncio.timeout(WAIT_S_MAX):
        with following(client, "slow") as begun:
            waiting = asyncio.ensure_future(agent.call_tool(f"{client.collection}__slow", {}))
            invocation_id = await asyncio.to_thread(begun)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        record = await asyncio.to_thread(ended, client, invocation_id)

    assert record["status"] == "cancelled"


def ended(client: Client, invocation_id: str) -> dict[str, Any]:
    """Return the record of a plain call, which is there once it has ended."""
    until_s = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < until_s:
        answer = client.http.get(f"/compute/invocations/{invocation_id}")
        if answer.status_code == 200:
            record: dict[str, Any] = answer.json()["body"]
            return record
        time.sleep(0.05)
    pytest.fail("the call has not ended")


# -- who may do what -----------------------------------------------------------------------------------


async def test_only_what_a_token_may_use_is_listed_and_the_rest_is_not_there(
    client: Client, server: ServerProcess
) -> None:
    client.function("f", ADD)
    tool = f"{client.collection}__f"
    reader, _ = a_token(client, ["functions:read"])
    watcher, _ = a_token(client, ["records:read"])
    async with an_agent(server, reader) as agent:
        reads = await names_of(agent)
        with pytest.raises(MCPError, match="there is no tool"):
            await agent.call_tool(tool, {"a": 1, "b": 2})
        with pytest.raises(MCPError, match="there is no tool"):
            await agent.call_tool("stoker_delete_function", {"function": f"{client.collection}/f"})
    async with an_agent(server, watcher) as agent:
        watches = await names_of(agent)
    async with an_agent(server, client.token) as agent:
        assert tool in await names_of(agent)

    assert reads == {"stoker_list_functions", "stoker_get_function", "stoker_versions"}
    assert watches == {
        "stoker_get_invocation",
        "stoker_invocations",
        "stoker_logs",
        "stoker_dead_letters",
    }


async def test_a_token_of_one_collection_neither_sees_nor_touches_another(
    client: Client, server: ServerProcess
) -> None:
    mine, other = client.collection, f"test-{uuid4().hex[:12]}"
    client.function("f", ADD)
    client.collection = other
    client.function("f", ADD)
    token, _ = a_token(client, ALL, collection=mine)
    async with an_agent(server, token) as agent:
        names = await names_of(agent)
        listed = await does(agent, "stoker_list_functions")
        there = await refuses(agent, "stoker_get_function", function=f"{other}/f")
        nowhere = await refuses(agent, "stoker_get_function", function="nowhere/f")
        called = await refuses(agent, "stoker_invoke", function=f"{other}/f", payload={})
        created = await refuses(
            agent, "stoker_create_function", name="g", collection=other, files={"index.js": ADD}
        )

    assert f"{mine}__f" in names
    assert f"{other}__f" not in names
    assert [one["subject"].split(".")[2] for one in listed["results"]] == [mine]
    assert there == nowhere == called
    assert created["code"] in ("not_found", "auth.forbidden")


async def test_calls_are_counted_against_the_rate_of_the_token(client: Client, server: ServerProcess) -> None:
    client.function("f", ADD)
    token, _ = a_token(client, ["functions:invoke"], calls_per_minute=2)
    async with an_agent(server, token) as agent:
        for _ in range(2):
            await does(agent, f"{client.collection}__f", a=1, b=2)
        refused = await refuses(agent, f"{client.collection}__f", a=1, b=2)

    assert refused["code"].startswith("quota.")
    assert refused["retry_after"] >= 1


async def test_errors_name_the_argument(client: Client, server: ServerProcess) -> None:
    client.function("f", ADD)
    function = f"{client.collection}/f"
    create = {"name": "g", "collection": client.collection, "files": {"index.js": ADD}}
    async with an_agent(server, client.token) as agent:
        refusals = {
            field: await refuses(agent, tool, **arguments)
            for field, tool, arguments in (
                ("/files/..~1x.js", "stoker_create_function", {**create, "files": {"../x.js": ""}}),
                ("/collection", "stoker_create_function", {**create, "collection": ""}),
                ("/name", "stoker_create_function", {**create, "name": "f"}),
                ("/handler", "stoker_create_function", {**create, "handler": "nothing"}),
                (
                    "/schema/input/type",
                    "stoker_create_function",
                    {**create, "schema": {"input": {"type": 1}}},
                ),
                ("/size", "stoker_create_function", {**create, "size": "huge"}),
                ("/colour", "stoker_create_function", {**create, "colour": "red"}),
                ("/files", "stoker_create_function", {"name": "g", "collection": client.collection}),
                ("/function", "stoker_get_function", {"function": "no-slash"}),
                (
                    "/change_files/no.js",
                    "stoker_update_function",
                    {"function": function, "change_files": {"no.js": None}},
                ),
                (
                    "/change_files",
                    "stoker_update_function",
                    {"function": function, "change_files": {}, "files": {}},
                ),
                ("/timeout", "stoker_update_function", {"function": function, "timeout": -1}),
            )
        }
        left = await does(agent, "stoker_list_functions", collection=client.collection)
        versions = await does(agent, "stoker_versions", function=function)

    assert {field: refusal.get("field") for field, refusal in refusals.items()} == {f: f for f in refusals}
    assert {refusal["code"] for refusal in refusals.values()} == {"request.invalid", "name_taken"}
    assert [one["name"] for one in left["results"]] == ["f"]
    assert len(versions["results"]) == 1


# -- the door ------------------------------------------------------------------------------------------

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
ACCEPT = {"Accept": "application/json, text/event-stream"}


def opened(http: httpx.Client) -> dict[str, str]:
    """Begin a session by hand; return the headers of what is asked in it."""
    answer = http.post("/mcp", json=HELLO, headers=ACCEPT)
    assert answer.status_code == 200, answer.text
    return {**ACCEPT, "Mcp-Session-Id": answer.headers["mcp-session-id"]}


def test_who_has_no_good_token_or_sends_no_json_is_refused_as_json(
    client: Client, server: ServerProcess
) -> None:
    with httpx.Client(base_url=server.url) as nobody:
        missing = nobody.post("/mcp", json=HELLO, headers=ACCEPT)
        wrong = nobody.post("/mcp", json=HELLO, headers={**ACCEPT, "X-Api-Key": "wrong"})
    text = client.http.post("/mcp", content="hello", headers={**ACCEPT, "Content-Type": "text/plain"})
    large = client.http.post(
        "/mcp", content=b" " * (17 * 1024 * 1024), headers={**ACCEPT, "Content-Type": "application/json"}
    )
    verb = client.http.put("/mcp", json=HELLO)

    assert (missing.status_code, missing.json()["code"]) == (401, "auth.missing")
    assert missing.headers["www-authenticate"] == "Bearer"
    assert (wrong.status_code, wrong.json()["code"]) == (401, "auth.invalid")
    assert (text.status_code, text.json()["code"]) == (400, "request.invalid")
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    assert (verb.status_code, verb.headers["allow"]) == (405, "DELETE, GET, HEAD, POST")


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:6274", 200), ("https://evil.example", 403), ("null", 403), ("http://[", 403)],
)
def test_a_page_of_another_machine_may_not_ask(client: Client, origin: str, status: int) -> None:
    answer = client.http.post("/mcp", json=HELLO, headers={**ACCEPT, "Origin": origin})

    assert answer.status_code == status, answer.text


def test_a_session_is_nothing_to_another_token_nor_after_it_was_ended(
    client: Client, server: ServerProcess
) -> None:
    session = opened(client.http)
    other, _ = a_token(client, ALL)
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {other}"}) as stranger:
        theirs = stranger.post("/mcp", json=LIST, headers=session)
    mine = client.http.post("/mcp", json=LIST, headers=session)
    ended = client.http.delete("/mcp", headers=session)
    after = client.http.post("/mcp", json=LIST, headers=session)

    assert [answer.status_code for answer in (theirs, mine, ended, after)] == [404, 200, 200, 404]


def test_a_token_has_so_many_sessions_and_no_more(client: Client, server: ServerProcess) -> None:
    token, _ = a_token(client, ALL)
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}) as http:
        sessions = [opened(http) for _ in range(64)]
        refused = http.post("/mcp", json=HELLO, headers=ACCEPT)
        http.delete("/mcp", headers=sessions[0])
        again = http.post("/mcp", json=HELLO, headers=ACCEPT)
    others = client.http.post("/mcp", json=HELLO, headers=ACCEPT)

    assert (refused.status_code, again.status_code, others.status_code) == (503, 200, 200)


def test_a_revoked_token_ends_its_sessions(client: Client, server: ServerProcess) -> None:
    token, token_id = a_token(client, ALL)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=WAIT_S_MAX) as http:
        session = opened(http)
        with listening(http, session) as stream:
            assert client.http.delete(f"/tokens/{token_id}").status_code == 200
            rest = stream.read()  # ends, else this never does
        after = http.post("/mcp", json=LIST, headers=session)

    assert b"data:" not in rest
    assert after.status_code == 401


async def test_a_server_that_stops_lets_those_go_who_listen_and_waits_for_calls(
    isolated: None, data: Path
) -> None:
    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            source = "exports.handler = () => { console.log('here'); return new Promise((done) => setTimeout(done, 1500, 1)); }"
            client.function("slow", source)
            session = opened(client.http)
            message = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "tests__slow"}}
            with following(client, "slow") as begun:
                call = asyncio.ensure_future(
                    asyncio.to_thread(client.http.post, "/mcp", json=message, headers=session)
                )
                await asyncio.to_thread(begun)
            with listening(client.http, session) as stream:
                server.process.terminate()
                await asyncio.to_thread(stream.read)  # ends, else this never does
            result = await call
            code = await asyncio.to_thread(server.stop)
    finally:
        server.kill()

    assert '"structuredContent":{"result":1}' in result.text
    assert code == 0, "".join(server.stderr)
    assert "Traceback" not in "".join(server.stderr)
