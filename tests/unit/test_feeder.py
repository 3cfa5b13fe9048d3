"""The feeder: what is stored comes to the view, all of it, in the stream's order, whoever told of it or did not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from stoker.backbone.event_log import Event
from stoker.backbone.ledger import Ledger, Write
from stoker.model.errors import StokerError, StorageFull, Unavailable
from stoker.records.feeder import AGAIN_S, GAP_MS, GATHER_MS, WINDOW, Feeder
from stoker.records.view import Stored, View, ViewDamaged
from stoker.testing.backbone import MemoryLedger
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.worker import Notes

SOON_S = 3 * GATHER_MS / 1000


class FakeView:
    """Keeps what it is given. An error in `fails_next` is raised in place of the next `ingest`."""

    def __init__(self) -> None:
        self.position = 0
        self.sequences: list[int] = []
        self.transactions = 0
        self.fails_next: deque[StokerError] = deque()
        self.held: asyncio.Event | None = None
        self.closed = False
        self.resets = 0

    async def open(self) -> int:
        return self.position

    async def reset(self) -> None:
        self.position, self.sequences = 0, []
        self.resets += 1

    async def close(self) -> None:
        self.closed = True

    async def ingest(self, messages: Sequence[Stored]) -> None:
        await asyncio.sleep(0)
        if self.held is not None:
            await self.held.wait()
        if self.fails_next:
            raise self.fails_next.popleft()
        # In the stream's order; what is in already does no harm.
        new = [message.sequence for message in messages if message.sequence > self.position]
        assert new == sorted(new)
        self.sequences += new
        self.position = max([self.position, *new])
        self.transactions += bool(new)

    async def skip(self, until: int) -> None:
        self.position = max(self.position, until)


class FaultyLedger(MemoryLedger):
    """One whose reading fails as often as it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads_fail = 0
        self.reads = 0

    async def read(self, on_message: Callable[[Event], None], *, after: int, until: int | None = None) -> int:
        self.reads += 1
        if self.reads_fail:
            self.reads_fail -= 1
            raise Unavailable("away")
        return await super().read(on_message, after=after, until=until)


class Bench:
    """A feeder between a ledger in memory and a fake view."""

    def __init__(self) -> None:
        self.ledger, self.view, self.notes = FaultyLedger(), FakeView(), Notes()
        self.positions: list[int] = []
        self.found: list[int] = []
        self.busy = False
        self.feeder = Feeder(
            cast(Ledger, self.ledger),
            cast(View, self.view),
            self.notes,
            busy=lambda: self.busy,
            on_position=self.positions.append,
            on_found=lambda event: self.found.append(event.sequence),
        )

    async def started(self) -> Bench:
        await self.feeder.start()
        await self.feeder.ready.wait()
        return self

    async def write(self, count: int = 1) -> int:
        """Store messages and tell nobody; returns the sequence of the first."""
        return await self.ledger.write(self.writes(count))

    def writes(self, count: int = 1) -> list[Write]:
        return [Write("accounts.default.invocation.pack", b"x")] * count

    async def store(self, count: int = 1) -> None:
        """Store messages and tell of them."""
        self.feeder.stored(await self.write(count), self.writes(count))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.notes.events]


# -- what is told --------------------------------------------------------------------------------------


@in_fake_time
async def test_what_is_stored_comes_to_the_view_and_the_position_is_told() -> None:
    bench = await Bench().started()

    await bench.store(2)
    await bench.store()
    await passed(SOON_S)

    assert bench.view.sequences == [1, 2, 3]
    assert bench.positions[-1] == 3
    assert bench.found == []
    await bench.feeder.close()


@in_fake_time
async def test_what_is_stored_at_about_the_same_time_is_one_transaction() -> None:
    bench = await Bench().started()
    await bench.store()
    await settled()
    before = bench.view.transactions

    for _ in range(10):
        await bench.store()
    await passed(SOON_S)

    assert (bench.view.position, bench.view.transactions) == (11, before + 1)
    await bench.feeder.close()


@in_fake_time
async def test_who_waits_for_search_does_not_wait_for_others_to_gather() -> None:
    bench = await Bench().started()
    await bench.store()
    await settled()
    await bench.store()
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert await bench.feeder.caught_up()

    assert bench.view.position == 2
    assert loop.time() - began < GATHER_MS / 1000
    await bench.feeder.close()


