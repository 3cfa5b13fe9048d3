"""Formats: what is stored of invocations, and the subjects it is stored under.

One stream holds all of it. The last message of a subject counts, and replaces those before it. Every
message carries its format's number; `tests/unit/golden/records.json` holds one of each, and what is written
there must be readable for good. Does not know how messages are stored or searched.

    accounts.<account>.invocation.
        call.<id>                       CallState: an invocation that is stored from its acceptance on
        pack                            Pack: plain ones that have ended, many at a time
        dead.<topic>.<service>.<id>     DeadLetter
        key.<topic>.<service>.<hash>    KeyState: what an Idempotency-Key stands for
        body.<id>.<which>.<n>           a piece of a large payload or result, raw
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from stoker.model.errors import PlatformError
from stoker.model.record import Record, RecordError, Work

FORMAT = 1
SUBJECTS = "accounts.*.invocation.>"
BODY_BYTES_MAX = 256 * 1024
"""A payload or result above this is stored apart from its record."""
BODY_PIECE_BYTES = 512 * 1024


class UnreadableRecord(PlatformError):
    """A stored message that this version cannot read."""


class CallState(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An invocation as it is at the moment."""

    format: int
    record: Record
    expires_ms: int | None = None
    """When the message has to go; None while the invocation has not ended."""
    work: Work | None = None
    """None once it has ended."""
    payload_pieces: int = 0
    """How many body messages its payload has; 0 if it is in here."""
    result_pieces: int = 0


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """Ended invocations of one account that go at the same time, in the order of their ends."""

    format: int
    expires_ms: int
    records: list[Record]


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An Async invocation that failed to the end; `record` is without payload and log."""

    format: int
    expires_ms: int
    record: Record
    payload: str | None = None
    payload_pieces: int = 0
    pinned: int | None = None
    gone: bool = False
    """True once it was redriven or deleted: this message is what says so."""


class KeyState(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What an Idempotency-Key stands for: an invocation, and its answer once there is one."""

    format: int
    expires_ms: int
    invocation_id: str
    invocation_type: str
    body_digest: str
    """SHA-256 of the request, in hexadecimal."""
    ended: bool = False
    result: str | None = None
    code: str | None = None
    error: RecordError | None = None
    result_pieces: int = 0
    gone: bool = False
    """True if nothing ran after all: the key is free."""


Message = CallState | Pack | DeadLetter | KeyState

_encode = msgspec.json.Encoder().encode
_DECODERS: dict[str, Callable[[bytes], Message]] = {
    "call": msgspec.json.Decoder(CallState).decode,
    "pack": msgspec.json.Decoder(Pack).decode,
    "dead": msgspec.json.Decoder(DeadLetter).decode,
    "key": msgspec.json.Decoder(KeyState).decode,
}


def encode(message: Message) -> bytes:
    """Return a message as it is stored: JSON."""
    return _encode(message)


def decode(subject: str, data: bytes) -> Message:
    """Return what was stored under `subject`. Raises UnreadableRecord; a body is read as it is."""
    decoder = _DECODERS.get(noun_of(subject))
    if decoder is None:
        raise UnreadableRecord(f"{subject} holds what this version does not know")
    try:
        message = decoder(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableRecord(f"{subject} holds what cannot be read: {error}") from None
    if message.format != FORMAT:
        raise UnreadableRecord(f"{subject} was written in format {message.format}, which is not known here")
    return message


def account_of(subject: str) -> str:
    """Return the account that a subject belongs to."""
    return subject.split(".", 2)[1]


def noun_of(subject: str) -> str:
    """Return `call`, `pack`, `dead`, `key` or `body`."""
    return subject.split(".", 4)[3]


def call_subject(account: str, invocation_id: str) -> str:
    """Return where a stored invocation is."""
    return f"accounts.{account}.invocation.call.{invocation_id}"


def pack_subject(account: str) -> str:
    """Return where an account's plain invocations are."""
    return f"accounts.{account}.invocation.pack"


def dead_subject(account: str, topic: str, service: str, invocation_id: str) -> str:
    """Return where a dead letter is."""
    return f"accounts.{account}.invocation.dead.{topic}.{service}.{invocation_id}"


def key_subject(account: str, topic: str, service: str, key: str) -> str:
    """Return where it is said what a key stands for; `key` is a hash."""
    return f"accounts.{account}.invocation.key.{topic}.{service}.{key}"


def body_subject(account: str, invocation_id: str, which: str, number: int) -> str:
    """Return where piece `number` of a `payload`, `result` or `answer` is."""
    return f"accounts.{account}.invocation.body.{invocation_id}.{which}.{number}"


def pieces_of(text: bytes) -> list[bytes]:
    """Return a large body in the pieces that it is stored in."""
    return [text[at : at + BODY_PIECE_BYTES] for at in range(0, len(text), BODY_PIECE_BYTES)]


def text_of_record(record: Record) -> bytes:
    """Return a record as JSON."""
    return _encode(record)


def pack_of(records: Sequence[bytes], expires_ms: int) -> bytes:
    """Return a Pack as it is stored, of records that are JSON already."""
    return b'{"format":%d,"expires_ms":%d,"records":[%b]}' % (FORMAT, expires_ms, b",".join(records))


_decode_record = msgspec.json.Decoder(Record).decode


def record_of(row: bytes) -> Record:
    """Return a record that is JSON, or a part of one."""
    return _decode_record(row)
