"""The live tail over HTTP: log lines as they are written, none lost and none twice.

Source: the compute API contract, *Invocations*.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.callers import at_once
from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import wait_until
from tests.e2e.test_invocations import id_of, record, send
from tests.e2e.test_versions import change

PRINTING = """
exports.handler = async (e) => {
  for (let i = 0; i < e.lines; i++) {
    console.log(e.word, i);
    if (e.gap) await new Promise((later) => setTimeout(later, e.gap));
  }
  if (e.rest) process.stdout.write(e.rest);
  if (e.sleep) await new Promise((later) => setTimeout(later, e.sleep));
};
"""


class Follower:
    """Reads a function's live tail in a thread of its own."""

    def __init__(self, client: Client, name: str) -> None:
        self.events: list[tuple[str, Any]] = []
        self.ended = False
        self._follows = threading.Event()
        self._leaves = False
        self._thread = threading.Thread(target=self._read, args=(client, name), daemon=True)
        self._thread.start()
        assert self._follows.wait(20)

    def _read(self, client: Client, name: str) -> None:
        path = f"/compute/functions/{client.collection}/{name}/log?follow=true"
        with Client(client.url, client.token) as own, own.http.stream("GET", path) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            event = ""
            for line in stream.iter_lines():
                if line.startswith(":"):
                    self._follows.set()
                elif line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    self.events.append((event, json.loads(line.removeprefix("data: "))))
                if self._leaves:
                    return
        self.ended = True

    def lines(self, invocation_id: str | None = None) -> list[str]:
        return [
            data["line"]
            for event, data in self.events
            if event == "log" and invocation_id in (None, data["invocation_id"])
        ]

    def leave(self) -> None:
        """Let go with the next line."""
        self._leaves = True

    def join(self) -> None:
        self._thread.join(20)


Follow = Callable[[str], Follower]


@pytest.fixture
def follow(client: Client) -> Iterator[Follow]:
    with ExitStack() as stack:

        def following(name: str) -> Follower:
            follower = Follower(client, name)
            stack.callback(follower.leave)
            return follower

        yield following


def test_a_line_is_there_while_the_call_still_runs(client: Client, follow: Follow) -> None:
    client.function("f", PRINTING)
    follower = follow("f")

    one = send(client, "f", {"lines": 2, "word": "now", "sleep": 60_000})
    wait_until(lambda: len(follower.events) == 2)

    assert record(client, one, "")["status"] == "running"
    assert follower.lines(id_of(one)) == ["now 0", "now 1"]
    client.http.post(f"/compute/invocations/{id_of(one)}/cancel")


def test_every_follower_has_every_line_once_and_in_order(client: Client, follow: Follow) -> None:
    client.function("f", PRINTING)
    followers = [follow("f") for _ in range(2)]

    answers = [client.invoke("f", {"lines": 100, "word": n, "rest": "no end"}) for n in range(10)]
    wait_until(lambda: all(len(follower.events) == 1010 for follower in followers))

    for follower in followers:
        for n, answer in enumerate(answers):
            assert follower.lines(id_of(answer)) == [*(f"{n} {i}" for i in range(100)), "no end"]
    assert client.log(answers[0]) == "\n".join(followers[0].lines(id_of(answers[0])))


def test_calls_that_share_an_instance_are_told_apart(client: Client, follow: Follow) -> None:
    client.function("f", PRINTING, concurrency={"per_instance": 4, "max_instances": 1})
    follower = follow("f")
    clients = [Client(client.url, client.token, client.collection) for _ in range(4)]

    answers = at_once(4, lambda n: clients[n].invoke("f", {"lines": 20, "word": n, "gap": 5}))
    wait_until(lambda: len(follower.events) == 80)
    for one in clients:
        one.http.close()

    for n, answer in enumerate(answers):
        assert follower.lines(id_of(answer)) == [f"{n} {i}" for i in range(20)]


