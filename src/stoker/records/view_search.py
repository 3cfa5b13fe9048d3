"""Search in the view's file: records by id, by filter and page, and what there is of stored messages.

All of it is synchronous and belongs to one thread, another one than the writer's: who looks something up
does not wait for what is just coming in. Every answer is one row, as each row would take the interpreter's
lock once more. Does not know who asks.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stoker.model.record import STATUSES
from stoker.model.subjects import function_subject
from stoker.records.schema import ALONE, PLACES
from stoker.records.view_faults import ViewDamaged
from stoker.records.view_file import connect


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is stored."""

    sequence: int
    index: int | None
    """Within its Pack; None if it is a CallState."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records of an account are meant; what is absent means all."""

    function: str | None = None
    """Its subject."""
    statuses: tuple[str, ...] = ()
    since_ms: int | None = None
    """Accepted at this time or later."""
    until_ms: int | None = None
    """Accepted before this time."""
    collection: str | None = None
    """The topic of the functions' collection."""
    parent: str | None = None
    """The invocation whose function called."""


@dataclass(frozen=True, slots=True)
class PendingRow:
    """An invocation that is stored and has not ended."""

    account: str
    invocation_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A dead letter."""

    invocation_id: str
    sequence: int


_ACCOUNT = "(SELECT number FROM accounts WHERE name = :account)"
_FUNCTION = f"(SELECT number FROM functions WHERE account = {_ACCOUNT} AND subject = :function)"
_OF_COLLECTION = f"""(
    SELECT number FROM functions WHERE account = {_ACCOUNT} AND subject > :first AND subject < :past
)"""
_LAST = f"account = {_ACCOUNT} AND is_last = 1 AND expires_ms > :now_ms"


class ViewSearch:
    """The reader. It sees what the writer's last finished transaction left."""

    def __init__(self, path: Path, *, now_ms: Callable[[], int]) -> None:
        self._path = path
        self._now_ms = now_ms
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file, which the writer has made."""
        self.close()
        self._connection = connect(self._path)
        self._connection.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Let go of the file. Harmless when repeated."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # -- records ---------------------------------------------------------------------------------

    def find(self, account: str, invocation_id: str) -> Place | None:
        """Return where a record is stored."""
        place: int | None = self._one(
            f"""SELECT max(place) FROM records
                WHERE account = {_ACCOUNT} AND invocation_id = :id AND expires_ms > :now_ms""",
            account=account,
            id=invocation_id,
        )
        if place is None:
            return None
        sequence, index = divmod(place, PLACES)
        return Place(sequence, None if index == ALONE else index)

    def page(self, account: str, wanted: Filter, limit: int, before: str | None) -> list[bytes]:
        """Return records as JSON, newest first."""
        parts, values = _parts(account, wanted, before)
        newest = "ORDER BY invocation_id DESC LIMIT :limit"
        found = " UNION ALL ".join(
            f"SELECT * FROM (SELECT place, invocation_id FROM {part} {newest})" for part in parts
        )
        joined: bytes | None = self._one(
            f"""SELECT CAST(group_concat(summary, char(10)) AS BLOB) FROM (
                SELECT r.summary FROM (SELECT * FROM ({found}) {newest}) AS f
                CROSS JOIN records AS r ON r.place = f.place ORDER BY f.invocation_id DESC LIMIT :limit
            )""",
            limit=limit,
            **values,
        )
        return [] if joined is None else joined.split(b"\n")

    def count(self, account: str, wanted: Filter) -> int:
        """Return how many records there are."""
        # by status in any case: that index has the expiry, and rows need not be looked at
        every = replace(wanted, statuses=wanted.statuses or (STATUSES if wanted.parent is None else ()))
        parts, values = _parts(account, every, None)
        counted: int = self._one(
            f"SELECT {' + '.join(f'(SELECT count(*) FROM {part})' for part in parts)}", **values
        )
        return counted

    # -- messages --------------------------------------------------------------------------------

    def pending(self) -> list[PendingRow]:
        """Return the invocations that have not ended, oldest first."""
        found = self._one(
            """SELECT json_group_array(json_array(name, invocation_id, sequence)) FROM (
                SELECT a.name, m.invocation_id, m.sequence
                FROM messages AS m CROSS JOIN accounts AS a ON a.number = m.account
                WHERE m.pending = 1 AND m.is_last = 1 ORDER BY m.sequence LIMIT -1
            )"""
        )
        return [PendingRow(*row) for row in json.loads(found)]

    def dead_letters(self, account: str, topic: str, service: str) -> list[DeadRow]:
        """Return a function's dead letters, newest first."""
        found = self._one(
            f"""SELECT json_group_array(json_array(invocation_id, sequence)) FROM (
                SELECT invocation_id, sequence FROM messages
                WHERE {_LAST} AND subject > :prefix || '.' AND subject < :prefix || '/'
                ORDER BY sequence DESC LIMIT -1
            )""",
            account=account,
            prefix=f"dead.{topic}.{service}",
        )
        return [DeadRow(*row) for row in json.loads(found)]

    def knows(self, sequence: int) -> bool:
        """Tell whether a message has been taken in and not been forgotten."""
        found = self._one(
            "SELECT EXISTS (SELECT 1 FROM messages WHERE sequence = :sequence)", sequence=sequence
        )
        return bool(found)

    def last(self, account: str, subject: str) -> int | None:
        """Return the sequence of what counts under a subject, if there is anything."""
        sequence: int | None = self._one(
            f"SELECT max(sequence) FROM messages WHERE {_LAST} AND subject = :subject",
            account=account,
            subject=subject,
        )
        return sequence

    def bytes_of(self, account: str) -> int:
        """Return what an account's messages take, but for those that have to go."""
        size: int | None = self._one(
            f"SELECT max(bytes) FROM accounts WHERE number = {_ACCOUNT}", account=account
        )
        return size or 0

    def _one(self, sql: str, **values: object) -> Any:
        """Return the one value that a query answers."""
        if self._connection is None:
            raise ViewDamaged("the view is not open")
        (value,) = self._connection.execute(sql, {"now_ms": self._now_ms(), **values}).fetchone()
        return value


