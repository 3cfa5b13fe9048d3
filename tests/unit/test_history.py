"""History: what is live and what is recorded are one, at every moment of an invocation's life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.edge.history import History
from stoker.invocation.live import Live, LiveInvocations, Stage
from stoker.model.call import Call
from stoker.model.errors import NotFound
from stoker.model.record import Accepted, Keeping, Record, id_of_text
from stoker.records.view import Filter
from stoker.testing.catalog import ACCOUNT
from stoker.testing.functions import FUNCTION
from stoker.testing.records import RecordsBench

TOOL = FUNCTION.subject
OTHER = "ms.compute.tools.function.7"
ALL = Filter()
UNKNOWN = "0190163d-8694-739b-aea5-966c26f8ad91"


class Bench(RecordsBench):
    """With what is live, as a server has it in hand."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.live = LiveInvocations()
        self.history = History(self.live, self.records)

    async def queued(self, function: str = TOOL, **how: Any) -> Live:
        """Accept one that waits."""
        return self.take(await self.accept(function, **how))

    def take(self, accepted: Accepted) -> Live:
        call_id = id_of_text(accepted.record.invocation_id)
        assert call_id is not None
        one = Live(accepted, call_id, None, queued_at=0.0, stage=Stage.READY)
        self.live.add(one)
        return one

    async def running(self, function: str = TOOL, **how: Any) -> Live:
        """Accept one that runs."""
        one = await self.queued(function, **how)
        call = Call(one.call_id, FUNCTION, b"{}", queued_at=0.0, ended=lambda call, outcome: None)
        one.call, one.stage, one.started_ms = call, Stage.BEGUN, self.now_ms()
        return one

    async def keyed(self, *, runs: bool) -> Live:
        """Accept a RequestResponse call with a key, which is stored as one that runs, whether it does or not."""
        make = self.running if runs else self.queued
        return await make(invocation_type="RequestResponse", status="running")

    async def finish(self, one: Live, **how: Any) -> Record:
        """Store its end and tell it, as the queue does."""
        one.stage = Stage.ENDING
        record = await self.end(one.accepted, **how)
        one.call = None
        self.live.ended(one, record)
        return record

    async def listed(self, *statuses: str, **wanted: Any) -> list[str]:
        """Return the ids of a list; they must be as many as are counted, however they are paged."""
        filters = Filter(statuses=statuses, **wanted)
        whole = [record async for part in self.history.all(ACCOUNT, filters) for record in part]
        ids = [record.invocation_id for record in whole]
        assert await self.history.count(ACCOUNT, filters) == len(ids)
        assert ids == sorted(ids, reverse=True)
        assert await self.paged(filters, limit=1) == ids
        assert await self.paged(filters, limit=2) == ids
        return ids

    async def paged(self, filters: Filter, *, limit: int) -> list[str]:
        ids: list[str] = []
        before = None
        while True:
            page = await self.history.page(ACCOUNT, filters, limit=limit, before=before)
            assert len(page.records) <= limit
            ids += [record.invocation_id for record in page.records]
            before = page.next
            if before is None:
                return ids


def id_of(one: Live | Record) -> str:
    return one.accepted.record.invocation_id if isinstance(one, Live) else one.invocation_id


def newest_first(*ones: Live | Record) -> list[str]:
    return sorted(map(id_of, ones), reverse=True)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    await bench.open()
    yield bench
    await bench.close()


# -- one -----------------------------------------------------------------------------------------------


async def test_an_invocation_is_found_in_every_state_and_only_in_its_account(bench: Bench) -> None:
    one = await bench.queued()
    seen = [await bench.history.find(ACCOUNT, id_of(one))]
    call = Call(one.call_id, FUNCTION, b"{}", queued_at=0.0, ended=lambda call, outcome: None)
    one.call, one.started_ms = call, bench.now_ms()
    seen.append(await bench.history.find(ACCOUNT, id_of(one)))
    await bench.finish(one)
    seen.append(await bench.history.find(ACCOUNT, id_of(one)))
    await bench.searched()
    seen.append(await bench.history.find(ACCOUNT, id_of(one)))

    assert [record.status for record in seen] == ["queued", "running", "ok", "ok"]
    assert [record.attempts for record in seen] == [0, 1, 1, 1]
    with pytest.raises(NotFound):
        await bench.history.find("other", id_of(one))
    with pytest.raises(NotFound):
        await bench.history.find(ACCOUNT, UNKNOWN)


