"""Taking a backup: all that a store holds at a moment, in pieces, while others go on writing.

Owns the order in which streams are read, by which what is read later has all that what was read earlier
refers to: invocations, then the catalog, then contents. Does not know who asks, nor where the pieces go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from stoker import __version__
from stoker.app.backup import format
from stoker.app.backup.format import Encoder, Head, Manifest, Part
from stoker.backbone.blobs import BlobStore
from stoker.backbone.event_log import Event
from stoker.backbone.ledger import Ledger
from stoker.catalog.fold import Fold
from stoker.model.errors import StokerError

STRETCH_MESSAGES = 256
HELD_BYTES_MAX = 1024 * 1024
"""Of messages that are read and not yet passed on; one alone may be larger. Calls wait meanwhile, some ms."""

Held = Callable[[], AbstractAsyncContextManager[object]]


@dataclass(frozen=True, slots=True)
class Source:
    """An open store."""

    store_id: str
    catalog: Ledger
    """The stream of events, read by place."""
    stand_in: Callable[[int], Event | None]
    """What is handed on in the place of an event that was erased, as revisions are places; else None."""
    catalog_end: Callable[[], int]
    """The last event that is acknowledged, which is never one in the middle of an atomic batch."""
    invocations: Ledger
    blobs: BlobStore
    hold_invocations: Held
    """While it is entered, no message of invocations is erased."""
    hold_contents: Held
    """While it is entered, no content is swept."""


async def take(source: Source, now_ms: int) -> AsyncGenerator[bytes, None]:
    """Yield a backup of all that is acknowledged by now. Holds some MiB of it at a time, and the catalog.

    Raises StoreDamaged where something stored is not what was written, Unavailable.
    """
    encoder = Encoder()
    stored_bytes = 0
    yield encoder.head(Head(__version__, source.store_id, now_ms))

    yield encoder.part(Part(format.INVOCATIONS))
    messages = 0
    async with source.hold_invocations():
        async for stretch in stretches(source.invocations, source.invocations.last_sequence):
            messages += len(stretch)
            stored_bytes += sum(len(event.data) for event in stretch)
            yield b"".join(encoder.piece(format.message(event.subject, event.data)) for event in stretch)
    yield encoder.part_end()

    async with source.hold_contents():
        yield encoder.part(Part(format.CATALOG))
        fold, events = Fold(), 0
        end = source.catalog_end()
        async for stretch in stretches(source.catalog, end):
            whole = list(_without_gaps(stretch, events, source.stand_in, end))
            for event in whole:
                fold.apply(event.subject, event.data, event.sequence)
                stored_bytes += len(event.data)
            events += len(whole)
            yield b"".join(encoder.piece(format.message(event.subject, event.data)) for event in whole)
        if events != end:
            raise StokerError(f"the store is damaged: it lacks event {events + 1} of {end}")
        yield encoder.part_end()

        contents = sorted(fold.references.all())
        for account, digest in contents:
            yield encoder.part(Part(format.CONTENT, account, digest))
            async for piece in source.blobs.read(account, digest):
                stored_bytes += len(piece)
                yield encoder.piece(piece)
            yield encoder.part_end()

    secrets = Counter(secret.key_id for secret in fold.secrets.values())
    yield encoder.end(Manifest(events, messages, len(contents), stored_bytes, dict(secrets)))


def _without_gaps(
    stretch: Sequence[Event], position: int, stand_in: Callable[[int], Event | None], end: int
) -> Iterator[Event]:
    """Yield the events after a position with what stands in for erased ones. Raises StokerError."""
    for event in stretch:
        for sequence in range(position + 1, event.sequence):  # revisions are sequences: they have to stay
            found = stand_in(sequence)
            if found is None:
                raise StokerError(f"the store is damaged: it lacks event {sequence} of {end}")
            yield found
        position = event.sequence
        yield event


async def stretches(stream: Ledger, end: int) -> AsyncIterator[list[Event]]:
    """Yield the messages of a stream up to a sequence, some at a time, in their order."""
    position = 0
    while position < end:
        stretch = _Stretch()
        until = min(position + STRETCH_MESSAGES, end)
        try:
            position = await stream.read(stretch.take, after=position, until=until)
        except _Full:
            position = stretch.events[-1].sequence
        if stretch.events:
            yield stretch.events
        elif position < end:  # erased, perhaps for a long way
            following = await stream.following(position)
            position = end if following is None else min(following - 1, end)


class _Full(Exception):
    """Enough is held."""


class _Stretch:
    """Messages that are held."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._bytes = 0

    def take(self, event: Event) -> None:
        if self.events and self._bytes + len(event.data) > HELD_BYTES_MAX:
            raise _Full
        self.events.append(event)
        self._bytes += len(event.data)
