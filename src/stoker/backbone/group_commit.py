"""Group commit: groups of messages that are asked for at the same time go to a stream together.

Owns what waits and what is on its way. A message that is published alone costs a round trip and a write to
the disk that nothing shares; one of an atomic batch costs a fifth of it. Does not know what the messages
mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stoker.backbone.connection import Message
from stoker.backbone.event_log import EXPECTED, conflict, own_sequence
from stoker.backbone.jetstream import BATCH_COUNT_MAX, Code, JetStream, Refused
from stoker.model.errors import StorageFull, TooLarge, Unavailable

BATCH_BYTES_MAX = 4 * 1024 * 1024
"""A group may be larger, and then goes alone. The server takes 128 MiB that wait for one stream, but a batch
is in memory here and there, and holds the others off."""
HEADERS_BYTES_MAX = 1_024
"""Above what the headers of a message take, those of a batch included: they count as part of it."""
_CONFLICTS = {Code.WRONG_LAST_SEQUENCE, Code.BATCH_HAS_DUPLICATE}


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Messages that are stored one after the other, or not at all."""

    messages: Sequence[Message]
    reserve: bool
    """They may use the disk's reserve."""
    stored: asyncio.Future[int] = field(default_factory=asyncio.Future)
    """The sequence of the first. Whoever waits for it may have gone."""

    @property
    def size(self) -> int:
        """What they take on the way, in bytes."""
        return sum(len(message.data) + HEADERS_BYTES_MAX for message in self.messages)

    def succeed(self, sequence: int) -> None:
        """Tell the sequence of the first."""
        if not self.stored.done():
            self.stored.set_result(sequence)

    def fail(self, error: Exception) -> None:
        """Tell why they are not stored, or may not be."""
        if not self.stored.done():
            self.stored.set_exception(error)


class GroupCommit:
    """One for a stream. `on_stored` is told the highest acknowledged sequence before those who wait are."""

    def __init__(self, jetstream: JetStream, stream: str, on_stored: Callable[[int], None]) -> None:
        self._jetstream = jetstream
        self._stream = stream
        self._on_stored = on_stored
        self._waiting: deque[Group] = deque()
        self._sender: asyncio.Task[None] | None = None
        self.last_sequence = 0
        """The highest that is known to be stored: nothing that is on its way is at or before it."""
        self._closed = False

    def add(self, group: Group) -> None:
        """Send the group now, or as soon as what is on its way has arrived."""
        largest = max(len(message.data) for message in group.messages)
        if self._closed:
            group.fail(Unavailable("the store is closed"))
        elif largest + HEADERS_BYTES_MAX > self._jetstream.connection.message_bytes_max:
            group.fail(TooLarge(f"a message of {largest} bytes is past the limit of NATS"))
        else:
            self._waiting.append(group)
            if self._sender is None:
                self._sender = asyncio.create_task(self._send_waiting(), name=f"commit-{self._stream}")

    async def close(self) -> None:
        """Take nothing new; return when nothing is on its way any more. Harmless when repeated."""
        self._closed = True
        if self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                await self._send(take_batch(self._waiting))
        finally:
            self._sender = None

    async def _send(self, groups: Sequence[Group]) -> None:
        """Send a batch, and tell each group what has become of it."""
        groups = self._with_room(groups)
        if not groups:
            return
        messages = [message for group in groups for message in group.messages]
        try:
            first = await self._publish(messages, reserve=any(group.reserve for group in groups))
        except Refused as refusal:
            if refusal.err_code not in _CONFLICTS:
                _fail(groups, refusal)
            elif len(groups) == 1:
                groups[0].fail(conflict())
            else:
                # One of them is to blame. Halves find it in a few steps, and the others share theirs.
                half = len(groups) // 2
                await self._send(groups[:half])
                await self._send(groups[half:])
        except Exception as error:  # whatever it is: nobody may wait for ever
            _fail(groups, error)
        else:
            self.last_sequence = max(self.last_sequence, first + len(messages) - 1)
            self._on_stored(self.last_sequence)
            for group in groups:
                group.succeed(first)
                first += len(group.messages)

    def _with_room(self, groups: Sequence[Group]) -> Sequence[Group]:
        """Return those for which the disk has room; the others are told that it is full."""
        if all(group.reserve for group in groups):
            return groups
        try:
            self._jetstream.require_room()
        except StorageFull as full:
            _fail([group for group in groups if not group.reserve], full)
            return [group for group in groups if group.reserve]
        return groups

    async def _publish(self, messages: Sequence[Message], *, reserve: bool) -> int:
        """Return the sequence of the first."""
        after = self.last_sequence
        try:
            if len(messages) == 1:  # a batch of one would take four times as long
                last = (await self._jetstream.publish(messages[0], reserve=reserve)).sequence
            else:
                last = (await self._jetstream.publish_batch(messages, reserve=reserve)).sequence
        except Refused as refusal:
            # What conflicts may be our own, its acknowledgement lost: all are stored if the first one is.
            first = messages[0]
            own = refusal.err_code in _CONFLICTS and await own_sequence(
                self._jetstream, self._stream, first, int(first.headers.get(EXPECTED, after))
            )
            if not own:
                raise
            last = own + len(messages) - 1
        return last - len(messages) + 1


def take_batch(waiting: deque[Group]) -> list[Group]:
    """Remove and return what goes together next; the order of what concerns one subject is kept.

    The server refuses a batch that expects something of a subject that it has written before, so a group
    that does waits for the next one, and so do those that concern its subjects.
    """
    taken: list[Group] = []
    passed_over: list[Group] = []
    written: set[str] = set()
    held: set[str] = set()
    count = size = 0
    while waiting:
        group = waiting[0]
        count, size = count + len(group.messages), size + group.size
        if taken and (count > BATCH_COUNT_MAX or size > BATCH_BYTES_MAX):
            break
        waiting.popleft()
        subjects = {message.subject for message in group.messages}
        expecting = {message.subject for message in group.messages if EXPECTED in message.headers}
        if subjects & held or expecting & written:
            held |= subjects
            passed_over.append(group)
        else:
            written |= subjects
            taken.append(group)
    waiting.extendleft(reversed(passed_over))
    return taken


def _fail(groups: Sequence[Group], error: Exception) -> None:
    for group in groups:
        group.fail(error)
