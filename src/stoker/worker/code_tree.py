"""A function's folder as a plan: which files, links and directories, made from its items and checked whole.

Owns the rules for names and links, and writing the plan out once it is complete. Does not read archives
(`archive`), nor know where folders live (`code_cache`). Nothing is written at a name of the user's before
all is known, and no name goes through a link.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stoker.model.errors import InvalidRequest
from stoker.model.limits import KIB, MIB, Limits
from stoker.worker.archive import archive_entries
from stoker.worker.entry import BadArchive, Entry, EntryKind

PART_BYTES_MAX, PATH_BYTES_MAX, PATH_PARTS_MAX = 255, 1024, 100
"""Removing a folder holds one descriptor open for each level."""
LINKS_FOLLOWED_MAX = 40
"""As the kernel does."""
LINK_STEPS_MAX = 5_000_000
"""Of following all links of a folder together, about a second."""
ENTRY_BYTES = 4096
"""What an entry takes on a disk beside its content."""
MEMORY_FILE_BYTES_MAX, MEMORY_BYTES_MAX = 64 * KIB, 16 * MIB
"""What of an archive is held in memory until the plan is written; the rest waits in files of ours."""
_FORBIDDEN_MODE = 0o7000
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class File:
    """A file of the plan."""

    content: bytes | Path
    """Its bytes, or a file of ours that holds them."""
    size_bytes: int
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link of the plan."""

    target: str
    field: str
    """Which item it came from, for a complaint when all links are known."""


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of the plan."""


class BadPath(ValueError):
    """A name or link that may not be; the text goes on after the name."""


def relative_path(name: str) -> str:
    """Return a name as a path below the root, without `.` parts; the empty string is the root itself.

    Raises BadPath for an absolute name, one with `..` or a control character, and one that is too long.
    """
    parts = [part for part in _checked(name).split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadPath("has a '..' in it")
    return "/".join(parts)


def _checked(text: str) -> str:
    """Return the text of a name or of a link's target. Raises BadPath for what neither may have."""
    if text.startswith("/"):
        raise BadPath("is absolute")
    if _CONTROL.search(text):
        raise BadPath("has a control character")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise BadPath("is not UTF-8") from None
    parts = data.split(b"/")
    if max(map(len, parts)) > PART_BYTES_MAX or len(data) > PATH_BYTES_MAX or len(parts) > PATH_PARTS_MAX:
        raise BadPath("is too long")
    return text


