"""The recorder: plain calls that have ended are stored behind their answers, and found before search finds them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from stoker.backbone.ledger import Ledger, Write
from stoker.model.call import Call, CallIds, text_of
from stoker.model.errors import StokerError, StorageFull, Unavailable
from stoker.model.function import Function
from stoker.model.limits import KIB, TTL_MS_DEFAULT, Limits
from stoker.model.outcome import Outcome
from stoker.model.record import Record
from stoker.records import formats
from stoker.records.formats import CallState, Pack
from stoker.records.recorder import AGAIN_S, FLUSH_MS, PACK_BYTES_MAX, PACK_COUNT_MAX, Recorder
from stoker.testing.backbone import MemoryLedger
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.invocation import a_failure, an_outcome
from stoker.testing.worker import Notes

ACCOUNT = "default"
NOT_STORED_S_MAX = 0.1
"""The contract: a plain sync call's record is stored in batches within 100 ms."""


class Feed:
    """Where stored messages are taken on to."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def stored(self, sequence: int, writes: Sequence[Write]) -> None:
        self.told.append((sequence, len(writes)))

    def unsure(self) -> None:
        raise AssertionError("the recorder writes until it knows")


class Bench:
    """A recorder over a ledger in memory."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.ledger, self.feed, self.notes = MemoryLedger(self.now_ms), Feed(), Notes()
        self.full: StorageFull | None = None
        self.ids = CallIds()
        self.recorder = Recorder(
            cast(Ledger, self.ledger),
            self.feed,
            limits or Limits(),
            self.notes,
            require_room=self._require_room,
            now_ms=self.now_ms,
        )

    def now_ms(self) -> int:
        return round(asyncio.get_running_loop().time() * 1000)

    def _require_room(self) -> None:
        if self.full is not None:
            raise self.full

    def end(
        self,
        outcome: Outcome | None = None,
        *,
        payload: bytes = b"{}",
        account: str = ACCOUNT,
        **monitor_config: Any,
    ) -> Call:
        """Let a call of a function with this `monitor_config` end."""
        function: Function = replace(a_function(), account=account, monitor_config=monitor_config)
        call = Call(
            self.ids.next(),
            function,
            payload,
            queued_at=0.0,
            ended=lambda call, outcome: None,
            caller="token-1",
            created_ms=self.now_ms() - 5,
        )
        self.recorder.ended(call, an_outcome(b"1") if outcome is None else outcome)
        return call

    def messages(self) -> list[tuple[str, Pack | CallState]]:
        """Return (account, message) of all that is stored, but for pieces of bodies."""
        found = []
        for writes, _ in self.ledger.written:
            for write in writes:
                if formats.noun_of(write.subject) != "body":
                    message = formats.decode(write.subject, write.data)
                    assert isinstance(message, Pack | CallState)
                    found.append((formats.account_of(write.subject), message))
        return found

    def records(self) -> list[Record]:
        return [
            record
            for _, message in self.messages()
            for record in (message.records if isinstance(message, Pack) else [message.record])
        ]

    def stored_ids(self) -> list[str]:
        return [record.invocation_id for record in self.records()]


def ids(calls: Sequence[Call]) -> list[str]:
    return [text_of(call.id) for call in calls]


# -- storing -------------------------------------------------------------------------------------------


class QuickLedger:
    """Stores without giving way to anybody."""

    def __init__(self) -> None:
        self.sequence = 0

    def write(self, writes: Sequence[Write], *, reserve: bool = False) -> asyncio.Future[int]:
        stored = asyncio.get_running_loop().create_future()
        stored.set_result(self.sequence + 1)
        self.sequence += len(writes)
        return stored


@pytest.mark.timeout(10)
async def test_who_wants_all_stored_in_the_moment_that_it_was_is_not_kept_for_ever() -> None:
    bench = Bench()
    bench.recorder._ledger = cast(Ledger, QuickLedger())
    bench.end()
    storing = asyncio.create_task(bench.recorder.flush())

    async def in_that_moment() -> None:
        await asyncio.sleep(0)  # behind the task that stores, before its end is noticed
        assert bench.recorder._task is not None
        assert bench.recorder._task.done()
        await bench.recorder.flush()

    await asyncio.create_task(in_that_moment())
    await storing
    assert bench.recorder.unstored == 0
    await bench.recorder.close()


@in_fake_time
async def test_what_ends_within_a_moment_is_stored_together_soon_after() -> None:
    bench = Bench()

    calls = [bench.end() for _ in range(3)]
    at_once = list(bench.ledger.written)
    await passed(FLUSH_MS / 2000)
    calls.append(bench.end())
    await passed(NOT_STORED_S_MAX - FLUSH_MS / 2000)

    assert at_once == []
    assert len(bench.ledger.written) == 1
    assert bench.stored_ids() == ids(calls)
    assert bench.feed.told == [(1, 1)]