@in_fake_time
async def test_what_is_told_in_another_order_comes_in_the_streams() -> None:
    bench = await Bench().started()
    first, second = await bench.write(2), await bench.write()

    bench.feeder.stored(second, bench.writes())
    await passed(GAP_MS / 2000)
    before = list(bench.view.sequences)
    bench.feeder.stored(first, bench.writes(2))
    await passed(SOON_S)

    assert before == []
    assert bench.view.sequences == [1, 2, 3]
    assert bench.found == []
    await bench.feeder.close()


@in_fake_time
async def test_while_something_is_on_its_way_to_the_view_it_says_so() -> None:
    bench = await Bench().started()
    bench.view.held = asyncio.Event()
    idle = bench.feeder.behind

    await bench.store()
    await passed(1)
    behind, timely = bench.feeder.behind, await bench.feeder.caught_up()
    bench.view.held.set()
    await passed(SOON_S)

    assert (idle, behind, timely, bench.feeder.behind) == (False, True, False, False)
    await bench.feeder.close()


# -- what nobody told of ---------------------------------------------------------------------------------


@in_fake_time
async def test_a_gap_that_nobody_tells_of_is_read_from_the_stream_and_told_as_found() -> None:
    bench = await Bench().started()
    await bench.write(2)

    await bench.store()
    await passed(GAP_MS / 1000 + SOON_S)

    assert bench.view.sequences == [1, 2, 3]
    assert bench.found == [1, 2]
    await bench.feeder.close()


@in_fake_time
async def test_a_gap_of_what_was_erased_is_passed_over() -> None:
    bench = await Bench().started()
    await bench.write(2)
    await bench.ledger.erase([1, 2])

    await bench.store()
    await passed(GAP_MS / 1000 + SOON_S)

    assert (bench.view.sequences, bench.view.position, bench.found) == ([3], 3, [])
    await bench.feeder.close()


@in_fake_time
async def test_what_may_be_stored_is_looked_for_at_once_though_nothing_else_comes() -> None:
    bench = await Bench().started()
    await bench.write(2)
    await passed(10)
    unknown = list(bench.view.sequences)

    bench.feeder.unsure()
    await passed(SOON_S)

    assert unknown == []
    assert (bench.view.sequences, bench.found) == ([1, 2], [1, 2])
    await bench.feeder.close()


@in_fake_time
async def test_what_may_be_stored_is_looked_for_until_the_store_is_there_again() -> None:
    bench = await Bench().started()
    await bench.write()
    bench.ledger.reads_fail = 3

    bench.feeder.unsure()
    await passed(3 * AGAIN_S + SOON_S)

    assert (bench.view.sequences, bench.found) == ([1], [1])
    assert bench.events == ["view_waits"] * 3
    await bench.feeder.close()


@in_fake_time
async def test_what_turns_out_not_to_be_stored_is_no_reason_to_go_on_looking() -> None:
    bench = await Bench().started()

    bench.feeder.unsure()
    await passed(SOON_S)
    reads = bench.ledger.reads
    await passed(60)

    assert bench.ledger.reads == reads
    await bench.feeder.close()


# -- a start ---------------------------------------------------------------------------------------------


@in_fake_time
async def test_a_start_reads_what_the_view_does_not_have_and_tells_nobody() -> None:
    bench = Bench()
    await bench.write(3)
    bench.view.position = 1

    await bench.started()

    assert (bench.view.sequences, bench.found) == ([2, 3], [])
    assert bench.feeder.progress is None
    await bench.feeder.close()


