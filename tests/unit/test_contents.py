"""Contents of assets: never swept while something refers to them or is about to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest

from stoker.catalog.contents import KeptContents
from stoker.catalog.draft import DraftAsset
from stoker.model.errors import Unavailable
from stoker.testing.backbone import MemoryBlobStore
from stoker.testing.catalog import ACCOUNT, CatalogBench
from stoker.testing.clock import in_fake_time, settled

CODE = b"exports.handler = (event) => event\n"
PIN = (ACCOUNT, sha256(CODE).hexdigest())


class SlowBlobs(MemoryBlobStore):
    """Deletes and puts wait for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.deleting = asyncio.Event()
        self.storing = asyncio.Event()
        self.storing.set()
        self.deletes = 0

    async def put(self, account: str, content: bytes) -> str:
        await self.storing.wait()
        return await super().put(account, content)

    async def delete(self, account: str, digest: str) -> None:
        self.deletes += 1
        await self.deleting.wait()
        await super().delete(account, digest)


async def test_what_nothing_refers_to_is_swept() -> None:
    bench = CatalogBench()
    await bench.blobs.put(ACCOUNT, b"left over")

    removed = await bench.catalog.sweep(await bench.blobs.list())

    assert removed == 1
    assert await bench.blobs.list() == set()


async def test_what_a_function_or_an_object_refers_to_stays() -> None:
    bench = CatalogBench()
    await bench.create()
    await bench.put_object("lib", b"stored")

    removed = await bench.catalog.sweep(await bench.blobs.list())

    assert removed == 0
    assert len(await bench.blobs.list()) == 2


async def test_a_content_of_one_account_does_not_keep_that_of_another() -> None:
    bench = CatalogBench()
    await bench.create()
    await bench.blobs.put("other", CODE)

    removed = await bench.catalog.sweep(await bench.blobs.list())

    assert removed == 1
    assert await bench.blobs.list() == {PIN}


async def test_a_content_that_two_functions_share_stays_until_the_second_is_deleted() -> None:
    bench = CatalogBench()
    await bench.create(name="a")
    await bench.create(name="b")

    await bench.catalog.delete_function(ACCOUNT, bench.entry("a"))
    first = await bench.catalog.sweep({PIN})
    await bench.catalog.delete_function(ACCOUNT, bench.entry("b"))
    second = await bench.catalog.sweep({PIN})

    assert (first, second) == (0, 1)


@in_fake_time
async def test_a_content_is_kept_between_its_upload_and_the_event_that_refers_to_it() -> None:
    bench = CatalogBench()
    bench.log.held = asyncio.Event()
    create = asyncio.create_task(bench.create())
    await settled()  # the content is stored, its event is not

    removed = await bench.catalog.sweep(await bench.blobs.list())
    bench.log.held.set()
    function = await create

    assert removed == 0
    assert await bench.catalog.contents_of(function) == [CODE]


@in_fake_time
async def test_a_content_whose_upload_is_refused_in_the_end_can_be_swept() -> None:
    bench = CatalogBench()
    await bench.create()
    (refused,) = await asyncio.gather(
        bench.create(assets=(DraftAsset("a.js", "file", b"other"), DraftAsset("b.js", "file", CODE))),
        return_exceptions=True,
    )
    await bench.blobs.put(ACCOUNT, b"other")

    removed = await bench.catalog.sweep(await bench.blobs.list())

    assert isinstance(refused, Exception)
    assert removed == 1
    assert await bench.blobs.list() == {PIN}


@in_fake_time
async def test_an_upload_that_begins_during_a_sweep_is_stored_after_the_delete() -> None:
    bench, blobs = CatalogBench(), SlowBlobs()
    contents = KeptContents(bench.fold.references, blobs)
    await blobs.put(ACCOUNT, CODE)
    sweep = asyncio.create_task(contents.sweep({PIN}))
    await settled()

    with contents.pinned([PIN]):
        upload = asyncio.create_task(contents.put(*PIN, CODE))
        await settled()
        waits = not upload.done()
        blobs.deleting.set()
        await asyncio.gather(sweep, upload)

    assert waits
    assert await blobs.get(*PIN) == CODE


