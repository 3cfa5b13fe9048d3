"""The rules of event logs, ledgers and blob stores: one suite, run against the fakes and the real ones.

Each is a coroutine that takes a fresh, empty store and fails as a test does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Protocol

import pytest

from stoker.backbone.blobs import CHUNK_BYTES
from stoker.backbone.errors import BlobMissing
from stoker.backbone.event_log import Event
from stoker.backbone.ledger import Write
from stoker.backbone.server_config import MESSAGE_BYTES_MAX
from stoker.model.errors import TooLarge, Unavailable, VersionConflict

Events = Sequence[tuple[str, bytes, int | None]]


class Log(Protocol):
    """What both event logs can do."""

    async def append(self, subject: str, data: bytes, *, expected: int | None) -> int: ...
    async def append_batch(self, events: Events) -> list[int]: ...
    async def replay(self, on_event: Callable[[Event], None], *, after: int = 0) -> int: ...
    async def erase(
        self, subjects: str, note_subject: str, *, until: int, on_event: Callable[[Event], None]
    ) -> None: ...


class Book(Protocol):
    """What both ledgers can do."""

    @property
    def last_sequence(self) -> int: ...
    def write(self, writes: Sequence[Write], *, reserve: bool = False) -> asyncio.Future[int]: ...
    async def read(
        self, on_message: Callable[[Event], None], *, after: int, until: int | None = None
    ) -> int: ...
    async def at(self, sequence: int) -> Event | None: ...
    async def last(self, subject: str) -> Event | None: ...
    async def since(self, time_ms: int) -> int: ...
    async def erase(self, sequences: Sequence[int]) -> None: ...
    async def close(self) -> None: ...


class Blobs(Protocol):
    """What both blob stores can do."""

    async def put(self, account: str, content: bytes) -> str: ...
    async def put_stream(self, account: str, chunks: AsyncIterator[bytes]) -> tuple[str, int]: ...
    async def get(self, account: str, digest: str) -> bytes: ...
    async def check(self, account: str, digest: str) -> int: ...
    async def exists(self, account: str, digest: str) -> bool: ...
    async def list(self, account: str | None = None) -> set[tuple[str, str]]: ...
    async def delete(self, account: str, digest: str) -> None: ...


A, B = "accounts.default.catalog.a", "accounts.default.catalog.b"


async def _all(log: Log, *, after: int = 0) -> list[Event]:
    seen: list[Event] = []
    await log.replay(seen.append, after=after)
    return seen


async def an_event_is_replayed_as_it_was_appended(log: Log) -> None:
    sequence = await log.append(A, b"\x00\r\n\xff", expected=0)

    assert [(e.subject, e.data, e.sequence) for e in await _all(log)] == [(A, b"\x00\r\n\xff", sequence)]


async def sequences_count_from_one_over_all_subjects(log: Log) -> None:
    sequences = [await log.append(subject, b"x", expected=None) for subject in (A, B, A)]

    assert sequences == [1, 2, 3]


async def an_empty_log_replays_nothing(log: Log) -> None:
    assert await log.replay(lambda event: pytest.fail("there is none")) == 0


async def what_must_not_exist_is_refused_where_it_does(log: Log) -> None:
    await log.append(A, b"first", expected=0)

    with pytest.raises(VersionConflict):
        await log.append(A, b"second", expected=0)

    assert [event.data for event in await _all(log)] == [b"first"]


async def an_outdated_sequence_is_refused_and_the_last_one_taken(log: Log) -> None:
    first = await log.append(A, b"1", expected=0)
    second = await log.append(A, b"2", expected=first)

    with pytest.raises(VersionConflict):
        await log.append(A, b"3", expected=first)

    assert await log.append(A, b"3", expected=second) == second + 1


async def another_subject_is_no_conflict(log: Log) -> None:
    first = await log.append(A, b"1", expected=0)
    await log.append(B, b"1", expected=0)

    assert await log.append(A, b"2", expected=first) == 3


async def of_twenty_who_create_at_once_one_succeeds(log: Log) -> None:
    outcomes = await asyncio.gather(
        *(log.append(A, b"%d" % number, expected=0) for number in range(20)), return_exceptions=True
    )

    assert sum(isinstance(outcome, VersionConflict) for outcome in outcomes) == 19
    assert len(await _all(log)) == 1


async def a_batch_is_stored_in_its_order(log: Log) -> None:
    await log.append(A, b"0", expected=0)

    sequences = await log.append_batch([(B, b"1", 0), (A, b"2", 1), (B + "c", b"3", None)])

    assert sequences == [2, 3, 4]
    assert [event.data for event in await _all(log)] == [b"0", b"1", b"2", b"3"]


async def a_batch_with_one_conflict_stores_nothing(log: Log) -> None:
    await log.append(A, b"0", expected=0)

    with pytest.raises(VersionConflict):
        await log.append_batch([(B, b"1", 0), (A, b"2", 0)])

    assert [event.data for event in await _all(log)] == [b"0"]


async def a_batch_of_one_and_of_none_are_batches(log: Log) -> None:
    assert await log.append_batch([]) == []
    assert await log.append_batch([(A, b"1", 0)]) == [1]


async def replay_goes_on_where_it_is_told(log: Log) -> None:
    for number in range(5):
        await log.append(A, b"%d" % number, expected=None)

    assert [event.sequence for event in await _all(log, after=3)] == [4, 5]


async def what_the_fold_raises_reaches_the_caller_of_replay(log: Log) -> None:
    await log.append(A, b"1", expected=0)

    def fold(event: Event) -> None:
        raise LookupError(event.subject)

    with pytest.raises(LookupError):
        await log.replay(fold)


X, Y, Z = (f"accounts.default.invocation.{name}" for name in "xyz")


NOTE = "accounts.gone.catalog.erased.self"


async def _log_with_one_to_erase(log: Log) -> list[str]:
    subjects = ["accounts.gone.catalog.a", A, "accounts.gone.catalog.b", B, "accounts.gone.catalog.a"]
    for subject in subjects:
        await log.append(subject, b"x", expected=None)
    return subjects


async def something_stands_in_for_what_was_erased(log: Log) -> None:
    """Every place still has an event; the account's last one was to stay."""
    subjects = await _log_with_one_to_erase(log)
    noted: list[Event] = []

    await log.erase("accounts.gone.catalog.>", NOTE, until=4, on_event=noted.append)

    found = await _all(log)
    stand_in = found[0].subject
    assert stand_in not in subjects
    assert [event.subject for event in found] == [stand_in, A, stand_in, B, subjects[4], NOTE]
    assert [event.data for event in found[:5]] == [b"", b"x", b"", b"x", b"x"]
    assert [event.sequence for event in found] == [1, 2, 3, 4, 5, 6]
    assert [(event.subject, event.sequence, event.data) for event in noted] == [(NOTE, 6, found[5].data)]