def _parts(account: str, wanted: Filter, before: str | None) -> tuple[list[str], dict[str, object]]:
    """Return ranges of one index each that together are what is wanted, and the values in them."""
    values: dict[str, object] = {"account": account}
    bounds = ["expires_ms > :now_ms"]
    if wanted.since_ms is not None:
        bounds.append("invocation_id >= :since")
        values["since"] = _least_id(wanted.since_ms)
    ends = [] if wanted.until_ms is None else [_least_id(wanted.until_ms)]
    if before is not None:
        ends.append(before)
    if ends:
        bounds.append("invocation_id < :end")
        values["end"] = min(ends)
    if wanted.collection is not None:
        bounds.append(f"function IN {_OF_COLLECTION}")
        first = values["first"] = function_subject(wanted.collection, "")
        values["past"] = f"{first[:-1]}/"  # which comes right after the point
    if wanted.parent is not None:
        return [_of_parent(wanted, bounds, values)], values
    if wanted.function is None:
        index, whose = "records_by_status", f"account = {_ACCOUNT}"
    else:
        index, whose = "records_by_function", f"function = {_FUNCTION}"
        values["function"] = wanted.function
    if wanted.function is None and not wanted.statuses:
        return [f"records WHERE {' AND '.join([whose, *bounds])}"], values
    parts = []
    for number, status in enumerate(dict.fromkeys(wanted.statuses or STATUSES)):
        values[f"status{number}"] = status
        only = [whose, f"status = :status{number}", *bounds]
        parts.append(f"records INDEXED BY {index} WHERE {' AND '.join(only)}")
    return parts, values


def _of_parent(wanted: Filter, bounds: Sequence[str], values: dict[str, object]) -> str:
    """Return the range of what an invocation called; these are few, so what else is wanted is looked at."""
    only = [f"account = {_ACCOUNT}", "parent = :parent", *bounds]
    values["parent"] = wanted.parent
    if wanted.function is not None:
        only.append(f"function = {_FUNCTION}")
        values["function"] = wanted.function
    if wanted.statuses:
        names = [f"status{number}" for number in range(len(wanted.statuses))]
        only.append(f"status IN ({', '.join(f':{name}' for name in names)})")
        values.update(zip(names, wanted.statuses, strict=True))
    return f"records INDEXED BY records_by_parent WHERE {' AND '.join(only)}"


def _least_id(time_ms: int) -> str:
    """Return a text that sorts before all ids made at that time or later, and after all earlier ones."""
    digits = f"{min(max(time_ms, 0), 2**48 - 1):012x}"
    return f"{digits[:8]}-{digits[8:]}"
