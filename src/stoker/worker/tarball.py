"""Reading a tar from a stream of blocks: names, kinds and contents, forwards only.

Owns the formats ustar, GNU long names and pax; sparse files are refused. Does not know where entries go
nor whether their names are good. Python's tarfile is not used on strangers' bytes: it takes a header's word
for how much to read into memory, and parses pax headers with quadratic patterns (CVE-2024-6232).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from stoker.model.limits import KIB
from stoker.worker.entry import BadArchive, Entry, EntryKind

BLOCK_BYTES = 512
CHUNK_BYTES = 64 * KIB
METADATA_BYTES_MAX = 64 * KIB
"""Of a long name or a pax header; a path is at most 1,024 bytes."""

_KINDS = {
    b"0": EntryKind.FILE,
    b"\0": EntryKind.FILE,
    b"7": EntryKind.FILE,
    b"1": EntryKind.HARD_LINK,
    b"2": EntryKind.LINK,
    b"3": EntryKind.DEVICE,
    b"4": EntryKind.DEVICE,
    b"5": EntryKind.DIRECTORY,
    b"6": EntryKind.DEVICE,
}


class Stream:
    """Bytes that are read once, from front to back, of a gzipped content; bounded."""

    def __init__(self, content: bytes, *, bytes_max: int) -> None:
        self._content = memoryview(content)
        self._gzip = zlib.decompressobj(wbits=31)
        self._bytes_left = bytes_max
        self._at = 0
        self._pending = b""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, fewer only at the end. Raises BadArchive past the bound."""
        parts: list[bytes] = []
        while size > 0:
            if not self._pending:
                self._pending = self._more()
                if not self._pending:
                    break
            part, self._pending = self._pending[:size], self._pending[size:]
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes. Raises BadArchive if there are fewer."""
        data = self.read(size)
        if len(data) != size:
            raise BadArchive("ends too early")
        return data

    def _more(self) -> bytes:
        if self._bytes_left <= 0:
            raise BadArchive("unpacks to more than is allowed")
        data = self._inflated()
        self._bytes_left -= len(data)
        return data

    def _inflated(self) -> bytes:
        while True:
            if self._gzip.eof:
                # Members may follow each other; what follows and is none is padding.
                rest = self._gzip.unused_data
                self._at -= len(rest)
                if bytes(self._content[self._at : self._at + 2]) != b"\x1f\x8b":
                    return b""
                self._gzip = zlib.decompressobj(wbits=31)
            given = self._gzip.unconsumed_tail
            if not given:
                given = bytes(self._content[self._at : self._at + CHUNK_BYTES])
                self._at += len(given)
            try:
                data = self._gzip.decompress(given, CHUNK_BYTES)
            except zlib.error:
                raise BadArchive("is not a whole gzip file") from None
            if data or (not given and not self._gzip.eof):
                return data


def is_tar(first_block: bytes) -> bool:
    """Tell whether a block is the header of a tar's entry, by its checksum."""
    if len(first_block) < BLOCK_BYTES or first_block[257:262] != b"ustar":
        return False
    given = _octal(first_block[148:156])
    return given == sum(first_block[:148]) + 8 * 0x20 + sum(first_block[156:BLOCK_BYTES])


def entries(stream: Stream) -> Iterator[Entry]:
    """Yield the entries of a tar. The chunks of one must be taken before the next. Raises BadArchive."""
    named: dict[str, str] = {}
    while True:
        header = stream.read(BLOCK_BYTES)
        if len(header) < BLOCK_BYTES or not any(header):
            return
        if _octal(header[148:156]) != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
            raise BadArchive("has a damaged header")
        kind, size = header[156:157], _number(header[124:136])
        if kind in b"LKxg" and kind:
            data = _padded(stream, size)
            if kind == b"x":
                named |= _pax(data)
            elif kind in b"LK":
                named["path" if kind == b"L" else "linkpath"] = _text(data.rstrip(b"\0"))
            continue
        if kind == b"S" or any(key.startswith("GNU.sparse") for key in named):
            raise BadArchive("holds a sparse file")
        if kind not in _KINDS:
            raise BadArchive("holds an entry of an unknown kind")
        if "size" in named:
            size = int(named["size"]) if named["size"].isascii() and named["size"].isdigit() else -1
        if size < 0 or len(named.get("size", "")) > 15:
            raise BadArchive("has an entry of an impossible size")
        name = named.get("path", _name(header))
        target = named.get("linkpath", _text(header[157:257].split(b"\0")[0]))
        entry_kind = EntryKind.DIRECTORY if kind in b"0\0" and name.endswith("/") else _KINDS[kind]
        body = _Body(stream, size if entry_kind is EntryKind.FILE else 0)
        yield Entry(name, entry_kind, _number(header[100:108]), target, body.chunks())
        body.skip()
        named = {}


class _Body:
    """The content of one entry, with the padding after it."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self._left = size
        self._padding = -size % BLOCK_BYTES

    def chunks(self) -> Iterator[bytes]:
        while self._left:
            data = self._stream.exactly(min(self._left, CHUNK_BYTES))
            self._left -= len(data)
            yield data

    def skip(self) -> None:
        for _ in self.chunks():
            pass
        self._stream.read(self._padding)


def _padded(stream: Stream, size: int) -> bytes:
    if not 0 <= size <= METADATA_BYTES_MAX:
        raise BadArchive("has a name that is too long")
    return stream.exactly(size + -size % BLOCK_BYTES)[:size]


def _name(header: bytes) -> str:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    if prefix and header[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return _text(name)


def _pax(data: bytes) -> dict[str, str]:
    """Return the records of a pax header, each `LENGTH key=value\\n`."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        length = data[at : max(at, space)]
        end = at + int(length) if length.isdigit() else at
        if not at < space < end <= len(data):
            raise BadArchive("has a damaged pax header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise BadArchive("has a damaged pax header")
        if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse"):
            records[_text(key)] = _text(value)
        at = end
    return records


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadArchive("has a name that is not UTF-8") from None


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if len(digits) > 12 or digits.strip(b"01234567"):
        return -1
    return int(digits, 8)


def _number(field: bytes) -> int:
    """Return a number in octal or, past its range, in base 256; -1 for what is none."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return _octal(field) if field[0] < 0x80 else -1