@in_fake_time
async def test_while_the_view_is_being_built_it_is_told_how_far_it_is() -> None:
    bench = Bench()
    await bench.write(500)
    await bench.write(100)
    bench.view.held = asyncio.Event()

    await bench.feeder.start()
    await settled()
    begun, ready = bench.feeder.progress, bench.feeder.ready.is_set()
    bench.view.held.set()
    await bench.feeder.ready.wait()

    assert (begun, ready) == ((0, 600), False)
    assert bench.view.position == 600
    assert bench.view.transactions == -(-600 // WINDOW)
    await bench.feeder.close()


@in_fake_time
async def test_what_is_stored_while_the_view_is_being_built_is_not_forgotten() -> None:
    bench = Bench()
    await bench.write(10)
    bench.view.held = asyncio.Event()
    await bench.feeder.start()
    await settled()

    await bench.store()
    bench.view.held.set()
    await passed(SOON_S)

    assert bench.view.sequences == list(range(1, 12))
    assert bench.found == []
    await bench.feeder.close()


# -- what goes wrong ---------------------------------------------------------------------------------------


@in_fake_time
async def test_a_damaged_view_is_built_anew_and_lists_wait_meanwhile() -> None:
    bench = await Bench().started()
    await bench.store(2)
    await passed(SOON_S)
    bench.view.fails_next.append(ViewDamaged("damaged"))
    was_ready: list[bool] = []
    reset = bench.view.reset

    async def resetting() -> None:
        was_ready.append(bench.feeder.ready.is_set())
        await reset()

    bench.view.reset = resetting  # type: ignore[method-assign]

    await bench.store()
    await passed(SOON_S)

    assert was_ready == [False]
    assert bench.feeder.ready.is_set()
    assert (bench.view.sequences, bench.view.resets, bench.found) == ([1, 2, 3], 1, [])
    assert bench.events == ["view_damaged"]
    await bench.feeder.close()


@in_fake_time
async def test_a_view_that_a_search_found_damaged_is_built_anew_though_nothing_comes_to_it() -> None:
    bench = await Bench().started()
    await bench.store(2)
    await passed(SOON_S)

    for _ in range(3):  # as many searches met it
        bench.feeder.damaged(ViewDamaged("damaged"))
    was_ready = bench.feeder.ready.is_set()
    await passed(SOON_S)

    assert not was_ready
    assert bench.feeder.ready.is_set()
    assert (bench.view.sequences, bench.view.resets) == ([1, 2], 1)
    await bench.feeder.close()


@in_fake_time
async def test_a_view_that_cannot_be_made_is_tried_again() -> None:
    bench = await Bench().started()
    await bench.store(2)
    await passed(SOON_S)
    reset, fails = bench.view.reset, [ViewDamaged("still"), StorageFull("full")]

    async def resetting() -> None:
        if fails:
            raise fails.pop()
        await reset()

    bench.view.reset = resetting  # type: ignore[method-assign]

    bench.feeder.damaged(ViewDamaged("damaged"))
    await passed(3 * AGAIN_S)

    assert bench.feeder.ready.is_set()
    assert (bench.view.sequences, bench.view.resets) == ([1, 2], 1)
    await bench.feeder.close()


@pytest.mark.parametrize("error", [StorageFull("full"), Unavailable("away")])
@in_fake_time
async def test_what_the_view_cannot_take_just_now_comes_later(error: StokerError) -> None:
    bench = await Bench().started()
    bench.view.fails_next.append(error)

    await bench.store(2)
    await passed(AGAIN_S + SOON_S)

    assert bench.view.sequences == [1, 2]
    assert bench.found == []
    await bench.feeder.close()


@in_fake_time
async def test_what_waits_for_a_slow_view_is_bounded_in_memory_and_read_from_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stoker.records.feeder.HELD_BYTES_MAX", 10)
    bench = await Bench().started()
    bench.view.held = asyncio.Event()

    await bench.store(1000)
    await settled()
    held = sum(len(write.data) for write in bench.feeder._arrived.values())
    bench.view.held.set()
    await bench.feeder.caught_up()

    assert held <= 10
    assert bench.view.sequences == list(range(1, 1001))
    await bench.feeder.close()


# -- a stop ------------------------------------------------------------------------------------------------


@in_fake_time
async def test_a_stop_brings_what_is_stored_and_closes_the_view() -> None:
    bench = await Bench().started()
    await bench.store()
    await settled()
    await bench.store(3)

    await bench.feeder.close()
    await bench.feeder.close()

    assert (bench.view.sequences, bench.view.closed) == ([1, 2, 3, 4], True)


@in_fake_time
async def test_a_stop_does_not_wait_for_a_view_that_is_stuck() -> None:
    bench = await Bench().started()
    bench.view.held = asyncio.Event()
    await bench.store()
    await settled()

    await bench.feeder.close()

    assert bench.events == ["view_behind"]
    assert bench.view.closed


@in_fake_time
async def test_a_busy_server_lets_the_view_rest_between_its_transactions_but_not_who_waits() -> None:
    bench = await Bench().started()
    bench.busy = True
    await bench.store(3 * WINDOW)

    assert await bench.feeder.caught_up()

    assert bench.view.position == 3 * WINDOW
    await bench.feeder.close()