class CodeTree:
    """The plan of one function's folder. Items are added in their order, then it is written once."""

    def __init__(self, spool: Path, *, limits: Limits) -> None:
        self._spool = spool
        self._limits = limits
        self._entries: dict[str, File | Link | Directory] = {}
        self._files = 0
        self._directories = 0
        self._memory_bytes = 0
        self._spooled = 0
        self._link_steps_left = LINK_STEPS_MAX
        self._unpacked_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What the folder takes, with what a later item replaced."""
        return self._unpacked_bytes + ENTRY_BYTES * len(self._entries)

    def add(self, index: int, name: str, kind: str, content: bytes) -> None:
        """Add the item at `index`: a file at `name`, or what an archive holds.

        Raises InvalidRequest with the item's field. Of two entries with one name the later wins.
        """
        field = f"/compute_asset/assets/{index}"
        entries = archive_entries(content, self._limits) if kind == "archive" else None
        if entries is None:
            path = self._path(name, f"{field}/asset_name")
            if not path or name.endswith(("/", "/.")):
                raise InvalidRequest(f"{_shown(name)} is no name of a file", field=f"{field}/asset_name")
            self._count(len(content), f"{field}/asset_value")
            self._place(path, File(content, len(content)), f"{field}/asset_name")
            return
        try:
            for entry in entries:
                self._add_entry(entry, f"{field}/asset_value")
        except BadArchive as error:
            raise InvalidRequest(f"the archive {error}", field=f"{field}/asset_value") from None

    def check(self) -> None:
        """Raise InvalidRequest for a link that leaves the root, also through others, or goes in a circle."""
        for path, entry in self._entries.items():
            if isinstance(entry, Link):
                try:
                    self._follow(path, entry.target)
                except BadPath as error:
                    raise InvalidRequest(f"the link {_shown(path)} {error}", field=entry.field) from None

    def write(self, root: Path) -> None:
        """Write the checked plan to `root`, which is made; modes ignore the umask."""
        os.mkdir(root)
        os.chmod(root, 0o755)
        # Sorted, a directory comes before what is in it.
        for path in sorted(self._entries, key=lambda path: path.split("/")):
            entry = self._entries[path]
            place = f"{root}/{path}"
            if isinstance(entry, Directory):
                os.mkdir(place)
                os.chmod(place, 0o755)
            elif isinstance(entry, Link):
                os.symlink(entry.target, place)
            elif isinstance(entry.content, Path):
                os.chmod(entry.content, 0o755 if entry.executable else 0o644)
                os.link(entry.content, place)
            else:
                handle = os.open(place, _CREATE, 0o600)
                try:
                    _write_all(handle, entry.content)
                    os.fchmod(handle, 0o755 if entry.executable else 0o644)
                finally:
                    os.close(handle)

    def _add_entry(self, entry: Entry, field: str) -> None:
        path = self._path(entry.name, field)
        if entry.kind is EntryKind.DEVICE:
            raise InvalidRequest(f"{_shown(entry.name)} is a device, fifo or socket", field=field)
        if entry.mode < 0 or entry.mode & _FORBIDDEN_MODE:
            raise InvalidRequest(f"{_shown(entry.name)} has a setuid, setgid or sticky bit", field=field)
        if entry.kind is EntryKind.DIRECTORY:
            if path:
                self._place(path, Directory(), field)
        elif not path:
            raise InvalidRequest(f"{_shown(entry.name)} is no name of a file", field=field)
        elif entry.kind is EntryKind.LINK:
            self._count(len(entry.target), field)
            self._place(path, Link(entry.target, field), field)
        elif entry.kind is EntryKind.HARD_LINK:
            linked = self._entries.get(self._path(entry.target, field))
            if not isinstance(linked, File):
                raise InvalidRequest(
                    f"the hard link {_shown(entry.name)} leads to no file before it", field=field
                )
            # One file under two names here, but two in a private copy of the folder.
            self._count(linked.size_bytes, field)
            self._place(path, linked, field)
        else:
            before = self._unpacked_bytes
            content = self._stored(entry.chunks, field)
            file = File(content, self._unpacked_bytes - before, bool(entry.mode & 0o111))
            self._place(path, file, field)

    @staticmethod
    def _path(name: str, field: str) -> str:
        try:
            return relative_path(name)
        except BadPath as error:
            raise InvalidRequest(f"the name {_shown(name)} {error}", field=field) from None

    def _place(self, path: str, entry: File | Link | Directory, field: str) -> None:
        missing: list[str] = []
        parent = path.rpartition("/")[0]
        while parent and parent not in self._entries:
            missing.append(parent)
            parent = parent.rpartition("/")[0]
        if parent and not isinstance(self._entries[parent], Directory):
            raise InvalidRequest(
                f"{_shown(parent)} is a file or link, and has to be a directory", field=field
            )
        for directory in missing:
            self._new(directory, Directory(), field)
        known = self._entries.get(path)
        if known is None:
            self._new(path, entry, field)
        elif isinstance(known, Directory) and not isinstance(entry, Directory):
            raise InvalidRequest(f"{_shown(path)} is a directory, and has to be a file", field=field)
        elif isinstance(entry, Directory) and not isinstance(known, Directory):
            raise InvalidRequest(f"{_shown(path)} is a file or link, and has to be a directory", field=field)
        else:
            self._entries[path] = entry

    def _new(self, path: str, entry: File | Link | Directory, field: str) -> None:
        if isinstance(entry, Directory):
            self._directories += 1
        else:
            self._files += 1
        if max(self._files, self._directories) > self._limits.code_files_max:
            raise InvalidRequest(f"there are more than {self._limits.code_files_max} files", field=field)
        self._entries[path] = entry

    def _count(self, size: int, field: str) -> None:
        self._unpacked_bytes += size
        if self._unpacked_bytes > self._limits.code_bytes_max:
            raise InvalidRequest(f"all files have more than {self._limits.code_bytes_max} bytes", field=field)

    def _stored(self, chunks: Iterator[bytes], field: str) -> bytes | Path:
        """Take a file's content, in memory as long as it is small."""
        held: list[bytes] = []
        size = 0
        for chunk in chunks:
            self._count(len(chunk), field)
            held.append(chunk)
            size += len(chunk)
            if size > MEMORY_FILE_BYTES_MAX or self._memory_bytes + size > MEMORY_BYTES_MAX:
                return self._spooled_file(held, chunks, field)
        self._memory_bytes += size
        return b"".join(held)

    def _spooled_file(self, held: list[bytes], chunks: Iterator[bytes], field: str) -> Path:
        if not self._spooled:
            os.mkdir(self._spool, 0o700)
        self._spooled += 1
        place = self._spool / str(self._spooled)
        handle = os.open(place, _CREATE, 0o600)
        try:
            _write_all(handle, b"".join(held))
            for chunk in chunks:
                self._count(len(chunk), field)
                _write_all(handle, chunk)
        finally:
            os.close(handle)
        return place

    def _follow(self, path: str, target: str) -> None:
        """Follow a link as the kernel would. Raises BadPath as soon as it is above the root."""
        try:
            todo = _checked(target).split("/")[::-1]
        except BadPath as error:
            raise BadPath(f"has a target that {error}") from None
        if not target:
            raise BadPath("has no target")
        here = path.split("/")[:-1]
        followed = 1
        while todo:
            part = todo.pop()
            self._link_steps_left -= 1 + len(here)
            if self._link_steps_left < 0:
                raise BadPath("is one of too many that lead through each other")
            if part in ("", "."):
                continue
            if part == "..":
                if not here:
                    raise BadPath("leaves the root")
                here.pop()
                continue
            here.append(part)
            entry = self._entries.get("/".join(here))
            if isinstance(entry, Link):
                followed += 1
                if followed > LINKS_FOLLOWED_MAX:
                    raise BadPath("goes in a circle")
                if entry.target.startswith("/"):
                    raise BadPath("leads to a link that is absolute")
                here.pop()
                todo.extend(entry.target.split("/")[::-1])


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:97] + "...")


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def build(items: Iterable[tuple[str, str, bytes]], root: Path, spool: Path, *, limits: Limits) -> int:
    """Make the folder of (name, kind, content) items at `root`, and return its size in bytes.

    `spool` is made too if it is needed, on the same file system; removing it is the caller's. Raises
    InvalidRequest, without having made `root`, for names, links and archives that may not be, and past
    `code_bytes_max` or `code_files_max`.
    """
    tree = CodeTree(spool, limits=limits)
    for index, (name, kind, content) in enumerate(items):
        tree.add(index, name, kind, content)
    tree.check()
    tree.write(root)
    return tree.size_bytes
