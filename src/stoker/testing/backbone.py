"""In-memory event log, ledger and blob store, for tests of what builds on them.

They imitate what the stream refuses; a comment says which rule of the store a line stands for. That they
keep the rules of `backbone_rules.py`, as the real ones do, is tested.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256

from stoker.backbone.errors import BlobDamaged, BlobMissing
from stoker.backbone.event_log import Event
from stoker.backbone.jetstream import BATCH_COUNT_MAX
from stoker.backbone.ledger import Write
from stoker.backbone.server_config import MESSAGE_BYTES_MAX
from stoker.backbone.vacancies import Signs, note_of
from stoker.model.errors import StokerError, TooLarge, Unavailable, VersionConflict

Events = Sequence[tuple[str, bytes, int | None]]
SIGNS = Signs(notes="accounts.*.catalog.erased.self", stand_in="accounts.default.catalog.vacant.self")
"""As a server's catalog has them."""


class MemoryEventLog:
    """An event log in memory. `fail_with` is raised by the next append, which then stores nothing."""

    stream = "MEMORY"
    stand_in_subject = SIGNS.stand_in

    def __init__(self, clock_ms: Callable[[], int] = lambda: 0) -> None:
        self._clock_ms = clock_ms
        self._last: dict[str, int] = {}
        self.events: list[Event] = []
        self.fail_with: StokerError | None = None

    async def open(self) -> None:
        """There is nothing to make."""

    async def append(self, subject: str, data: bytes, *, expected: int | None) -> int:
        """As the real one, but never waits."""
        return (await self.append_batch([(subject, data, expected)]))[0]

    async def append_batch(self, events: Events) -> list[int]:
        """As the real one, but never waits."""
        await asyncio.sleep(0)  # the real one gives others a turn, and so shows races
        if self.fail_with is not None:
            error, self.fail_with = self.fail_with, None
            raise error
        # Expected-Last-Subject-Sequence: all are compared with the stream as it is before the batch.
        for subject, _, expected in events:
            if expected is not None and self._last.get(subject, 0) != expected:
                raise VersionConflict("somebody changed it first; read it again and decide anew")
        sequences = []
        for subject, data, _ in events:
            # The stream's sequence: from 1, without a gap, over all subjects.
            event = Event(subject, bytes(data), len(self.events) + 1, self._clock_ms())
            self.events.append(event)
            self._last[subject] = event.sequence
            sequences.append(event.sequence)
        return sequences

    async def replay(self, on_event: Callable[[Event], None], *, after: int = 0) -> int:
        """As the real one; there is nothing that could be damaged."""
        for event in self.events[after:]:
            on_event(event)
        return len(self.events)

    async def erase(
        self, subjects: str, note_subject: str, *, until: int, on_event: Callable[[Event], None]
    ) -> None:
        """As the real one, for a pattern that ends in `>`."""
        prefix = subjects.removesuffix(">")
        places = [one.sequence for one in self.events[:until] if one.subject.startswith(prefix)]
        if not places:
            return
        sequence = await self.append(note_subject, note_of(places), expected=None)
        on_event(self.events[sequence - 1])
        for place in places:
            self.events[place - 1] = Event(self.stand_in_subject, b"", place, 0)


