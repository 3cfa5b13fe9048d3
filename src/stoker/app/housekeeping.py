"""Housekeeping: what a server does beside its calls, so that neither disk nor memory fills up.

Does not know when it is started.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable, Sequence
from typing import Protocol

from stoker.app.background import Background
from stoker.backbone.blobs import BlobStore
from stoker.catalog.catalog import Catalog
from stoker.catalog.references import Content
from stoker.model.errors import StokerError
from stoker.model.limits import MIB
from stoker.worker.code_cache import CodeCache, folder_name
from stoker.worker.pool import Pool

CODE_CACHE_BYTES_MAX = 2048 * MIB
TRIM_S = 60.0
AGAIN_S = 1.0


class Notes(Protocol):
    """The operator's log."""

    def warning(self, event: str, **fields: object) -> object: ...


class Housekeeping:
    """One for a server. What it is told of is done behind whoever tells it."""

    def __init__(
        self,
        background: Background,
        catalog: Catalog,
        blobs: BlobStore,
        folders: CodeCache,
        pool: Pool,
        notes: Notes,
    ) -> None:
        self._background = background
        self._catalog = catalog
        self._blobs = blobs
        self._folders = folders
        self._pool = pool
        self._notes = notes

    def start(self, gone: Sequence[str]) -> None:
        """Begin, with what an earlier server may have left; `gone` are the ids of deleted accounts."""
        self._background.run(self._trim_for_ever(), "trim of code folders")
        self._background.run(self._sweep_all(), "sweep of contents")
        self._background.run(self._erase(gone), "erasure of accounts")

    def loosened(self, contents: set[Content]) -> None:
        """Delete those contents that nothing refers to any more."""
        self._background.run(self._catalog.sweep(contents), "sweep after a change")

    def account_gone(self, account: str) -> None:
        """Remove a deleted account's events, and its unpacked code with all that is not in use."""
        self._background.run(self._trim(0), "trim after an account")
        self._background.run(self._erase([account]), "erasure of an account")

    async def _trim_for_ever(self) -> None:
        """Remove code folders that nothing runs from, once in a while; they are made again when needed."""
        while True:
            await asyncio.sleep(TRIM_S)
            await self._trim(CODE_CACHE_BYTES_MAX)

    async def _trim(self, bytes_max: int) -> None:
        in_use = {folder_name(code.assets) for code in self._pool.code_in_use}
        await self._folders.trim(in_use, bytes_max)

    async def _sweep_all(self) -> None:
        await self._catalog.sweep(await self._blobs.list())

    async def _erase(self, gone: Iterable[str]) -> None:
        for account in gone:
            while True:
                try:
                    await self._catalog.accounts.erase(account)
                    break
                except StokerError as error:
                    self._notes.warning("erasure_waits", account=account, reason=error.message)
                    await asyncio.sleep(AGAIN_S)


def settle_memory() -> None:
    """Have the collector leave alone what is there for good, and look less often at what comes and goes.

    A call makes some dozen objects and no cycles; with the defaults the collector would look through the
    whole catalog every few thousand calls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