async def erasing_again_is_harmless_and_notes_nothing(log: Log) -> None:
    """So whoever does not know whether it was done does it again."""
    await _log_with_one_to_erase(log)
    await log.erase("accounts.gone.catalog.>", NOTE, until=4, on_event=lambda _event: None)
    before = await _all(log)
    noted: list[Event] = []

    await log.erase("accounts.gone.catalog.>", NOTE, until=4, on_event=noted.append)

    assert noted == []
    assert await _all(log) == before


async def _read(ledger: Book, *, after: int = 0, until: int | None = None) -> list[tuple[int, bytes]]:
    seen: list[Event] = []
    await ledger.read(seen.append, after=after, until=until)
    return [(event.sequence, event.data) for event in seen]


async def _fill(ledger: Book, count: int) -> None:
    await ledger.write([Write(f"{X}{number}", b"%d" % number) for number in range(1, count + 1)])


async def what_is_written_is_at_its_place_and_last_of_its_subject(ledger: Book) -> None:
    sequence = await ledger.write([Write(X, b"\x00\r\n\xff", 0)])

    for found in (await ledger.at(sequence), await ledger.last(X)):
        assert found is not None
        assert (found.subject, found.data, found.sequence) == (X, b"\x00\r\n\xff", sequence)
    assert ledger.last_sequence == sequence == 1


async def a_message_has_the_same_time_however_it_is_read(ledger: Book) -> None:
    await _fill(ledger, 3)
    seen: list[Event] = []
    await ledger.read(seen.append, after=0)

    assert [await ledger.at(event.sequence) for event in seen] == seen
    assert [await ledger.last(event.subject) for event in seen] == seen


