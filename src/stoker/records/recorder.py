"""The recorder: plain calls that have ended, stored behind their answers, many at a time.

A call's caller waits for none of this. Records are made some at a time: one by one each would find the
processor's caches cold, and hundreds at a time would hold up the calls of that moment. What is not stored yet
is what a kill -9 can lose, at most what ended within `FLUSH_MS` and the write after it. Does not know how
records are found.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from stoker.backbone.ledger import Ledger, Write
from stoker.model.call import Call
from stoker.model.clock import wall_ms
from stoker.model.ended import ended_record
from stoker.model.errors import StokerError, StorageFull, TooLarge
from stoker.model.function import Function
from stoker.model.limits import KIB, MIB, Limits
from stoker.model.outcome import Outcome
from stoker.model.record import Keeping, Record
from stoker.records import formats
from stoker.records.quick_record import head_of, is_quick, quick_record
from stoker.records.states import ended_writes, without_logs

FLUSH_MS = 50
BUSY_COUNT = 250
"""Calls that end within `FLUSH_MS` of a server that is busy: some 5,000 a second."""
BUSY_S = 0.25
"""For so long after a flush like that."""
FRESH_COUNT_MAX = 32
FRESH_BYTES_MAX = 4 * KIB
"""Of a payload: after a larger one records are made at once."""
PACK_COUNT_MAX = 400
PACK_BYTES_MAX = 512 * KIB
"""A pack is read whole to look up one record of it."""
AGAIN_S = 0.25
ROOM_AGAIN_S = 0.25
RECENT_BYTES_MAX = 32 * MIB
"""Stored records that search may not find yet, kept in memory: past it, a look-up waits for search."""


class Feed(Protocol):
    """Takes what has been stored on to where records are searched."""

    def stored(self, sequence: int, writes: Sequence[Write]) -> None:
        """Take note of writes that are stored one after the other from `sequence` on."""

    def unsure(self) -> None:
        """Take note that something may be stored of which nobody was told."""


class Notes(Protocol):
    """The operator's log."""

    def warning(self, event: str, **fields: object) -> object: ...


class _Pack:
    """Records that are stored as one message: of one account, and to go at the same time."""

    __slots__ = ("account", "expires_ms", "records", "size", "ttl_ms")

    def __init__(self, account: str, ttl_ms: int) -> None:
        self.account = account
        self.ttl_ms = ttl_ms
        self.records: dict[bytes, bytes] = {}
        """JSON by call id, in the order of their ends."""
        self.size = 0
        self.expires_ms = 0

    def writes(self) -> list[Write]:
        """Return what to store."""
        data = formats.pack_of(list(self.records.values()), self.expires_ms)
        return [Write(formats.pack_subject(self.account), data)]


class _Single(_Pack):
    """A record that is too large for a pack."""

    __slots__ = ("_writes",)

    def __init__(self, account: str, keeping: Keeping, call: Call, record: Record, ended_ms: int) -> None:
        super().__init__(account, keeping.ttl_ms)
        self.expires_ms = ended_ms + keeping.ttl_ms
        self.records[call.id] = formats.text_of_record(record)
        self._writes = ended_writes(account, record, expires_ms=self.expires_ms)
        self.size = sum(len(write.data) for write in self._writes)

    def writes(self) -> list[Write]:
        """Return what to store."""
        return self._writes


