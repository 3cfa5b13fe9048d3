"""In-memory event log and blob store, for tests of what builds on them.

They imitate what the stream refuses; a comment says which rule of the store a line stands for. That they
keep the rules of `backbone_rules.py`, as the real ones do, is tested.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256

from stoker.backbone.errors import BlobDamaged, BlobMissing
from stoker.backbone.event_log import Event
from stoker.model.errors import StokerError, VersionConflict

Events = Sequence[tuple[str, bytes, int | None]]


class MemoryEventLog:
    """An event log in memory. `fail_with` is raised by the next append, which then stores nothing."""

    stream = "MEMORY"

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
