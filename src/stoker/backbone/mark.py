"""The high-water mark: the highest sequence that was acknowledged, kept outside NATS.

Owns one small file. Does not know what the numbers count.
"""

from __future__ import annotations

import asyncio
import os
from hashlib import blake2b
from pathlib import Path

SLOT_BYTES = 512
"""A slot has a sector of its own: a write that a power cut tears spoils one slot, the other one stands."""
_NUMBER_BYTES = 8
_SUM_BYTES = 8
SYNC_WAIT_MS = 50
"""Between an advance and its fdatasync, so that a burst costs one: its flushes compete with nats-server's."""


class MarkUnreadable(Exception):
    """Neither slot holds a number that fits its checksum."""


class HighWaterMark:
    """A number that only rises. After a kill -9 it is exact, after a power cut exact or lower, never higher.

    It belongs to one store: the checksum covers the store's id.
    """

    def __init__(self, path: Path, store_id: str) -> None:
        self.path = path
        self._store_id = store_id.encode()
        self._descriptor = -1
        self._slot = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sync: asyncio.Future[None] | None = None
        self.sequence = 0

    def create(self) -> None:
        """Make the file, with 0 in it, on disk."""
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.pwrite(self._descriptor, bytes(2 * SLOT_BYTES), 0)  # all of it: later writes need no new block
        os.pwrite(self._descriptor, self._slot_content(0), 0)
        os.fsync(self._descriptor)
        self._slot = 1

    def open(self) -> None:
        """Read the file. Raises FileNotFoundError, MarkUnreadable."""
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        numbers = [self._read(slot) for slot in (0, 1)]
        if numbers == [None, None]:
            os.close(self._descriptor)
            self._descriptor = -1
            raise MarkUnreadable(self.path)
        self._slot = min((0, 1), key=lambda slot: -1 if numbers[slot] is None else numbers[slot] or 0)
        self.sequence = max(number for number in numbers if number is not None)

    def advance(self, sequence: int) -> None:
        """Raise the mark to `sequence`, if that is higher. A write into the page cache, some microseconds."""
        if sequence <= self.sequence:
            return
        self.sequence = sequence
        os.pwrite(self._descriptor, self._slot_content(sequence), self._slot * SLOT_BYTES)
        self._slot = 1 - self._slot
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SYNC_WAIT_MS / 1000, self._start_sync)

    async def close(self) -> None:
        """Put the mark on disk and let go of the file. Harmless when repeated."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sync is not None:
            await self._sync
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            await asyncio.to_thread(os.fdatasync, descriptor)
            os.close(descriptor)

    def _start_sync(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._sync is not None and not self._sync.done():  # a slow disk: come back for the rest
            self._timer = loop.call_later(SYNC_WAIT_MS / 1000, self._start_sync)
            return
        self._sync = loop.run_in_executor(None, os.fdatasync, self._descriptor)

    def _slot_content(self, sequence: int) -> bytes:
        number = sequence.to_bytes(_NUMBER_BYTES, "little")
        return number + self._sum(number)

    def _read(self, slot: int) -> int | None:
        content = os.pread(self._descriptor, _NUMBER_BYTES + _SUM_BYTES, slot * SLOT_BYTES)
        number = content[:_NUMBER_BYTES]
        return int.from_bytes(number, "little") if content[_NUMBER_BYTES:] == self._sum(number) else None

    def _sum(self, number: bytes) -> bytes:
        return blake2b(number, digest_size=_SUM_BYTES, key=self._store_id).digest()
