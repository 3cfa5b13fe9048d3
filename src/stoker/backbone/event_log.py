"""The event log: one stream whose events are appended, and replayed in order.

Owns the check that nothing is missing or changed; an event goes only after a note says so. Does not know
what the events mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from uuid import uuid4

from stoker.backbone.connection import Message
from stoker.backbone.delivery import Delivered, Receiver, deliver
from stoker.backbone.erasure import Erasure
from stoker.backbone.guard import StoreGuard
from stoker.backbone.jetstream import BATCH_COUNT_MAX, Code, JetStream, Refused, Stored, StreamSpec
from stoker.backbone.vacancies import Signs, Vacancies, note_of
from stoker.model.errors import VersionConflict

DIGEST = "Stoker-Digest"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
ROUNDS_MAX = 5
NOTED_MAX = 1_000
"""Events that one note is for."""


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
        signs: Signs,
        replicas: int = 1,
    ) -> None:
        self._jetstream = jetstream
        self._guard = guard
        self._spec = StreamSpec(stream, tuple(subjects), replicas=replicas)
        self._stand_in = signs.stand_in
        self._vacancies = Vacancies(jetstream, stream, signs.notes)
        self._erasure = Erasure(jetstream, stream)

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
        if state.get("num_deleted") or int(state["first_seq"]) > 1:
            await self._vacancies.learn(_is_unchanged)
        reader = _Reader(on_event, self.stand_in, position=after, end=stored)
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
        if reader.failure is not None:
            raise reader.failure
        if reader.lost and await self._vacancies.learn(_is_unchanged):
            # Another gateway has erased something since we asked how far the log is.
            return await self.replay(on_event, after=reader.first_lost - 1)
        if reader.lost:
            raise self._guard.damaged_event(
                self.stream,
                reader.first_lost,
                f"lacks event {reader.first_lost} of {last}, or holds it changed",
                affected=reader.lost,
            )
        self._guard.mark.advance(last)
        return last

    async def erase(
        self, subjects: str, note_subject: str, *, until: int, on_event: Callable[[Event], None]
    ) -> None:
        """Return once no event of `subjects` (a pattern) up to a sequence is in the log, nor on the disk.

        The last goes first, so that whatever ends this leaves a log that began like this one; a further call
        goes on. `on_event` is given the notes. Raises as `append` does.
        """
        places = await self._places(subjects, until)
        for end in range(len(places), 0, -NOTED_MAX):
            noted = places[max(0, end - NOTED_MAX) : end]
            note = note_of(noted)
            sequence = await self.append(note_subject, note, expected=None)
            on_event(Event(note_subject, note, sequence, 0))
            self._vacancies.known.update(noted)
            await self._erasure.overwrite(reversed(noted))

    def stand_in(self, sequence: int) -> Event | None:
        """Return what is handed on in the place of an event that was erased; None if a note names no such."""
        return Event(self._stand_in, b"", sequence, 0) if sequence in self._vacancies.known else None

    async def _places(self, subjects: str, until: int) -> list[int]:
        places: list[int] = []
        position = 0
        while position < until:
            which = {"seq": position + 1, "next_by_subj": subjects}
            found = await self._jetstream.get(self.stream, which)
            if found is None:
                break
            position = found.sequence
            if position <= until:
                places.append(position)
        return places


class _Reader(Receiver):
    """Checks each of the log's messages, hands the good ones on up to the first bad one."""

    def __init__(
        self,
        on_event: Callable[[Event], None],
        stand_in: Callable[[int], Event | None],
        *,
        position: int,
        end: int,
    ) -> None:
        super().__init__(position=position)
        self._on_event = on_event
        self._stand_in = stand_in
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
        else:
            self._hand_on(Event(message.subject, message.data, sequence, message.time_ms))
        if sequence >= self._end:
            self.ended.set()

    def lose_until(self, sequence: int) -> None:
        """Count all up to `sequence` that was not handled as lost, but for what was erased on purpose."""
        while self.position < sequence:
            stand_in = self._stand_in(self.position + 1)
            if stand_in is not None:
                self._hand_on(stand_in)
                continue
            self.position += 1
            self.first_lost = self.first_lost or self.position
            self.lost += 1

    def _hand_on(self, event: Event) -> None:
        self.position = event.sequence
        if self.lost or self.failure is not None:
            return
        try:
            self._on_event(event)
        except Exception as error:  # handed to who called `replay`; the client would only log it
            self.failure = error
            self.ended.set()


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


def _is_unchanged(stored: Stored) -> bool:
    return stored.headers.get(DIGEST) == digest_of(stored.subject, stored.data)


def digest_of(subject: str, data: bytes) -> str:
    """Return the SHA-256 by which an event is recognised as what was appended."""
    return sha256(subject.encode() + b"\n" + data).hexdigest()
