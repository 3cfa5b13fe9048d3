"""The event log: one stream whose events are appended, never deleted, and replayed in order.

Owns the check that nothing is missing or changed. Does not know what the events mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from uuid import uuid4

from stoker.backbone.connection import Message
from stoker.backbone.delivery import Delivered, Receiver, deliver
from stoker.backbone.guard import StoreGuard
from stoker.backbone.jetstream import BATCH_COUNT_MAX, Code, JetStream, Refused, StreamSpec
from stoker.model.errors import VersionConflict

DIGEST = "Stoker-Digest"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
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
        message = message_of(self.stream, subject, data, expected)
        try:
            sequence = (await self._jetstream.publish(message)).sequence
        except Refused as refusal:
            if refusal.err_code != Code.WRONG_LAST_SEQUENCE:
                raise
            # The server compares sequences before ids: what conflicts may be our own, its answer lost.
            own = await own_sequence(self._jetstream, self.stream, message, expected)
            if own is None:
                raise conflict() from None
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
        messages = [message_of(self.stream, *event) for event in events]
        since = self._guard.mark.sequence
        try:
            last = (await self._jetstream.publish_batch(messages)).sequence
        except Refused as refusal:
            if refusal.err_code not in (Code.WRONG_LAST_SEQUENCE, Code.BATCH_HAS_DUPLICATE):
                raise
            expected = events[-1][2]
            own = await own_sequence(
                self._jetstream, self.stream, messages[-1], since if expected is None else expected
            )
            if own is None:
                raise conflict() from None
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
        reader = _Reader(on_event, position=after, end=stored)
        stuck = 0
        while reader.position < stored:
            before = reader.position
            await deliver(self._jetstream, self.stream, reader)
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


class _Reader(Receiver):
    """Checks each of the log's messages, hands the good ones on up to the first bad one."""

    def __init__(self, on_event: Callable[[Event], None], *, position: int, end: int) -> None:
        super().__init__(position=position)
        self._on_event = on_event
        self._end = end
        self.lost = 0
        """Events that are missing or changed."""
        self.first_lost = 0

    def take(self, message: Delivered) -> None:
        """Check one message and hand it on."""
        sequence = message.sequence
        if sequence <= self.position or self.ended.is_set():
            return
        self.lose_until(sequence - 1)
        if message.headers.get(DIGEST) != digest_of(message.subject, message.data):
            self.lose_until(sequence)
        elif not self.lost:
            try:
                self._on_event(Event(message.subject, message.data, sequence, message.time_ms))
            except Exception as error:  # handed to who called `replay`; the client would only log it
                self.failure = error
                self.ended.set()
        self.position = sequence
        if sequence >= self._end:
            self.ended.set()

    def lose_until(self, sequence: int) -> None:
        """Count all up to `sequence` that was not handled as lost."""
        if sequence > self.position:
            self.first_lost = self.first_lost or self.position + 1
            self.lost += sequence - self.position
            self.position = sequence


def message_of(stream: str, subject: str, data: bytes, expected: int | None) -> Message:
    """Return what stores an event, with an id of its own and the digest by which it is checked."""
    headers = {
        MESSAGE_ID: uuid4().hex,
        "Nats-Expected-Stream": stream,
        DIGEST: digest_of(subject, data),
    }
    if expected is not None:
        headers[EXPECTED] = str(expected)
    return Message(subject, data, headers)


async def own_sequence(jetstream: JetStream, stream: str, message: Message, after: int | None) -> int | None:
    """Return the sequence of our own message if it is stored, looking at its subject after a sequence."""
    sequence = after or 0
    while True:
        stored = await jetstream.get(stream, {"seq": sequence + 1, "next_by_subj": message.subject})
        if stored is None:
            return None
        if stored.headers.get(MESSAGE_ID) == message.headers[MESSAGE_ID]:
            return stored.sequence
        sequence = stored.sequence


def conflict() -> VersionConflict:
    """Return the error for who decided on what is not the last event any more."""
    return VersionConflict("somebody changed it first; read it again and decide anew")


def digest_of(subject: str, data: bytes) -> str:
    """Return the SHA-256 by which an event is recognised as what was appended."""
    return sha256(subject.encode() + b"\n" + data).hexdigest()
