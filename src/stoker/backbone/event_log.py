"""The event log: one stream whose events are appended, never deleted, and replayed in order.

Owns the check that nothing is missing or changed. Does not know what the events mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import uuid4

from nats.aio.msg import Msg

from stoker.backbone.connection import Message
from stoker.backbone.guard import StoreGuard
from stoker.backbone.jetstream import BATCH_COUNT_MAX, Code, JetStream, Refused, StreamSpec
from stoker.model.errors import VersionConflict

DIGEST = "Stoker-Digest"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
HEARTBEAT_MS = 500
SILENCE_MS_MAX = 1_500
"""Without an event or heartbeat for so long the consumer is gone, with its server: make another one."""
ROUNDS_MAX = 5


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it is stored."""

    subject: str
    data: bytes
    sequence: int
    """Its place in the log, from 1."""
    time_ms: int
    """When it was stored, in milliseconds since the epoch."""


class EventLog:
    """Appending and replaying. Call `open` first, and `replay` before the first append."""

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
        self._spec = StreamSpec(stream, tuple(subjects), replicas=replicas)

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._spec.name

    async def open(self) -> None:
        """Make the stream if it never was. Raises StoreDamaged if it has vanished."""
        await self._guard.open_stream(self._jetstream, self._spec)

    async def append(self, subject: str, data: bytes, *, expected: int | None) -> int:
        """Return the event's sequence once it is stored for good.

        `expected` is the sequence of the subject's last event, 0 if there must be none, None for any.
        Raises VersionConflict, StorageFull, TooLarge; Unavailable after some seconds, and then it is not
        known whether the event was stored: `replay(after=...)` tells.
        """
        message = self._message(subject, data, expected)
        try:
            sequence = (await self._jetstream.publish(message)).sequence
        except Refused as refusal:
            if refusal.err_code != Code.WRONG_LAST_SEQUENCE:
                raise
            # The server compares sequences before ids: what conflicts may be our own, its answer lost.
            own = await self._own_sequence(message, expected)
            if own is None:
                raise VersionConflict("somebody changed it first; read it again and decide anew") from None
            sequence = own
        self._guard.mark.advance(sequence)
        return sequence

    async def append_batch(self, events: Sequence[tuple[str, bytes, int | None]]) -> list[int]:
        """Return the sequences of (subject, data, expected) once all are stored, in this order, or none is.

        At most BATCH_COUNT_MAX. Raises as `append` does.
        """
        if len(events) > BATCH_COUNT_MAX:
            raise ValueError(f"a batch has at most {BATCH_COUNT_MAX} events, not {len(events)}")
        if len(events) < 2:  # a batch of one would take four times as long
            return [await self.append(subject, data, expected=expected) for subject, data, expected in events]
        messages = [self._message(*event) for event in events]
        since = self._guard.mark.sequence
        try:
            last = (await self._jetstream.publish_batch(messages)).sequence
        except Refused as refusal:
            if refusal.err_code not in (Code.WRONG_LAST_SEQUENCE, Code.BATCH_HAS_DUPLICATE):
                raise
            expected = events[-1][2]
            own = await self._own_sequence(messages[-1], since if expected is None else expected)
            if own is None:
                raise VersionConflict("somebody changed it first; read it again and decide anew") from None
            last = own
        self._guard.mark.advance(last)
        return list(range(last - len(events) + 1, last + 1))

    async def replay(self, on_event: Callable[[Event], None], *, after: int = 0) -> int:
        """Give every event after that sequence to `on_event`, in order, and return the last sequence.

        Raises StoreDamaged if one is missing or changed, or the log is shorter than what was acknowledged;
        `on_event` has then seen the good ones before it.
        """
        state = (await self._jetstream.api(f"STREAM.INFO.{self.stream}"))["state"]
        stored = int(state["last_seq"])
        reader = Reader(on_event, position=after, end=stored)
        stuck = 0
        while reader.position < stored:
            before = reader.position
            await self._read(reader)
            stuck = stuck + 1 if reader.position == before else 0
            if reader.position < stored:
                # It fell silent: the next event cannot be read, or the server was restarted meanwhile.
                following = await self._jetstream.get(
                    self.stream, {"seq": reader.position + 1, "next_by_subj": ">"}
                )
                reader.lose_until(stored if following is None else following.sequence - 1)
            if stuck >= ROUNDS_MAX:
                raise self._jetstream.connection.unavailable()
        last = max(stored, self._guard.mark.sequence)
        reader.lose_until(last)
        if reader.lost:
            raise self._guard.damaged_event(
                self.stream,
                reader.first_lost,
                f"lacks event {reader.first_lost} of {last}, or holds it changed",
                affected=reader.lost,
            )
        self._guard.mark.advance(last)
        return last

    def _message(self, subject: str, data: bytes, expected: int | None) -> Message:
        headers = {
            MESSAGE_ID: uuid4().hex,
            "Nats-Expected-Stream": self.stream,
            DIGEST: digest_of(subject, data),
        }
        if expected is not None:
            headers[EXPECTED] = str(expected)
        return Message(subject, data, headers)

    async def _own_sequence(self, message: Message, after: int | None) -> int | None:
        """Return the sequence of our own message if it is stored, looking at its subject after a sequence."""
        sequence = after or 0
        while True:
            stored = await self._jetstream.get(
                self.stream, {"seq": sequence + 1, "next_by_subj": message.subject}
            )
            if stored is None:
                return None
            if stored.headers.get(MESSAGE_ID) == message.headers[MESSAGE_ID]:
                return stored.sequence
            sequence = stored.sequence

    async def _read(self, reader: Reader) -> None:
        """Read on with a push consumer of its own, until the end or until it falls silent."""
        connection = self._jetstream.connection
        inbox = connection.new_inbox()

        async def on_message(message: Msg) -> None:
            headers = message.headers or {}
            if headers.get("Status") != "100":
                reader.take(message)
                return
            reply = message.reply or headers.get("Nats-Consumer-Stalled")
            if reply:  # flow control: the server goes on once we have handled what it sent so far
                await connection.tell(reply)
            else:
                reader.heartbeat()

        reader.begin()
        subscription = await connection.subscribe(inbox, on_message)
        try:
            name = uuid4().hex
            await self._jetstream.api(
                f"CONSUMER.CREATE.{self.stream}.{name}",
                {"stream_name": self.stream, "config": _consumer(name, inbox, reader.position + 1)},
            )
            while not reader.ended.is_set():
                before = reader.position
                with suppress(TimeoutError):
                    async with asyncio.timeout(SILENCE_MS_MAX / 1000):
                        await reader.ended.wait()
                if reader.position == before:
                    break
        finally:
            await subscription.unsubscribe()
        if reader.failure is not None:
            raise reader.failure


