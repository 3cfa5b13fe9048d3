"""What comes in: a stored message as the row of `incoming` that SQLite takes apart.

Looks at subjects only. Pure functions; does not know the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stoker.model.limits import KIB
from stoker.records.schema import BIT_OF_BODY

CHUNK_COUNT_MAX = 32
"""Messages that go to SQLite in one statement."""
CHUNK_BYTES_MAX = 256 * KIB
"""What is handed over is copied with the interpreter's lock held."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of the stream."""

    sequence: int
    subject: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Incoming:
    """A row of `incoming`, but for the sequence and the account's number."""

    account: str
    noun: str
    subject: str | None
    """What follows `accounts.<account>.invocation.`; None of a pack."""
    invocation_id: str | None
    size_bytes: int
    needs: int
    data: bytes
    """JSON; nothing of a body."""


class Unreadable(ValueError):
    """A message that this version cannot read; says why."""


def incoming(message: Stored) -> Incoming:
    """Return what a message is, as its subject says. Raises Unreadable."""
    _, _, rest = message.subject.partition(".")
    account, _, rest = rest.partition(".")
    room, _, subject = rest.partition(".")
    noun, *tokens = subject.split(".")
    data, size = message.data, len(message.data)
    if room != "invocation":
        raise Unreadable("another room's subject")
    if not data.isascii() and noun != "body":
        try:
            data.decode()
        except UnicodeDecodeError:
            raise Unreadable("no UTF-8") from None
    match noun, tokens:
        case "pack", []:
            return Incoming(account, noun, None, None, size, 0, data)
        case "key", [_, _, _]:
            return Incoming(account, noun, subject, None, size, 0, data)
        case ("call", [invocation_id]) | ("dead", [_, _, invocation_id]):
            return Incoming(account, noun, subject, invocation_id, size, 0, data)
        case "body", [invocation_id, which, _] if which in BIT_OF_BODY:
            return Incoming(account, noun, subject, invocation_id, size, BIT_OF_BODY[which], b"")
    raise Unreadable("an unknown subject")


def chunks(messages: Sequence[Stored]) -> Iterator[list[Stored]]:
    """Return messages in the portions in which they go to SQLite."""
    chunk: list[Stored] = []
    size = 0
    for message in messages:
        if chunk and (len(chunk) == CHUNK_COUNT_MAX or size + len(message.data) > CHUNK_BYTES_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += len(message.data)
    if chunk:
        yield chunk
