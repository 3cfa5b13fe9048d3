"""Vacancies: the places of an event log that are empty on purpose.

A note in the log itself says which, and is stored before anything is erased: an empty place that no note
names is damage. Does not know what stood there, nor why it went.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from stoker.backbone.jetstream import JetStream, Stored

FORMAT = 1


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    """A note as it is stored: stretches of places, each from its first to its last."""

    format: int
    places: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Signs:
    """How empty places are spoken of in a log."""

    notes: str
    """The pattern of the subjects that hold notes, and nothing else."""
    stand_in: str
    """The subject of the event without content that is handed on in the place of one that was erased."""


class Vacancies:
    """Those of one log. `known` has all that are noted, whether they are empty yet or not."""

    def __init__(self, jetstream: JetStream, stream: str, notes: str) -> None:
        self._jetstream = jetstream
        self._stream = stream
        self._notes = notes
        self._read_to = 0
        self.known: set[int] = set()

    async def learn(self, is_good: Callable[[Stored], bool]) -> bool:
        """Read the notes that came since the last time, but for those that were changed.

        Returns whether there are more empty places than were known.
        """
        before = len(self.known)
        while True:
            which = {"seq": self._read_to + 1, "next_by_subj": self._notes}
            note = await self._jetstream.get(self._stream, which)
            if note is None:
                return len(self.known) > before
            if is_good(note):
                self.known.update(places_in(note.data))
            self._read_to = note.sequence


def note_of(places: Iterable[int]) -> bytes:
    """Return the note that says that these places are, or will be, empty."""
    stretches: list[tuple[int, int]] = []
    for place in sorted(places):
        if stretches and place == stretches[-1][1] + 1:
            stretches[-1] = (stretches[-1][0], place)
        else:
            stretches.append((place, place))
    return msgspec.json.encode(_Note(FORMAT, stretches))


def places_in(note: bytes) -> Iterable[int]:
    """Return the places that a note names; none of one that only a newer stoker can read."""
    try:
        found = msgspec.json.decode(note, type=_Note)
    except msgspec.MsgspecError:
        return ()
    if found.format != FORMAT:
        return ()
    return (place for first, last in found.places for place in range(first, last + 1))
