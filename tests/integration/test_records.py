"""Record keeping on a real store: recorder, ledger, feeder, view and sweeper together, through restarts."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as struct_with

from stoker.app.record_keeping import RecordKeeping
from stoker.catalog.tenants import Tenants
from stoker.model.call import Call, CallIds, text_of
from stoker.model.errors import NoCapacity, NotFound, StokerError
from stoker.model.limits import KIB, Limits
from stoker.model.outcome import Outcome
from stoker.model.record import Accepted, Claim, Keeping, KeyHolder, Record, Work, created_ms_of
from stoker.records.formats import record_of
from stoker.records.view import Filter, View
from stoker.testing.functions import a_function
from stoker.testing.invocation import a_failure, an_outcome
from tests.integration.conftest import OpenStore, Store

ACCOUNT = "default"
SUBJECT = a_function().subject
ALL = Filter()
WEEK = Keeping(7 * 86_400_000, store_payload=True)
GUARD_S = 30.0
"""Against a hang; what is waited for is an event, not a time."""


class Keeper:
    """Record keeping on one store; `ahead_ms` is how far its clock is ahead of the wall's."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self.ahead_ms = 0
        self.store = store
        self.keeping = RecordKeeping(
            store.jetstream, store.guard, store.data, limits, Tenants(), now_ms=self.now_ms
        )
        self.found: list[str] = []
        self.keeping.on_found = lambda accepted: self.found.append(accepted.record.invocation_id)
        self._ids = CallIds()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def end(self, outcome: Outcome, *, payload: bytes = b"{}", **monitor_config: Any) -> str:
        """Let a plain call end."""
        function = replace(a_function(), account=ACCOUNT, monitor_config=monitor_config)
        call_id = self._ids.next()
        self.keeping.recorder.ended(
            Call(
                call_id,
                function,
                payload,
                queued_at=0.0,
                ended=lambda call, outcome: None,
                created_ms=created_ms_of(call_id),
            ),
            outcome,
        )
        return text_of(call_id)

    async def accept(self, payload: str = "{}", **how: Any) -> Accepted:
        """Accept an Async invocation."""
        found = await self.ask(payload, **how)
        assert isinstance(found, Accepted)
        return found

    async def ask(
        self, payload: str = "{}", *, claim: Claim | None = None, kind: str = "Async", **how: Any
    ) -> Accepted | KeyHolder:
        call_id = self._ids.next()
        record = Record(
            invocation_id=text_of(call_id),
            function=SUBJECT,
            version=1,
            invocation_type=kind,
            status="queued",
            created_ms=created_ms_of(call_id),
        )
        topic, service = SUBJECT.split(".")[2], SUBJECT.split(".")[4]
        work = Work(topic=topic, service=service, payload=payload, key=None if claim is None else "k")
        return await self.keeping.store.accept(ACCOUNT, record, work, claim, **how)

    async def finish(
        self, accepted: Accepted, *, keeping: Keeping = WEEK, dead: bool = False, **changes: Any
    ) -> str:
        """Store the end of one, with the payload it was accepted with."""
        loaded = await self.keeping.store.with_payload(accepted)
        record = accepted.record
        kept = {"payload": loaded.work.payload} if keeping.store_payload else {}
        ended = struct_with(record, **{"status": "ok", "ended_ms": self.now_ms()} | kept | changes)
        dead_until_ms = self.now_ms() + 60_000 if dead else None
        await self.keeping.store.end(accepted, ended, keeping, dead_until_ms=dead_until_ms)
        return record.invocation_id

    async def searched(self) -> None:
        await self.keeping.recorder.flush()
        assert await self.keeping.feeder.caught_up()

    async def find(self, invocation_id: str) -> Record:
        return await self.keeping.records.find(ACCOUNT, invocation_id)

    async def listed(self, wanted: Filter = ALL) -> list[str]:
        page = await self.keeping.records.page(ACCOUNT, wanted, limit=10_000)
        return [record_of(row).invocation_id for row in page.records]

    async def is_gone(self, invocation_id: str) -> bool:
        try:
            await self.find(invocation_id)
        except NotFound:
            return True
        return False


Open = Callable[..., Awaitable[Keeper]]


@pytest.fixture
async def open_keeper(open_store: OpenStore) -> AsyncIterator[Open]:
    """Return a function that opens record keeping on a store; what it opened is closed after the test."""
    opened: list[Keeper] = []

    async def opening(store: Store | None = None, limits: Limits | None = None) -> Keeper:
        keeper = Keeper(store or await open_store(), limits or Limits())
        opened.append(keeper)
        await keeper.keeping.open()
        return keeper

    yield opening
    for keeper in opened:
        await keeper.keeping.close()


