"""A store that was lost, cut short or changed on disk is refused at start, by the name of the file."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.backbone.errors import BackboneMissing, StoreDamaged

from .conftest import OpenStore, Store

STREAMS = Path("nats/jetstream/$G/streams")
CATALOG, BLOBS = STREAMS / "CATALOG", STREAMS / "BLOBS"
EVENTS = 40
SEED = 20261124


async def filled(open_store: OpenStore, data: Path) -> set[tuple[str, str]]:
    """Make a store with events and blobs on disk, and close it; return the blobs."""
    content = random.Random(SEED)
    store = await open_store(data)
    for number in range(EVENTS):
        await store.log.append(f"accounts.a.catalog.{number % 15}", content.randbytes(200), expected=None)
    blobs = {("a", await store.blobs.put("a", content.randbytes(600))) for _ in range(12)}
    blobs.add(("a", await store.blobs.put("a", content.randbytes(600_000))))
    await store.close()
    return blobs


async def checked(open_store: OpenStore, data: Path, blobs: set[tuple[str, str]]) -> Store:
    """Open the store as a server does when it starts."""
    store = await open_store(data)
    try:
        await store.log.replay(lambda event: None)
        rest = await store.guard.verify(store.blobs, blobs, bytes_max=1 << 30, on_damage=print)
        await rest
    except BaseException:
        await store.close()
        raise
    return store


async def refused(open_store: OpenStore, data: Path, blobs: set[tuple[str, str]]) -> str:
    """Return why the store is refused; it must be."""
    with pytest.raises(StoreDamaged) as refusal:
        await checked(open_store, data, blobs)
    assert "restore" in refusal.value.message.lower()
    assert "move the data directory aside" in refusal.value.message
    return refusal.value.message


async def test_a_store_that_was_left_alone_is_opened(open_store: OpenStore, tmp_path: Path) -> None:
    blobs = await filled(open_store, tmp_path / "data")

    store = await checked(open_store, tmp_path / "data", blobs)

    assert len(await store.events()) == EVENTS
    assert await store.blobs.list() == blobs


async def test_a_store_without_the_servers_indexes_is_opened(open_store: OpenStore, tmp_path: Path) -> None:
    # So it is after a kill -9: they are written when the server ends.
    blobs = await filled(open_store, tmp_path / "data")
    for index in (tmp_path / "data").rglob("*.db"):
        index.unlink()

    store = await checked(open_store, tmp_path / "data", blobs)

    assert len(await store.events()) == EVENTS


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("stream", [CATALOG, BLOBS], ids=lambda stream: stream.name)
async def test_a_flipped_bit_anywhere_in_a_block_is_noticed(
    open_store: OpenStore, tmp_path: Path, stream: Path, indexed: bool
) -> None:
    blobs = await filled(open_store, tmp_path / "whole")
    places = random.Random(SEED)

    for _ in range(12):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "data")
        if not indexed:
            (tmp_path / "data" / stream / "msgs" / "index.db").unlink()
        block = tmp_path / "data" / stream / "msgs" / "1.blk"
        content = bytearray(block.read_bytes())
        content[places.randrange(len(content))] ^= 1 << places.randrange(8)
        block.write_bytes(content)

        # nats-server cuts a bad block short when it finds one; then the folder is all that can be named.
        assert str(tmp_path / "data" / stream) in await refused(open_store, tmp_path / "data", blobs)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.3, 0.7, -1, -200])
@pytest.mark.parametrize("stream", [CATALOG, BLOBS], ids=lambda stream: stream.name)
async def test_a_truncated_block_is_noticed(
    open_store: OpenStore, tmp_path: Path, stream: Path, kept: float
) -> None:
    blobs = await filled(open_store, tmp_path / "data")
    block = tmp_path / "data" / stream / "msgs" / "1.blk"
    content = block.read_bytes()
    block.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])

    message = await refused(open_store, tmp_path / "data", blobs)

    assert str(tmp_path / "data" / stream) in message


REMOVALS: dict[str, Callable[[Path], object]] = {
    "store.json": lambda data: (data / "store.json").unlink(),
    "store.mark": lambda data: (data / "store.mark").unlink(),
    "nats/jetstream": lambda data: shutil.rmtree(data / "nats"),
    "$G/streams/CATALOG": lambda data: shutil.rmtree(data / CATALOG),
    "$G/streams/BLOBS": lambda data: shutil.rmtree(data / BLOBS),
    "CATALOG/msgs": lambda data: shutil.rmtree(data / CATALOG / "msgs"),
    "BLOBS/msgs": lambda data: shutil.rmtree(data / BLOBS / "msgs"),
    "streams/CATALOG": lambda data: (data / CATALOG / "msgs" / "1.blk").unlink(),
    "streams/BLOBS": lambda data: (data / BLOBS / "msgs" / "1.blk").unlink(),
    "CATALOG/meta.inf": lambda data: (data / CATALOG / "meta.inf").write_bytes(b""),
    "BLOBS/meta.inf": lambda data: (data / BLOBS / "meta.inf").write_bytes(b""),
    "CATALOG/meta.sum": lambda data: (data / CATALOG / "meta.sum").unlink(),
}


@pytest.mark.parametrize("named", REMOVALS)
async def test_what_was_removed_is_missed(open_store: OpenStore, tmp_path: Path, named: str) -> None:
    blobs = await filled(open_store, tmp_path / "data")
    REMOVALS[named](tmp_path / "data")

    message = await refused(open_store, tmp_path / "data", blobs)

    assert named in message


async def test_a_refused_store_is_refused_again(open_store: OpenStore, tmp_path: Path) -> None:
    # The first start lets nats-server repair what it can: that must not look like a whole store.
    blobs = await filled(open_store, tmp_path / "data")
    block = tmp_path / "data" / CATALOG / "msgs" / "1.blk"
    block.write_bytes(block.read_bytes()[:-300])

    for _ in range(3):
        await refused(open_store, tmp_path / "data", blobs)


async def test_the_message_counts_the_events_that_are_affected(open_store: OpenStore, tmp_path: Path) -> None:
    blobs = await filled(open_store, tmp_path / "data")
    block = tmp_path / "data" / CATALOG / "msgs" / "1.blk"
    block.write_bytes(b"")

    message = await refused(open_store, tmp_path / "data", blobs)

    assert f"({EVENTS} in all)" in message


async def test_the_store_of_another_data_directory_is_not_taken(
    open_store: OpenStore, tmp_path: Path
) -> None:
    blobs = await filled(open_store, tmp_path / "data")
    await filled(open_store, tmp_path / "other")
    shutil.rmtree(tmp_path / "data" / "nats")
    shutil.copytree(tmp_path / "other" / "nats", tmp_path / "data" / "nats")

    message = await refused(open_store, tmp_path / "data", blobs)

    assert "another store" in message


async def test_blobs_past_the_budget_are_checked_behind_and_told(store: Store) -> None:
    good = await store.blobs.put("a", b"good")
    bad = await store.blobs.put("a", b"bad" * 400_000)
    await store.jetstream.api("STREAM.PURGE.BLOBS", {"filter": f"accounts.a.blob.{bad}.1"})
    told: list[str] = []

    rest = await store.guard.verify(
        store.blobs,
        [("a", good), ("a", bad)],
        bytes_max=0,
        on_damage=lambda account, digest, what: told.append(digest),
    )
    await rest

    assert told == [bad]


async def test_a_missing_blob_is_noticed_whatever_the_budget(store: Store) -> None:
    with pytest.raises(StoreDamaged, match="lacks 1 of 1 blobs"):
        await store.guard.verify(store.blobs, [("a", "0" * 64)], bytes_max=0, on_damage=print)


async def test_a_crash_between_making_a_stream_and_noting_it_is_no_damage(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = await open_store(tmp_path / "data")
    before = (tmp_path / "data" / "store.json").read_text().replace('"CATALOG",', "")
    await store.close()
    (tmp_path / "data" / "store.json").write_text(before)

    store = await open_store(tmp_path / "data")

    assert await store.events() == []


async def test_a_server_that_cannot_start_on_the_store_leaves_the_lock_free(
    open_store: OpenStore, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "nats").write_text("no folder")

    for _ in range(2):
        with pytest.raises((BackboneMissing, OSError)):
            await open_store(tmp_path / "data")


async def test_the_mark_is_exact_after_each_append_without_waiting_for_the_disk(store: Store) -> None:
    appended = await asyncio.gather(
        *(store.log.append(f"accounts.a.catalog.{number}", b"x", expected=0) for number in range(30))
    )

    assert store.guard.mark.sequence == max(appended) == 30
