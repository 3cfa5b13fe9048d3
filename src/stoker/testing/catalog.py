"""A catalog over in-memory stores, with the faults of a store that a test may ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from stoker.catalog.catalog import Catalog
from stoker.catalog.draft import DraftAsset, FunctionDraft, StoredContent
from stoker.catalog.fold import Entry, Fold
from stoker.catalog.sealing import KEY_BYTES, Seal
from stoker.model.errors import Unavailable
from stoker.model.function import Asset, Function
from stoker.model.limits import Limits
from stoker.model.secret import Secret
from stoker.testing.backbone import MemoryBlobStore, MemoryEventLog

ACCOUNT = "default"
DRAFT = FunctionDraft(
    name="my-function",
    collection="my-namespace",
    handler="index.handler",
    assets=(DraftAsset("index.js", "file", b"exports.handler = (event) => event\n"),),
    monitor_config={},
)


def a_draft(**changes: Any) -> FunctionDraft:
    """Return a good draft with something changed."""
    return replace(DRAFT, **changes)


class FaultyLog(MemoryEventLog):
    """An event log that can hold appends back, and store one without saying so."""

    def __init__(self) -> None:
        super().__init__()
        self.held: asyncio.Event | None = None
        """Set it to an event that appends wait for."""
        self.answers_lost = 0
        """So many of the next appends are stored, and answered as Unavailable."""

    async def append(self, subject: str, data: bytes, *, expected: int | None) -> int:
        """As the real one, with the faults asked for."""
        if self.held is not None:
            await self.held.wait()
        sequence = await super().append(subject, data, expected=expected)
        if self.answers_lost:
            self.answers_lost -= 1
            raise Unavailable("the backbone does not answer")
        return sequence


class FakeUnpacker:
    """Takes any code as good, unless the test gives an error."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def unpack(self, assets: tuple[Asset, ...], fetch: Callable[[str], Awaitable[bytes]]) -> None:
        """Fetch every content, as the real one does."""
        for asset in assets:
            await fetch(asset.digest)
        if self.error is not None:
            raise self.error


class CatalogBench:
    """A catalog and all that it stands on."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.fold = Fold()
        self.log = FaultyLog()
        self.blobs = MemoryBlobStore()
        self.unpacker = FakeUnpacker()
        self.now_ms = 1_714_378_974_500
        self.time_s = 1_000.0
        """What the clock of quotas shows."""
        self.catalog = Catalog(
            self.fold,
            self.log,
            self.blobs,
            self.unpacker,
            limits or Limits(),
            seal=Seal(bytes(KEY_BYTES)),
            now_ms=lambda: self.now_ms,
            clock=lambda: self.time_s,
        )
        self.changes: list[tuple[Function, Function | None]] = []
        self.catalog.on_change.append(lambda before, after: self.changes.append((before, after)))

    async def create(self, **changes: Any) -> Function:
        """Create a function."""
        return await self.catalog.create_function(ACCOUNT, a_draft(**changes))

    async def put_object(self, key: str, content: bytes) -> StoredContent:
        """Store an object, in two pieces."""

        async def pieces() -> AsyncIterator[bytes]:
            yield content[:1]
            yield content[1:]

        return await self.catalog.objects.put(ACCOUNT, key, pieces())

    async def put_secret(self, name: str, value: str = "the value", *, account: str = ACCOUNT) -> None:
        """Store a secret."""
        await self.catalog.secrets.put(account, name, Secret(value))

    def entry(self, name: str = "my-function", collection: str = "my-namespace") -> Entry:
        """Return a function as a request would find it."""
        return self.fold.resolve(ACCOUNT, collection, name)

    async def refolded(self) -> Fold:
        """Return what a server that starts now would know."""
        fold = Fold()
        await self.log.replay(lambda event: fold.apply(event.subject, event.data, event.sequence))
        return fold
