"""The live tail: what one client is sent of what a function's calls print, and how it is let go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from stoker.catalog.fold import Identity
from stoker.edge.http.access import Access
from stoker.edge.http.app import Door
from stoker.edge.http.tail import BUFFER_BYTES_MAX, LINES_AT_ONCE, SILENCE_S, Tail, TailRoutes
from stoker.model.call import CallIds, text_of
from stoker.model.limits import KIB, Limits
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.site import STRANGER, Site

CALL = CallIds().next()
ID = text_of(CALL)
Event = tuple[str, Any]


def events_of(stream: bytes | bytearray) -> list[Event]:
    """Return (event, data) of each event, as a client parses it; comments mean nothing to it."""
    found = []
    for part in stream.decode().split("\n\n"):
        lines = [line for line in part.split("\n") if line and not line.startswith(":")]
        if lines:
            assert [line.partition(": ")[0] for line in lines] == ["event", "data"]
            found.append((lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))))
    return found


def lines_of(stream: bytes | bytearray) -> list[str]:
    return [data["line"] for event, data in events_of(stream) if event == "log"]


class Source:
    """What calls print, by function."""

    def __init__(self) -> None:
        self.taps: list[tuple[Identity, Callable[[bytes, bytes], None]]] = []

    def follow(self, identity: Identity, tap: Callable[[bytes, bytes], None]) -> Callable[[], None]:
        entry = (identity, tap)
        self.taps.append(entry)
        return lambda: self.taps.remove(entry)

    def print(self, text: str) -> None:
        for _, tap in self.taps:
            tap(CALL, text.encode())


class Client:
    """Follows until it leaves; while it does not read, nothing more is written to it."""

    def __init__(
        self, site: Site, *, query: str = "follow=true", token: str = "admin", function: str = "my-function"
    ) -> None:
        path = f"/compute/functions/my-namespace/{function}/log"
        self._site = site
        self._scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"authorization", f"Bearer {token}".encode())],
        }
        self._gone = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self.head: dict[str, Any] = {}
        self.stream = bytearray()
        self.ended = False
        self.task = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        await self._site.app(self._scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.head = message
        else:
            self.stream += message["body"]
            self.ended = not message.get("more_body", False)

    async def leave(self) -> None:
        self._gone.set()
        await asyncio.wait([self.task])

    async def refused(self) -> tuple[int, str, str]:
        """Return status, code and message."""
        await self.task
        body = json.loads(self.stream)
        return self.head["status"], body["code"], body["error"]


class Bench(Site):
    """One function that can be followed."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.source = Source()
        super().__init__({}, limits=limits)

    def _doors(self, access: Access) -> Sequence[Door]:
        self.routes = TailRoutes(self.bench.fold, access, self.source, self.limits)
        return (self.routes,)

    async def with_function(self) -> Bench:
        await self.bench.create()
        return self

    async def follow(self, **how: Any) -> Client:
        client = Client(self, **how)
        await settled()
        return client


# -- lines ---------------------------------------------------------------------------------------------


@in_fake_time
async def test_each_line_is_an_event_as_soon_as_it_is_printed() -> None:
    bench = await Bench().with_function()
    client = await bench.follow()
    assert client.head["status"] == 200
    assert (b"content-type", b"text/event-stream; charset=utf-8") in client.head["headers"]
    assert events_of(client.stream) == []

    bench.source.print("one\n")
    await settled()
    after_one = events_of(client.stream)
    bench.source.print("two\nthree\n")
    await settled()

    assert after_one == [("log", {"invocation_id": ID, "line": "one"})]
    assert lines_of(client.stream) == ["one", "two", "three"]
    await client.leave()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("\n", [""]),
        ("\n\n", ["", ""]),
        ("no end", ["no end"]),
        ("data: x\n", ["data: x"]),
        ("a\r\nb\rc\n", ["a\r", "b\rc"]),
        ('"quoted" \\ \x00 \x1b[1m ü 😀\n', ['"quoted" \\ \x00 \x1b[1m ü 😀']),
    ],
)
@in_fake_time
async def test_whatever_a_line_holds_it_is_one_event(text: str, lines: list[str]) -> None:
    bench = await Bench().with_function()
    client = await bench.follow()

    bench.source.print(text)
    await settled()

    assert lines_of(client.stream) == lines
    await client.leave()


@in_fake_time
async def test_what_is_no_utf_8_is_shown_as_such() -> None:
    bench = await Bench().with_function()
    client = await bench.follow()

    bench.source.taps[0][1](CALL, b"a\xc3\n")
    await settled()

    assert lines_of(client.stream) == ["a\ufffd"]
    await client.leave()


@in_fake_time
async def test_two_clients_are_told_the_same_and_one_that_leaves_is_told_nothing_more() -> None:
    bench = await Bench().with_function()
    first, second = await bench.follow(), await bench.follow()
    bench.source.print("one\n")
    await settled()

    await first.leave()
    bench.source.print("two\n")
    await settled()

    assert (lines_of(first.stream), lines_of(second.stream)) == (["one"], ["one", "two"])
    await second.leave()
    assert bench.source.taps == []


