"""The ledger: one stream of messages that are written together, read by place or subject, and erased.

Unlike the event log it has gaps: what was erased is gone for good. Owns the check that nothing acknowledged
was cut off or changed. Does not know what the messages mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from stoker.backbone.delivery import FETCHED_MAX, Delivered, Receiver, deliver, fetch
from stoker.backbone.erasure import Erasure
from stoker.backbone.event_log import DIGEST, ROUNDS_MAX, Event, digest_of, message_of
from stoker.backbone.group_commit import Group, GroupCommit
from stoker.backbone.guard import StoreGuard
from stoker.backbone.jetstream import BATCH_COUNT_MAX, JetStream, Stored, StreamSpec, time_ms_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Write:
    """One message to be stored."""

    subject: str
    data: bytes
    expected: int | None = None
    """The sequence of the subject's last message, 0 if there must be none, None for any."""


class Ledger:
    """Writing, reading, erasing. Call `open` first, `close` last."""

    def __init__(
        self,
        jetstream: JetStream,
        guard: StoreGuard,
        *,
        stream: str,
        subjects: Sequence[str],
        replicas: int = 1,
    ) -> None:
        self._jetstream = jetstream
        self._guard = guard
        self._spec = StreamSpec(stream, tuple(subjects), replicas=replicas, marked=True)
        self._mark = guard.mark  # until it is open
        self._commit = GroupCommit(jetstream, stream, self._on_stored)
        self._erasure = Erasure(jetstream, stream)
        self.begun_ms = 0
        """When the stream was made: of a store that was restored, what is in it may be older."""

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._spec.name

    @property
    def last_sequence(self) -> int:
        """The highest sequence that is known to be stored."""
        return self._commit.last_sequence

    async def open(self) -> None:
        """Make the stream if it never was. Raises StoreDamaged if it has vanished or was cut short."""
        self._mark = await self._guard.open_stream(self._jetstream, self._spec)
        info = await self._info()
        self.begun_ms = time_ms_of(info["created"])
        stored, acknowledged = int(info["state"]["last_seq"]), self._mark.sequence
        if stored < acknowledged:
            raise self._guard.damaged_event(
                self.stream,
                stored + 1,
                f"ends at message {stored}, though {acknowledged} was acknowledged",
                affected=acknowledged - stored,
            )
        self._commit.last_sequence = stored
        self._mark.advance(stored)

    async def close(self) -> None:
        """Return when nothing is on its way any more; what is written from now on is Unavailable."""
        await self._commit.close()

    def write(self, writes: Sequence[Write], *, reserve: bool = False) -> asyncio.Future[int]:
        """Return the sequence of the first, once all are stored for good without a gap, or none is.

        It is stored also if nobody waits for it any more. 1 to BATCH_COUNT_MAX; what is expected of a
        subject is what was there before all of them. With `reserve` they may use the disk's reserve. Raises
        VersionConflict, StorageFull, TooLarge; Unavailable after some seconds, and then it is not known
        whether they are stored.
        """
        if not 1 <= len(writes) <= BATCH_COUNT_MAX:
            raise ValueError(f"1 to {BATCH_COUNT_MAX} are written together, not {len(writes)}")
        written: set[str] = set()
        for write in writes:
            if write.expected is not None and write.subject in written:
                raise ValueError(f"{write.subject} is written before something is expected of it")
            written.add(write.subject)
        group = Group(
            [message_of(self.stream, write.subject, write.data, write.expected) for write in writes], reserve
        )
        self._commit.add(group)
        return group.stored

    async def read(self, on_message: Callable[[Event], None], *, after: int, until: int | None = None) -> int:
        """Give every message after `after`, up to `until` or to the last one now, to `on_message` in order.

        Returns the sequence up to which that was. Raises StoreDamaged if one was changed, Unavailable, and
        what `on_message` raises; those before have been given.
        """
        end = until if until is not None and until <= self.last_sequence else await self._stored_last()
        reader = _Reader(on_message, position=after, end=end if until is None else min(end, until))
        stuck = 0
        while reader.position < reader.end:
            before = reader.position
            left = reader.end - before
            if left <= FETCHED_MAX:
                await fetch(self._jetstream, self.stream, reader, left)
            else:
                await deliver(self._jetstream, self.stream, reader)
            if reader.changed:
                raise self._changed(reader.changed)
            if reader.position < reader.end:
                # Nothing comes any more: the rest was erased, or the server was restarted meanwhile.
                following = await self.following(reader.position)
                if following is None or following > reader.end:
                    break
                stuck = stuck + 1 if reader.position == before else 0
                if stuck >= ROUNDS_MAX:
                    raise self._jetstream.connection.unavailable()
        return max(after, reader.end)

    async def at(self, sequence: int) -> Event | None:
        """Return the message at a sequence, None if it was erased or never was. Raises StoreDamaged."""
        return self._checked(await self._jetstream.at(self.stream, sequence))

    async def last(self, subject: str) -> Event | None:
        """Return the last message of a subject, None if there is none. Raises StoreDamaged."""
        return self._checked(await self._jetstream.last_of(self.stream, subject))

    async def since(self, time_ms: int) -> int:
        """Return the sequence before the first message that was stored at that time or later."""
        known = self.last_sequence
        start = (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds")
        first = await self._jetstream.get(self.stream, {"start_time": start, "next_by_subj": ">"})
        return known if first is None else first.sequence - 1

    async def following(self, sequence: int) -> int | None:
        """Return the sequence of the first message after one, None if there is none."""
        found = await self._jetstream.get(self.stream, {"seq": sequence + 1, "next_by_subj": ">"})
        return None if found is None else found.sequence

    async def erase(self, sequences: Sequence[int]) -> None:
        """Return once nobody can read them any more. Harmless for what is gone already.

        Their bytes are off the disk then too, unless very many are erased at a time: see `Erasure`.
        """
        await self._erasure.erase(sequences)

    def _on_stored(self, sequence: int) -> None:
        self._mark.advance(sequence)

    async def _stored_last(self) -> int:
        return int((await self._info())["state"]["last_seq"])

    async def _info(self) -> dict[str, Any]:
        return await self._jetstream.api(f"STREAM.INFO.{self.stream}")

    def _checked(self, stored: Stored | None) -> Event | None:
        if stored is None:
            return None
        if stored.headers.get(DIGEST) != digest_of(stored.subject, stored.data):
            raise self._changed(stored.sequence)
        return Event(stored.subject, stored.data, stored.sequence, stored.time_ms)

    def _changed(self, sequence: int) -> Exception:
        return self._guard.damaged_event(
            self.stream, sequence, f"holds message {sequence} changed", affected=1
        )


class _Reader(Receiver):
    """Checks each message and hands it on, up to the first that was changed."""

    def __init__(self, on_message: Callable[[Event], None], *, position: int, end: int) -> None:
        super().__init__(position=position)
        self._on_message = on_message
        self.end = end
        self.changed = 0
        """The sequence of the first that is not what was written."""

    def take(self, message: Delivered) -> None:
        """Check one message and hand it on."""
        if message.sequence <= self.position or self.ended.is_set():
            return
        if message.sequence > self.end:
            self._end_at(self.end)
        elif message.headers.get(DIGEST) != digest_of(message.subject, message.data):
            self.changed = message.sequence
            self.ended.set()
        else:
            try:
                self._on_message(Event(message.subject, message.data, message.sequence, message.time_ms))
            except Exception as error:  # handed to who called `read`; the client would only log it
                self.failure = error
                self.ended.set()
                return
            self.position = message.sequence
            if message.sequence == self.end or not message.pending:
                self.ended.set()

    def _end_at(self, sequence: int) -> None:
        self.position = sequence
        self.ended.set()
