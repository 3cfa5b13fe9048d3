"""The view's file, as its writer sees it: its opening, its transactions, and what comes in.

All of it is synchronous and belongs to one thread. Statements are few and large, as SQLite works without
the interpreter's lock; where many rows are answered they come as one JSON text, as each row would take the
lock once more. Does not know who calls, how records are searched, nor how what has to go is found.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from stoker.records import view_outgoing
from stoker.records.schema import DIGEST, SCHEMA
from stoker.records.view_faults import ViewDamaged, fault_of, may_be_the_message
from stoker.records.view_incoming import Stored, Unreadable, chunks, incoming

CACHE_KIB = 8 * 1024
"""Of each connection; the kernel keeps what else there is room for."""
RELEASE_MS = 60_000
"""How long pieces are kept that nothing needs as far as the view has read: it may read on."""
TRUNCATE_MS = 10_000
"""Between two times that the write-ahead log, which may hold what is forgotten, is emptied."""

Row = tuple[object, ...]
"""The values of `incoming`."""


class Notes(Protocol):
    """The operator's log."""

    def info(self, event: str, **fields: object) -> object: ...

    def warning(self, event: str, **fields: object) -> object: ...


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection to a file that is there, for any one thread at a time."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


class ViewFile:
    """The writer. `position` is the sequence up to which all is in; it moves when a transaction is done."""

    def __init__(self, path: Path, store_id: str, *, now_ms: Callable[[], int], notes: Notes) -> None:
        self._path = path
        self._store_id = store_id
        self._now_ms = now_ms
        self._notes = notes
        self._connection: sqlite3.Connection | None = None
        self._accounts: dict[str, int] = {}
        self._stale_since_ms: int | None = None
        self.position = 0

    # -- the file --------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the file, or begin anew if there is none that can be gone on with."""
        try:
            problem = self._open()
        except sqlite3.DatabaseError as error:
            if not isinstance(fault_of(error), ViewDamaged):
                raise
            problem = f"damaged: {error}"
        if problem is not None:
            self._notes.info("view_begins_anew", reason=problem)
            self.reset()

    def reset(self) -> None:
        """Begin anew, with an empty file."""
        self._drop()
        for suffix in ("", "-wal", "-shm", "-journal"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = self._connection = connect(self._path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN;{SCHEMA}")
        meta = {"format": DIGEST, "store": self._store_id, "position": 0}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.execute("COMMIT")
        self.position = 0

    def close(self) -> None:
        """Empty the write-ahead log and let go of the file. Harmless when repeated."""
        try:
            if self._connection is not None:
                self._truncate()
        finally:
            self._drop()

    def _open(self) -> str | None:
        """Return why the file cannot be gone on with, None if it can."""
        if not self._path.exists():
            return "missing"
        connection = self._connection = connect(self._path)
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").fetchall():
            return "empty"
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        if meta.get("format") != DIGEST:
            return "another format"
        if meta.get("store") != self._store_id:
            return "another store"
        self.position = meta["position"]
        self._stale_since_ms = 0  # a log that a crash left
        return None

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._accounts.clear()
        self._stale_since_ms = None
        if connection is not None:
            connection.close()

    @property
    def _sqlite(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ViewDamaged("the view is not open")
        return self._connection

    @contextmanager
    def _transaction(self, release_ms: int = 0) -> Iterator[sqlite3.Connection]:
        connection = self._sqlite
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("UPDATE moment SET release_ms = ?1 WHERE release_ms <> ?1", (release_ms,))
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            self._accounts.clear()  # some may have been new
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    # -- what comes in ---------------------------------------------------------------------------

    def ingest(self, messages: Sequence[Stored], until: int = 0) -> None:
        """Take in messages in the order of the stream, up to `until` if nothing is there up to that."""
        messages = [message for message in messages if message.sequence > self.position]
        position = max(until, messages[-1].sequence if messages else 0)
        if position <= self.position:
            return
        with self._transaction(self._now_ms() + RELEASE_MS) as connection:
            for chunk in chunks(messages):
                rows = [(message, row) for message in chunk if (row := self._row(connection, message))]
                self._take_in(connection, rows)
            connection.execute("UPDATE meta SET value = ? WHERE name = 'position'", (position,))
        self.position = position

    def _take_in(self, connection: sqlite3.Connection, rows: Sequence[tuple[Stored, Row]]) -> None:
        if not rows:
            return
        slots = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * len(rows))
        values = [value for _, row in rows for value in row]
        take_in = f"""INSERT INTO incoming
            SELECT column1, column2, column3, column4, column5, column6, column7, CAST(column8 AS TEXT)
            FROM (VALUES {slots})"""  # handed over as bytes, so that it is copied once only
        try:
            connection.execute(take_in, values)
        except sqlite3.DatabaseError as error:
            if len(rows) > 1:  # one of them is at fault: nothing of this statement is in
                for one in rows:
                    self._take_in(connection, [one])
            elif self._is_unreadable(connection, error, rows[0][0].data):
                self._skip(rows[0][0], str(error))
            else:
                raise

    def _row(self, connection: sqlite3.Connection, message: Stored) -> Row | None:
        try:
            row = incoming(message)
        except Unreadable as error:
            self._skip(message, str(error))
            return None
        account = self._account(connection, row.account)
        return (
            message.sequence,
            account,
            row.noun,
            row.subject,
            row.invocation_id,
            row.size_bytes,
            row.needs,
            row.data,
        )

    def _skip(self, message: Stored, reason: str) -> None:
        self._notes.warning(
            "record_unreadable", subject=message.subject, sequence=message.sequence, reason=reason
        )

    @staticmethod
    def _is_unreadable(connection: sqlite3.Connection, error: sqlite3.DatabaseError, data: bytes) -> bool:
        """Tell a message at fault from a file at fault."""
        if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:
            valid = connection.execute("SELECT json_valid(CAST(? AS TEXT))", (data,)).fetchone()
            return bool(valid == (0,))
        return may_be_the_message(error)

    def _account(self, connection: sqlite3.Connection, name: str) -> int:
        number = self._accounts.get(name)
        if number is None:
            connection.execute("INSERT OR IGNORE INTO accounts (name) VALUES (?)", (name,))
            (number,) = connection.execute("SELECT number FROM accounts WHERE name = ?", (name,)).fetchone()
            self._accounts[name] = number
        return number

    # -- what has to go --------------------------------------------------------------------------

    def due(self, limit: int) -> list[int]:
        """Return sequences that have to go from the store."""
        self._truncate_at_times()
        with self._transaction() as connection:
            return view_outgoing.due(connection, self._now_ms(), limit)

    def forget(self, sequences: Sequence[int]) -> None:
        """Let go of what stands on messages that are erased."""
        with self._transaction() as connection:
            view_outgoing.forget(connection, sequences)
        if self._stale_since_ms is None:
            self._stale_since_ms = self._now_ms()
        self._truncate_at_times()

    def shrink(self, bytes_max: int, shares: Mapping[str, int]) -> int:
        """Mark the oldest ended messages of accounts that have more; return how many."""
        with self._transaction() as connection:
            return view_outgoing.shrink(connection, self._now_ms(), bytes_max, shares)

    def over(self, bytes_max: int, shares: Mapping[str, int]) -> frozenset[str]:
        """Return the accounts that have more."""
        with self._transaction() as connection:
            return frozenset(name for _, name, _ in view_outgoing.over(connection, bytes_max, shares))

    def erase(self, accounts: Iterable[str]) -> int:
        """Mark messages of accounts that are no more, some at a time; return how many."""
        with self._transaction() as connection:
            marked, gone = view_outgoing.erase(connection, accounts)
            for name in gone:
                self._accounts.pop(name, None)
        return marked

    def _truncate_at_times(self) -> None:
        stale_since_ms = self._stale_since_ms
        if stale_since_ms is not None and self._now_ms() - stale_since_ms >= TRUNCATE_MS:
            self._truncate()

    def _truncate(self) -> None:
        (busy, _, _) = self._sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._stale_since_ms = self._now_ms() if busy else None