def test_a_follower_goes_on_with_the_next_version(client: Client, follow: Follow) -> None:
    client.function("f", PRINTING)
    follower = follow("f")

    client.invoke("f", {"lines": 1, "word": "old"})
    assert change(client, "f", PRINTING.replace("e.word", "'new ' + e.word")).status_code == 200
    client.invoke("f", {"lines": 1, "word": "code"})
    wait_until(lambda: len(follower.events) == 2)

    assert follower.lines() == ["old 0", "new code 0"]


def test_no_line_is_lost_or_doubled_through_updates_under_load(client: Client, follow: Follow) -> None:
    client.function("f", PRINTING)
    follower = follow("f")

    def update() -> None:
        with Client(client.url, client.token, client.collection) as own:
            for number in range(8):
                change(own, "f", f"{PRINTING}// {number}")

    updating = threading.Thread(target=update)
    updating.start()
    answers: list[httpx.Response] = []
    while updating.is_alive():
        answers.append(client.invoke("f", {"lines": 3, "word": len(answers)}))
    assert {answer.status_code for answer in answers} == {200}
    wait_until(lambda: len(follower.events) >= 3 * len(answers))

    told = Counter((data["invocation_id"], data["line"]) for _, data in follower.events)
    assert told == Counter((id_of(one), f"{n} {i}") for n, one in enumerate(answers) for i in range(3))


def test_a_log_that_is_cut_says_so_to_who_follows(client: Client, follow: Follow) -> None:
    client.function("f", PRINTING)
    follower = follow("f")

    client.invoke("f", {"lines": 20_000, "word": "x" * 20})
    wait_until(lambda: bool(follower.events) and "cut" in follower.lines()[-1])

    assert follower.lines()[-1] == "[stoker: the log is cut at 262144 bytes]"
    assert len(follower.lines()) < 20_000


def test_who_reads_too_slowly_is_told_and_let_go_and_costs_nobody_else_a_line(
    client: Client, follow: Follow
) -> None:
    client.function("f", PRINTING)
    quick = follow("f")
    host, port = client.url.removeprefix("http://").split(":")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(20)
        slow.connect((host, int(port)))
        head = f"GET /compute/functions/{client.collection}/f/log?follow=true HTTP/1.1\r\nHost: x\r\n"
        slow.sendall(f"{head}Authorization: Bearer {client.token}\r\n\r\n".encode())
        begun = slow.recv(4096)
        while b": following" not in begun:
            begun += slow.recv(4096)

        for _ in range(60):
            assert client.invoke("f", {"lines": 2000, "word": "x" * 90}).status_code == 200
        wait_until(lambda: len(quick.events) == 120_000)
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):  # the stream's end
            piece = slow.recv(1 << 20)
            assert piece, "the connection was cut"
            rest += piece

    end = rest.decode().rpartition("event: end\n")[2]
    assert "slowly" in end
    assert 0 < rest.count(b"event: log") < 120_000
    assert {event for event, _ in quick.events} == {"log"}


def test_a_server_that_stops_ends_the_stream_and_does_not_wait_for_it(isolated: None, data: Path) -> None:
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        client.function("f", PRINTING)
        follower = Follower(client, "f")
        client.invoke("f", {"lines": 1, "word": "last"})

        assert server.stop() == 0
        follower.join()

    assert follower.ended
    assert follower.events[-1] == ("end", {"reason": "the server is stopping"})
    assert follower.lines() == ["last 0"]


def test_what_can_not_be_followed_is_refused(client: Client) -> None:
    client.function("f", PRINTING)

    def refused(name: str, query: str = "", **headers: str) -> tuple[int, str]:
        path = f"/compute/functions/{client.collection}/{name}/log{query}"
        answer: httpx.Response = client.http.get(path, headers=headers)
        return answer.status_code, answer.json()["code"]

    assert refused("f") == (400, "request.invalid")
    assert refused("none", "?follow=true") == (404, "not_found")
    assert refused("f", "?follow=true", Authorization="Bearer guess") == (401, "auth.invalid")
