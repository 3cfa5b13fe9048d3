"""Copying a code folder for an instance that may write to it.

Owns: never following a symbolic link, never opening anything but a plain file, and the owner and mode of
the copies. The folder belongs to an unprivileged process and may be hostile to a root that reads it. Does
not know where the copy goes; both ends are descriptors. Standard library only.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

PAGE_BYTES = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NotPlain(Exception):
    """The folder holds something that is neither a file, a folder nor a link, or that just changed."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a folder holds."""

    files: int
    size_bytes: int
    """In whole pages, as a tmpfs counts."""


def measure(source: int) -> Extent:
    """Return the extent of the folder behind the descriptor `source`, itself included."""
    files, size = 1, PAGE_BYTES
    with os.scandir(source) as entries:
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                inner = _open(entry.name, _DIRECTORY, source)
                try:
                    extent = measure(inner)
                finally:
                    os.close(inner)
                files, size = files + extent.files, size + extent.size_bytes
            else:
                files += 1
                size += -(-info.st_size // PAGE_BYTES) * PAGE_BYTES + PAGE_BYTES
    return Extent(files, size)


def copy_tree(source: int, target: int, *, owner: int | None, writable: bool) -> None:
    """Copy what is in the folder `source` into the empty folder `target`.

    `owner` is the uid and gid of all copies; None leaves the caller's. With `writable` the owner may
    write to them, else nobody may. OSError when the target is full, NotPlain for a device, a pipe and
    the like.
    """
    with os.scandir(source) as entries:
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                _copy_folder(entry.name, source, target, owner, writable)
            elif stat.S_ISREG(info.st_mode):
                _copy_file(entry.name, source, target, owner, writable)
            elif stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink(entry.name, dir_fd=source), entry.name, dir_fd=target)
                if owner is not None:
                    os.chown(entry.name, owner, owner, dir_fd=target, follow_symlinks=False)
            else:
                raise NotPlain(entry.name)
    settle(target, owner=owner, mode=0o755 if writable else 0o555)


def settle(handle: int, *, owner: int | None, mode: int) -> None:
    """Give an open file or folder its owner and mode."""
    if owner is not None:
        os.fchown(handle, owner, owner)
    os.fchmod(handle, mode)


def _copy_folder(name: str, source: int, target: int, owner: int | None, writable: bool) -> None:
    inner = _open(name, _DIRECTORY, source)
    try:
        os.mkdir(name, 0o700, dir_fd=target)
        copied = os.open(name, _DIRECTORY, dir_fd=target)
        try:
            copy_tree(inner, copied, owner=owner, writable=writable)
        finally:
            os.close(copied)
    finally:
        os.close(inner)


def _copy_file(name: str, source: int, target: int, owner: int | None, writable: bool) -> None:
    read = _open(name, _FILE, source)
    try:
        info = os.fstat(read)
        if not stat.S_ISREG(info.st_mode):
            raise NotPlain(name)
        written = os.open(name, _NEW, 0o600, dir_fd=target)
        try:
            offset = 0
            while offset < info.st_size:
                count = os.sendfile(written, read, offset, info.st_size - offset)
                if count == 0:
                    raise NotPlain(name)
                offset += count
            # Whoever may read it may run it; nobody's bits of privilege are carried over.
            mode = 0o755 if info.st_mode & 0o111 else 0o644
            settle(written, owner=owner, mode=mode if writable else mode & 0o555)
        finally:
            os.close(written)
    finally:
        os.close(read)


def _open(name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        raise NotPlain(name) from error