async def nothing_is_where_nothing_was_written(ledger: Book) -> None:
    assert await ledger.at(1) is None
    assert await ledger.last(X) is None
    assert await ledger.since(0) == 0
    assert await _read(ledger) == []
    assert await ledger.read(lambda event: None, after=0) == 0


async def a_group_is_stored_without_a_gap_and_its_first_sequence_told(ledger: Book) -> None:
    await _fill(ledger, 2)

    assert await ledger.write([Write(X, b"a", 0), Write(Y, b"b"), Write(X, b"c")]) == 3
    assert (await _read(ledger, after=2)) == [(3, b"a"), (4, b"b"), (5, b"c")]
    assert ledger.last_sequence == 5


async def groups_at_the_same_time_are_each_stored_without_a_gap(ledger: Book) -> None:
    firsts = await asyncio.gather(
        *(ledger.write([Write(f"{X}{n}.{part}", b"%d" % n) for part in range(n % 4 + 1)]) for n in range(40))
    )

    stored = dict(await _read(ledger))
    assert len(stored) == sum(n % 4 + 1 for n in range(40))
    for number, first in enumerate(firsts):
        assert [stored[first + part] for part in range(number % 4 + 1)] == [b"%d" % number] * (number % 4 + 1)


async def a_group_with_one_conflict_stores_nothing(ledger: Book) -> None:
    await ledger.write([Write(X, b"0", 0)])

    with pytest.raises(VersionConflict):
        await ledger.write([Write(Y, b"1", 0), Write(X, b"2", 0)])

    assert await _read(ledger) == [(1, b"0")]


async def a_conflict_among_many_at_the_same_time_hits_the_guilty_only(ledger: Book) -> None:
    await ledger.write([Write(X, b"0", 0)])

    outcomes = await asyncio.gather(
        *(ledger.write([Write(X if n in (3, 11, 12) else f"{Y}{n}", b"%d" % n, 0)]) for n in range(20)),
        return_exceptions=True,
    )

    guilty = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, VersionConflict)]
    assert guilty == [3, 11, 12]
    stored = dict(await _read(ledger))
    assert len(stored) == 18
    assert all(stored[first] == b"%d" % n for n, first in enumerate(outcomes) if isinstance(first, int))


async def of_twenty_who_write_first_at_once_one_succeeds(ledger: Book) -> None:
    outcomes = await asyncio.gather(
        *(ledger.write([Write(X, b"%d" % n, 0)]) for n in range(20)), return_exceptions=True
    )

    assert sum(isinstance(outcome, VersionConflict) for outcome in outcomes) == 19
    assert len(await _read(ledger)) == 1


async def groups_that_follow_each_other_on_a_subject_keep_their_order(ledger: Book) -> None:
    writes = [ledger.write([Write(X, b"%d" % n)]) for n in range(10)]
    follower = ledger.write([Write(X, b"last", 10)])

    assert await asyncio.gather(*writes) == list(range(1, 11))
    assert await follower == 11


async def something_expected_of_what_the_group_wrote_itself_is_a_mistake(ledger: Book) -> None:
    with pytest.raises(ValueError, match="before something is expected"):
        ledger.write([Write(X, b"1"), Write(X, b"2", 0)])
    with pytest.raises(ValueError, match="1 to 1000"):
        ledger.write([])


async def only_the_message_that_is_too_large_is_refused(ledger: Book) -> None:
    outcomes = await asyncio.gather(
        ledger.write([Write(X, b"small")]),
        ledger.write([Write(Y, bytes(MESSAGE_BYTES_MAX + 1))]),
        ledger.write([Write(Z, b"small")]),
        return_exceptions=True,
    )

    assert isinstance(outcomes[1], TooLarge)
    assert [outcomes[0], outcomes[2]] == [1, 2]


async def a_caller_who_leaves_disturbs_nobody(ledger: Book) -> None:
    async def leave(number: int) -> None:
        await ledger.write([Write(f"{Y}{number}", b"left")])

    leaving = [asyncio.create_task(leave(number)) for number in range(5)]
    await asyncio.sleep(0)
    staying = [ledger.write([Write(f"{X}{number}", b"%d" % number)]) for number in range(10)]
    for task in leaving:
        task.cancel()

    firsts = await asyncio.gather(*staying)

    stored = dict(await _read(ledger))
    assert [stored[first] for first in firsts] == [b"%d" % number for number in range(10)]


