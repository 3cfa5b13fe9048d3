"""Records: looking up what happened, by id or by what it has in common.

Knows where a record may be just now: in memory until search finds it, then in the stream, at the place that
the view tells. Does not know who may see it, nor how it is answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from stoker.backbone.event_log import Event
from stoker.backbone.ledger import Ledger
from stoker.model.clock import wall_ms
from stoker.model.errors import NoCapacity, NotFound
from stoker.model.limits import DAY_MS
from stoker.model.record import Record, created_ms_of, id_of_text
from stoker.records import formats
from stoker.records.feeder import Feeder
from stoker.records.formats import CallState, DeadLetter, Pack
from stoker.records.recorder import Recorder
from stoker.records.store import InvocationStore, full_record
from stoker.records.view import Filter, Place, View, ViewDamaged

SCAN_MESSAGES = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """Some records of a list, newest first, each as JSON without payload, result and log."""

    records: list[bytes]
    next: str | None
    """The id after which the list goes on; None at its end."""


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter, and the sequence of its message."""

    sequence: int
    letter: DeadLetter


class Records:
    """Look-ups in one account at a time. What has expired is not found."""

    def __init__(
        self,
        ledger: Ledger,
        view: View,
        feeder: Feeder,
        recorder: Recorder,
        store: InvocationStore,
        *,
        calls_ms_max: int,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._ledger = ledger
        self._view = view
        self._feeder = feeder
        self._recorder = recorder
        self._store = store
        self._calls_ms_max = calls_ms_max
        """How long after its id was made a plain call's record is stored at the latest."""
        self._now_ms = now_ms

    async def find(self, account: str, invocation_id: str) -> Record:
        """Return a record with all that is kept of it. Raises NotFound, Unavailable."""
        call_id = id_of_text(invocation_id)
        if call_id is None:
            raise NotFound("no such invocation")
        known = self._recorder.recent(account, call_id) or self._store.recent(account, invocation_id)
        if known is not None:
            return known
        if not self._feeder.ready.is_set():
            return await self._scan(account, invocation_id, call_id)
        try:
            record = await self._found(account, invocation_id)
        except ViewDamaged:
            return await self._scan(account, invocation_id, call_id)
        if record is None and self._feeder.behind:
            return await self._scan(account, invocation_id, call_id)
        return record or await self._missed(account, invocation_id)

    async def _found(self, account: str, invocation_id: str) -> Record | None:
        place = await self._view.find(account, invocation_id)
        while place is not None:
            try:
                return await self._at(account, place)
            except NotFound:
                # Its message was replaced and erased meanwhile, if the view has another one by now.
                before, place = place, await self._view.find(account, invocation_id)
                if place == before:
                    break
        return None

    async def _missed(self, account: str, invocation_id: str) -> Record:
        """Return an invocation that was accepted and that the view does not find.

        Raises NotFound if there is none, or if it has to go.
        """
        stored = await self._ledger.last(formats.call_subject(account, invocation_id))
        record = None if stored is None else await self._unexpired(account, stored)
        if record is None or stored is None:
            raise NotFound("no such invocation")
        if stored.sequence > self._view.position:
            return record
        try:
            known = await self._view.knows(stored.sequence)
        except ViewDamaged:
            return record
        if known or await self._ledger.at(stored.sequence) is None:  # it has to go, or went just now
            raise NotFound("no such invocation")
        self._feeder.damaged(ViewDamaged("it does not know what was accepted"))
        return record

    async def page(self, account: str, wanted: Filter, *, limit: int, before: str | None = None) -> Page:
        """Return the next records of a list. Raises NoCapacity while the view is being built."""
        await self._current()
        found = await self._searched(self._view.page(account, wanted, limit=limit + 1, before=before))
        if len(found) <= limit:
            return Page(found, None)
        return Page(found[:limit], formats.record_of(found[limit - 1]).invocation_id)

    async def bytes_of(self, account: str) -> int:
        """Return what all that is stored of an account's invocations takes, as far as the view has come."""
        return await self._view.bytes_of(account)

    async def count(self, account: str, wanted: Filter) -> int:
        """Return how many records a whole list has."""
        await self._current()
        return await self._searched(self._view.count(account, wanted))

    async def dead_letters(self, account: str, topic: str, service: str) -> list[StoredLetter]:
        """Return the dead letters of a function, the latest first, without payloads that are stored apart."""
        await self._current()
        letters: list[StoredLetter] = []
        for row in await self._searched(self._view.dead_letters(account, topic, service)):
            stored = await self._ledger.at(row.sequence)
            if stored is not None:
                letter = formats.decode(stored.subject, stored.data)
                if isinstance(letter, DeadLetter) and not letter.gone:
                    letters.append(StoredLetter(row.sequence, letter))
        return letters

    async def _searched(self, search: Awaitable[T]) -> T:
        try:
            return await search
        except ViewDamaged as error:
            raise self._building() from error

    def _building(self) -> NoCapacity:
        done, target = self._feeder.progress or (0, 0)
        return NoCapacity(
            f"the list of invocations is being built anew ({done} of {target} messages read)",
            hint="look-ups by id work meanwhile",
            retry_after_s=1,
        )

    async def _current(self) -> None:
        if self._feeder.progress is not None:
            raise self._building()
        await self._recorder.flush()
        await self._feeder.caught_up()

    async def _at(self, account: str, place: Place) -> Record:
        stored = await self._ledger.at(place.sequence)
        if stored is None or formats.account_of(stored.subject) != account:
            raise NotFound("no such invocation")
        message = formats.decode(stored.subject, stored.data)
        if isinstance(message, Pack) and place.index is not None:
            return message.records[place.index]
        if isinstance(message, CallState):
            return await full_record(self._ledger, account, message)
        raise NotFound("no such invocation")

    async def _scan(self, account: str, invocation_id: str, call_id: bytes) -> Record:
        """Find a record without the view: its id tells when it was made, and so about where it is stored."""
        stored = await self._ledger.last(formats.call_subject(account, invocation_id))
        if stored is not None:
            record = await self._unexpired(account, stored)
            if record is None:
                raise NotFound("no such invocation")
            return record
        created_ms = created_ms_of(call_id)
        if created_ms > self._now_ms() + DAY_MS:  # no id of ours: it may even name a time after all calendars
            raise NotFound("no such invocation")
        position = await self._ledger.since(created_ms)
        last = self._ledger.last_sequence
        restored = created_ms < self._ledger.begun_ms  # then the stream's times say nothing of it
        while position < last:
            events: list[Event] = []
            until = min(position + SCAN_MESSAGES, last)
            await self._ledger.read(events.append, after=position, until=until)
            for event in events:
                record = self._in_pack(account, invocation_id, event)
                if record is not None:
                    return record
            if not restored and events and events[-1].time_ms > created_ms + self._calls_ms_max:
                break
            position = until
        raise NotFound("no such invocation")

    async def _unexpired(self, account: str, stored: Event) -> Record | None:
        """Return the record of a message of one invocation, None if it has expired."""
        state = formats.decode(stored.subject, stored.data)
        if isinstance(state, CallState) and (state.expires_ms or self._now_ms() + 1) > self._now_ms():
            return await full_record(self._ledger, account, state)
        return None

    def _in_pack(self, account: str, invocation_id: str, event: Event) -> Record | None:
        if event.subject != formats.pack_subject(account) or invocation_id.encode() not in event.data:
            return None
        pack = formats.decode(event.subject, event.data)
        if not isinstance(pack, Pack) or pack.expires_ms <= self._now_ms():
            return None
        return next((one for one in pack.records if one.invocation_id == invocation_id), None)
