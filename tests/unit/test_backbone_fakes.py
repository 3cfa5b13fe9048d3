"""The fakes keep the rules of the real ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from stoker.backbone.errors import BlobDamaged
from stoker.backbone.ledger import Write
from stoker.model.errors import StorageFull
from stoker.testing.backbone import MemoryBlobStore, MemoryEventLog, MemoryLedger
from stoker.testing.backbone_rules import (
    BLOB_STORE_RULES,
    EVENT_LOG_RULES,
    LEDGER_RULES,
    Blobs,
    Book,
    Log,
)


@pytest.mark.parametrize("rule", EVENT_LOG_RULES, ids=lambda rule: rule.__name__)
async def test_the_event_log_in_memory_keeps_the_rule(rule: Callable[[Log], Awaitable[None]]) -> None:
    await rule(MemoryEventLog())


@pytest.mark.parametrize("rule", BLOB_STORE_RULES, ids=lambda rule: rule.__name__)
async def test_the_blob_store_in_memory_keeps_the_rule(rule: Callable[[Blobs], Awaitable[None]]) -> None:
    await rule(MemoryBlobStore())


@pytest.mark.parametrize("rule", LEDGER_RULES, ids=lambda rule: rule.__name__)
async def test_the_ledger_in_memory_keeps_the_rule(rule: Callable[[Book], Awaitable[None]]) -> None:
    await rule(MemoryLedger())


async def test_the_ledger_in_memory_fails_once_where_it_is_told_to() -> None:
    ledger = MemoryLedger()
    ledger.fail_with = StorageFull("the disk is full")

    with pytest.raises(StorageFull):
        await ledger.write([Write("a", b"1", 0)])

    assert await ledger.write([Write("a", b"1", 0)], reserve=True) == 1
    assert ledger.written == [((Write("a", b"1", 0),), True)]


async def test_the_event_log_in_memory_fails_once_where_it_is_told_to() -> None:
    log = MemoryEventLog()
    log.fail_with = StorageFull("the disk is full")

    with pytest.raises(StorageFull):
        await log.append("a", b"1", expected=0)

    assert await log.append("a", b"1", expected=0) == 1


async def test_the_blob_store_in_memory_notices_a_changed_content() -> None:
    blobs = MemoryBlobStore()
    digest = await blobs.put("a", b"content")

    blobs.damage("a", digest)

    with pytest.raises(BlobDamaged):
        await blobs.get("a", digest)