class MemoryLedger:
    """A ledger in memory. `fail_with` is raised by the next write, which then stores nothing.

    `written` has all groups in their order with whether they may use the reserve, `erased` all that was.
    """

    stream = "MEMORY"

    def __init__(self, clock_ms: Callable[[], int] = lambda: 0) -> None:
        self._clock_ms = clock_ms
        self._events: dict[int, Event] = {}
        self._closed = False
        self.last_sequence = 0
        self.begun_ms = 0
        self.written: list[tuple[Sequence[Write], bool]] = []
        self.erased: list[int] = []
        self.fail_with: StokerError | None = None

    async def open(self) -> None:
        """There is nothing to make."""

    async def close(self) -> None:
        """As the real one."""
        self._closed = True

    def write(self, writes: Sequence[Write], *, reserve: bool = False) -> asyncio.Future[int]:
        """As the real one, but what it stores is there before anybody is told."""
        if not 1 <= len(writes) <= BATCH_COUNT_MAX:
            raise ValueError(f"1 to {BATCH_COUNT_MAX} are written together, not {len(writes)}")
        written: set[str] = set()
        for write in writes:
            # An atomic batch is refused if it expects something of a subject that it has written before.
            if write.expected is not None and write.subject in written:
                raise ValueError(f"{write.subject} is written before something is expected of it")
            written.add(write.subject)
        stored = asyncio.get_running_loop().create_future()
        error = self._refusal(writes)
        if error is not None:
            stored.set_exception(error)
            return stored
        self.written.append((tuple(writes), reserve))
        stored.set_result(self.last_sequence + 1)
        for write in writes:
            # The stream's sequence: from 1, over all subjects; one that was erased is never used again.
            self.last_sequence += 1
            self._events[self.last_sequence] = Event(
                write.subject, bytes(write.data), self.last_sequence, self._clock_ms()
            )
        return stored

    async def read(self, on_message: Callable[[Event], None], *, after: int, until: int | None = None) -> int:
        """As the real one; there is nothing that could be damaged."""
        await asyncio.sleep(0)
        end = self.last_sequence if until is None else min(until, self.last_sequence)
        for sequence in range(after + 1, end + 1):
            if sequence in self._events:
                on_message(self._events[sequence])
        return max(after, end)

    async def at(self, sequence: int) -> Event | None:
        """As the real one."""
        await asyncio.sleep(0)
        return self._events.get(sequence)

    async def last(self, subject: str) -> Event | None:
        """As the real one."""
        await asyncio.sleep(0)
        return self._events.get(self._last(subject))

    async def since(self, time_ms: int) -> int:
        """As the real one."""
        await asyncio.sleep(0)
        later = (event.sequence for event in self._events.values() if event.time_ms >= time_ms)
        return min(later, default=self.last_sequence + 1) - 1

    async def erase(self, sequences: Sequence[int]) -> None:
        """As the real one."""
        await asyncio.sleep(0)
        for sequence in sequences:
            if self._events.pop(sequence, None) is not None:  # deleting what is gone is harmless
                self.erased.append(sequence)

    def _refusal(self, writes: Sequence[Write]) -> StokerError | None:
        if self._closed:
            return Unavailable("the store is closed")
        error, self.fail_with = self.fail_with, None
        if error is not None:
            return error
        if max(len(write.data) for write in writes) > MESSAGE_BYTES_MAX:
            return TooLarge("past the limit of NATS")
        # Expected-Last-Subject-Sequence: all are compared with the stream as it is before the batch.
        if any(write.expected not in (None, self._last(write.subject)) for write in writes):
            return VersionConflict("somebody changed it first; read it again and decide anew")
        return None

    def _last(self, subject: str) -> int:
        return max((event.sequence for event in self._events.values() if event.subject == subject), default=0)


class MemoryBlobStore:
    """A blob store in memory. `damage` changes a content behind its back."""

    stream = "MEMORY"

    def __init__(self) -> None:
        self._contents: dict[tuple[str, str], bytes] = {}

    async def open(self) -> None:
        """There is nothing to make."""

    async def put(self, account: str, content: bytes) -> str:
        """As the real one."""
        await asyncio.sleep(0)
        digest = sha256(content).hexdigest()
        # Write once: the subject takes no second message, and it would be the same one.
        self._contents.setdefault((account, digest), content)
        return digest

    async def put_stream(self, account: str, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        """As the real one, but holds the whole in memory."""
        content = b"".join([chunk async for chunk in chunks])
        return await self.put(account, content), len(content)

    async def get(self, account: str, digest: str) -> bytes:
        """As the real one."""
        await asyncio.sleep(0)
        content = self._contents.get((account, digest))
        if content is None:  # no manifest: no blob
            raise BlobMissing(f"blob {digest} is not stored")
        if sha256(content).hexdigest() != digest:
            raise BlobDamaged(f"blob {digest} is stored with another content")
        return content

    async def check(self, account: str, digest: str) -> int:
        """As the real one."""
        return len(await self.get(account, digest))

    async def exists(self, account: str, digest: str) -> bool:
        """As the real one."""
        return (account, digest) in self._contents

    async def list(self, account: str | None = None) -> set[tuple[str, str]]:
        """As the real one."""
        return {key for key in self._contents if account in (None, key[0])}

    async def delete(self, account: str, digest: str) -> None:
        """As the real one."""
        self._contents.pop((account, digest), None)  # a purge of nothing succeeds

    def subject(self, account: str, digest: str) -> str:
        """As the real one."""
        return f"accounts.{account}.blob.{digest}"

    def damage(self, account: str, digest: str) -> None:
        """Flip a bit."""
        content = self._contents[account, digest]
        self._contents[account, digest] = bytes([content[0] ^ 1]) + content[1:]
