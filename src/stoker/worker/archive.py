"""Reading zip and tar.gz archives, told by their content, as a stream of unchecked entries.

Owns the formats. Does not know where entries go, nor whether their names are good: that is the code tree's.
Sizes are those really unpacked, never those a header gives.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator

from stoker.model.limits import Limits
from stoker.worker import tarball
from stoker.worker.entry import BadArchive, Entry, EntryKind
from stoker.worker.tarball import BLOCK_BYTES, CHUNK_BYTES, Stream

LINK_TARGET_BYTES_MAX = 4096
DIRECTORY_BYTES_OF_FILE_MAX = 512
"""Of a zip's central directory for each file; it is held in memory, some 1 KiB for an entry of 46 bytes."""
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_BYTES, _END_64_BYTES, _LOCATOR_64_BYTES, _COMMENT_BYTES_MAX = 22, 56, 20, 65_535
_SUPPORTED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def archive_entries(content: bytes, limits: Limits) -> Iterator[Entry] | None:
    """Return the entries of a zip or tar.gz, None if the content is neither.

    The chunks of an entry must be taken before the next one. Iterating raises BadArchive for a damaged
    or encrypted archive, an unknown compression, and past twice `code_bytes_max` or `code_files_max`.
    """
    if content.startswith(_ZIP_STARTS):
        return _bounded(_zip_entries(content, limits), limits)
    if not content.startswith(b"\x1f\x8b"):
        return None
    try:
        first = Stream(content, bytes_max=limits.code_bytes_max).read(BLOCK_BYTES)
    except BadArchive:
        return None
    if not tarball.is_tar(first):
        return None
    stream = Stream(content, bytes_max=2 * limits.code_bytes_max)
    return _bounded(tarball.entries(stream), limits)


def _bounded(entries: Iterator[Entry], limits: Limits) -> Iterator[Entry]:
    # Directories and what a later entry replaces come on top of the files.
    for count, entry in enumerate(entries):
        if count >= 2 * limits.code_files_max:
            raise BadArchive("holds too many entries")
        yield entry


def _zip_entries(content: bytes, limits: Limits) -> Iterator[Entry]:
    if _directory_bytes(content) > DIRECTORY_BYTES_OF_FILE_MAX * limits.code_files_max:
        raise BadArchive("holds too many entries")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                yield _zip_entry(archive, info)
    except (zipfile.BadZipFile, EOFError, struct.error, UnicodeError, ValueError, OverflowError):
        raise BadArchive("is not a whole zip file") from None
    except (NotImplementedError, RuntimeError):
        raise BadArchive("holds what this zip reader does not know") from None


def _directory_bytes(content: bytes) -> int:
    """Return how large a zip's central directory says it is, before anything of it is read."""
    at = content.rfind(_END, max(0, len(content) - _END_BYTES - _COMMENT_BYTES_MAX))
    if at < 0 or at + _END_BYTES > len(content):
        raise BadArchive("is not a whole zip file")
    size = int.from_bytes(content[at + 12 : at + 16], "little")
    if content[at - _LOCATOR_64_BYTES : at][:4] == _LOCATOR_64:
        end = at - _LOCATOR_64_BYTES - _END_64_BYTES
        if end < 0 or content[end : end + 4] != _END_64:
            raise BadArchive("is not a whole zip file")
        size = max(int.from_bytes(content[end + 40 : end + 48], "little"), size % 0xFFFFFFFF)
    return size


def _zip_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    if info.flag_bits & 0x1:
        raise BadArchive("is encrypted")
    if info.compress_type not in _SUPPORTED:
        raise BadArchive("uses a compression other than deflate")
    mode = info.external_attr >> 16
    kind = _zip_kind(mode, info)
    chunks = _zip_chunks(archive, info)
    # zipfile cuts a name at a NUL; the rules for names are to see it.
    name, target = info.orig_filename if "\0" in info.orig_filename else info.filename, ""
    if kind is EntryKind.LINK:
        data = b""
        for chunk in chunks:
            data += chunk
            if len(data) > LINK_TARGET_BYTES_MAX:
                raise BadArchive("holds a link whose target is too long")
        target = data.decode()
    return Entry(name, kind, stat.S_IMODE(mode), target, chunks)


def _zip_kind(mode: int, info: zipfile.ZipInfo) -> EntryKind:
    file_type, slash = stat.S_IFMT(mode), info.filename.endswith("/")
    if file_type == stat.S_IFLNK:
        return EntryKind.LINK
    if file_type == stat.S_IFDIR or (file_type == 0 and slash):
        return EntryKind.DIRECTORY
    if file_type in (0, stat.S_IFREG):
        return EntryKind.DIRECTORY if slash else EntryKind.FILE
    return EntryKind.DEVICE


def _zip_chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(info) as content:
            while data := content.read(CHUNK_BYTES):
                yield data
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, UnicodeError, ValueError, OverflowError):
        raise BadArchive("is not a whole zip file") from None
    except (NotImplementedError, RuntimeError):
        raise BadArchive("holds what this zip reader does not know") from None
