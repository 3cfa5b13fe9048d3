"""The view: what is found of what is stored, for how long, and what has to go from the store."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stoker.model.errors import StorageFull
from stoker.model.record import STATUSES, Record, RecordError, Work
from stoker.records import formats, view_file, view_outgoing
from stoker.records.formats import CallState, DeadLetter, KeyState, Message, Pack
from stoker.records.view import Filter, Place, Stored, View, ViewDamaged
from stoker.records.view_file import RELEASE_MS, TRUNCATE_MS

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
ADA, BOB = "ms.compute.tools.function.1", "ms.compute.tools.function.2"
ALL = Filter()


class Clock:
    now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


class Notes:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    warning = info


def an_id(number: int, created_ms: int = NOW_MS) -> str:
    digits = f"{created_ms:012x}7{number >> 12 & 0xFFF:03x}8{number & 0xFFF:015x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def a_record(number: int = 1, *, created_ms: int = NOW_MS, **changed: Any) -> Record:
    given: dict[str, Any] = {
        "invocation_id": an_id(number, created_ms),
        "function": ADA,
        "version": 1,
        "status": "ok",
        "created_ms": created_ms,
        "run_ms": 0.125,
        "log": "line\n",
        "log_bytes": 5,
    }
    return Record(**(given | changed))


class Stream:
    """The store, as far as the view is concerned: what is written gets the next sequence."""

    def __init__(self, account: str = "default") -> None:
        self.account = account
        self.messages: dict[int, Stored] = {}
        self.sequence = 0

    def put(self, subject: str, data: bytes | Message) -> Stored:
        self.sequence += 1
        raw = data if isinstance(data, bytes) else formats.encode(data)
        stored = self.messages[self.sequence] = Stored(self.sequence, subject, raw)
        return stored

    def pack(self, *records: Record, expires_ms: int = NOW_MS + HOUR_MS, account: str = "default") -> Stored:
        pack = Pack(format=1, expires_ms=expires_ms, records=list(records))
        return self.put(formats.pack_subject(account), pack)

    def call(
        self, record: Record, *, expires_ms: int | None = None, account: str = "default", **more: Any
    ) -> Stored:
        work = Work(topic="tools", service="1", payload="{}") if expires_ms is None else None
        state = CallState(format=1, record=record, expires_ms=expires_ms, work=work, **more)
        return self.put(formats.call_subject(account, record.invocation_id), state)

    def dead(
        self, record: Record, *, expires_ms: int = NOW_MS + HOUR_MS, service: str = "1", **more: Any
    ) -> Stored:
        letter = DeadLetter(format=1, record=record, expires_ms=expires_ms, **more)
        return self.put(formats.dead_subject("default", "tools", service, record.invocation_id), letter)

    def key(self, key: str, invocation_id: str, *, expires_ms: int = NOW_MS + HOUR_MS, **more: Any) -> Stored:
        state = KeyState(
            format=1,
            expires_ms=expires_ms,
            invocation_id=invocation_id,
            invocation_type="Async",
            body_digest="ab",
            **more,
        )
        return self.put(formats.key_subject("default", "tools", "1", key), state)

    def body(self, invocation_id: str, which: str, number: int = 0, data: bytes = b"\xff\x00") -> Stored:
        return self.put(formats.body_subject("default", invocation_id, which, number), data)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "view.sqlite3"


@pytest.fixture
async def view(path: Path, clock: Clock, notes: Notes) -> AsyncIterator[View]:
    async with opened(path, clock, notes) as view:
        yield view


@asynccontextmanager
async def opened(path: Path, clock: Clock, notes: Notes, store_id: str = "a") -> AsyncIterator[View]:
    view = View(path, store_id, now_ms=clock, notes=notes)
    try:
        await view.open()
        yield view
    finally:
        await view.close()


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def damage(path: Path, from_byte: int) -> None:
    whole = path.read_bytes()
    write(path, whole[:from_byte] + b"\xa5" * (len(whole) - from_byte))


async def ids(view: View, wanted: Filter = ALL, limit: int = 1000, before: str | None = None) -> list[str]:
    page = await view.page("default", wanted, limit=limit, before=before)
    return [msgspec.json.decode(one, type=Record).invocation_id for one in page]


async def all_due(view: View, stream: Stream) -> list[int]:
    """Return what goes from the store until nothing is left to go, in that order."""
    gone: list[int] = []
    while found := await view.due(100):
        assert set(found) <= set(stream.messages)
        for sequence in found:
            del stream.messages[sequence]
        await view.forget(found)
        gone += found
    return gone


# -- the file --------------------------------------------------------------------------------------


async def test_a_new_view_is_empty_and_its_files_are_for_its_owner_only(
    view: View, stream: Stream, path: Path
) -> None:
    assert (view.position, await ids(view), await view.count("default", ALL)) == (0, [], 0)
    await view.ingest([stream.pack(a_record())])

    files = [path, *path.parent.glob("view.sqlite3-*")]
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_what_was_in_is_there_after_it_was_opened_again(
    path: Path, clock: Clock, notes: Notes, stream: Stream
) -> None:
    async with opened(path, clock, notes) as view:
        await view.ingest([stream.pack(a_record(1), a_record(2))])
        await view.close()  # harmless when repeated
    notes.events.clear()

    async with opened(path, clock, notes) as view:
        assert (view.position, await ids(view)) == (1, [an_id(2), an_id(1)])
        await view.ingest([stream.pack(a_record(3))])
        assert await view.count("default", ALL) == 3
    assert notes.events == []
    assert not list(path.parent.glob("view.sqlite3-*"))


async def test_a_view_that_was_never_closed_goes_on_where_it_was(
    path: Path, clock: Clock, notes: Notes, stream: Stream, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    async with opened(path, clock, notes) as view:
        await view.ingest([stream.pack(a_record())])
        for file in [path, *path.parent.glob("view.sqlite3-wal")]:
            (killed / file.name).write_bytes(file.read_bytes())

    async with opened(killed / path.name, clock, notes) as view:
        assert (view.position, await ids(view)) == (1, [an_id(1)])


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "missing"), (b"", "empty"), (b"no database" * 500, "damaged")]
)
async def test_it_begins_anew_where_there_is_no_file_to_go_on_with(
    path: Path, clock: Clock, notes: Notes, stream: Stream, content: bytes | None, reason: str
) -> None:
    if content is not None:
        write(path, content)

    async with opened(path, clock, notes) as view:
        assert view.position == 0
        await view.ingest([stream.pack(a_record())])
        assert await view.count("default", ALL) == 1
    ((event, fields),) = notes.events
    assert event == "view_begins_anew"
    assert reason in str(fields["reason"])


async def test_it_begins_anew_for_another_store_and_another_format(
    path: Path, clock: Clock, notes: Notes, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path, clock, notes) as view:
        await view.ingest([stream.pack(a_record())])
    async with opened(path, clock, notes, store_id="b") as view:
        assert (view.position, await ids(view)) == (0, [])
        await view.ingest([stream.pack(a_record())])
    monkeypatch.setattr(view_file, "DIGEST", "that of a later version")
    async with opened(path, clock, notes, store_id="b") as view:
        assert (view.position, await ids(view)) == (0, [])

    assert [fields["reason"] for _, fields in notes.events] == ["missing", "another store", "another format"]


async def test_a_file_that_is_damaged_later_says_so_and_can_be_begun_anew(
    path: Path, clock: Clock, notes: Notes, stream: Stream
) -> None:
    packs = [stream.pack(*(a_record(number * 100 + one) for one in range(100))) for number in range(50)]
    async with opened(path, clock, notes) as view:
        await view.ingest(packs)
    damage(path, from_byte=256 * 1024)

    async with opened(path, clock, notes) as view:
        with pytest.raises(ViewDamaged):
            await view.page("default", ALL, limit=10_000, before=None)
        with pytest.raises(ViewDamaged):
            await view.forget(list(range(1, 51)))

        await view.reset()

        assert (view.position, await ids(view)) == (0, [])
        await view.ingest(packs)
        assert await view.count("default", ALL) == 5000


async def test_a_view_that_is_closed_says_so(view: View) -> None:
    await view.close()

    with pytest.raises(ViewDamaged):
        await view.find("default", an_id(1))


async def test_a_full_disk_loses_nothing_and_is_no_damage(
    path: Path, clock: Clock, notes: Notes, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = view_file.connect
    connections = []

    def connect_small(path: Path) -> Any:
        connection = connect(path)
        connection.execute("PRAGMA max_page_count = 64")
        connections.append(connection)
        return connection

    monkeypatch.setattr(view_file, "connect", connect_small)
    async with opened(path, clock, notes) as view:
        await view.ingest([stream.pack(a_record(1))])
        large = stream.pack(
            *(a_record(number, error=RecordError("x" * 10_000)) for number in range(2, 50)), account="new"
        )
        with pytest.raises(StorageFull):
            await view.ingest([large])

        assert (view.position, await ids(view)) == (1, [an_id(1)])
        connections[-1].execute("PRAGMA max_page_count = 10000")
        await view.ingest([large])
        assert (view.position, await view.count("new", ALL)) == (2, 48)


async def test_what_is_forgotten_is_in_no_file_any_more(
    view: View, stream: Stream, clock: Clock, path: Path
) -> None:
    def on_disk() -> bytes:
        return b"".join(file.read_bytes() for file in path.parent.iterdir())

    secret = RecordError("a-secret-of-somebody" * 300)
    await view.ingest(
        [stream.pack(a_record(1, error=secret), expires_ms=NOW_MS + 1), stream.pack(a_record(2))]
    )
    assert b"a-secret-of-somebody" in on_disk()

    clock.now_ms += 1
    assert await all_due(view, stream) == [1]
    clock.now_ms += TRUNCATE_MS
    assert await view.due(100) == []

    assert b"a-secret-of-somebody" not in on_disk()
    assert an_id(1).encode() not in on_disk()
    assert an_id(2).encode() in on_disk()


# -- what comes in ---------------------------------------------------------------------------------


async def test_records_are_found_where_they_are_stored(view: View, stream: Stream) -> None:
    await view.ingest([stream.pack(a_record(1), a_record(2)), stream.call(a_record(3))])

    assert [await view.find("default", an_id(number)) for number in (1, 2, 3, 4)] == [
        Place(1, 0),
        Place(1, 1),
        Place(2, None),
        None,
    ]


async def test_an_account_sees_its_own_and_nothing_else(view: View, stream: Stream) -> None:
    await view.ingest([stream.pack(a_record(1)), stream.pack(a_record(1), a_record(2), account="other")])

    assert await view.find("default", an_id(1)) == Place(1, 0)
    assert await view.find("other", an_id(1)) == Place(2, 0)
    assert await view.find("default", an_id(2)) is None
    assert await view.find("nobody", an_id(1)) is None
    assert [await view.count(name, ALL) for name in ("default", "other", "nobody")] == [1, 2, 0]
    assert await view.count("nobody", Filter(function=ADA)) == 0
    assert await view.page("nobody", ALL, limit=9, before=None) == []


async def test_a_page_has_all_of_a_record_but_what_may_be_large(view: View, stream: Stream) -> None:
    record = a_record(
        1,
        status="error",
        code="function.error",
        attempts=2,
        started_ms=NOW_MS + 1,
        ended_ms=NOW_MS + 2,
        queue_ms=1e-7,
        memory_bytes=2**40,
        caller="administrator",
        replay_of=an_id(7),
        error=RecordError('naïve "\n\u2028\x00🙂', "Error", "at x\n  at y"),
        log="é\n",
        payload='{"a":1}',
        result="[]",
    )
    await view.ingest(
        [stream.pack(record), stream.call(msgspec.structs.replace(record, invocation_id=an_id(2)))]
    )

    call, pack = await view.page("default", ALL, limit=9, before=None)

    small = msgspec.structs.replace(record, payload=None, result=None, log="")
    assert msgspec.json.decode(pack, type=Record) == small
    assert msgspec.json.decode(call, type=Record) == msgspec.structs.replace(small, invocation_id=an_id(2))


async def test_what_is_in_already_does_no_harm(view: View, stream: Stream, notes: Notes) -> None:
    notes.events.clear()
    first = [stream.call(a_record(1, status="queued")), stream.pack(a_record(2))]
    await view.ingest(first)
    await view.ingest([*first, stream.call(a_record(1), expires_ms=NOW_MS + HOUR_MS)])
    await view.ingest(list(stream.messages.values()))
    await view.ingest(first)

    assert (view.position, await ids(view), await all_due(view, stream)) == (3, [an_id(2), an_id(1)], [1])
    assert await view.find("default", an_id(1)) == Place(3, None)
    assert await view.bytes_of("default") == sum(len(one.data) for one in stream.messages.values())
    assert notes.events == []


async def test_it_moves_on_over_what_is_not_there_and_never_back(
    view: View, stream: Stream, path: Path, clock: Clock, notes: Notes
) -> None:
    await view.skip(7)
    await view.skip(3)
    await view.ingest([])
    assert view.position == 7
    await view.close()

    async with opened(path, clock, notes) as again:
        assert again.position == 7


UNREADABLE = [
    ("accounts.default.invocation.pack", b"{"),
    ("accounts.default.invocation.pack", b""),
    ("accounts.default.invocation.pack", b"[]"),
    ("accounts.default.invocation.pack", b'{"format":2,"expires_ms":1,"records":[]}'),
    ("accounts.default.invocation.pack", b'{"format":1,"records":[]}'),
    ("accounts.default.invocation.pack", b'{"format":1,"expires_ms":"soon","records":[]}'),
    ("accounts.default.invocation.pack", b'{"format":1,"expires_ms":9e15,"records":[{"status":"ok"}]}'),
    ("accounts.default.invocation.pack", b'{"format":1,"expires_ms":1,"records":[7]}'),
    ("accounts.default.invocation.pack", b'{"format":1,"expires_ms":1,"records":[],"x":"\xff"}'),
    ("accounts.default.invocation.pack.x", b'{"format":1,"expires_ms":1,"records":[]}'),
    (f"accounts.default.invocation.call.{an_id(9)}", b'{"format":1}'),
    (f"accounts.default.invocation.call.{an_id(9)}", formats.encode(CallState(format=1, record=a_record(8)))),
    (f"accounts.default.invocation.call.{an_id(9)}", formats.encode(CallState(format=3, record=a_record(9)))),
    (f"accounts.default.invocation.dead.tools.1.{an_id(9)}", b'{"format":1}'),
    ("accounts.default.invocation.key.tools.1.ab", b"null"),
    (f"accounts.default.invocation.body.{an_id(9)}.log.0", b"1"),
    ("accounts.default.invocation.bill.1", b"1"),
    ("accounts.default.catalog.function.tools.1", b"{}"),
    ("accounts", b"{}"),
]


async def test_what_cannot_be_read_is_told_and_left_out_and_the_rest_is_in(
    view: View, stream: Stream, notes: Notes
) -> None:
    notes.events.clear()
    for number, (subject, data) in enumerate(UNREADABLE):
        stream.pack(a_record(100 + number))
        stream.put(subject, data)

    await view.ingest(list(stream.messages.values()))

    assert view.position == 2 * len(UNREADABLE)
    assert await view.count("default", ALL) == len(UNREADABLE)
    told = {fields["sequence"]: (event, fields["subject"]) for event, fields in notes.events}
    assert len(notes.events) == len(UNREADABLE)
    assert told == {2 * at + 2: ("record_unreadable", subject) for at, (subject, _) in enumerate(UNREADABLE)}
    assert await view.due(100) == []


# -- pages and counts ------------------------------------------------------------------------------


@pytest.fixture
async def hundred(view: View, stream: Stream) -> list[Record]:
    """Records of two functions and all statuses, four in each millisecond, stored in another order."""
    records = [
        a_record(
            number,
            created_ms=NOW_MS + number // 4,
            function=BOB if number % 3 else ADA,
            status=STATUSES[number % 5],
        )
        for number in range(100)
    ]
    mixed = records[::2] + records[1::2]
    await view.ingest([stream.pack(*mixed[at : at + 7]) for at in range(0, 100, 7)])
    return records


def filters() -> Iterator[Filter]:
    for function in (None, ADA, BOB, "ms.compute.tools.function.3"):
        for statuses in ((), ("ok",), ("queued", "error", "queued"), ("lost",), ("nonsense",)):
            for since_ms, until_ms in (
                (None, None),
                (NOW_MS + 3, None),
                (None, NOW_MS + 9),
                (NOW_MS + 3, NOW_MS + 9),
            ):
                yield Filter(function, statuses, since_ms, until_ms)


def matching(records: list[Record], wanted: Filter) -> list[str]:
    return [
        record.invocation_id
        for record in sorted(records, key=lambda record: record.invocation_id, reverse=True)
        if wanted.function in (None, record.function)
        and (not wanted.statuses or record.status in wanted.statuses)
        and (wanted.since_ms is None or record.created_ms >= wanted.since_ms)
        and (wanted.until_ms is None or record.created_ms < wanted.until_ms)
    ]


async def test_every_filter_finds_what_fits_newest_first_and_counts_it(
    view: View, hundred: list[Record]
) -> None:
    for wanted in filters():
        expected = matching(hundred, wanted)

        assert await ids(view, wanted) == expected, wanted
        assert await view.count("default", wanted) == len(expected), wanted


async def test_a_cursor_walks_over_all_of_a_filter_once_also_within_a_millisecond(
    view: View, hundred: list[Record]
) -> None:
    for wanted in filters():
        walked: list[str] = []
        while page := await ids(view, wanted, limit=3, before=walked[-1] if walked else None):
            walked += page

        assert walked == matching(hundred, wanted), wanted


async def test_a_page_is_never_longer_than_asked_for(view: View, hundred: list[Record]) -> None:
    for wanted in (
        ALL,
        Filter(statuses=STATUSES),
        Filter(function=BOB),
        Filter(function=BOB, statuses=("ok", "error")),
    ):
        whole = matching(hundred, wanted)
        for limit in (1, len(whole) - 1, len(whole), len(whole) + 1):
            assert await ids(view, wanted, limit=limit) == whole[:limit]


async def test_times_are_from_one_included_to_another_excluded(view: View, stream: Stream) -> None:
    await view.ingest([stream.pack(*(a_record(number, created_ms=NOW_MS + number) for number in range(3)))])

    def found(since_ms: int | None, until_ms: int | None) -> Filter:
        return Filter(since_ms=since_ms, until_ms=until_ms)

    assert await view.count("default", found(NOW_MS + 1, None)) == 2
    assert await view.count("default", found(None, NOW_MS + 1)) == 1
    assert await view.count("default", found(NOW_MS + 1, NOW_MS + 1)) == 0
    assert await view.count("default", found(NOW_MS + 1, NOW_MS + 2)) == 1
    assert await view.count("default", found(-5, 2**60)) == 3
    assert await view.count("default", found(2**60, None)) == 0


async def test_a_cursor_beyond_what_is_wanted_still_keeps_to_it(view: View, stream: Stream) -> None:
    await view.ingest([stream.pack(*(a_record(number, created_ms=NOW_MS + number) for number in range(9)))])

    newest = an_id(8, NOW_MS + 8)
    assert await ids(view, Filter(until_ms=NOW_MS + 2), before=newest) == [an_id(1, NOW_MS + 1), an_id(0)]
    assert await ids(view, Filter(since_ms=NOW_MS + 7), before=newest) == [an_id(7, NOW_MS + 7)]


# -- expiry ----------------------------------------------------------------------------------------


async def test_what_has_expired_is_found_nowhere_from_that_moment_on(
    view: View, stream: Stream, clock: Clock
) -> None:
    end = NOW_MS + 10
    await view.ingest(
        [
            stream.pack(a_record(1), expires_ms=end),
            stream.call(a_record(2), expires_ms=end),
            stream.dead(a_record(2), expires_ms=end),
            stream.key("ab", an_id(2), expires_ms=end),
        ]
    )

    async def found() -> list[object]:
        return [
            await view.find("default", an_id(1)) is not None,
            await view.find("default", an_id(2)) is not None,
            len(await ids(view)),
            len(await ids(view, Filter(function=ADA, statuses=("ok",)))),
            await view.count("default", ALL),
            len(await view.dead_letters("default", "tools", "1")),
            await view.dead_letter("default", "tools", "1", an_id(2)),
            await view.key("default", "tools", "1", "ab"),
            len(await view.due(9)),
        ]

    clock.now_ms = end - 1
    assert await found() == [True, True, 2, 2, 2, 1, 3, 4, 0]
    clock.now_ms = end
    assert await found() == [False, False, 0, 0, 0, 0, None, None, 4]


async def test_an_invocation_that_has_not_ended_never_expires(
    view: View, stream: Stream, clock: Clock
) -> None:
    await view.ingest([stream.call(a_record(1, status="queued"))])
    clock.now_ms += 1000 * 365 * 24 * HOUR_MS

    assert await view.find("default", an_id(1)) == Place(1, None)
    assert await view.due(9) == []


async def test_no_more_is_due_at_a_time_than_asked_for(view: View, stream: Stream, clock: Clock) -> None:
    await view.ingest([stream.pack(a_record(number), expires_ms=NOW_MS + 1) for number in range(5)])
    clock.now_ms += 1

    assert len(await view.due(3)) == 3
    assert sorted(await view.due(9)) == [1, 2, 3, 4, 5]
    await view.forget([1, 2, 5])
    assert sorted(await view.due(9)) == [3, 4]
    await view.forget([3, 4, 17])
    assert (await view.due(9), await view.bytes_of("default")) == ([], 0)


# -- replacing -------------------------------------------------------------------------------------


async def test_a_later_state_replaces_the_earlier_one_and_that_has_to_go(view: View, stream: Stream) -> None:
    await view.ingest([stream.call(a_record(1, status="queued")), stream.call(a_record(2, status="queued"))])
    await view.ingest([stream.call(a_record(1, status="error"), expires_ms=NOW_MS + HOUR_MS)])

    assert await ids(view, Filter(statuses=("queued",))) == [an_id(2)]
    assert await ids(view, Filter(function=ADA, statuses=("error",))) == [an_id(1)]
    assert await view.count("default", ALL) == 2
    assert await all_due(view, stream) == [1]
    assert await view.count("default", ALL) == 2


async def test_the_last_message_goes_only_after_the_ones_it_has_replaced(
    view: View, stream: Stream, clock: Clock
) -> None:
    await view.ingest(
        [
            stream.call(a_record(1, status="queued")),
            stream.call(a_record(1, status="queued", attempts=1)),
            stream.call(a_record(1), expires_ms=NOW_MS),
            stream.dead(a_record(1)),
            stream.dead(a_record(1), gone=True),
        ]
    )

    # a crash in between must not bring back what has ended: it would run again
    assert sorted(await view.due(9)) == [1, 2, 4]
    await view.forget([1, 4])
    assert sorted(await view.due(9)) == [2, 5]
    await view.forget([2])
    assert sorted(await view.due(9)) == [3, 5]


async def test_pending_are_those_that_have_not_ended_oldest_first(view: View, stream: Stream) -> None:
    await view.ingest(
        [
            stream.call(a_record(3, status="queued")),
            stream.call(a_record(2, status="queued"), account="other"),
            stream.call(a_record(1, status="queued")),
            stream.call(a_record(3, status="running")),
            stream.call(a_record(1), expires_ms=NOW_MS + HOUR_MS),
        ]
    )

    pending = await view.pending()

    assert [(row.account, row.invocation_id, row.sequence) for row in pending] == [
        ("other", an_id(2), 2),
        ("default", an_id(3), 4),
    ]


async def test_dead_letters_are_those_of_the_function_newest_first_without_the_gone(
    view: View, stream: Stream
) -> None:
    await view.ingest(
        [
            stream.dead(a_record(5)),
            stream.dead(a_record(2)),
            stream.dead(a_record(3), service="12"),
            stream.dead(a_record(4)),
            stream.dead(a_record(2), gone=True),
        ]
    )

    rows = await view.dead_letters("default", "tools", "1")

    assert [(row.invocation_id, row.sequence) for row in rows] == [(an_id(4), 4), (an_id(5), 1)]
    assert await view.dead_letter("default", "tools", "1", an_id(4)) == 4
    assert await view.dead_letter("default", "tools", "1", an_id(2)) is None
    assert await view.dead_letter("default", "tools", "1", an_id(3)) is None
    assert await view.dead_letters("default", "tools", "13") == []
    assert await view.dead_letters("other", "tools", "1") == []
    assert await all_due(view, stream) == [2, 5]
    assert await view.count("default", ALL) == 0  # a dead letter is no record


async def test_a_key_is_what_was_said_of_it_last(view: View, stream: Stream) -> None:
    async def key() -> int | None:
        return await view.key("default", "tools", "1", "ab")

    await view.ingest([stream.key("ab", an_id(1)), stream.key("cd", an_id(2))])
    assert await key() == 1
    await view.ingest([stream.key("ab", an_id(1), ended=True, result="1")])
    assert await key() == 3
    await view.ingest([stream.key("ab", an_id(1), gone=True)])
    assert await key() is None
    await view.ingest([stream.key("ab", an_id(3))])
    assert await key() == 5

    assert sorted(await all_due(view, stream)) == [1, 3, 4]
    assert await key() == 5


# -- bodies ----------------------------------------------------------------------------------------


async def later_due(view: View, stream: Stream, clock: Clock) -> list[int]:
    """Return what goes once the view has surely read what belongs together."""
    clock.now_ms += RELEASE_MS
    return sorted(await all_due(view, stream))


async def test_pieces_stay_while_their_message_does_and_go_with_it(
    view: View, stream: Stream, clock: Clock
) -> None:
    end = NOW_MS + 3 * RELEASE_MS
    for message in (  # one by one, as the view may be fed
        stream.body(an_id(1), "payload", 0),
        stream.body(an_id(1), "payload", 1),
        stream.call(a_record(1, status="queued"), payload_pieces=2),
        stream.body(an_id(1), "result"),
        stream.call(a_record(1), payload_pieces=2, result_pieces=1, expires_ms=end),
    ):
        await view.ingest([message])
    assert await later_due(view, stream, clock) == [3]

    clock.now_ms = end - 1
    assert await view.due(9) == []
    clock.now_ms = end
    assert sorted(await view.due(9)) == [1, 2, 4, 5]
    await all_due(view, stream)
    assert await view.bytes_of("default") == 0


async def test_a_payload_goes_at_the_end_if_it_is_not_kept(view: View, stream: Stream, clock: Clock) -> None:
    await view.ingest(
        [
            stream.body(an_id(1), "payload"),
            stream.call(a_record(1, status="queued"), payload_pieces=1),
            stream.body(an_id(1), "result"),
            stream.call(a_record(1), result_pieces=1, expires_ms=NOW_MS + HOUR_MS),
        ]
    )

    assert await view.due(9) == [2]
    assert await later_due(view, stream, clock) == [1, 2]
    assert set(stream.messages) == {3, 4}


async def test_a_dead_letter_keeps_the_payload_that_its_call_had(
    view: View, stream: Stream, clock: Clock
) -> None:
    for message in (
        stream.body(an_id(1), "payload"),
        stream.call(a_record(1, status="queued"), payload_pieces=1),
        stream.call(a_record(1, status="error"), expires_ms=NOW_MS + 1),
        stream.dead(a_record(1, status="error"), payload_pieces=1),
    ):
        await view.ingest([message])
        clock.now_ms += RELEASE_MS - 1
        assert 1 not in await view.due(9)
    assert await later_due(view, stream, clock) == [2, 3]

    await view.ingest([stream.dead(a_record(1), gone=True)])

    assert await later_due(view, stream, clock) == [1, 4, 5]
    assert stream.messages == {}


async def test_an_answer_stays_while_its_key_does(view: View, stream: Stream, clock: Clock) -> None:
    end = NOW_MS + 3 * RELEASE_MS
    await view.ingest(
        [
            stream.key("ab", an_id(1), expires_ms=end),
            stream.body(an_id(1), "answer"),
            stream.key("ab", an_id(1), ended=True, result_pieces=1, expires_ms=end),
        ]
    )
    assert await later_due(view, stream, clock) == [1]

    clock.now_ms = end
    assert sorted(await view.due(9)) == [2, 3]


async def test_a_piece_that_nothing_ever_needed_goes_after_a_while(
    view: View, stream: Stream, clock: Clock
) -> None:
    await view.ingest(
        [stream.body(an_id(1), "payload"), stream.call(a_record(1), expires_ms=NOW_MS + HOUR_MS)]
    )

    clock.now_ms += RELEASE_MS - 1
    assert await view.due(9) == []
    clock.now_ms += 1
    assert await view.due(9) == [1]


async def test_pieces_of_a_message_that_was_erased_unasked_go_as_well(view: View, stream: Stream) -> None:
    await view.ingest(
        [stream.body(an_id(1), "payload"), stream.call(a_record(1, status="queued"), payload_pieces=1)]
    )
    await view.forget([2])

    assert await view.due(9) == [1]
    assert await view.find("default", an_id(1)) is None


# -- the limit of an account -----------------------------------------------------------------------


async def test_bytes_are_those_of_the_account_that_need_not_go(
    view: View, stream: Stream, clock: Clock
) -> None:
    one = stream.call(a_record(1, status="queued"))
    other = stream.pack(a_record(2), account="other")
    await view.ingest([one, other])
    assert await view.bytes_of("default") == len(one.data)
    assert await view.bytes_of("other") == len(other.data)
    assert await view.bytes_of("nobody") == 0

    end = stream.call(a_record(1), expires_ms=NOW_MS + 1)
    await view.ingest([end])
    assert await view.bytes_of("default") == len(end.data)
    clock.now_ms += 1
    await all_due(view, stream)
    assert await view.bytes_of("default") == 0


async def test_the_oldest_ended_ones_go_until_an_account_is_within_its_limit(
    view: View, stream: Stream
) -> None:
    messages = [
        stream.call(a_record(1, status="queued")),
        stream.key("ab", an_id(1)),
        stream.pack(a_record(2), a_record(3)),
        stream.call(a_record(4), expires_ms=NOW_MS + HOUR_MS),
        stream.pack(a_record(5)),
    ]
    await view.ingest([*messages, stream.pack(*(a_record(n) for n in range(10, 15)), account="small")])
    total = await view.bytes_of("default")

    assert await view.shrink(total) == 0
    assert await view.shrink(total - 1) == 1
    assert await view.due(9) == [3]
    assert await ids(view) == [an_id(5), an_id(4), an_id(1)]
    assert [await view.find("default", an_id(number)) for number in (2, 3)] == [None, None]
    assert await view.bytes_of("default") == total - len(messages[2].data)

    assert await view.shrink(0) == 3  # with that of the other account
    assert await ids(view) == [an_id(1)]
    assert sorted(await all_due(view, stream)) == [3, 4, 5, 6]
    assert await view.bytes_of("default") == len(messages[0].data) + len(messages[1].data)
    assert await view.shrink(0) == 0


async def test_what_has_expired_makes_room_before_what_has_not(
    view: View, stream: Stream, clock: Clock
) -> None:
    await view.ingest([stream.pack(a_record(1)), stream.pack(a_record(2), expires_ms=NOW_MS + 1)])
    clock.now_ms += 1

    assert await view.shrink(await view.bytes_of("default") - 1) == 0
    assert await ids(view) == [an_id(1)]
    assert await view.due(9) == [2]


async def test_pieces_count_and_go_with_the_message_that_makes_room(view: View, stream: Stream) -> None:
    await view.ingest(
        [
            stream.body(an_id(1), "result", data=bytes(10_000)),
            stream.call(a_record(1), result_pieces=1, expires_ms=NOW_MS + HOUR_MS),
            stream.pack(a_record(2)),
        ]
    )
    assert await view.bytes_of("default") > 10_000

    assert await view.shrink(9_000) == 1
    assert sorted(await view.due(9)) == [1, 2]
    assert await ids(view) == [an_id(2)]


async def test_more_ended_ones_than_are_looked_at_at_a_time_make_room(view: View, stream: Stream) -> None:
    await view.ingest([stream.pack(a_record(number)) for number in range(view_outgoing.SHRINK_COUNT + 10)])

    assert await view.shrink(0) == view_outgoing.SHRINK_COUNT + 10
    assert (await ids(view), await view.bytes_of("default")) == ([], 0)


async def test_an_account_may_have_a_share_of_its_own(view: View, stream: Stream) -> None:
    await view.ingest(
        [
            stream.pack(a_record(1)),
            stream.pack(a_record(2)),
            stream.pack(a_record(3), account="small"),
            stream.call(a_record(4, status="queued"), account="small"),
        ]
    )
    total, small = await view.bytes_of("default"), await view.bytes_of("small")
    ample = total + small

    assert await view.over(ample, {"small": small}) == frozenset()
    assert await view.shrink(ample, {"small": small}) == 0
    assert await view.over(ample, {"small": small - 1}) == {"small"}
    assert await view.shrink(ample, {"small": small - 1}) == 1
    assert await view.find("small", an_id(3)) is None
    assert await view.over(ample, {"small": small - 1}) == frozenset()
    assert await view.shrink(ample, {"small": 0}) == 0  # what has not ended does not go
    assert await view.over(ample, {"small": 0}) == {"small"}
    assert await view.shrink(total - 1, {"default": ample}) == 1  # a share is never more than the limit
    assert await ids(view) == [an_id(2)]


async def test_of_an_account_that_is_no_more_everything_goes(view: View, stream: Stream) -> None:
    await view.ingest(
        [
            stream.pack(a_record(1)),
            stream.pack(a_record(2), account="gone"),
            stream.call(a_record(3, status="queued"), account="gone"),
            stream.put(formats.key_subject("gone", "tools", "1", "ab"), stream.key("ab", an_id(3)).data),
            stream.put(formats.body_subject("gone", an_id(3), "payload", 0), b"x"),
        ]
    )

    assert await view.erase(["never-was"]) == 0
    assert await view.erase(["gone"]) == 4

    assert sorted(await all_due(view, stream)) == [2, 3, 5, 6]
    assert [row.account for row in await view.pending()] == []
    assert await view.bytes_of("gone") == 0
    assert await ids(view) == [an_id(1)]
    assert await view.erase(["gone"]) == 0  # and with that its name
    late = stream.pack(a_record(6), account="gone")  # of a call that was still running
    await view.ingest([late])
    assert await view.erase(["gone"]) == 1
    assert await all_due(view, stream) == [late.sequence]


async def test_a_large_account_that_is_no_more_goes_some_at_a_time(view: View, stream: Stream) -> None:
    count = view_outgoing.SHRINK_COUNT + 10
    await view.ingest([stream.pack(a_record(number), account="gone") for number in range(count)])

    assert await view.erase(["gone"]) == view_outgoing.SHRINK_COUNT
    assert await view.erase(["gone"]) == 10
    assert await view.erase(["gone"]) == 0


async def test_a_list_may_be_of_one_collection(view: View, stream: Stream) -> None:
    subjects = ["ms.compute.a.function.1", "ms.compute.a.function.2", "ms.compute.ab.function.1"]
    subjects += ["ms.compute.a-b.function.1", "ms.compute.A.function.1"]
    await view.ingest(
        [stream.pack(*(a_record(number, function=subject) for number, subject in enumerate(subjects)))]
    )

    for statuses in ((), ("ok",), ("ok", "error")):
        wanted = Filter(collection="a", statuses=statuses)
        assert await ids(view, wanted) == [an_id(1), an_id(0)]
        assert await view.count("default", wanted) == 2
    assert await ids(view, Filter(collection="a", function=subjects[1])) == [an_id(1)]
    assert await ids(view, Filter(collection="a", function=subjects[2])) == []
    assert await view.count("default", Filter(collection="a", function=subjects[2])) == 0
