"""Housekeeping: what a server does beside its calls, so that neither disk nor memory fills up.

Does not know when it is started.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable
from typing import Protocol

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


async def trim_for_ever(folders: CodeCache, pool: Pool) -> None:
    """Remove code folders that nothing runs from, once in a while; they are made again when needed."""
    while True:
        await asyncio.sleep(TRIM_S)
        await folders.trim({folder_name(code.assets) for code in pool.code_in_use}, CODE_CACHE_BYTES_MAX)


async def erase_accounts(catalog: Catalog, account_ids: Iterable[str], notes: Notes) -> None:
    """Take what is stored of deleted accounts out of the log of events, however long that takes."""
    for account_id in account_ids:
        while True:
            try:
                await catalog.accounts.erase(account_id)
                break
            except StokerError as error:
                notes.warning("erasure_waits", account=account_id, reason=error.message)
                await asyncio.sleep(AGAIN_S)


async def sweep(catalog: Catalog, candidates: set[Content]) -> None:
    """Delete those contents that nothing refers to any more."""
    await catalog.sweep(candidates)


async def sweep_all(catalog: Catalog, blobs: BlobStore) -> None:
    """The same of all that are stored."""
    await catalog.sweep(await blobs.list())


def settle_memory() -> None:
    """Have the collector leave alone what is there for good, and look less often at what comes and goes.

    A call makes some dozen objects and no cycles; with the defaults the collector would look through the
    whole catalog every few thousand calls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
