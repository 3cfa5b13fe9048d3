"""The rules of event logs and blob stores: one suite, run against the fakes and against the real ones.

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
from stoker.model.errors import VersionConflict

Events = Sequence[tuple[str, bytes, int | None]]


class Log(Protocol):
    """What both event logs can do."""

    async def append(self, subject: str, data: bytes, *, expected: int | None) -> int: ...
    async def append_batch(self, events: Events) -> list[int]: ...
    async def replay(self, on_event: Callable[[Event], None], *, after: int = 0) -> int: ...


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