@in_fake_time
async def test_nothing_is_done_while_nothing_ends() -> None:
    bench = Bench()
    bench.end()
    await passed(10)

    bench.end()
    await passed(10)

    assert len(bench.ledger.written) == 2


@in_fake_time
async def test_a_record_tells_how_its_call_ended() -> None:
    bench = Bench()

    bench.end(a_failure("function.timeout"), store_payload=True, payload=b'{"a":1}')
    bench.end(an_outcome(b'"r"', log=b"line\n"))
    await bench.recorder.flush()

    timeout, ok = bench.records()
    assert (timeout.status, timeout.code, timeout.payload, timeout.result) == (
        "timeout",
        "function.timeout",
        '{"a":1}',
        None,
    )
    assert (ok.status, ok.code, ok.log, ok.payload, ok.result) == ("ok", None, "line\n", None, None)
    assert (ok.invocation_type, ok.attempts, ok.caller) == ("RequestResponse", 1, "token-1")
    assert (ok.created_ms, ok.ended_ms) == (bench.now_ms() - 5, bench.now_ms())


@in_fake_time
async def test_a_function_without_records_leaves_none() -> None:
    bench = Bench()

    call = bench.end(ttl=0, store_payload=True)
    await passed(1)

    assert bench.ledger.written == []
    assert bench.recorder.recent(ACCOUNT, call.id) is None


@pytest.mark.parametrize(
    ("monitor_config", "ttl_ms"),
    [({}, TTL_MS_DEFAULT), ({"ttl": None}, TTL_MS_DEFAULT), ({"ttl": 1}, 1000), ({"ttl": 60_000}, 60_000)],
)
@in_fake_time
async def test_a_record_goes_when_its_ttl_is_over_counted_from_its_end(
    monitor_config: dict[str, Any], ttl_ms: int
) -> None:
    bench = Bench()
    ended_ms = bench.now_ms()

    bench.end(**monitor_config)
    await bench.recorder.flush()

    ((_, pack),) = bench.messages()
    assert pack.expires_ms == ended_ms + ttl_ms


@in_fake_time
async def test_accounts_and_ttls_do_not_share_a_message() -> None:
    bench = Bench()

    first, theirs, brief, second = (
        bench.end(),
        bench.end(account="other"),
        bench.end(ttl=5000),
        bench.end(),
    )
    await bench.recorder.flush()

    found = [(account, ids_of(message)) for account, message in bench.messages()]
    assert sorted(found) == sorted(
        [(ACCOUNT, ids([first, second])), ("other", ids([theirs])), (ACCOUNT, ids([brief]))]
    )


def ids_of(message: Pack | CallState) -> list[str]:
    assert isinstance(message, Pack)
    return [record.invocation_id for record in message.records]


@in_fake_time
async def test_a_pack_is_small_enough_to_be_read_whole_for_one_record() -> None:
    bench = Bench()

    many = [bench.end() for _ in range(PACK_COUNT_MAX + 1)]
    await bench.recorder.flush()
    long = [bench.end(an_outcome(b"1", log=b"x" * 200 * KIB)) for _ in range(5)]
    await bench.recorder.flush()

    counts = [len(ids_of(message)) for _, message in bench.messages()]
    assert counts == [PACK_COUNT_MAX, 1, 3, 2]
    assert all(len(write.data) < 2 * PACK_BYTES_MAX for writes, _ in bench.ledger.written for write in writes)
    assert bench.stored_ids() == ids([*many, *long])


@in_fake_time
async def test_a_large_payload_or_result_is_stored_apart_with_its_record_in_one_write() -> None:
    bench = Bench()
    payload = b'"' + b"p" * 700 * KIB + b'"'
    result = '"{}"'.format("ü" * 200 * KIB).encode()

    small = bench.end(store_payload=True)
    large = bench.end(an_outcome(result), payload=payload, store_payload=True)
    lean = bench.end(an_outcome(result), payload=payload)
    await bench.recorder.flush()

    apart = next(writes for writes, _ in bench.ledger.written if len(writes) > 1)
    state = formats.decode(apart[-1].subject, apart[-1].data)
    assert isinstance(state, CallState)
    assert state.record.invocation_id == text_of(large.id)
    assert (state.record.payload, state.record.result, state.work) == (None, None, None)
    pieces = [write for write in apart if formats.noun_of(write.subject) == "body"]
    of = {
        which: b"".join(w.data for w in pieces if f".{which}." in w.subject)
        for which in ("payload", "result")
    }
    assert of == {"payload": payload, "result": result}
    assert (state.payload_pieces, state.result_pieces) == (2, 1)
    packed = [one for _, message in bench.messages() if isinstance(message, Pack) for one in ids_of(message)]
    assert packed == ids([small, lean])


# -- a store that is away --------------------------------------------------------------------------------


@in_fake_time
async def test_while_the_store_is_away_records_wait_and_come_in_the_order_of_their_ends() -> None:
    bench = Bench()
    bench.ledger.fail_with = Unavailable("away")
    calls = [bench.end()]
    await passed(NOT_STORED_S_MAX)
    calls.append(bench.end())
    before = bench.stored_ids()

    await passed(AGAIN_S)
    await bench.recorder.flush()

    assert before == []
    assert bench.stored_ids() == ids(calls)
    assert [event for event, _ in bench.notes.events] == ["records_wait"]


