"""Backup and restore on a real store: all of it, as it was at one moment, in a store that is another one."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from stoker.app.backup import format
from stoker.app.backup.format import BackupDamaged, Encoder, Head, Part
from stoker.app.backup.restoring import RestoreRefused, check, require_empty, restore
from stoker.app.backup.saving import save_offline, writing
from stoker.app.backup.store import PrivateStore, private_store
from stoker.app.backup.taking import STRETCH_MESSAGES, stretches, take
from stoker.backbone.event_log import Event
from stoker.backbone.ledger import Write
from stoker.catalog import events
from stoker.model.errors import StokerError

ACCOUNT = "default"
CALL = "accounts.default.invocation.call."
LARGE = bytes(range(256)) * 5_000
"""Three chunks."""


@pytest.fixture
def data(tmp_path: Path, nats_server_program: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.stoker"


async def store_object(store: PrivateStore, key: str, content: bytes) -> str:
    """Store a content and the event that refers to it."""
    digest = await store.blobs.put(ACCOUNT, content)
    data = events.encode("created", 1, digest=digest, size_bytes=len(content))
    await store.log.append(str(events.object_key(ACCOUNT, key)), data, expected=None)
    return digest


async def fill(store: PrivateStore) -> None:
    await store_object(store, "small", b"small")
    await store_object(store, "large", LARGE)
    await store.blobs.put(ACCOUNT, b"nothing refers to it")
    for number in range(3):
        await store.invocations.write([Write(f"{CALL}{number}", b"queued")])
    await store.invocations.write([Write(f"{CALL}0", b"ended"), Write(f"{CALL}dead", b"letter")])
    await store.invocations.erase([1])


async def all_of(store: PrivateStore) -> tuple[list[Event], list[Event]]:
    found: tuple[list[Event], list[Event]] = ([], [])
    await store.log.replay(found[0].append)
    await store.invocations.read(found[1].append, after=0)
    return found


async def back_up(data: Path, file: Path) -> None:
    with writing(file) as new:
        assert await save_offline(data, new.write)
        new.check()
        new.put()


def write(file: Path, text: bytes) -> None:
    file.write_bytes(text)


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_a_restored_store_has_all_of_it_and_is_another(data: Path, file: Path) -> None:
    async with private_store(data) as store:
        await fill(store)
        before = await all_of(store)
        store_id = store.guard.store_id
    await back_up(data, file)

    restored = await restore(file, data.with_name("other"), None)

    async with private_store(data.with_name("other")) as other:
        after = await all_of(other)
        contents = {digest: await other.blobs.get(*digest) for digest in await other.blobs.list()}
        assert other.guard.store_id != store_id
        assert other.guard.mark.sequence == 2
        assert (data.with_name("other") / "invocations.mark").exists()
    assert [(e.sequence, e.subject, e.data) for e in after[0]] == [
        (e.sequence, e.subject, e.data) for e in before[0]
    ]
    assert [(e.subject, e.data) for e in after[1]] == [(e.subject, e.data) for e in before[1]]
    assert set(contents.values()) == {b"small", LARGE}
    assert (restored.manifest.events, restored.manifest.messages, restored.manifest.contents) == (2, 4, 2)
    assert restored.head.store == store_id
    assert files_in(data.parent) == {"data", "other", "a.stoker"}


async def test_what_was_erased_keeps_its_place_in_a_restored_store(data: Path, file: Path) -> None:
    async with private_store(data) as store:
        for key in ("a", "b", "c"):
            await store_object(store, key, b"content")
        events_of_one = str(events.object_key(ACCOUNT, "b"))
        note = str(events.erased_key(ACCOUNT))
        await store.log.erase(events_of_one, note, until=3, on_event=lambda _event: None)
        before, _ = await all_of(store)
    await back_up(data, file)

    restored = await restore(file, data.with_name("other"), None)

    async with private_store(data.with_name("other")) as other:
        after, _ = await all_of(other)
    assert restored.manifest.events == 4
    assert [(e.sequence, e.subject, e.data) for e in after] == [
        (e.sequence, e.subject, e.data) for e in before
    ]
    assert events_of_one not in {event.subject for event in after}


async def test_an_empty_store_can_be_saved_and_restored(data: Path, file: Path) -> None:
    async with private_store(data):
        pass
    await back_up(data, file)
    data.with_name("other").mkdir()

    await restore(file, data.with_name("other"), None)

    async with private_store(data.with_name("other")) as other:
        assert await all_of(other) == ([], [])


async def test_a_long_stream_with_gaps_comes_whole(data: Path) -> None:
    async with private_store(data) as store:
        count = STRETCH_MESSAGES * 3
        for start in range(0, count, 500):
            await store.invocations.write([Write(f"{CALL}{start + n}", b"x") for n in range(500)])
        gap = range(2, STRETCH_MESSAGES * 2 + 10)
        await store.invocations.erase(gap)

        found = [e async for s in stretches(store.invocations, count - 5) for e in s]

        assert [e.sequence for e in found] == [n for n in range(1, count - 4) if n not in gap]


async def test_stretches_hold_few_bytes_at_a_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.app.backup.taking.HELD_BYTES_MAX", 1_000)
    async with private_store(data) as store:
        await store.invocations.write([Write(f"{CALL}{n}", bytes(400)) for n in range(20)])
        await store.invocations.write([Write(f"{CALL}big", bytes(5_000))])

        found = [[e.sequence for e in s] async for s in stretches(store.invocations, 21)]

    assert [n for stretch in found for n in stretch] == list(range(1, 22))
    assert max(map(len, found)) == 2


async def test_what_comes_after_it_began_is_not_in_it(data: Path) -> None:
    async with private_store(data) as store:
        await fill(store)
        pieces = take(store.source(), 1)
        text = await anext(pieces) + await anext(pieces)  # its part of invocations is begun
        async for piece in pieces:
            text += piece
            if b"ended" in piece:
                await store.invocations.write([Write(f"{CALL}later", b"later")])
                await store_object(store, "later", b"of the catalog, which is read after")

    assert b"call.later" not in text
    assert b"of the catalog, which is read after" in text


async def test_a_directory_that_is_in_use_or_has_a_store_is_left_as_it_is(data: Path, file: Path) -> None:
    async with private_store(data) as store:
        await fill(store)
        assert not await save_offline(data, lambda _piece: None)
    await back_up(data, file)
    marked = (data / "store.json").read_bytes()

    with pytest.raises(RestoreRefused, match="has a store already") as refused:
        await restore(file, data, None)

    assert refused.value.hint is not None
    assert f"mv {data} " in refused.value.hint
    assert (data / "store.json").read_bytes() == marked
    other = data.with_name("other")
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(RestoreRefused, match="is not empty"):
        require_empty(other)


async def test_a_restore_that_fails_leaves_nothing(data: Path, file: Path) -> None:
    encoder = Encoder()
    write(
        file,
        encoder.head(Head("1", "0", 1))
        + encoder.part(Part(format.CONTENT, ACCOUNT, sha256(b"one").hexdigest()))
        + encoder.piece(b"another")
        + encoder.part_end()
        + encoder.end(format.Manifest(0, 0, 1, 7, {})),
    )
    check(file)  # well made, by somebody who did not mean it

    with pytest.raises(BackupDamaged, match="another digest"):
        await restore(file, data, None)

    assert files_in(data.parent) == {"a.stoker"}


async def test_a_backup_that_lacks_a_content_is_not_put_in_place(data: Path, file: Path) -> None:
    async with private_store(data) as store:
        await fill(store)
        encoder = Encoder()
        text = encoder.head(Head("1", "0", 1)) + encoder.part(Part(format.CATALOG))
        found, _ = await all_of(store)
        text += b"".join(encoder.piece(format.message(e.subject, e.data)) for e in found)
        text += encoder.part_end() + encoder.end(format.Manifest(2, 0, 0, 0, {}))
    write(file, text)

    with pytest.raises(StokerError, match="lacks 2 of 2 blobs"):
        await restore(file, data.with_name("other"), None)

    assert files_in(data.parent) == {"a.stoker", "data"}


async def test_what_another_restore_left_is_not_touched(data: Path, file: Path) -> None:
    async with private_store(data):
        pass
    await back_up(data, file)
    data.with_name("other.restoring").mkdir()

    with pytest.raises(RestoreRefused, match="another restore is at work, or was cut short"):
        await restore(file, data.with_name("other"), None)

    assert data.with_name("other.restoring").exists()


async def test_a_store_that_is_damaged_gives_no_backup(data: Path, file: Path) -> None:
    async with private_store(data) as store:
        await fill(store)
    streams = data / "nats" / "jetstream" / "$G" / "streams"
    block = next(path for path in (streams / "BLOBS" / "msgs").glob("*.blk"))
    content = bytearray(block.read_bytes())
    content[content.index(LARGE[:256]) + 10] ^= 1
    block.write_bytes(content)

    with pytest.raises(StokerError):
        await back_up(data, file)

    assert files_in(data.parent) == {"data"}


def test_a_file_that_was_not_put_in_place_is_gone_and_the_one_before_stays(tmp_path: Path) -> None:
    file = tmp_path / "a.stoker"
    file.write_bytes(b"the one of yesterday")

    with writing(file) as new:
        new.write(b"cut")
        with pytest.raises(BackupDamaged, match="no backup"):
            new.check()

    assert file.read_bytes() == b"the one of yesterday"
    assert files_in(tmp_path) == {"a.stoker"}
