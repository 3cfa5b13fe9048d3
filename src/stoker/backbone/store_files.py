"""Where nats-server keeps a stream on disk: enough to name a damaged file, and to see at once what is gone.

Reads only. Does not know what is stored, and never writes what belongs to nats-server.
"""

from __future__ import annotations

import json
import mmap
from contextlib import suppress
from pathlib import Path

_SEQUENCE = slice(4, 12)
"""A block begins with a record: its length (4 bytes), its sequence (8), its time (8), ..., little endian."""


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

    def fault_of(self, stream: str) -> tuple[Path, str] | None:
        """Return what is obviously wrong with a stream that must be there, before a server runs on it."""
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
        return None if named == stream else (file, "is of another stream")

    def block_with_sequence(self, stream: str, sequence: int) -> Path:
        """Return the block that has, or should have, a sequence; the stream's folder if none can be told."""
        first: dict[int, Path] = {}
        for block in (self.of_stream(stream) / "msgs").glob("*.blk"):
            with suppress(OSError), block.open("rb") as file:
                head = file.read(_SEQUENCE.stop)
                if len(head) == _SEQUENCE.stop:
                    first[int.from_bytes(head[_SEQUENCE], "little")] = block
        below = [number for number in first if number <= sequence]
        return first[max(below)] if below else self.of_stream(stream)

    def block_with_subject(self, stream: str, subject: str) -> Path:
        """Return the block in which a subject occurs; the stream's folder if there is none."""
        for block in sorted((self.of_stream(stream) / "msgs").glob("*.blk")):
            with (
                suppress(OSError, ValueError),  # ValueError: an empty file
                block.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            ):
                if content.find(subject.encode()) >= 0:
                    return block
        return self.of_stream(stream)