async def a_stretch_is_read_up_to_where_it_is_told(ledger: Book) -> None:
    await _fill(ledger, 6)
    seen: list[Event] = []

    assert await ledger.read(seen.append, after=2, until=4) == 4
    assert [event.sequence for event in seen] == [3, 4]
    assert await ledger.read(seen.append, after=4, until=90) == 6
    assert [event.sequence for event in seen] == [3, 4, 5, 6]
    assert await ledger.read(seen.append, after=6) == 6


async def what_the_reader_raises_reaches_the_caller_of_read(ledger: Book) -> None:
    await _fill(ledger, 1)

    def fold(event: Event) -> None:
        raise LookupError(event.subject)

    with pytest.raises(LookupError):
        await ledger.read(fold, after=0)


async def what_was_erased_is_a_gap(ledger: Book) -> None:
    await _fill(ledger, 6)

    await ledger.erase([1, 3, 4, 6])

    assert await _read(ledger) == [(2, b"2"), (5, b"5")]
    assert [(await ledger.at(sequence)) is None for sequence in range(1, 7)] == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    assert await ledger.last(f"{X}6") is None
    assert await ledger.read(lambda event: None, after=5) == 6
    assert await _read(ledger, after=2, until=4) == []
    assert await ledger.read(lambda event: None, after=2, until=4) == 4


async def erasing_what_is_gone_or_never_was_is_harmless(ledger: Book) -> None:
    await _fill(ledger, 3)

    for _ in range(2):
        await ledger.erase([2, 2, 900])
    await ledger.erase([])

    assert await _read(ledger) == [(1, b"1"), (3, b"3")]


async def a_sequence_is_used_once_also_if_its_message_was_erased(ledger: Book) -> None:
    await _fill(ledger, 3)
    await ledger.erase([1, 2, 3])

    assert await ledger.write([Write(f"{X}3", b"again", 0)]) == 4
    assert await _read(ledger) == [(4, b"again")]


async def the_last_of_a_subject_is_the_one_before_when_it_was_erased(ledger: Book) -> None:
    for number in range(2):
        await ledger.write([Write(X, b"%d" % number)])

    await ledger.erase([2])

    last = await ledger.last(X)
    assert last is not None
    assert last.data == b"0"
    assert await ledger.write([Write(X, b"2", 1)]) == 3


async def since_finds_the_first_that_was_stored_at_a_time_or_later(ledger: Book) -> None:
    await _fill(ledger, 2)
    last = await ledger.at(2)
    assert last is not None

    assert await ledger.since(0) == 0
    assert await ledger.since(last.time_ms) <= 1
    assert await ledger.since(last.time_ms + 60_000) == 2


async def a_closed_ledger_takes_nothing_and_has_stored_what_it_took(ledger: Book) -> None:
    taken = [ledger.write([Write(f"{X}{number}", b"x")]) for number in range(20)]

    await ledger.close()

    assert all(stored.done() for stored in taken)
    with pytest.raises(Unavailable):
        await ledger.write([Write(Y, b"late")])
    assert len(await _read(ledger)) == 20


SIZES = (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES)


def _content(size: int) -> bytes:
    return bytes(number % 251 for number in range(997)) * (size // 997) + b"x" * (size % 997)


async def _chunked(content: bytes, step: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), step):
        yield content[start : start + step]


async def a_blob_of_every_size_is_given_back(blobs: Blobs) -> None:
    for size in SIZES:
        digest = await blobs.put("a", _content(size))

        assert digest == sha256(_content(size)).hexdigest()
        assert await blobs.get("a", digest) == _content(size)
        assert await blobs.check("a", digest) == size


async def a_stream_of_every_size_is_stored_as_one_blob(blobs: Blobs) -> None:
    for size in SIZES:
        content = _content(size)

        stored = await blobs.put_stream("a", _chunked(content, 100_000))

        assert stored == (sha256(content).hexdigest(), size)
        assert await blobs.get("a", stored[0]) == content