class Recorder:
    """One for a server. `close` stores what is left."""

    def __init__(
        self,
        ledger: Ledger,
        feed: Feed,
        limits: Limits,
        notes: Notes,
        *,
        require_room: Callable[[], None],
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._ledger = ledger
        self._feed = feed
        self._require_room = require_room
        self._limits = limits
        self._pack_bytes_max = min(
            PACK_BYTES_MAX, limits.unstored_bytes_max // 16
        )  # what goes at once if any
        self._notes = notes
        self._now_ms = now_ms
        self._function: Function | None = None
        self._caller: str | None = None
        self._keeping = Keeping(0, store_payload=False)
        """Of that function: calls of one function come one after the other."""
        self._head = b""
        """What its quick records begin with."""
        self._fresh: list[tuple[Call, Outcome, int]] = []
        """Ended calls of it, with the time of their ends, whose records are not made yet."""
        self._filling: dict[tuple[str, int], _Pack] = {}
        """By account and ttl."""
        self._waiting: deque[_Pack] = deque()
        self._waiting_bytes = 0
        self._storing: _Pack | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._stored: deque[tuple[int, _Pack]] = deque()
        """What search may not find yet, with the sequence of its message."""
        self._stored_bytes = 0
        self._flushed_count = 0
        self._flushed_at = 0.0
        self.refusal: StokerError | None = None
        """Why nothing new may begin, as it could not be recorded: the disk is full."""
        self._looking: asyncio.TimerHandle | None = None
        self.lost = 0
        """Records that were given up, as the store was away for too long."""

    # -- the hot path ----------------------------------------------------------------------------

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Keep a call that has ended, unless its function asks for no record (`ttl` 0)."""
        if call.function is not self._function or call.caller is not self._caller:
            self._turn_to(call.function, call.caller)
        keeping = self._keeping
        ttl_ms, store_payload = keeping.ttl_ms, keeping.store_payload
        if ttl_ms == 0:
            return
        ended_ms = self._now_ms()
        if store_payload and len(call.payload) + len(outcome.result or b"") > formats.BODY_BYTES_MAX:
            self._ended_large(call, outcome, ended_ms)
        elif is_quick(call, outcome):
            self._fresh.append((call, outcome, ended_ms))
            if len(self._fresh) >= FRESH_COUNT_MAX or len(call.payload) > FRESH_BYTES_MAX:
                self._make_fresh()
        else:
            self._make_fresh()  # in the order of their ends
            record = ended_record(call, outcome, keeping, ended_ms=ended_ms)
            text = formats.text_of_record(record)
            self._add(call.function.account, ttl_ms, call.id, text, ended_ms)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_MS / 1000, self._flush)

    def _turn_to(self, function: Function, caller: str) -> None:
        self._make_fresh()
        self._function, self._caller = function, caller
        self._keeping = Keeping.of(function.monitor_config)
        self._head = head_of(function, caller)

    def _make_fresh(self) -> None:
        """Make the quick records of calls that have just ended, all of one function and caller."""
        fresh, self._fresh = self._fresh, []
        if not fresh:
            return
        account = fresh[0][0].function.account
        head, keeping = self._head, self._keeping
        for call, outcome, ended_ms in fresh:
            text = quick_record(head, call, outcome, ended_ms, store_payload=keeping.store_payload)
            self._add(account, keeping.ttl_ms, call.id, text, ended_ms)

    def _add(self, account: str, ttl_ms: int, call_id: bytes, text: bytes, ended_ms: int) -> None:
        place = (account, ttl_ms)
        pack = self._filling.get(place)
        if pack is None:
            pack = self._filling[place] = _Pack(account, ttl_ms)
        pack.records[call_id] = text
        pack.size += len(text)
        pack.expires_ms = ended_ms + ttl_ms
        if len(pack.records) >= PACK_COUNT_MAX or pack.size >= self._pack_bytes_max:
            self._wait(self._filling.pop(place))

    def _ended_large(self, call: Call, outcome: Outcome, ended_ms: int) -> None:
        record = ended_record(call, outcome, self._keeping, ended_ms=ended_ms)
        self._wait(_Single(call.function.account, self._keeping, call, record, ended_ms))

    def _wait(self, pack: _Pack) -> None:
        self._waiting.append(pack)
        self._waiting_bytes += pack.size
        if self._waiting_bytes > self._limits.unstored_bytes_max:
            self._give_up_oldest()

    # -- what is not searched yet ----------------------------------------------------------------

    def recent(self, account: str, call_id: bytes) -> Record | None:
        """Return the record of a call that has ended lately, before it can be found by search."""
        for pack in self._packs():
            text = pack.records.get(call_id)
            if text is not None:
                record = formats.record_of(text)
                assert record.ended_ms is not None
                expired = record.ended_ms + pack.ttl_ms <= self._now_ms()
                return None if expired or pack.account != account else record
        return None

    def _packs(self) -> Iterator[_Pack]:
        self._make_fresh()
        yield from self._filling.values()
        yield from reversed(self._waiting)
        if self._storing is not None:
            yield self._storing
        for _, pack in reversed(self._stored):
            yield pack

    def searchable(self, position: int) -> None:
        """Forget what search finds from now on: all that is stored up to this sequence."""
        stored = self._stored
        while stored and stored[0][0] <= position:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._stored_bytes -= self._stored.popleft()[1].size

    @property
    def unstored(self) -> int:
        """How many records of calls that have ended are not stored yet."""
        count = len(self._fresh) + (0 if self._storing is None else len(self._storing.records))
        for pack in (*self._filling.values(), *self._waiting):
            count += len(pack.records)
        return count

    @property
    def busy(self) -> bool:
        """Whether calls end so fast that what nobody waits for had better be done later."""
        since_s = asyncio.get_running_loop().time() - self._flushed_at
        return self._flushed_count >= BUSY_COUNT and since_s < BUSY_S

    # -- storing ---------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Return once everything that has ended by now is stored, or was given up."""
        while self.unstored or self._task is not None:
            self._flush()
            if (task := self._task) is not None:
                # Not `await task`: of one that has ended that gives way to nothing, and who clears `_task`
                # would never get to it.
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()

    async def close(self, *, wait_s: float = 5.0) -> None:
        """Store what is left, for some seconds at most."""
        try:
            async with asyncio.timeout(wait_s):
                await self.flush()
        except TimeoutError:
            self._notes.warning("records_lost", count=self.unstored)
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _look_for_room(self) -> None:
        """See whether there is room for records; while there is none, look again and again."""
        self._looking = None
        try:
            self._require_room()
        except StorageFull as error:
            self.refusal = error
            self._looking = asyncio.get_running_loop().call_later(ROOM_AGAIN_S, self._look_for_room)
        else:
            self.refusal = None

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looking is None:
            self._look_for_room()
        if self._task is None and self.unstored:
            self._flushed_count = self.unstored
            self._flushed_at = asyncio.get_running_loop().time()
            self._task = asyncio.get_running_loop().create_task(self._store(), name="store records")
            self._task.add_done_callback(self._flushed)

    def _flushed(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": "records not stored", "exception": error})
        if self.unstored and self._timer is None:
            self._timer = task.get_loop().call_later(FLUSH_MS / 1000, self._flush)

    async def _store(self) -> None:
        """Store all that has ended by now, a pack after the other; others go on in between."""
        self._make_fresh()
        for pack in self._filling.values():
            self._wait(pack)
        self._filling.clear()
        while self._waiting:
            pack = self._storing = self._waiting.popleft()
            self._waiting_bytes -= pack.size
            self._stored.append((await self._write(pack.writes()), pack))
            self._storing = None
            self._stored_bytes += pack.size
            while self._stored_bytes > RECENT_BYTES_MAX:
                self._forget_oldest()

    async def _write(self, writes: Sequence[Write]) -> int:
        """Store one group, for as long as it takes (what waits meanwhile is bounded), and return where."""
        while True:
            try:
                sequence = await self._ledger.write(writes, reserve=True)
            except TooLarge as error:
                self._notes.warning("record_without_log", reason=error.message)
                writes = without_logs(writes)
            except StokerError as error:
                self._notes.warning("records_wait", reason=error.message)
                await asyncio.sleep(AGAIN_S)
            else:
                self._feed.stored(sequence, writes)
                return sequence + len(writes) - 1

    def _give_up_oldest(self) -> None:
        lost = 0
        while self._waiting_bytes > self._limits.unstored_bytes_max:
            pack = self._waiting.popleft()
            self._waiting_bytes -= pack.size
            lost += len(pack.records)
        self.lost += lost
        self._notes.warning("records_lost", count=lost)
