"""Contents of assets: stored once, kept as long as something refers to them, swept after.

Owns what is pinned between an upload and the event that refers to it. Does not know what an asset is for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from stoker.catalog.references import Content, References
from stoker.model.errors import Unavailable


class Contents(Protocol):
    """Where the content of assets is kept, by the SHA-256 of it."""

    async def put(self, account: str, content: bytes) -> str: ...

    async def put_stream(self, account: str, chunks: AsyncIterator[bytes]) -> tuple[str, int]: ...

    async def get(self, account: str, digest: str) -> bytes: ...

    async def exists(self, account: str, digest: str) -> bool: ...

    async def delete(self, account: str, digest: str) -> None: ...


class KeptContents:
    """The contents of all accounts."""

    def __init__(self, references: References, contents: Contents) -> None:
        self._references = references
        self._contents = contents
        self._uploading: Counter[Content] = Counter()
        """Contents that are stored but not yet referred to: they must not be swept."""
        self._sweeping: dict[Content, asyncio.Event] = {}
        self.turn = asyncio.Lock()
        """Held by whoever needs that nothing is swept for a while."""

    async def get(self, account: str, digest: str) -> bytes:
        """Return a content."""
        return await self._contents.get(account, digest)

    async def sweep(self, candidates: set[Content]) -> int:
        """Delete those (account, digest) that nothing refers to any more; return how many.

        A content that somebody is uploading just now is pinned and stays; one that somebody begins to
        upload while its delete is under way is stored after that delete.
        """
        removed = 0
        for pin in sorted(candidates):
            if pin in self._sweeping:
                continue
            async with self.turn:
                if pin in self._uploading or pin in self._references:
                    continue
                gone = self._sweeping[pin] = asyncio.Event()
                try:
                    await self._contents.delete(*pin)
                    removed += 1
                finally:
                    del self._sweeping[pin]
                    gone.set()
        return removed

    @contextmanager
    def pinned(self, pins: Iterable[Content]) -> Iterator[None]:
        """Keep contents from being swept between their upload and the event that refers to them."""
        pins = list(pins)
        self._uploading.update(pins)
        try:
            yield
        finally:
            self._uploading.subtract(pins)
            for pin in pins:
                if self._uploading[pin] <= 0:
                    del self._uploading[pin]

    async def put(self, account: str, digest: str, content: bytes) -> None:
        """Store a content that is pinned, after a delete of it that is under way."""
        while (gone := self._sweeping.get((account, digest))) is not None:
            await gone.wait()
        await self._contents.put(account, content)

    async def put_stream(self, account: str, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        """Return (digest, size) once a content is stored that is known only when all of it was read.

        To be pinned by the caller before its next await. Raises what `chunks` raises; Unavailable if the
        content was swept under way: its digest was not known, so that the sweep could not be held off.
        """
        digest, size = await self._contents.put_stream(account, chunks)
        with self.pinned([(account, digest)]):
            gone = self._sweeping.get((account, digest))
            if gone is not None:
                await gone.wait()
                if not await self._contents.exists(account, digest):
                    raise Unavailable("the content was deleted while it was stored", retry_after_s=1)
        return digest, size
