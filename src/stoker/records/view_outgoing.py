"""What has to go: the statements that find it, mark it and let it go, each within somebody's transaction.

A message that has to go stands with `expires_ms` 0 until it is erased from the store. Plain functions; does
not know the file, nor who erases.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from stoker.records.schema import NEVER_MS, PLACES

SHRINK_COUNT = 256
"""So many messages are marked by one statement."""
_DROP_RECORDS = f"""DELETE FROM records WHERE place IN (
    SELECT r.place FROM json_each(?) AS s CROSS JOIN records AS r
    ON r.place BETWEEN s.value * {PLACES} AND s.value * {PLACES} + {PLACES - 1}
)"""


def due(connection: sqlite3.Connection, now_ms: int, limit: int) -> list[int]:
    """Return sequences that have to go from the store; a subject's last one goes after the earlier ones."""
    connection.execute(
        """UPDATE messages SET expires_ms = 0 WHERE sequence IN (
            SELECT sequence FROM messages WHERE expires_ms BETWEEN 1 AND ? LIMIT ?
        )""",
        (now_ms, limit),
    )
    (found,) = connection.execute(
        """SELECT json_group_array(sequence) FROM (
            SELECT sequence FROM messages AS m WHERE expires_ms = 0 AND (
                is_last = 0 OR NOT EXISTS (
                    SELECT 1 FROM messages AS earlier
                    WHERE earlier.account = m.account AND earlier.subject = m.subject
                    AND earlier.sequence < m.sequence
                )
            ) LIMIT ?
        )""",
        (limit,),
    ).fetchone()
    sequences: list[int] = json.loads(found)
    return sequences


def forget(connection: sqlite3.Connection, sequences: Sequence[int]) -> None:
    """Let go of what stands on messages that are erased."""
    listed = json.dumps(list(sequences))
    connection.execute(_DROP_RECORDS, (listed,))
    connection.execute("DELETE FROM messages WHERE sequence IN (SELECT value FROM json_each(?))", (listed,))


def shrink(connection: sqlite3.Connection, now_ms: int, bytes_max: int, shares: Mapping[str, int]) -> int:
    """Mark the oldest ended messages of accounts that have more; return how many."""
    return sum(
        _shrink(connection, now_ms, account, share)
        for account, _, share in over(connection, bytes_max, shares)
    )


def over(
    connection: sqlite3.Connection, bytes_max: int, shares: Mapping[str, int]
) -> list[tuple[int, str, int]]:
    """Return the accounts that have more than they may: number, name, and what they may have, in bytes."""
    least = min((bytes_max, *shares.values()))
    found = connection.execute("SELECT number, name, bytes FROM accounts WHERE bytes > ?", (least,))
    return [
        (number, name, share)
        for number, name, size in found.fetchall()
        if size > (share := min(bytes_max, shares.get(name, bytes_max)))
    ]


def erase(connection: sqlite3.Connection, accounts: Iterable[str]) -> tuple[int, list[str]]:
    """Mark messages of accounts that are no more, whatever they are, some at a time.

    Return how many, and the accounts of which nothing is known any more: that goes with the last of its
    messages.
    """
    marked, gone = 0, []
    found = connection.execute(
        """SELECT number, name, bytes FROM accounts
            WHERE name IN (SELECT value FROM json_each(?))""",
        (json.dumps(list(accounts)),),
    ).fetchall()
    nothing_due = not connection.execute(
        "SELECT EXISTS (SELECT 1 FROM messages WHERE expires_ms = 0)"
    ).fetchone()[0]
    for number, name, size in found:
        if size:
            (listed,) = connection.execute(
                """SELECT json_group_array(sequence) FROM (
                    SELECT sequence FROM messages WHERE account = ? AND expires_ms <> 0 LIMIT ?
                )""",
                (number, SHRINK_COUNT),
            ).fetchone()
            sequences = json.loads(listed)
            _mark(connection, sequences)
            marked += len(sequences)
        elif nothing_due:
            connection.execute("DELETE FROM functions WHERE account = ?", (number,))
            connection.execute("DELETE FROM accounts WHERE number = ?", (number,))
            gone.append(name)
    return marked, gone


def _shrink(connection: sqlite3.Connection, now_ms: int, account: int, bytes_max: int) -> int:
    connection.execute(
        "UPDATE messages SET expires_ms = 0 WHERE account = ? AND expires_ms BETWEEN 1 AND ?",
        (account, now_ms),
    )
    after = marked = 0
    while True:
        (size,) = connection.execute("SELECT bytes FROM accounts WHERE number = ?", (account,)).fetchone()
        if size <= bytes_max:
            return marked
        (found,) = connection.execute(
            f"""SELECT json_group_array(json_array(sequence, bytes + coalesce((
                    SELECT sum(b.bytes) FROM messages AS b WHERE b.account = m.account
                    AND b.invocation_id = m.invocation_id AND b.noun = 'body' AND b.expires_ms <> 0
                ), 0))) FROM (
                    SELECT * FROM messages WHERE account = ? AND sequence > ?
                    AND noun IN ('pack', 'call', 'dead') AND expires_ms NOT IN (0, {NEVER_MS})
                    ORDER BY sequence LIMIT {SHRINK_COUNT}
                ) AS m""",
            (account, after),
        ).fetchone()
        oldest: list[int] = []
        for after, freed in json.loads(found):
            oldest.append(after)
            size -= freed
            if size <= bytes_max:
                break
        if not oldest:
            return marked
        _mark(connection, oldest)
        marked += len(oldest)


def _mark(connection: sqlite3.Connection, sequences: Sequence[int]) -> None:
    """Have messages go. Their records go at once, which have time left and would be found."""
    listed = json.dumps(sequences)
    connection.execute(_DROP_RECORDS, (listed,))
    connection.execute(
        "UPDATE messages SET expires_ms = 0 WHERE sequence IN (SELECT value FROM json_each(?))", (listed,)
    )
