"""The form of a backup: records in parts, each part with its SHA-256, and one over all of it at the end.

    stoker backup 1\\n
    record*             kind (1 byte), length (4 bytes, big-endian), that many bytes

    H  head, JSON       where it comes from
    P  part, JSON       begins a part: the messages of a stream, or one content
    D  bytes            a message (subject's length in 2 bytes, subject, data), or a piece of a content
    S  32 bytes         ends a part: the SHA-256 of all its D records' bytes
    M  manifest, JSON   what all of it is
    E  32 bytes         the SHA-256 of everything before this record; nothing may follow

Does not know what messages mean, nor where bytes come from or go.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import BinaryIO, TypeVar

import msgspec

from stoker.model.errors import Fault, StokerError

T = TypeVar("T")

FORMAT = 1
_NAME = b"stoker backup "
_HEADER = struct.Struct(">cI")
_SUBJECT = struct.Struct(">H")
RECORD_BYTES_MAX = 16 * 1024 * 1024
"""The largest message that NATS takes is half of it."""
INVOCATIONS, CATALOG, CONTENT = "invocations", "catalog", "content"


class BackupDamaged(StokerError):
    """The file is no backup, or not all of one as it was written."""

    code, fault = "backup.damaged", Fault.PLATFORM


class Head(msgspec.Struct, frozen=True):
    """Where a backup comes from."""

    stoker: str
    """The version of stoker that wrote it."""
    store: str
    """The id of the store."""
    taken_ms: int
    """When it was begun, in milliseconds since the epoch."""


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """The beginning of a part; account and digest are of a content."""

    kind: str
    account: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return f"content {self.digest[:12]}" if self.kind == CONTENT else self.kind


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds."""

    events: int
    """Of the catalog: functions, versions, accounts, tokens, names of secrets, all of their past."""
    messages: int
    """Of invocations: records, dead letters, keys, accepted work."""
    contents: int
    """Of assets and sealed secrets."""
    bytes: int
    """What all of these take."""
    secrets: dict[str, int]
    """How many secrets each key seals, by the key's id."""


class PartEnd(msgspec.Struct, frozen=True):
    """The part that was begun is complete, and is as it was written."""


Item = Head | Part | bytes | PartEnd | Manifest


class Encoder:
    """Makes the bytes of a backup, in the order in which its methods are called: `head` first, `end` last."""

    def __init__(self) -> None:
        self._all = sha256()
        self._part = sha256()

    def head(self, head: Head) -> bytes:
        """Return the beginning."""
        name = _NAME + b"%d\n" % FORMAT
        self._all.update(name)
        return name + self._record(b"H", msgspec.json.encode(head))

    def part(self, part: Part) -> bytes:
        """Begin a part."""
        self._part = sha256()
        return self._record(b"P", msgspec.json.encode(part))

    def piece(self, content: bytes) -> bytes:
        """Add bytes to the part: a whole message, or some of a content."""
        self._part.update(content)
        return self._record(b"D", content)

    def part_end(self) -> bytes:
        """End the part."""
        return self._record(b"S", self._part.digest())

    def end(self, manifest: Manifest) -> bytes:
        """End the backup."""
        return self._record(b"M", msgspec.json.encode(manifest)) + self._record(b"E", self._all.digest())

    def _record(self, kind: bytes, content: bytes) -> bytes:
        record = _HEADER.pack(kind, len(content)) + content
        if kind != b"E":
            self._all.update(record)
        return record


def message(subject: str, data: bytes) -> bytes:
    """Return a message as one piece."""
    text = subject.encode()
    return _SUBJECT.pack(len(text)) + text + data


def message_in(piece: bytes) -> tuple[str, bytes]:
    """Return (subject, data) of a piece that is a message."""
    try:
        (length,) = _SUBJECT.unpack_from(piece)
        end = _SUBJECT.size + length
        if end > len(piece):
            raise BackupDamaged("the backup is damaged: a message in it cannot be read")
        return piece[_SUBJECT.size : end].decode(), piece[end:]
    except (struct.error, UnicodeDecodeError):
        raise BackupDamaged("the backup is damaged: a message in it cannot be read") from None


def read(stream: BinaryIO) -> Iterator[Item]:
    """Yield what a backup holds: Head, for each part Part, its bytes and PartEnd, and Manifest.

    The Manifest comes only once all of the file was read and is as it was written; a part's bytes come before
    that is known. Raises BackupDamaged with what is wrong, and where.
    """
    return _Reader(stream).items()


class _Reader:
    """Reads one backup, once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._all = sha256()
        self._position = 0

    def items(self) -> Iterator[Item]:
        self._read_name()
        yield self._decoded(self._expect(b"H"), Head)
        parts = 0
        while (record := self._record())[0] == b"P":
            part = self._decoded(record[1], Part)
            yield part
            parts += 1
            part_sum = sha256()
            while (piece := self._record())[0] == b"D":
                part_sum.update(piece[1])
                yield piece[1]
            if piece[0] != b"S" or piece[1] != part_sum.digest():
                raise self._damaged(f"part {parts}, {part}, is not as it was written")
            yield PartEnd()
        if record[0] != b"M":
            raise self._damaged("a record is not where it belongs")
        manifest = self._decoded(record[1], Manifest)
        whole = self._all.digest()
        if self._expect(b"E") != whole:
            raise self._damaged("it is not as it was written")
        if self._stream.read(1):
            raise self._damaged("something follows its end")
        yield manifest

    def _read_name(self) -> None:
        line = self._stream.readline(len(_NAME) + 8)
        number = line[len(_NAME) :].rstrip(b"\n")
        if not line.startswith(_NAME) or not line.endswith(b"\n") or not number.isdigit():
            raise BackupDamaged("the file is no backup of stoker, or its beginning is damaged")
        if int(number) != FORMAT:
            raise BackupDamaged(
                f"the backup has format {int(number)}; this stoker knows format {FORMAT}",
                hint="restore it with the stoker that wrote it, or a newer one",
            )
        self._take(line)

    def _record(self) -> tuple[bytes, bytes]:
        header = self._stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise self._cut()
        kind, length = _HEADER.unpack(header)
        if kind not in b"HPDSME" or length > RECORD_BYTES_MAX:
            raise self._damaged("a record's header cannot be read")
        content = self._stream.read(length)
        if len(content) < length:
            raise self._cut()
        if kind != b"E":
            self._take(header + content)
        return kind, content

    def _expect(self, kind: bytes) -> bytes:
        found, content = self._record()
        if found != kind:
            raise self._damaged("a record is not where it belongs")
        return content

    def _decoded(self, content: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._damaged(f"its {kind.__name__.lower()} cannot be read") from None

    def _take(self, content: bytes) -> None:
        self._all.update(content)
        self._position += len(content)

    def _cut(self) -> BackupDamaged:
        return BackupDamaged(f"the backup is cut short: it ends after {self._position} bytes")

    def _damaged(self, what: str) -> BackupDamaged:
        return BackupDamaged(f"the backup is damaged at byte {self._position}: {what}")