async def happens(check: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return once it is true; the test fails if it never is."""
    async with asyncio.timeout(GUARD_S):
        while True:
            found = check()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


def files_with(data: Path, text: bytes) -> list[str]:
    """Return the files below a folder that hold a text."""
    found = []
    for folder, _, names in os.walk(data):
        for name in names:
            path = Path(folder, name)
            try:
                if text in path.read_bytes():
                    found.append(str(path.relative_to(data)))
            except OSError:
                continue  # it went meanwhile
    return found


# -- from an end to a look-up ----------------------------------------------------------------------------


async def test_a_record_is_the_same_before_it_is_stored_while_it_is_and_after_a_restart(
    open_keeper: Open, open_store: OpenStore
) -> None:
    keeper = await open_keeper()
    outcome = replace(an_outcome(b'"result"', log="grüß\n".encode()), memory_bytes=4096)
    ok = keeper.end(outcome, payload=b'{"a":"\xc3\xbc"}', store_payload=True)
    bad = keeper.end(a_failure("function.timeout"), ttl=60_000)

    seen = [[await keeper.find(one) for one in (ok, bad)]]
    await keeper.keeping.recorder.flush()
    seen.append([await keeper.find(one) for one in (ok, bad)])
    await keeper.searched()
    seen.append([await keeper.find(one) for one in (ok, bad)])
    await keeper.keeping.close()
    await keeper.store.close()
    again = await open_keeper(await open_store(keeper.store.data))
    seen.append([await again.find(one) for one in (ok, bad)])

    assert seen == [seen[0]] * 4
    assert (seen[0][0].payload, seen[0][0].result, seen[0][0].log) == ('{"a":"ü"}', '"result"', "grüß\n")
    assert (seen[0][1].status, seen[0][1].payload) == ("timeout", None)
    assert sorted(await again.listed()) == sorted([ok, bad])


@pytest.mark.parametrize("size", [255 * KIB, 257 * KIB, 1024 * KIB, 6 * 1024 * KIB])
async def test_bodies_of_any_size_are_found_byte_for_byte(open_keeper: Open, size: int) -> None:
    keeper = await open_keeper()
    text = '"' + ("aü😀\\n" * size)[: size // 2] + '"'
    plain = keeper.end(an_outcome(text.encode()), payload=text.encode(), store_payload=True)
    accepted = await keeper.finish(await keeper.accept(text), result=text)

    before = [await keeper.find(one) for one in (plain, accepted)]
    await keeper.searched()
    after = [await keeper.find(one) for one in (plain, accepted)]

    assert after == before
    assert all((record.payload, record.result) == (text, text) for record in after)


# -- restarts --------------------------------------------------------------------------------------------


async def test_what_was_accepted_and_did_not_end_is_taken_up_by_the_next_server_and_nothing_else(
    open_keeper: Open, open_store: OpenStore
) -> None:
    keeper = await open_keeper()
    small, large = await keeper.accept('{"n":1}'), await keeper.accept('"' + "x" * 600 * KIB + '"')
    tried = await keeper.accept('{"n":2}')
    waits = await keeper.keeping.store.wait_again(tried, tried.record, struct_with(tried.work, due_ms=7))
    await keeper.finish(await keeper.accept())
    for _ in range(300):
        keeper.end(an_outcome(b"1"))
    await keeper.keeping.close()
    await keeper.store.close()

    again = await open_keeper(await open_store(keeper.store.data))
    of_this_server = await again.accept()
    pending = await again.keeping.pending()

    assert [one.record.invocation_id for one in pending] == [
        one.record.invocation_id for one in (small, large, waits)
    ]
    assert pending[2].work.due_ms == 7
    loaded = await again.keeping.store.load(ACCOUNT, pending[1].sequence)
    assert loaded is not None
    assert loaded.work.payload == '"' + "x" * 600 * KIB + '"'
    assert of_this_server.record.invocation_id not in [one.record.invocation_id for one in pending]
    assert again.found == []


async def test_a_view_that_was_deleted_is_built_anew_and_ids_are_found_meanwhile(
    open_keeper: Open, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = await open_keeper()
    plain = [keeper.end(an_outcome(b"1"), store_payload=True, payload=b"%d" % n) for n in range(500)]
    ended = await keeper.finish(await keeper.accept('"e"'))
    queued = (await keeper.accept('"q"')).record.invocation_id
    await keeper.searched()
    listed = await keeper.listed()
    await keeper.keeping.close()
    await keeper.store.close()
    for file in keeper.store.data.glob("view.sqlite3*"):
        file.unlink()
    may_go_on = asyncio.Event()
    monkeypatch.setattr("stoker.app.record_keeping.VIEW_WAIT_S", 0.01)
    hold_ingest(monkeypatch, may_go_on)

    again = await open_keeper(await open_store(keeper.store.data))
    found = [await again.find(one) for one in (plain[0], plain[250], plain[499], ended, queued)]
    with pytest.raises(NotFound):
        await again.find("0190163d-8694-739b-aea5-966c26f8ad91")
    with pytest.raises(NoCapacity) as waits:
        await again.listed()
    may_go_on.set()
    await again.keeping.feeder.ready.wait()

    assert [record.payload for record in found[:4]] == ["0", "250", "499", '"e"']
    assert found[4].status == "queued"
    assert "0 of" in waits.value.message
    assert await again.listed() == listed


def hold_ingest(monkeypatch: pytest.MonkeyPatch, may_go_on: asyncio.Event) -> None:
    ingest = View.ingest

    async def held(self: View, messages: Any) -> None:
        await may_go_on.wait()
        await ingest(self, messages)

    monkeypatch.setattr(View, "ingest", held)


async def test_a_view_that_is_damaged_while_it_is_used_is_built_anew(open_keeper: Open) -> None:
    keeper = await open_keeper()
    before = [keeper.end(an_outcome(b"1")) for _ in range(3)]
    await keeper.searched()
    file = keeper.store.data / "view.sqlite3"
    file.write_bytes(os.urandom(file.stat().st_size))

    after = [keeper.end(an_outcome(b"1")) for _ in range(3)]
    await keeper.keeping.recorder.flush()

    async def all_listed() -> bool:
        try:
            return sorted(await keeper.listed()) == sorted(before + after)
        except StokerError:
            return False

    await happens(all_listed)


async def test_damage_that_only_a_search_meets_is_mended_too(
    open_keeper: Open, open_store: OpenStore
) -> None:
    keeper = await open_keeper()
    ids = [keeper.end(an_outcome(b"1")) for _ in range(1_500)]
    await keeper.searched()
    await keeper.keeping.close()
    await keeper.store.close()
    file = keeper.store.data / "view.sqlite3"
    whole = file.read_bytes()
    file.write_bytes(whole[: 64 * KIB] + bytes(len(whole) - 64 * KIB))

    again = await open_keeper(await open_store(keeper.store.data))

    async def all_listed() -> bool:
        try:
            return sorted(await again.listed()) == sorted(ids)
        except NoCapacity:
            return False

    await happens(all_listed)
    assert (await again.find(ids[0])).invocation_id == ids[0]


async def test_what_was_accepted_is_found_though_the_view_has_lost_it_which_is_then_made_anew(
    open_keeper: Open, open_store: OpenStore
) -> None:
    keeper = await open_keeper()
    ended = await keeper.finish(await keeper.accept())
    await keeper.searched()
    await keeper.keeping.close()
    await keeper.store.close()
    with closing(sqlite3.connect(keeper.store.data / "view.sqlite3")) as view, view:
        view.execute("DELETE FROM records")
        view.execute("DELETE FROM messages")

    again = await open_keeper(await open_store(keeper.store.data))
    lost = await again.listed()
    found = await again.find(ended)

    assert (lost, found.invocation_id) == ([], ended)

    async def listed() -> bool:
        try:
            return await again.listed() == [ended]
        except NoCapacity:
            return False

    await happens(listed)


# -- a store that dies -------------------------------------------------------------------------------------


async def test_through_the_death_of_the_store_every_record_comes_once(open_keeper: Open) -> None:
    keeper = await open_keeper()
    ids = []
    for round_number in range(3):
        ids += [keeper.end(an_outcome(b"1")) for _ in range(50)]
        accepting = [asyncio.ensure_future(keeper.accept()) for _ in range(20)]
        if round_number < 2:
            await keeper.store.kill_server()
        ids += [one.record.invocation_id for one in await asyncio.gather(*accepting)]
    await keeper.searched()

    listed = await keeper.listed()

    assert sorted(listed) == sorted(ids)


# -- what has to go ----------------------------------------------------------------------------------------


async def test_what_has_expired_is_gone_from_look_ups_from_lists_and_from_the_disk(open_keeper: Open) -> None:
    keeper = await open_keeper()
    brief = Keeping(5_000, store_payload=True)
    mark = b"a-mark-that-is-nowhere-else"
    large = '"' + mark.decode() * 20_000 + '"'
    kept = keeper.end(an_outcome(b'"kept-on-the-disk"'), store_payload=True)
    ids = [
        keeper.end(an_outcome(b"1", log=mark), ttl=5_000),
        keeper.end(an_outcome(b'"%b"' % mark), ttl=5_000, store_payload=True),
        keeper.end(an_outcome(large.encode()), payload=large.encode(), ttl=5_000, store_payload=True),
        await keeper.finish(await keeper.accept(f'"{mark.decode()}"'), keeping=brief),
        await keeper.finish(await keeper.accept(large), keeping=brief, result=large),
    ]
    await keeper.searched()
    assert files_with(keeper.store.data, mark)
    assert len(await keeper.listed()) == 6

    keeper.ahead_ms = 20_000

    assert [await keeper.is_gone(one) for one in ids] == [True] * 5
    assert await keeper.listed() == [kept]
    await happens(lambda: not files_with(keeper.store.data, mark))
    assert (await keeper.find(kept)).result == '"kept-on-the-disk"'
    assert files_with(keeper.store.data, b"kept-on-the-disk")


async def test_what_was_replaced_leaves_the_disk_while_the_record_stays(open_keeper: Open) -> None:
    keeper = await open_keeper()
    accepted = await keeper.accept('"only-until-the-end"')
    lean = Keeping(60_000, store_payload=False)

    ended = await keeper.finish(accepted, keeping=lean)

    await happens(lambda: not files_with(keeper.store.data, b"only-until-the-end"))
    assert (await keeper.find(ended)).status == "ok"


async def test_a_dead_letter_keeps_its_payload_until_it_is_redriven_or_deleted(open_keeper: Open) -> None:
    keeper = await open_keeper()
    store = keeper.keeping.store
    none = Keeping(0, store_payload=False)
    topic, service = SUBJECT.split(".")[2], SUBJECT.split(".")[4]
    large = '"' + "large-letter" * 50_000 + '"'
    first = await keeper.finish(await keeper.accept(large), keeping=none, dead=True, status="error")
    second = await keeper.finish(
        await keeper.accept('"small-letter"'), keeping=none, dead=True, status="error"
    )
    await keeper.searched()
    await happens(lambda: keeper.is_gone(first))

    letter = await store.dead_letter(ACCOUNT, topic, service, first)
    again = await keeper.accept(letter.payload or "", redriven=first)
    await store.drop_dead_letter(ACCOUNT, topic, service, second)

    assert letter.payload == large
    with pytest.raises(NotFound):
        await keeper.accept(large, redriven=first)
    assert await keeper.keeping.records.dead_letters(ACCOUNT, topic, service) == []
    await keeper.finish(again, keeping=none)
    await keeper.searched()
    keeper.ahead_ms = 120_000  # pieces that nothing needs are let go a minute later
    await happens(lambda: not files_with(keeper.store.data, b"small-letter"))
    await happens(lambda: not files_with(keeper.store.data, b"large-letter"))


async def test_the_records_of_an_account_are_bounded_and_the_oldest_go_first(open_keeper: Open) -> None:
    limits = Limits(
        record_bytes_max=2_000_000, payload_bytes_max=500_000, result_bytes_max=500_000, log_bytes_max=500_000
    )
    keeper = await open_keeper(limits=limits)
    ids = []
    for _ in range(12):
        ids.append(keeper.end(an_outcome(b'"%b"' % (b"x" * 290 * KIB)), store_payload=True))
        await keeper.keeping.recorder.flush()
    await keeper.searched()

    async def fits() -> bool:
        return await keeper.keeping.view.bytes_of(ACCOUNT) <= limits.record_bytes_max

    await happens(fits)
    gone = [await keeper.is_gone(one) for one in ids]

    assert gone == sorted(gone, reverse=True)
    assert any(gone)
    assert not gone[-1]
    assert sorted(await keeper.listed()) == sorted(
        one for one, is_gone in zip(ids, gone, strict=True) if not is_gone
    )


# -- keys --------------------------------------------------------------------------------------------------


async def test_a_key_is_claimed_once_and_holds_its_answer_through_a_restart(
    open_keeper: Open, open_store: OpenStore
) -> None:
    keeper = await open_keeper()
    claim = Claim("digest", keeper.now_ms() + 60_000)
    answers = await asyncio.gather(*(keeper.ask(claim=claim, kind="RequestResponse") for _ in range(20)))
    (first,) = [one for one in answers if isinstance(one, Accepted)]
    holders = {one.invocation_id for one in answers if isinstance(one, KeyHolder)}
    result = '"' + "r" * 700 * KIB + '"'
    ended = struct_with(first.record, status="ok", ended_ms=keeper.now_ms())
    await keeper.keeping.store.end(first, ended, Keeping(0, store_payload=False), answer=result)
    await keeper.keeping.close()
    await keeper.store.close()

    again = await open_keeper(await open_store(keeper.store.data))
    held = await again.ask(claim=claim, kind="RequestResponse")

    assert holders == {first.record.invocation_id}
    assert isinstance(held, KeyHolder)
    assert (held.invocation_id, held.ended, held.result) == (first.record.invocation_id, True, result)
    again.ahead_ms = 120_000
    assert isinstance(await again.ask(claim=Claim("other", again.now_ms() + 60_000)), Accepted)
