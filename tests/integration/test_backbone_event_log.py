"""The event log on a real server: its rules, its speed under kills, and what it does on a full disk."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stoker.backbone.connection import Message
from stoker.backbone.erasure import Erasure
from stoker.backbone.errors import StoreDamaged
from stoker.backbone.event_log import DIGEST, EXPECTED, Event, digest_of
from stoker.backbone.jetstream import JetStream, Stored
from stoker.backbone.vacancies import Vacancies, note_of
from stoker.model.errors import StorageFull, Unavailable, VersionConflict
from stoker.testing.backbone_rules import EVENT_LOG_RULES, Log

from .conftest import OpenStore, Store


@pytest.mark.parametrize("rule", EVENT_LOG_RULES, ids=lambda rule: rule.__name__)
async def test_the_event_log_keeps_the_rule(rule: Callable[[Log], Awaitable[None]], store: Store) -> None:
    await rule(store.log)


async def test_what_was_acknowledged_is_there_for_the_next_server(open_store: OpenStore) -> None:
    store = await open_store()
    for number in range(20):
        await store.log.append(f"accounts.a.catalog.{number}", b"%d" % number, expected=0)
    before = await store.events()
    await store.close()

    store = await open_store()

    assert await store.events() == before
    assert len(before) == 20


async def test_kills_under_two_hundred_appends_lose_nothing_acknowledged_and_double_nothing(
    store: Store,
) -> None:
    acknowledged: dict[int, str] = {}
    told: asyncio.Queue[None] = asyncio.Queue()

    async def append(number: int) -> None:
        subject = f"accounts.a.catalog.{number}"
        # A caller that is told to come again comes again, with the same precondition.
        while True:
            try:
                acknowledged[await store.log.append(subject, b"x" * 500, expected=0)] = subject
                told.put_nowait(None)
                return
            except Unavailable:
                continue
            except VersionConflict:
                return  # stored by the attempt before, of which it was not known

    appends = [asyncio.create_task(append(number)) for number in range(200)]
    for _ in range(3):
        for _ in range(30):
            await told.get()
        await store.kill_server()
    await asyncio.gather(*appends)

    stored = {event.sequence: event.subject for event in await store.events()}
    assert acknowledged.items() <= stored.items()
    assert len(stored) == len(set(stored.values())) == 200


async def test_kills_under_batches_leave_each_whole_or_not_there(store: Store) -> None:
    told: asyncio.Queue[None] = asyncio.Queue()

    async def append(number: int) -> None:
        events = [(f"accounts.a.catalog.{number}.{part}", b"x", 0) for part in range(5)]
        while True:
            try:
                await store.log.append_batch(events)
                told.put_nowait(None)
                return
            except Unavailable:
                continue
            except VersionConflict:
                return

    appends = [asyncio.create_task(append(number)) for number in range(40)]
    for _ in range(2):
        for _ in range(8):
            await told.get()
        await store.kill_server()
    await asyncio.gather(*appends)

    subjects = [event.subject for event in await store.events()]
    assert len(subjects) == len(set(subjects)) == 200
    starts = subjects[::5]
    assert all(
        subjects[5 * place + part] == f"{start[:-2]}.{part}"
        for place, start in enumerate(starts)
        for part in range(5)
    )


async def test_a_replay_goes_on_after_its_server_was_killed(store: Store) -> None:
    for part in range(3):
        await store.log.append_batch(
            [(f"accounts.a.catalog.{part}.{number}", b"x" * 2000, 0) for number in range(900)]
        )
    seen: list[int] = []

    def fold(event: Event) -> None:
        seen.append(event.sequence)
        if event.sequence == 100:
            store.signal_server(signal.SIGKILL)

    last = await store.log.replay(fold)

    assert last == 2700
    assert seen == list(range(1, 2701))


@pytest.mark.parametrize("headers", [{}, {DIGEST: digest_of("accounts.a.catalog.x", b"what was appended")}])
async def test_an_event_that_is_not_what_was_appended_is_refused(
    store: Store, headers: dict[str, str]
) -> None:
    # nats-server has checksums of its own; ours holds also against what it itself stores or gives wrong.
    await store.log.append("accounts.a.catalog.w", b"good", expected=0)
    await store.jetstream.publish(Message("accounts.a.catalog.x", b"what is there", headers))
    seen: list[bytes] = []

    with pytest.raises(StoreDamaged, match="event 2 of 2"):
        await store.log.replay(lambda event: seen.append(event.data))

    assert seen == [b"good"]


async def test_a_conflict_names_no_internals(store: Store) -> None:
    await store.log.append("accounts.a.catalog.x", b"1", expected=0)

    with pytest.raises(VersionConflict) as refused:
        await store.log.append("accounts.a.catalog.x", b"2", expected=7)

    assert EXPECTED not in refused.value.message
    assert "nats" not in refused.value.message.lower()


async def test_a_nearly_full_disk_takes_nothing_new_and_still_gives_what_it_has(store: Store) -> None:
    await store.log.append("accounts.a.catalog.x", b"1", expected=0)
    full = JetStream(store.connection, disk_reserve_bytes=1 << 60)
    store.log._jetstream = full

    with pytest.raises(StorageFull):
        await store.log.append("accounts.a.catalog.y", b"2", expected=0)

    assert full.unhealthy_reason == "the disk is full"
    assert [event.data for event in await store.events()] == [b"1"]


NOTE = "accounts.gone.catalog.erased.self"


async def fill_two_accounts(store: Store) -> None:
    for number in range(4):
        await store.log.append(f"accounts.gone.catalog.{number}", b"belongs to gone", expected=None)
        await store.log.append(f"accounts.stays.catalog.{number}", b"stays", expected=None)
    await store.log.append("accounts.gone.catalog.account", b"deleted", expected=None)


async def erase(store: Store) -> list[Event]:
    noted: list[Event] = []
    await store.log.erase("accounts.gone.catalog.>", NOTE, until=8, on_event=noted.append)
    return noted


async def test_what_was_erased_is_off_the_disk_and_the_next_server_finds_the_log_whole(
    open_store: OpenStore,
) -> None:
    store = await open_store()
    await fill_two_accounts(store)
    assert files_with(store.data, b"belongs to gone")

    (note,) = await erase(store)

    assert not files_with(store.data, b"belongs to gone")
    before = await store.events()
    assert [event.sequence for event in before] == list(range(1, 11))
    assert [event.data for event in before] == [b"", b"stays"] * 4 + [b"deleted", note.data]
    await store.close()
    store = await open_store()
    assert [(e.sequence, e.subject, e.data) for e in await store.events()] == [
        (e.sequence, e.subject, e.data) for e in before
    ]
    assert await store.log.append("accounts.stays.catalog.9", b"on", expected=0) == 11


async def test_an_empty_place_that_no_note_names_is_damage_also_beside_those_that_one_names(
    open_store: OpenStore,
) -> None:
    store = await open_store()
    await fill_two_accounts(store)
    await erase(store)
    await store.jetstream.api("STREAM.MSG.DELETE.CATALOG", {"seq": 4})
    await store.close()
    store = await open_store()

    with pytest.raises(StoreDamaged, match="lacks event 4 of 10"):
        await store.events()


async def test_a_note_that_was_changed_excuses_nothing(open_store: OpenStore) -> None:
    store = await open_store()
    await fill_two_accounts(store)
    note = Message(NOTE, note_of([2, 4]), {DIGEST: digest_of(NOTE, note_of([4]))})
    await store.jetstream.publish(note)
    await store.jetstream.api("STREAM.MSG.DELETE.CATALOG", {"seq": 2})
    await store.close()
    store = await open_store()

    with pytest.raises(StoreDamaged, match="lacks event 2 of 10"):
        await store.events()


async def test_what_another_gateway_erases_while_the_log_is_read_is_no_damage(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    await fill_two_accounts(store)
    await erase(store)
    await store.close()
    store = await open_store()
    learn, times = Vacancies.learn, 0

    async def learn_late(self: Vacancies, is_good: Callable[[Stored], bool]) -> bool:
        nonlocal times
        times += 1  # the first time the other gateway has not stored its note yet
        return times > 1 and await learn(self, is_good)

    monkeypatch.setattr(Vacancies, "learn", learn_late)

    found = await store.events()

    assert times > 1
    assert [event.sequence for event in found] == list(range(1, 11))


async def test_an_erasure_that_was_cut_short_leaves_a_whole_log_and_is_finished_later(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    await fill_two_accounts(store)
    remove = Erasure._remove
    removed: list[int] = []

    async def remove_two(self: Erasure, sequence: int, *, keep_bytes: bool) -> None:
        if len(removed) == 2:
            raise Unavailable("cut short")
        removed.append(sequence)
        await remove(self, sequence, keep_bytes=keep_bytes)

    monkeypatch.setattr(Erasure, "_remove", remove_two)
    with pytest.raises(Unavailable):
        await erase(store)
    monkeypatch.undo()
    await store.close()

    store = await open_store()
    left = [event.data for event in await store.events()]
    assert removed == [7, 5]
    assert left[:9] == [b"belongs to gone", b"stays"] * 2 + [b"", b"stays"] * 2 + [b"deleted"]
    await erase(store)

    assert not files_with(store.data, b"belongs to gone")
    assert [event.data for event in await store.events()][:9] == [b"", b"stays"] * 4 + [b"deleted"]


def files_with(folder: Path, text: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]
