"""The blob store on a real server: its rules, races with deletion, and copies that went bad."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256

import pytest

from stoker.backbone.blobs import CHUNK_BYTES, CHUNKS, SIZE, BlobStore
from stoker.backbone.connection import Message
from stoker.backbone.errors import BlobDamaged, BlobMissing
from stoker.testing.backbone_rules import BLOB_STORE_RULES, Blobs

from .conftest import Store

LARGE = bytes(range(256)) * 8192


@pytest.mark.parametrize("rule", BLOB_STORE_RULES, ids=lambda rule: rule.__name__)
async def test_the_blob_store_keeps_the_rule(rule: Callable[[Blobs], Awaitable[None]], store: Store) -> None:
    await rule(store.blobs)


async def messages(store: Store) -> int:
    """Return how many messages the blobs take."""
    info = await store.jetstream.api("STREAM.INFO.BLOBS")
    return int(info["state"]["messages"])


async def test_a_small_blob_is_one_message_and_a_stored_one_no_other(store: Store) -> None:
    for _ in range(2):
        await store.blobs.put("a", b"small")

    assert await messages(store) == 1


async def test_a_deleted_blob_leaves_no_chunk(store: Store) -> None:
    digest = await store.blobs.put("a", LARGE)

    await store.blobs.delete("a", digest)

    assert await messages(store) == 0


async def test_twenty_who_put_the_same_large_blob_at_once_store_it_once(store: Store) -> None:
    other = BlobStore(store.jetstream, store.guard, spool_dir=store.data)  # as another process would

    digests = await asyncio.gather(
        *((store.blobs if number % 2 else other).put("a", LARGE) for number in range(20))
    )

    assert len(set(digests)) == 1
    assert await store.blobs.get("a", digests[0]) == LARGE
    assert await messages(store) == len(LARGE) // CHUNK_BYTES + 1


@pytest.mark.parametrize("content", [b"small", LARGE])
async def test_a_put_that_races_a_delete_ends_whole_or_raises(store: Store, content: bytes) -> None:
    other = BlobStore(store.jetstream, store.guard, spool_dir=store.data)  # as another process would
    digest = sha256(content).hexdigest()

    for _ in range(10):
        await store.blobs.put("a", content)
        await asyncio.gather(store.blobs.put("a", content), other.delete("a", digest), return_exceptions=True)
        # Whichever came last: either it is all there, or it is no blob at all.
        if await store.blobs.exists("a", digest):
            assert await store.blobs.get("a", digest) == content
        else:
            with pytest.raises(BlobMissing):
                await store.blobs.get("a", digest)


@pytest.mark.parametrize("content", [b"small", LARGE])
async def test_within_one_process_a_put_after_a_delete_was_begun_stores_it(
    store: Store, content: bytes
) -> None:
    digest = await store.blobs.put("a", content)

    deleting = asyncio.create_task(store.blobs.delete("a", digest))
    await asyncio.sleep(0)
    await store.blobs.put("a", content)
    await deleting

    assert await store.blobs.get("a", digest) == content


async def test_a_put_that_was_interrupted_is_no_blob_and_can_be_finished(store: Store) -> None:
    digest = sha256(LARGE).hexdigest()
    await store.blobs._publish(f"accounts.a.blob.{digest}.0", LARGE[:CHUNK_BYTES], {})
    await store.blobs._publish(f"accounts.a.blob.{digest}.2", LARGE[2 * CHUNK_BYTES : 3 * CHUNK_BYTES], {})

    assert not await store.blobs.exists("a", digest)
    assert await store.blobs.list() == set()
    assert await store.blobs.put("a", LARGE) == digest
    assert await store.blobs.get("a", digest) == LARGE


async def test_a_blob_with_a_lost_chunk_is_missing_and_a_put_makes_it_whole(store: Store) -> None:
    digest = await store.blobs.put("a", LARGE)
    await store.jetstream.api("STREAM.PURGE.BLOBS", {"filter": f"accounts.a.blob.{digest}.1"})

    with pytest.raises(BlobMissing):
        await store.blobs.get("a", digest)

    await store.blobs.put("a", LARGE)
    assert await store.blobs.get("a", digest) == LARGE


async def test_a_content_that_does_not_fit_its_digest_is_damaged_and_a_put_replaces_it(store: Store) -> None:
    digest = sha256(b"right").hexdigest()
    await store.jetstream.publish(
        Message(f"accounts.a.blob.{digest}.manifest", b"wrong", {SIZE: "5", CHUNKS: "0"})
    )

    with pytest.raises(BlobDamaged):
        await store.blobs.get("a", digest)

    assert await store.blobs.put("a", b"right") == digest
    assert await store.blobs.get("a", digest) == b"right"


@pytest.mark.parametrize("headers", [{}, {SIZE: "x", CHUNKS: "0"}, {SIZE: "5", CHUNKS: "3"}])
async def test_a_manifest_that_makes_no_sense_is_damaged(store: Store, headers: dict[str, str]) -> None:
    digest = sha256(b"right").hexdigest()
    await store.jetstream.publish(Message(f"accounts.a.blob.{digest}.manifest", b"right", headers))

    with pytest.raises(BlobDamaged):
        await store.blobs.get("a", digest)


@pytest.mark.parametrize("account", ["", "*", ">", "a.b", "a b", "ä"])
async def test_what_cannot_stand_in_a_subject_is_no_account(store: Store, account: str) -> None:
    with pytest.raises(ValueError, match="subject"):
        await store.blobs.put(account, b"x")


async def test_a_stream_leaves_no_file_behind(store: Store) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield LARGE

    before = set(os.listdir(store.data))
    await store.blobs.put_stream("a", chunks())

    assert set(os.listdir(store.data)) == before
