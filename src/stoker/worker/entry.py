"""One entry of an archive, as it is read and before anybody trusts it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class BadArchive(Exception):
    """An archive that is damaged or holds what may not be; the text goes on after the archive's name.

    Never leaves the code tree, which knows the item and says so in an InvalidRequest.
    """


class EntryKind(Enum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    HARD_LINK = "hard link"
    DEVICE = "device"
    """Anything that is not to be made: devices, fifos, sockets."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, unchecked."""

    name: str
    kind: EntryKind
    mode: int
    """Permission bits with setuid, setgid and sticky; -1 if unreadable."""
    target: str
    """Of a link or hard link."""
    chunks: Iterator[bytes]
    """The content of a file; to be taken before the next entry."""
