"""The view against a model: whatever is stored in whatever order, it finds what a plain reading would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.model.record import Record
from stoker.records import formats
from stoker.records.formats import CallState, DeadLetter, KeyState, Message, Pack
from stoker.records.view import Filter, Place, Stored, View
from stoker.records.view_file import RELEASE_MS

NOW_MS = 1_700_000_000_000
ACCOUNTS = ("a", "b")
FUNCTIONS = ("ms.compute.t.function.1", "ms.compute.t.function.2")
STATUSES = ("ok", "error", "lost")
IDS = tuple(
    f"{NOW_MS + at // 2:012x}"[:8] + f"-{(NOW_MS + at // 2) & 0xFFFF:04x}-7000-8000-{at:012x}"
    for at in range(6)
)
KEYS = ("k1", "k2")

Step = Callable[["World"], None]


class Notes:
    def info(self, event: str, **fields: object) -> None:
        assert event == "view_begins_anew"

    def warning(self, event: str, **fields: object) -> None:
        raise AssertionError(f"{event} {fields}")


class World:
    """The stream as a list of messages, and what a reading of all of it finds at a time."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.sequence = 0
        self.stream: dict[int, tuple[str, Message | None, int]] = {}
        self.unfed: list[Stored] = []
        self.told: dict[tuple[str, str], str] = {}
        """How an id is stored: it is in one pack, or has messages of its own."""

    def put(self, subject: str, message: Message | None) -> None:
        self.sequence += 1
        data = b"\xff" * 10 if message is None else formats.encode(message)
        self.stream[self.sequence] = (subject, message, len(data))
        self.unfed.append(Stored(self.sequence, subject, data))

    def last(self, subject: str) -> tuple[int, Message] | None:
        found = [
            (sequence, message)
            for sequence, (under, message, _) in self.stream.items()
            if under == subject and message is not None
        ]
        return found[-1] if found else None

    def living(self, subject: str) -> tuple[int, Any] | None:
        """Return what counts under a subject now."""
        found = self.last(subject)
        if found is None:
            return None
        message: Any = found[1]
        if getattr(message, "gone", False) or not self.alive(message.expires_ms):
            return None
        return found

    def alive(self, expires_ms: int | None) -> bool:
        return expires_ms is None or expires_ms > self.now_ms

    def records(self, account: str) -> dict[str, tuple[Record, Place]]:
        found: dict[str, tuple[Record, Place]] = {}
        for sequence, (subject, message, _) in self.stream.items():
            if formats.account_of(subject) != account:
                continue
            if isinstance(message, Pack) and self.alive(message.expires_ms):
                for index, record in enumerate(message.records):
                    found[record.invocation_id] = (record, Place(sequence, index))
            elif isinstance(message, CallState) and self.living(subject) == (sequence, message):
                found[message.record.invocation_id] = (message.record, Place(sequence, None))
        return found

    def needed(self, account: str, invocation_id: str, which: str) -> bool:
        call = self.living(formats.call_subject(account, invocation_id))
        if which == "result":
            return call is not None and (call[1].expires_ms is None or call[1].result_pieces > 0)
        if call is not None and (call[1].expires_ms is None or call[1].payload_pieces > 0):
            return True
        dead = self.living(formats.dead_subject(account, "t", "1", invocation_id))
        return dead is not None and dead[1].payload_pieces > 0

    def useless(self) -> set[int]:
        """Return the sequences of what nobody can find any more, and no body needs."""
        found = set()
        for sequence, (subject, message, _) in self.stream.items():
            account = formats.account_of(subject)
            if message is None:
                _, _, _, _, invocation_id, which, _ = subject.split(".")
                later = [
                    at for at, (under, _, _) in self.stream.items() if under == subject and at > sequence
                ]
                if later or not self.needed(account, invocation_id, which):
                    found.add(sequence)
            elif isinstance(message, Pack):
                if not self.alive(message.expires_ms):
                    found.add(sequence)
            elif self.living(subject) != (sequence, message):
                found.add(sequence)
        return found


def pack(account: str, numbers: list[int], function: str, status: str, lasts_ms: int) -> Step:
    def step(world: World) -> None:
        fresh = [IDS[at] for at in numbers if (account, IDS[at]) not in world.told]
        world.told.update({(account, one): "pack" for one in fresh})
        records = [a_record(one, function, status) for one in fresh]
        world.put(
            formats.pack_subject(account), Pack(format=1, expires_ms=world.now_ms + lasts_ms, records=records)
        )

    return step


def call(account: str, at: int, function: str, status: str, lasts_ms: int | None, pieces: int) -> Step:
    def step(world: World) -> None:
        if world.told.setdefault((account, IDS[at]), "call") != "call":
            return
        state = CallState(
            format=1,
            record=a_record(IDS[at], function, status),
            expires_ms=None if lasts_ms is None else world.now_ms + lasts_ms,
            payload_pieces=pieces & 1,
            result_pieces=pieces >> 1,
        )
        world.put(formats.call_subject(account, IDS[at]), state)

    return step


def dead(account: str, at: int, lasts_ms: int, pieces: int, gone: bool) -> Step:
    def step(world: World) -> None:
        letter = DeadLetter(
            format=1,
            expires_ms=world.now_ms + lasts_ms,
            record=a_record(IDS[at], FUNCTIONS[0], "error"),
            payload_pieces=0 if gone else pieces,
            gone=gone,
        )
        world.put(formats.dead_subject(account, "t", "1", IDS[at]), letter)

    return step