@in_fake_time
async def test_two_sweeps_at_once_delete_once() -> None:
    bench, blobs = CatalogBench(), SlowBlobs()
    contents = KeptContents(bench.fold.references, blobs)
    await blobs.put(ACCOUNT, CODE)

    sweeps = [asyncio.create_task(contents.sweep({PIN})) for _ in range(2)]
    await settled()
    blobs.deleting.set()

    assert sorted(await asyncio.gather(*sweeps)) == [0, 1]
    assert blobs.deletes == 1


@in_fake_time
async def test_nothing_is_swept_while_a_backup_holds_contents_and_uploads_go_on() -> None:
    bench = CatalogBench()
    contents = KeptContents(bench.fold.references, bench.blobs)
    await bench.blobs.put(ACCOUNT, CODE)

    async with contents.turn:
        sweep = asyncio.create_task(contents.sweep({PIN}))
        await settled()
        held = await bench.blobs.list()
        with contents.pinned([PIN]):
            await contents.put(*PIN, CODE)

    assert held == {PIN}
    assert await sweep == 1
    assert await bench.blobs.list() == set()


@in_fake_time
async def test_a_content_that_two_upload_stays_pinned_until_the_second_has_stored_it() -> None:
    bench, blobs = CatalogBench(), SlowBlobs()
    contents = KeptContents(bench.fold.references, blobs)
    blobs.storing.clear()

    async def upload() -> None:
        with contents.pinned([PIN]):
            await contents.put(*PIN, CODE)

    first, second = asyncio.create_task(upload()), asyncio.create_task(upload())
    await settled()
    first.cancel()
    await settled()
    blobs.deleting.set()
    swept_while_the_second_uploads = await contents.sweep({PIN})
    blobs.storing.set()
    await second

    assert swept_while_the_second_uploads == 0
    assert await contents.get(*PIN) == CODE


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


@in_fake_time
async def test_a_content_that_is_swept_while_it_streams_in_is_asked_for_again() -> None:
    # Its digest is known only when all of it was read, so that a sweep cannot be held off before.
    bench, blobs = CatalogBench(), SlowBlobs()
    contents = KeptContents(bench.fold.references, blobs)
    await blobs.put(ACCOUNT, CODE)
    sweep = asyncio.create_task(contents.sweep({PIN}))
    await settled()

    upload = asyncio.create_task(contents.put_stream(ACCOUNT, _pieces(CODE)))
    await settled()
    waits = not upload.done()
    blobs.deleting.set()
    (refused,) = await asyncio.gather(upload, return_exceptions=True)

    assert waits
    assert isinstance(refused, Unavailable)
    assert (refused.retry_after_s, await sweep) == (1, 1)
    assert await contents.put_stream(ACCOUNT, _pieces(CODE)) == (PIN[1], len(CODE))


@in_fake_time
async def test_an_object_is_kept_between_its_upload_and_its_event() -> None:
    bench = CatalogBench()
    bench.log.held = asyncio.Event()
    put = asyncio.create_task(bench.put_object("lib", b"stored"))
    await settled()

    removed = await bench.catalog.sweep(await bench.blobs.list())
    bench.log.held.set()
    stored = await put

    assert removed == 0
    assert await bench.catalog.content(ACCOUNT, stored.digest) == b"stored"


async def test_an_object_whose_upload_breaks_off_is_not_stored() -> None:
    bench = CatalogBench()

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await bench.catalog.objects.put(ACCOUNT, "lib", broken())

    assert bench.catalog.objects.find(ACCOUNT, "lib") is None
    assert await bench.blobs.list() == set()
