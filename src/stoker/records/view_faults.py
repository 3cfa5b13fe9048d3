"""What SQLite's errors mean to the view: a message, the file or the machine is at fault.

Does not know what anybody does about it.
"""

from __future__ import annotations

import errno
import sqlite3

from stoker.model.errors import PlatformError, StokerError, StorageFull, Unavailable

_UNREADABLE = (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH)
_READING = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS)
_FOR_NOW = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
)


class ViewDamaged(PlatformError):
    """The file cannot be used any more: `reset` it, and feed it anew."""


def fault_of(error: sqlite3.Error | OSError) -> StokerError:
    """Return what to raise in place of an error of the file; another file would only help if ViewDamaged."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return StorageFull("the disk is full") if full else Unavailable("the view cannot be opened")
    code = error.sqlite_errorcode
    primary = code & 0xFF
    if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and code not in _READING):
        return StorageFull("the disk is full")
    if primary in _FOR_NOW:
        return Unavailable("the view cannot be used just now")
    return ViewDamaged(f"the view is damaged: {error}")


def may_be_the_message(error: sqlite3.Error) -> bool:
    """Tell whether an error is one that a message can cause that is not as it should be."""
    return error.sqlite_errorcode & 0xFF in _UNREADABLE