async def a_stream_that_breaks_off_stores_nothing(blobs: Blobs) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield _content(CHUNK_BYTES)
        yield _content(CHUNK_BYTES)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put_stream("a", broken())

    assert await blobs.list() == set()


async def the_same_content_twice_is_one_blob(blobs: Blobs) -> None:
    for size in SIZES:
        assert await blobs.put("a", _content(size)) == await blobs.put("a", _content(size))

    assert len(await blobs.list()) == len(SIZES)


async def an_account_sees_its_own_blobs_only(blobs: Blobs) -> None:
    digest = await blobs.put("a", b"content")

    assert await blobs.exists("a", digest)
    assert not await blobs.exists("b", digest)
    assert await blobs.list("b") == set()
    assert await blobs.list("a") == await blobs.list() == {("a", digest)}
    with pytest.raises(BlobMissing):
        await blobs.get("b", digest)


async def a_deleted_blob_is_gone_and_can_be_stored_again(blobs: Blobs) -> None:
    for size in SIZES:
        digest = await blobs.put("a", _content(size))
        kept = await blobs.put("b", _content(size))

        await blobs.delete("a", digest)

        assert not await blobs.exists("a", digest)
        with pytest.raises(BlobMissing):
            await blobs.get("a", digest)
        assert await blobs.get("b", kept) == _content(size)
        assert await blobs.get("a", await blobs.put("a", _content(size))) == _content(size)


async def deleting_what_is_not_there_is_harmless(blobs: Blobs) -> None:
    await blobs.delete("a", "0" * 64)

    assert await blobs.list() == set()


EVENT_LOG_RULES: tuple[Callable[[Log], Awaitable[None]], ...] = (
    an_event_is_replayed_as_it_was_appended,
    sequences_count_from_one_over_all_subjects,
    an_empty_log_replays_nothing,
    what_must_not_exist_is_refused_where_it_does,
    an_outdated_sequence_is_refused_and_the_last_one_taken,
    another_subject_is_no_conflict,
    of_twenty_who_create_at_once_one_succeeds,
    a_batch_is_stored_in_its_order,
    a_batch_with_one_conflict_stores_nothing,
    a_batch_of_one_and_of_none_are_batches,
    replay_goes_on_where_it_is_told,
    what_the_fold_raises_reaches_the_caller_of_replay,
    something_stands_in_for_what_was_erased,
    erasing_again_is_harmless_and_notes_nothing,
)
LEDGER_RULES: tuple[Callable[[Book], Awaitable[None]], ...] = (
    what_is_written_is_at_its_place_and_last_of_its_subject,
    a_message_has_the_same_time_however_it_is_read,
    nothing_is_where_nothing_was_written,
    a_group_is_stored_without_a_gap_and_its_first_sequence_told,
    groups_at_the_same_time_are_each_stored_without_a_gap,
    a_group_with_one_conflict_stores_nothing,
    a_conflict_among_many_at_the_same_time_hits_the_guilty_only,
    of_twenty_who_write_first_at_once_one_succeeds,
    groups_that_follow_each_other_on_a_subject_keep_their_order,
    something_expected_of_what_the_group_wrote_itself_is_a_mistake,
    only_the_message_that_is_too_large_is_refused,
    a_caller_who_leaves_disturbs_nobody,
    a_stretch_is_read_up_to_where_it_is_told,
    what_the_reader_raises_reaches_the_caller_of_read,
    what_was_erased_is_a_gap,
    erasing_what_is_gone_or_never_was_is_harmless,
    a_sequence_is_used_once_also_if_its_message_was_erased,
    the_last_of_a_subject_is_the_one_before_when_it_was_erased,
    since_finds_the_first_that_was_stored_at_a_time_or_later,
    a_closed_ledger_takes_nothing_and_has_stored_what_it_took,
)
BLOB_STORE_RULES: tuple[Callable[[Blobs], Awaitable[None]], ...] = (
    a_blob_of_every_size_is_given_back,
    a_stream_of_every_size_is_stored_as_one_blob,
    a_stream_that_breaks_off_stores_nothing,
    the_same_content_twice_is_one_blob,
    an_account_sees_its_own_blobs_only,
    a_deleted_blob_is_gone_and_can_be_stored_again,
    deleting_what_is_not_there_is_harmless,
)
