"""Where nats-server keeps a stream on disk: enough to name a damaged file, and to see at once what is gone.

Reads only. Does not know what is stored, and never writes what belongs to nats-server.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HEAD = struct.Struct("<IQqH")
"""A record begins with its length, sequence, time and the length of its subject; 8 bytes of hash end it."""
_LENGTH_MASK = 0x3FFF_FFFF
_ERASED, _TOMBSTONE = 1 << 63, 1 << 62
_HASH_BYTES = 8
_SUBJECT_BYTES_MAX = 4_096
JUMP_MAX = 1 << 24
"""Deleted messages between two that are left. nats-server 2.15.1 builds a table of all it thinks deleted:
with one flipped bit in a sequence it does not come up any more and takes gigabytes."""


class StoreFiles:
    """The files of the streams below the embedded server's directory."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "jetstream"
        self._streams = self.store / "$G" / "streams"

    @property
    def exist(self) -> bool:
        """Tell whether a server has kept anything here."""
        return self.store.exists()

    def of_stream(self, stream: str) -> Path:
        """Return the folder of a stream."""
        return self._streams / stream

    def fault_of(self, stream: str, *, acknowledged: int = 0) -> tuple[Path, str] | None:
        """Return what is obviously wrong with a stream that must be there, before a server runs on it.

        Up to the sequence that was `acknowledged` any number may have been deleted.
        """
        for folder in (self.store, self.of_stream(stream), self.of_stream(stream) / "msgs"):
            if not folder.is_dir():
                return folder, "is gone"
        for name in ("meta.inf", "meta.sum"):
            file = self.of_stream(stream) / name
            if not file.is_file():
                return file, "is gone"
            if not file.stat().st_size:
                return file, "is empty"
        file = self.of_stream(stream) / "meta.inf"
        try:
            named = json.loads(file.read_bytes())["name"]
        except (ValueError, KeyError, TypeError):
            return file, "is damaged"
        if named != stream:
            return file, "is of another stream"
        block = self._block_out_of_order(stream, acknowledged)
        return None if block is None else (block, "has sequences that are out of order")

    def block_with_sequence(self, stream: str, sequence: int) -> Path:
        """Return the block that has, or should have, a sequence; the stream's folder if none can be told."""
        first: dict[int, Path] = {}
        for block in self._blocks(stream):
            for found in _sequences(block):
                first[found] = block
                break
        below = [number for number in first if number <= sequence]
        return first[max(below)] if below else self.of_stream(stream)

    def block_with_subject(self, stream: str, subject: str) -> Path:
        """Return the block in which a subject occurs; the stream's folder if there is none."""
        for block in self._blocks(stream):
            with _content(block) as content:
                if content.find(subject.encode()) >= 0:
                    return block
        return self.of_stream(stream)

    def _blocks(self, stream: str) -> list[Path]:
        return sorted(
            (self.of_stream(stream) / "msgs").glob("*.blk"), key=lambda path: (len(path.name), path)
        )

    def _block_out_of_order(self, stream: str, acknowledged: int) -> Path | None:
        """Return the first block with a sequence that does not rise, or rises past all reason."""
        last = 0
        for block in self._blocks(stream):
            for sequence in _sequences(block):
                # What was deleted before the first message that is left has no bound.
                jump = last and sequence > acknowledged and sequence - last > JUMP_MAX
                if sequence <= last or jump:
                    return block
                last = sequence
        return None


@contextmanager
def _content(block: Path) -> Iterator[mmap.mmap | bytes]:
    with block.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""  # cannot be mapped
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _sequences(block: Path) -> Iterator[int]:
    """Yield the sequences of a block's messages, as far as it can be read.

    Where it cannot (torn by a crash, of a format that we do not know) it is left to nats-server and to the
    checks of what that gives us.
    """
    with _content(block) as content:
        start, size = 0, len(content)
        while start + _HEAD.size <= size:
            length, sequence, _, subject_bytes = _HEAD.unpack_from(content, start)
            length &= _LENGTH_MASK
            if length < _HEAD.size + subject_bytes + _HASH_BYTES or start + length > size:
                return
            if not sequence & (_TOMBSTONE | _ERASED):  # what was erased has no subject any more
                if not 0 < subject_bytes <= _SUBJECT_BYTES_MAX:
                    return
                yield sequence
            start += length