@in_fake_time
async def test_the_function_that_was_named_is_followed() -> None:
    bench = await Bench().with_function()
    client = await bench.follow()

    assert [identity for identity, _ in bench.source.taps] == [("default", "my-namespace", "3970185486")]
    await client.leave()


@in_fake_time
async def test_a_comment_shows_that_a_silent_connection_lives() -> None:
    bench = await Bench().with_function()
    client = await bench.follow()
    before = bytes(client.stream)

    await passed(SILENCE_S + 1)

    assert client.stream.startswith(before)
    assert client.stream[len(before) :].startswith(b":")
    assert events_of(client.stream) == []
    await client.leave()


# -- who reads too slowly --------------------------------------------------------------------------------


@in_fake_time
async def test_a_client_that_reads_too_slowly_gets_what_was_kept_and_is_told_why_it_ends() -> None:
    bench = await Bench().with_function()
    slow, quick = await bench.follow(), await bench.follow()
    slow.reads.clear()
    text = "x" * (100 * KIB) + "\n"

    for _ in range(20):
        bench.source.print(text)
        await settled()
    slow.reads.set()
    await settled()

    assert len(lines_of(quick.stream)) == 20
    kept = lines_of(slow.stream)
    assert BUFFER_BYTES_MAX <= sum(map(len, kept)) + 200 * KIB < BUFFER_BYTES_MAX + 400 * KIB
    assert events_of(slow.stream)[len(kept) :] == [
        (
            "end",
            {"reason": "dropped: you read more slowly than the function prints; follow it again to go on"},
        )
    ]
    assert slow.ended
    await asyncio.wait([slow.task])
    assert len(bench.source.taps) == 1
    await quick.leave()


@in_fake_time
async def test_four_whole_logs_of_empty_lines_at_once_are_not_too_much_for_one_that_reads() -> None:
    bench = await Bench().with_function()
    client = await bench.follow()

    for _ in range(3):
        bench.source.print("\n" * (256 * KIB))
    await settled()

    assert client.stream.count(b"event: log\n") == 3 * 256 * KIB
    assert not client.ended
    await client.leave()


async def test_many_short_lines_are_sent_in_parts_and_others_have_a_turn_between() -> None:
    tail = Tail()
    tail.take(CALL, b"\n" * (3 * LINES_AT_ONCE))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(others())
    seen = []
    async for chunk in tail.events():
        seen.append((chunk.count(b"event: log"), turns))
        if len(seen) == 4:
            break
    other.cancel()

    assert [count for count, _ in seen] == [0, LINES_AT_ONCE, LINES_AT_ONCE, LINES_AT_ONCE]
    assert seen[1][1] < seen[2][1] < seen[3][1]


# -- ends and refusals -----------------------------------------------------------------------------------


@in_fake_time
async def test_a_server_that_stops_lets_every_client_go_after_what_it_was_still_owed() -> None:
    bench = await Bench().with_function()
    client = await bench.follow()
    bench.source.print("last words\n")

    bench.routes.close()
    await settled()
    late = await (await bench.follow()).refused()

    assert events_of(client.stream)[1:] == [("end", {"reason": "the server is stopping"})]
    assert client.ended
    assert late == (503, "no_capacity", "the server is stopping")


@in_fake_time
async def test_no_more_clients_follow_than_the_limit_says_and_who_leaves_makes_room() -> None:
    bench = await Bench(Limits(followers_max=2)).with_function()
    first, second = await bench.follow(), await bench.follow()

    refused = await (await bench.follow()).refused()
    await first.leave()
    third = await bench.follow()

    assert refused[:2] == (503, "no_capacity")
    assert third.head["status"] == 200
    await second.leave()
    await third.leave()


@in_fake_time
async def test_a_client_that_left_before_its_answer_began_takes_nobodys_place() -> None:
    bench = await Bench(Limits(followers_max=1)).with_function()
    client = Client(bench)
    client.reads.clear()

    await client.leave()

    assert bench.source.taps == []
    assert (await bench.follow()).head["status"] == 200


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ({"token": "guess"}, 401, "auth.invalid"),
        ({"token": STRANGER}, 404, "not_found"),
        ({"function": "none"}, 404, "not_found"),
        ({"token": "caller"}, 403, "auth.forbidden"),
        ({"token": "reader"}, 403, "auth.forbidden"),
        ({"token": "nobody", "query": ""}, 403, "auth.forbidden"),
        ({"query": ""}, 400, "request.invalid"),
        ({"query": "follow=false"}, 400, "request.invalid"),
        ({"query": "follow="}, 400, "request.invalid"),
    ],
)
@in_fake_time
async def test_who_may_not_follow_or_does_not_ask_to_is_refused(
    how: dict[str, str], status: int, code: str
) -> None:
    bench = await Bench().with_function()

    refused = await (await bench.follow(**how)).refused()

    assert refused[:2] == (status, code)
    assert bench.source.taps == []


@pytest.mark.parametrize("query", ["follow=true", "follow=True", "follow=1", "x=y&follow=true"])
@in_fake_time
async def test_following_can_be_asked_for_in_more_than_one_way(query: str) -> None:
    bench = await Bench().with_function()

    client = await bench.follow(query=query)

    assert client.head["status"] == 200
    await client.leave()
