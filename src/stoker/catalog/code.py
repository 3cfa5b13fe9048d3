"""Code on its way in: from items as they are sent to assets that can be unpacked and are stored.

Does not know functions or versions, nor how code is unpacked.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from typing import Protocol

from stoker.catalog.contents import KeptContents
from stoker.catalog.draft import DraftAsset, StoredContent
from stoker.model.errors import InvalidRequest, TooLarge
from stoker.model.function import Asset

IN_THREAD_BYTES = 256 * 1024
"""Content above this is hashed in a thread: 0.2 ms of the event loop is what a call takes in all."""
_POINTER = "/compute_asset"


class Unpacker(Protocol):
    """Checks code by making the folder that it unpacks to."""

    async def unpack(self, assets: tuple[Asset, ...], fetch: Callable[[str], Awaitable[bytes]]) -> None:
        """Raise InvalidRequest or TooLarge for code that breaks the rules; fields are those of a create."""
        ...


class CodeStore:
    """Takes in the code of all accounts."""

    def __init__(
        self,
        contents: KeptContents,
        unpacker: Unpacker,
        require_room: Callable[[str, Iterable[Asset]], None],
    ) -> None:
        self._contents = contents
        self._unpacker = unpacker
        self._require_room = require_room

    @asynccontextmanager
    async def kept(
        self, account: str, items: tuple[DraftAsset, ...], pointer: str = _POINTER
    ) -> AsyncIterator[tuple[Asset, ...]]:
        """Give the items as assets; within, their contents are stored and are not swept.

        Nothing is stored unless all can be unpacked; what was stored beforehand is not stored again.
        Raises InvalidRequest or TooLarge with a field below `pointer`, QuotaExceeded, StorageFull,
        Unavailable.
        """
        with ExitStack() as pins:
            stored = [item.content for item in items if isinstance(item.content, StoredContent)]
            pins.enter_context(self._contents.pinned((account, content.digest) for content in stored))
            sent: dict[str, bytes] = {}
            assets = tuple([await _asset(item, sent) for item in items])
            self._require_room(account, assets)  # also decided anew when the event is
            pins.enter_context(self._contents.pinned((account, digest) for digest in sent))
            await self._unpack(account, assets, sent, pointer)
            puts = (self._contents.put(account, digest, content) for digest, content in sent.items())
            for failure in await asyncio.gather(*puts, return_exceptions=True):  # none goes on unpinned
                if failure is not None:
                    raise failure
            yield assets

    async def _unpack(
        self, account: str, assets: tuple[Asset, ...], sent: dict[str, bytes], pointer: str
    ) -> None:
        async def fetch(digest: str) -> bytes:
            content = sent.get(digest)
            return await self._contents.get(account, digest) if content is None else content

        try:
            await self._unpacker.unpack(assets, fetch)
        except (InvalidRequest, TooLarge) as error:
            # A new one: whoever sent the same code at the same time waits for the same error.
            field = None if error.field is None else pointer + error.field.removeprefix(_POINTER)
            raise type(error)(error.message, field=field, hint=error.hint) from None


async def _asset(item: DraftAsset, sent: dict[str, bytes]) -> Asset:
    content = item.content
    if isinstance(content, StoredContent):
        return Asset(item.name, item.kind, content.digest, content.size_bytes)
    if len(content) <= IN_THREAD_BYTES:
        digest = hashlib.sha256(content).hexdigest()
    else:
        digest = (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()
    sent[digest] = content
    return Asset(item.name, item.kind, digest, len(content))
