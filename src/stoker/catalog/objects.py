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
from stoker.catalog.quotas import Usage


class Objects:
    """The stored objects of all accounts."""

    def __init__(
        self,
        fold: Fold,
        journal: Journal,
        contents: KeptContents,
        usage: Usage,
        now_ms: Callable[[], int],
    ) -> None:
        self._fold = fold
        self._journal = journal
        self._contents = contents
        self._usage = usage
        self._now_ms = now_ms

    async def put(
        self, account: str, key: str, chunks: AsyncIterator[bytes], *, within: str | None = None
    ) -> StoredContent:
        """Store all that `chunks` yields under a key, in place of what was there, and return where it lies.

        Keys of a token that is limited to a collection are a space of their own: `within` is its topic.
        Holds some chunks in memory. Raises what `chunks` raises, and then nothing is stored; QuotaExceeded,
        StorageFull, Unavailable.
        """
        key_hash = _key_hash(key, within)

        async def put() -> StoredContent:
            digest, size_bytes = await self._contents.put_stream(account, self._bounded(account, chunks))
            content = (digest, size_bytes)
            with self._contents.pinned([(account, digest)]):
                async with self._journal.deciding(account):
                    before = self._fold.objects.get((account, key_hash))
                    self._require_room(account, self._fold.references.bytes_more(account, [content]))
                    data = events.encode(
                        "created", self._now_ms(), key=key, digest=digest, size_bytes=size_bytes
                    )
                    expected = before.revision if before else 0
                    subject = events.object_key(account, key_hash)
                    await self._journal.append(str(subject), data, expected=expected)
            return StoredContent(digest, size_bytes)

        return await self._journal.to_its_end(put())

    def find(self, account: str, key: str, *, within: str | None = None) -> StoredContent | None:
        """Return where lies what is stored under a key, or None; `within` as for `put`."""
        stored = self._fold.objects.get((account, _key_hash(key, within)))
        return None if stored is None else StoredContent(stored.digest, stored.size_bytes)

    def _require_room(self, account: str, more_bytes: int) -> None:
        self._usage.require(account, "code_bytes", self._fold.references.bytes_of(account), more_bytes)

    async def _bounded(self, account: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks as long as there is room for all that has come."""
        size_bytes = 0
        async for chunk in chunks:
            size_bytes += len(chunk)
            self._require_room(account, size_bytes)
            yield chunk


def _key_hash(key: str, within: str | None) -> str:
    # The same key could only be spelled with a token for the whole account, which may do that anyway.
    spelled = key if within is None else f"{within}\0{key}"
    return hashlib.sha256(spelled.encode()).hexdigest()
