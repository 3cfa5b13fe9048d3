"""Async calls: what the doors ask for, each answered once the new invocation is stored.

Does not know how a request came, nor when the invocation runs.
"""

from __future__ import annotations

from typing import Protocol

from stoker.catalog.fold import Entry
from stoker.catalog.principal import Principal
from stoker.invocation.acceptance import ASYNC, Acceptance, KeyRequest
from stoker.invocation.queue import Queue
from stoker.invocation.replay import payload_of
from stoker.model.record import KeyHolder, Record


class Letter(Protocol):
    """A dead letter, with its payload."""

    @property
    def record(self) -> Record: ...

    @property
    def payload(self) -> str | None: ...

    @property
    def pinned(self) -> int | None: ...


class AsyncCalls:
    """One for a server. Every method returns the id of the new invocation."""

    def __init__(self, acceptance: Acceptance, queue: Queue) -> None:
        self._acceptance = acceptance
        self._queue = queue

    async def invoke(
        self,
        principal: Principal,
        entry: Entry,
        payload: bytes,
        *,
        version: int | None = None,
        key: KeyRequest | None = None,
    ) -> str:
        """Accept an invocation, or return the one that its key stands for. Raises as `Acceptance.accept`."""
        return await self._accept(principal, entry, payload, version, key=key)

    async def replay(
        self, principal: Principal, entry: Entry, record: Record, *, version: int | None = None
    ) -> str:
        """Accept an invocation with the payload of `record`. Raises InvalidRequest if it kept none."""
        return await self._accept(
            principal, entry, payload_of(record), version, replay_of=record.invocation_id
        )

    async def redrive(self, principal: Principal, entry: Entry, letter: Letter) -> str:
        """Accept an invocation from a dead letter, which is gone with the same write.

        Raises VersionConflict or NotFound if it went meanwhile.
        """
        assert letter.payload is not None
        return await self._accept(
            principal,
            entry,
            letter.payload.encode(),
            letter.pinned,
            replay_of=letter.record.invocation_id,
            redriven=True,
        )

    async def _accept(
        self,
        principal: Principal,
        entry: Entry,
        payload: bytes,
        version: int | None,
        *,
        key: KeyRequest | None = None,
        replay_of: str | None = None,
        redriven: bool = False,
    ) -> str:
        found = await self._acceptance.accept(
            principal,
            entry,
            payload,
            ASYNC,
            version=version,
            key=key,
            replay_of=replay_of,
            redriven=redriven,
        )
        if isinstance(found, KeyHolder):
            return found.invocation_id
        self._queue.take(found, payload)
        return found.record.invocation_id
