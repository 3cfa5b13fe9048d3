"""The door of agents: which pages may ask, and how requests under way end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from stoker.edge.errors import ErrorAnswers
from stoker.edge.mcp.origin import is_allowed
from stoker.edge.mcp.turns import Turns
from stoker.model.errors import NoCapacity, Unauthenticated
from stoker.testing.worker import Notes


class Log(Notes):
    """Of the edge."""

    error = Notes.warning


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "stoker.example:8080", True),
        ("http://localhost:6274", "stoker.example:8080", True),
        ("http://app.localhost", "127.0.0.1:8080", True),
        ("https://127.0.0.1", "127.0.0.1:8080", True),
        ("http://[::1]:3000", "127.0.0.1:8080", True),
        ("http://192.0.2.7:8080", "192.0.2.7:8080", True),
        ("http://192.0.2.8:8080", "192.0.2.7:8080", False),
        ("http://192.0.2.7:8080", None, False),
        ("http://evil.example:8080", "evil.example:8080", False),  # the very thing that rebinding does
        ("http://localhost.evil.example", "127.0.0.1:8080", False),
        ("null", "127.0.0.1:8080", False),
        ("", "127.0.0.1:8080", False),
        ("http://[", "127.0.0.1:8080", False),
        ("file://", "127.0.0.1:8080", False),
    ],
)
def test_pages_may_ask_from_this_machine_or_the_servers_own_numeric_address(
    origin: str | None, host: str | None, allowed: bool
) -> None:
    assert is_allowed(origin, host) is allowed


def test_a_server_that_no_agent_asks_never_loads_the_sdk() -> None:
    code = "import sys, stoker.app.server; print({'mcp', 'mcp_types', 'pydantic'} & set(sys.modules))"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout == "set()\n"


class Requests:
    """Requests under way, each with what its client got."""

    def __init__(self) -> None:
        self.turns = Turns(ErrorAnswers(Log(), new_id=lambda: "id"))
        self.begun = asyncio.Event()

    def take(self, method: str, *first: Message) -> tuple[asyncio.Task[int], list[Message]]:
        sent: list[Message] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in first:
                await send(message)
            self.begun.set()
            await asyncio.Event().wait()

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError("nothing is received")

        scope: dict[str, Any] = {"type": "http", "method": method}
        return asyncio.ensure_future(self.turns.take(app, scope, receive, send)), sent


START: Message = {"type": "http.response.start", "status": 200, "headers": []}
PART: Message = {"type": "http.response.body", "body": b"x", "more_body": True}


async def test_who_had_no_answer_yet_is_told_why() -> None:
    requests = Requests()
    task, sent = requests.take("POST")
    await requests.begun.wait()

    requests.turns.end(Unauthenticated("the token is not known here"))

    assert await task == 401
    assert json.loads(sent[1]["body"])["code"] == "auth.invalid"
    assert (b"WWW-Authenticate", b"Bearer") in sent[0]["headers"]
    assert len(requests.turns) == 0


async def test_an_answer_that_was_begun_is_ended_where_it_is() -> None:
    requests = Requests()
    task, sent = requests.take("GET", START, PART)
    await requests.begun.wait()

    requests.turns.end(NoCapacity("over"))

    assert await task == 200
    assert sent == [START, PART, {"type": "http.response.body", "body": b"", "more_body": False}]


async def test_a_server_that_stops_ends_streams_and_lets_calls_go_on() -> None:
    requests = Requests()
    call, _ = requests.take("POST")
    stream, _ = requests.take("GET", START, PART)
    await asyncio.sleep(0)

    requests.turns.end(NoCapacity("stopping"), streams_only=True)
    await stream

    assert not call.done()
    requests.turns.end(NoCapacity("stopped"))
    assert await call == 503


async def test_a_request_whose_server_ends_it_is_not_caught() -> None:
    requests = Requests()
    task, _ = requests.take("POST")
    await requests.begun.wait()

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(requests.turns) == 0