def key(account: str, name: str, lasts_ms: int, gone: bool) -> Step:
    def step(world: World) -> None:
        state = KeyState(
            format=1,
            expires_ms=world.now_ms + lasts_ms,
            invocation_id=IDS[0],
            invocation_type="Async",
            body_digest="d",
            gone=gone,
        )
        world.put(formats.key_subject(account, "t", "1", name), state)

    return step


def body(account: str, at: int, which: str, number: int) -> Step:
    return lambda world: world.put(formats.body_subject(account, IDS[at], which, number), None)


def pass_time(milliseconds: int) -> Step:
    def step(world: World) -> None:
        world.now_ms += milliseconds

    return step


def a_record(invocation_id: str, function: str, status: str) -> Record:
    return Record(
        invocation_id=invocation_id, function=function, version=1, status=status, created_ms=NOW_MS, log="x"
    )


accounts, numbers = st.sampled_from(ACCOUNTS), st.integers(0, len(IDS) - 1)
functions, statuses = st.sampled_from(FUNCTIONS), st.sampled_from(STATUSES)
lasting = st.sampled_from([0, 1, 50, 10 * RELEASE_MS])
steps = st.one_of(
    st.builds(pack, accounts, st.lists(numbers, max_size=4, unique=True), functions, statuses, lasting),
    st.builds(call, accounts, numbers, functions, statuses, st.none() | lasting, st.integers(0, 3)),
    st.builds(dead, accounts, numbers, lasting, st.integers(0, 1), st.booleans()),
    st.builds(key, accounts, st.sampled_from(KEYS), lasting, st.booleans()),
    st.builds(body, accounts, numbers, st.sampled_from(["payload", "result"]), st.integers(0, 1)),
    st.builds(pass_time, st.sampled_from([1, 49, 50, RELEASE_MS])),
    st.sampled_from(["feed", "sweep", "reopen"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=30))
def test_it_finds_what_a_plain_reading_of_the_stream_finds(done: list[Step | str]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(walk(Path(folder) / "view.sqlite3", done))


async def walk(path: Path, done: list[Step | str]) -> None:
    world = World()

    def a_view() -> View:
        return View(path, "s", now_ms=lambda: world.now_ms, notes=Notes())

    view = a_view()
    await view.open()
    for step in [*done, "feed", "sweep", "settle"]:
        match step:
            case "feed":
                await feed(view, world)
                await compare(view, world)
            case "sweep":
                await feed(view, world)
                found = await view.due(3)
                assert set(found) <= world.useless()
                await erase(view, world, found)
                await compare(view, world)
            case "reopen":
                await view.close()
                view = a_view()
                await view.open()
            case "settle":
                world.now_ms += RELEASE_MS
                while found := await view.due(5):
                    assert set(found) <= world.useless()
                    await erase(view, world, found)
                assert world.useless() == set()
                await compare(view, world)
                for account in ACCOUNTS:
                    kept = [
                        size
                        for under, _, size in world.stream.values()
                        if formats.account_of(under) == account
                    ]
                    assert await view.bytes_of(account) == sum(kept)
            case _:
                assert callable(step)
                step(world)
    await view.close()


async def feed(view: View, world: World) -> None:
    unfed, world.unfed = world.unfed, []
    await view.ingest(unfed)
    assert view.position == world.sequence


async def erase(view: View, world: World, sequences: list[int]) -> None:
    for sequence in sequences:
        del world.stream[sequence]
    await view.forget(sequences)


async def compare(view: View, world: World) -> None:
    for account in ACCOUNTS:
        records = world.records(account)
        for one in IDS:
            expected = records.get(one)
            assert await view.find(account, one) == (None if expected is None else expected[1])
        for wanted in (
            Filter(),
            Filter(FUNCTIONS[0]),
            Filter(statuses=("ok", "lost")),
            Filter(FUNCTIONS[1], ("error",), NOW_MS + 1, NOW_MS + 3),
            Filter(since_ms=NOW_MS + 1, until_ms=NOW_MS + 2),
        ):
            matching = [
                record
                for one, (record, _) in sorted(records.items(), reverse=True)
                if fits(wanted, one, record)
            ]
            page = await view.page(account, wanted, limit=9, before=None)
            assert [msgspec.json.decode(one, type=Record) for one in page] == [
                msgspec.structs.replace(record, log="") for record in matching
            ]
            assert await view.count(account, wanted) == len(matching)
            before = IDS[3]
            assert len(await view.page(account, wanted, limit=2, before=before)) == min(
                2, len([record for record in matching if record.invocation_id < before])
            )
        letters = [
            found[0]
            for one in IDS
            if (found := world.living(formats.dead_subject(account, "t", "1", one))) is not None
        ]
        rows = await view.dead_letters(account, "t", "1")
        assert [row.sequence for row in rows] == sorted(letters, reverse=True)
        for name in KEYS:
            found = world.living(formats.key_subject(account, "t", "1", name))
            assert await view.key(account, "t", "1", name) == (None if found is None else found[0])
    pending = [
        sequence
        for sequence, (subject, message, _) in world.stream.items()
        if isinstance(message, CallState)
        and message.expires_ms is None
        and world.last(subject) == (sequence, message)
    ]
    assert [row.sequence for row in await view.pending()] == pending


def fits(wanted: Filter, invocation_id: str, record: Record) -> bool:
    created_ms = int(invocation_id.replace("-", "")[:12], 16)
    return (
        wanted.function in (None, record.function)
        and (not wanted.statuses or record.status in wanted.statuses)
        and (wanted.since_ms is None or created_ms >= wanted.since_ms)
        and (wanted.until_ms is None or created_ms < wanted.until_ms)
    )
