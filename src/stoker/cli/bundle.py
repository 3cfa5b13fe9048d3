"""The code of a project as the server takes it: files one by one, or, where they are many, an archive.

An archive of the same files has the same bytes. Does not know the server.
"""

from __future__ import annotations

import base64
import gzip
import io
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stoker.cli.failures import WrongUsage

FILES_MAX = 200
"""Files one by one; more go as an archive."""
BYTES_MAX = 4 * 1024 * 1024
"""In base64 within a JSON body; more go as an archive."""
ARCHIVE = "code.tar.gz"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Code, ready to be sent."""

    contents: Mapping[str, bytes]
    """Of each item by its name."""
    files: int
    is_archive: bool

    @property
    def size_bytes(self) -> int:
        """What is sent."""
        return sum(map(len, self.contents.values()))


def bundle(files: Mapping[str, Path]) -> Bundle:
    """Read the files. Raises WrongUsage for one that cannot be read."""
    try:
        if len(files) <= FILES_MAX and not any(path.is_symlink() for path in files.values()):
            contents = _read(files)
            if contents is not None:
                return Bundle(contents, len(files), False)
        return Bundle({ARCHIVE: _archive(files)}, len(files), True)
    except OSError as error:
        raise WrongUsage(f"{error.filename}: {error.strerror}") from None


def _read(files: Mapping[str, Path]) -> dict[str, bytes] | None:
    contents = {}
    left = BYTES_MAX
    for name, path in files.items():
        left -= path.stat().st_size
        if left < 0:
            return None
        contents[name] = path.read_bytes()
    return contents


def _archive(files: Mapping[str, Path]) -> bytes:
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name, path in files.items():
            entry = tarfile.TarInfo(name)
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
                tar.addfile(entry)
                continue
            content = path.read_bytes()
            entry.size = len(content)
            entry.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def object_key(collection: str, name: str) -> str:
    """Return where the archive of a function is stored until its version has it."""
    return f"deploy/{collection}/{name}"


def linked(key: str) -> str:
    """Return a key as an asset names it."""
    return base64.b64encode(key.encode()).decode()
