"""Objects: raw bytes stored beforehand under a key, for assets with `link: true`.

Does not know functions; a version that was made from an object refers to its content and not to the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable

from stoker.catalog import events
from stoker.catalog.contents import KeptContents
from stoker.catalog.draft import StoredContent
from stoker.catalog.fold import Fold
from stoker.catalog.journal import Journal


class Objects:
    """The stored objects of all accounts."""

    def __init__(
        self, fold: Fold, journal: Journal, contents: KeptContents, now_ms: Callable[[], int]
    ) -> None:
        self._fold = fold
        self._journal = journal
        self._contents = contents
        self._now_ms = now_ms

    async def put(self, account: str, key: str, chunks: AsyncIterator[bytes]) -> StoredContent:
        """Store all that `chunks` yields under a key, in place of what was there, and return where it lies.

        Holds some chunks in memory. Raises what `chunks` raises, and then nothing is stored; StorageFull,
        Unavailable.
        """
        key_hash = _key_hash(key)

        async def put() -> StoredContent:
            digest, size_bytes = await self._contents.put_stream(account, chunks)
            with self._contents.pinned([(account, digest)]):
                async with self._journal.deciding(account):
                    before = self._fold.objects.get((account, key_hash))
                    data = events.encode(
                        "created", self._now_ms(), key=key, digest=digest, size_bytes=size_bytes
                    )
                    expected = before.revision if before else 0
                    subject = events.object_key(account, key_hash)
                    await self._journal.append(str(subject), data, expected=expected)
            return StoredContent(digest, size_bytes)

        return await self._journal.to_its_end(put())

    def find(self, account: str, key: str) -> StoredContent | None:
        """Return where lies what is stored under a key, or None."""
        stored = self._fold.objects.get((account, _key_hash(key)))
        return None if stored is None else StoredContent(stored.digest, stored.size_bytes)


def _key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