class Reader:
    """Takes the log's messages as they come, checks each, hands the good ones on up to the first bad one."""

    def __init__(self, on_event: Callable[[Event], None], *, position: int, end: int) -> None:
        self._on_event = on_event
        self._end = end
        self._beat_position = -1
        self.position = position
        """The sequence up to which all is handled."""
        self.lost = 0
        """Events that are missing or changed."""
        self.first_lost = 0
        self.failure: Exception | None = None
        """What `on_event` raised."""
        self.ended = asyncio.Event()

    def begin(self) -> None:
        """Start another round."""
        self.ended.clear()
        self._beat_position = -1

    def take(self, message: Msg) -> None:
        """Check one message and hand it on."""
        sequence, time_ms = _place(message.reply)
        if sequence <= self.position or self.ended.is_set():
            return
        self.lose_until(sequence - 1)
        headers = message.headers or {}
        if headers.get(DIGEST) != digest_of(message.subject, message.data):
            self.lose_until(sequence)
        elif not self.lost:
            try:
                self._on_event(Event(message.subject, message.data, sequence, time_ms))
            except Exception as error:  # handed to who called `replay`; the client would only log it
                self.failure = error
                self.ended.set()
        self.position = sequence
        if sequence >= self._end:
            self.ended.set()

    def heartbeat(self) -> None:
        """Note that the server has nothing to send; the second time without progress ends the round."""
        if self._beat_position == self.position:
            self.ended.set()
        self._beat_position = self.position

    def lose_until(self, sequence: int) -> None:
        """Count all up to `sequence` that was not handled as lost."""
        if sequence > self.position:
            self.first_lost = self.first_lost or self.position + 1
            self.lost += sequence - self.position
            self.position = sequence


def digest_of(subject: str, data: bytes) -> str:
    """Return the SHA-256 by which an event is recognised as what was appended."""
    return sha256(subject.encode() + b"\n" + data).hexdigest()


def _place(reply: str) -> tuple[int, int]:
    """Return (sequence, time_ms) of a delivered message, which its reply subject holds.

    `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<time ns>.<pending>`; servers
    with a domain put that and a hash before the stream.
    """
    tokens = reply.split(".")
    first = 2 if len(tokens) == 9 else 4
    return int(tokens[first + 3]), int(tokens[first + 5]) // 1_000_000


def _consumer(name: str, inbox: str, first_sequence: int) -> dict[str, Any]:
    """Return the settings of a consumer that pushes the log from a sequence on, and is gone when we are."""
    return {
        "name": name,
        "deliver_subject": inbox,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": first_sequence,
        "ack_policy": "none",
        "max_deliver": 1,
        "mem_storage": True,
        "num_replicas": 1,
        "flow_control": True,
        "idle_heartbeat": HEARTBEAT_MS * 1_000_000,
        "inactive_threshold": 5_000_000_000,
    }