async def test_an_expired_one_is_found_nowhere(bench: Bench) -> None:
    brief = await bench.ended(TOOL, keeping=Keeping(1000, store_payload=False))
    long = await bench.ended(TOOL, keeping=Keeping(5000, store_payload=False))

    bench.ahead_ms = 2000

    with pytest.raises(NotFound):
        await bench.history.find(ACCOUNT, id_of(brief))
    assert await bench.listed() == [id_of(long)]


# -- waiting -------------------------------------------------------------------------------------------


async def test_all_who_wait_are_told_of_the_end_as_soon_as_it_is_stored(bench: Bench) -> None:
    one = await bench.running()
    waiting = [asyncio.ensure_future(bench.history.wait(ACCOUNT, id_of(one), 60_000)) for _ in range(20)]
    await asyncio.sleep(0)

    ended = await bench.finish(one, result="1")

    assert await asyncio.gather(*waiting) == [ended] * 20


async def test_who_waits_for_one_that_goes_on_is_told_how_it_is(bench: Bench) -> None:
    one = await bench.running()

    assert (await bench.history.wait(ACCOUNT, id_of(one), 1)).status == "running"
    assert one.waiters == []


async def test_nobody_waits_for_one_that_has_ended(bench: Bench) -> None:
    ended = await bench.ended(TOOL)

    assert await bench.history.wait(ACCOUNT, id_of(ended), 60_000) == ended


async def test_who_waits_for_one_without_a_record_of_its_end_is_told_it_all_the_same(bench: Bench) -> None:
    one = await bench.running()
    waiting = asyncio.ensure_future(bench.history.wait(ACCOUNT, id_of(one), 60_000))
    await asyncio.sleep(0)

    ended = await bench.finish(one, keeping=Keeping(0, store_payload=True))

    assert await waiting == ended
    with pytest.raises(NotFound):
        await bench.history.find(ACCOUNT, id_of(one))


async def test_one_that_a_start_has_not_taken_up_yet_is_waited_for(bench: Bench) -> None:
    accepted = await bench.accept(TOOL)
    await bench.searched()
    waiting = asyncio.ensure_future(bench.history.wait(ACCOUNT, accepted.record.invocation_id, 60_000))
    await asyncio.sleep(0)

    one = bench.take(accepted)
    ended = await bench.finish(one)

    assert (await waiting).status == ended.status


async def test_who_waits_for_one_that_somebody_else_ended_is_told_that_end(bench: Bench) -> None:
    one = await bench.running()
    waiting = asyncio.ensure_future(bench.history.wait(ACCOUNT, id_of(one), 60_000))
    await asyncio.sleep(0)

    await bench.end(one.accepted, status="error")
    one.call = None
    bench.live.forget(one)

    assert (await waiting).status == "error"


async def test_a_server_that_stops_tells_who_waits_for_what_will_not_begin(bench: Bench) -> None:
    queued, runs = await bench.queued(), await bench.running()
    waiting = [
        asyncio.ensure_future(bench.history.wait(ACCOUNT, id_of(one), 60_000)) for one in (queued, runs)
    ]
    await asyncio.sleep(0)

    bench.live.stop()
    told = await waiting[0]
    late = await bench.history.wait(ACCOUNT, id_of(queued), 60_000)
    still_waits = not waiting[1].done()
    await bench.finish(runs)

    assert (told.status, late.status, still_waits) == ("queued", "queued", True)
    assert (await waiting[1]).status == "ok"


# -- lists ---------------------------------------------------------------------------------------------


async def test_a_list_has_everything_newest_first_and_as_it_is_now(bench: Bench) -> None:
    ended = await bench.ended(TOOL, status="error")
    waits, runs = await bench.queued(), await bench.running(OTHER)
    await bench.ended(TOOL, account="other")

    assert await bench.listed() == newest_first(ended, waits, runs)
    page = await bench.history.page(ACCOUNT, ALL, limit=10)
    assert {record.invocation_id: record.status for record in page.records} == {
        id_of(ended): "error",
        id_of(waits): "queued",
        id_of(runs): "running",
    }