@in_fake_time
async def test_records_may_use_the_reserve_of_a_disk_that_is_full() -> None:
    bench = Bench()
    bench.full = StorageFull("the disk is full")

    bench.end()
    await bench.recorder.flush()

    assert [reserve for _, reserve in bench.ledger.written] == [True]


@in_fake_time
async def test_while_the_disk_is_full_new_calls_are_refused_and_once_there_is_room_no_more() -> None:
    bench = Bench()
    assert refusal_of(bench) is None
    bench.full = StorageFull("the disk is full")
    bench.end()
    await passed(1)
    full, bench.full = bench.full, None
    refused = bench.recorder.refusal

    await passed(1)

    assert refused is full
    assert refusal_of(bench) is None
    await bench.recorder.close()


@in_fake_time
async def test_what_waits_for_a_store_that_stays_away_is_bounded_and_the_oldest_are_lost() -> None:
    bench = Bench(Limits(unstored_bytes_max=20_000))
    held = bench.ledger.fail_with = Unavailable("away")
    await passed(1)

    calls = [bench.end(an_outcome(b"1", log=b"x" * 1000)) for _ in range(100)]
    lost = bench.recorder.lost
    assert held is bench.ledger.fail_with
    await bench.recorder.flush()

    assert 80 < lost < 100
    assert bench.stored_ids() == ids(calls[lost:])
    assert bench.recorder.recent(ACCOUNT, calls[0].id) is None
    assert bench.notes.events[0][0] == "records_lost"


@in_fake_time
async def test_a_server_that_stops_stores_what_is_left() -> None:
    bench = Bench()
    call = bench.end()

    await bench.recorder.close()

    assert bench.stored_ids() == ids([call])


@in_fake_time
async def test_a_server_that_stops_does_not_wait_for_ever_and_says_what_it_lost() -> None:
    bench = Bench()
    away = StuckLedger()
    bench.recorder._ledger = cast(Ledger, away)
    bench.end()
    bench.end()

    await bench.recorder.close(wait_s=5)

    assert away.asked > 1
    assert bench.notes.events[-1] == ("records_lost", {"count": 2})


def refusal_of(bench: Bench) -> StokerError | None:
    return bench.recorder.refusal


class StuckLedger:
    """One that is away."""

    def __init__(self) -> None:
        self.asked = 0

    async def write(self, writes: Sequence[Write], *, reserve: bool = False) -> int:
        self.asked += 1
        raise Unavailable("away")


# -- before search finds them ------------------------------------------------------------------------------


@in_fake_time
async def test_a_record_is_known_from_the_end_of_its_call_until_search_has_it() -> None:
    bench = Bench()
    call = bench.end(an_outcome(b'"r"', log=b"line\n"), store_payload=True)

    at_once = bench.recorder.recent(ACCOUNT, call.id)
    await bench.recorder.flush()
    stored = bench.recorder.recent(ACCOUNT, call.id)
    bench.recorder.searchable(0)
    not_yet = bench.recorder.recent(ACCOUNT, call.id)
    bench.recorder.searchable(1)

    assert at_once is not None
    assert at_once == stored == not_yet == bench.records()[0]
    assert bench.recorder.recent(ACCOUNT, call.id) is None


@in_fake_time
async def test_what_is_not_stored_yet_is_known_wherever_search_is() -> None:
    bench = Bench()
    stored = bench.end()
    await bench.recorder.flush()
    waiting = bench.end()

    bench.recorder.searchable(10)

    assert bench.recorder.recent(ACCOUNT, stored.id) is None
    assert bench.recorder.recent(ACCOUNT, waiting.id) is not None
    await bench.recorder.close()


@in_fake_time
async def test_what_is_known_is_known_in_its_own_account_and_within_its_ttl_alone() -> None:
    bench = Bench()
    call = bench.end(ttl=2000)

    await passed(1.9)
    within = bench.recorder.recent(ACCOUNT, call.id)
    theirs = bench.recorder.recent("other", call.id)
    await passed(0.2)

    assert within is not None
    assert theirs is None
    assert bench.recorder.recent(ACCOUNT, call.id) is None


@in_fake_time
async def test_what_search_is_slow_to_find_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.records.recorder.RECENT_BYTES_MAX", 100 * KIB)
    bench = Bench()
    calls = []
    for _ in range(5):
        calls.append(bench.end(an_outcome(b"1", log=b"x" * 40 * KIB)))
        await bench.recorder.flush()

    known = [bench.recorder.recent(ACCOUNT, call.id) is not None for call in calls]
    bench.recorder.searchable(5)
    await settled()

    assert known == [False, False, False, True, True]
    assert not any(bench.recorder.recent(ACCOUNT, call.id) for call in calls)