async def test_a_status_is_the_one_of_now_whatever_is_stored(bench: Bench) -> None:
    ok, error = await bench.ended(TOOL), await bench.ended(TOOL, status="error")
    waits, runs = await bench.queued(), await bench.running()
    keyed_runs, keyed_waits = await bench.keyed(runs=True), await bench.keyed(runs=False)

    assert await bench.listed("queued") == newest_first(waits, keyed_waits)
    assert await bench.listed("running") == newest_first(runs, keyed_runs)
    assert await bench.listed("queued", "running") == newest_first(waits, runs, keyed_runs, keyed_waits)
    assert await bench.listed("ok", "running") == newest_first(ok, runs, keyed_runs)
    assert await bench.listed("error", "queued") == newest_first(error, waits, keyed_waits)
    assert await bench.listed("ok", "error") == newest_first(ok, error)
    assert await bench.listed("lost") == []


async def test_a_function_is_a_filter_of_what_runs_too(bench: Bench) -> None:
    ours: list[Live | Record] = [await bench.running(), await bench.queued(), await bench.ended(TOOL)]
    theirs: list[Live | Record] = [
        await bench.running(OTHER),
        await bench.queued(OTHER),
        await bench.ended(OTHER),
    ]

    assert await bench.listed(function=TOOL) == newest_first(*ours)
    assert await bench.listed("running", function=OTHER) == newest_first(theirs[0])
    assert await bench.listed("queued", function=OTHER) == newest_first(theirs[1])
    assert await bench.listed("running", function="ms.compute.tools.function.8") == []


async def test_times_bound_a_list_from_and_up_to_but_not_with_the_last_one(bench: Bench) -> None:
    ones: list[Live | Record] = []
    while len({created_ms(one) for one in ones}) < 3:  # ids of one millisecond cannot be told apart
        ones.append(await bench.running() if len(ones) % 2 else await bench.ended(TOOL))
    middle_ms = sorted({created_ms(one) for one in ones})[1]

    since = [one for one in ones if created_ms(one) >= middle_ms]
    until = [one for one in ones if created_ms(one) < middle_ms]

    assert await bench.listed(since_ms=middle_ms) == newest_first(*since)
    assert await bench.listed(until_ms=middle_ms) == newest_first(*until)
    assert await bench.listed("running", since_ms=middle_ms) == newest_first(*running(since))
    assert await bench.listed("running", until_ms=middle_ms) == newest_first(*running(until))
    assert await bench.listed(since_ms=middle_ms, until_ms=middle_ms) == []


def created_ms(one: Live | Record) -> int:
    return one.accepted.record.created_ms if isinstance(one, Live) else one.created_ms


def running(ones: list[Live | Record]) -> list[Live | Record]:
    return [one for one in ones if isinstance(one, Live)]


async def test_what_comes_while_a_list_is_read_does_not_move_its_pages(bench: Bench) -> None:
    ones = [await bench.ended(TOOL) for _ in range(4)]
    page = await bench.history.page(ACCOUNT, ALL, limit=2)

    await bench.ended(TOOL)
    rest = await bench.history.page(ACCOUNT, ALL, limit=2, before=page.next)

    assert [id_of(record) for record in (*page.records, *rest.records)] == newest_first(*ones)
    assert rest.next is None


async def test_a_long_list_is_read_in_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.edge.history.PAGE", 3)
    ones = [await bench.ended(TOOL) for _ in range(7)]

    parts = [[id_of(record) for record in part] async for part in bench.history.all(ACCOUNT, ALL)]

    assert [len(part) for part in parts] == [3, 3, 1]
    assert [one for part in parts for one in part] == newest_first(*ones)


async def test_an_account_sees_nothing_of_another(bench: Bench) -> None:
    await bench.ended(TOOL, account="other")
    theirs = await bench.accept(TOOL, account="other")
    one = bench.take(theirs)
    one.call, one.started_ms = Call(one.call_id, FUNCTION, b"", queued_at=0.0, ended=lambda c, o: None), 1

    assert await bench.listed() == []
    assert await bench.listed("running") == []
    assert await bench.history.count("other", replace(ALL, statuses=("running",))) == 1
