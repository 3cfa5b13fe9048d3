"""Records: what is known of one invocation, from its acceptance or its end until its `ttl` is over.

A value; does not know how it is stored, searched or answered. Source: the contract, *Invocations*.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from stoker.model.call import Parent, text_of
from stoker.model.limits import TTL_MS_DEFAULT
from stoker.model.network import NetworkUse
from stoker.model.outcome import END_REASON_OF_CODE, EndReason

TTL_MS_MIN = 1000

QUEUED = "queued"
RUNNING = "running"
STATUSES = (QUEUED, RUNNING, *(reason.value for reason in EndReason))


class RecordError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an invocation did not end well, as its caller was told."""

    error: str
    error_type: str | None = None
    stack: str | None = None
    field: str | None = None


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One invocation. Times are milliseconds since the epoch, durations milliseconds."""

    invocation_id: str
    """As users see it: a UUID of version 7, so that ids sort by time."""
    function: str
    """The function's subject."""
    version: int
    invocation_type: str = "RequestResponse"
    status: str
    """`queued`, `running`, or the end reason."""
    code: str | None = None
    """What the table *What can end a call* calls its end; None if it ended well or has not ended."""
    attempts: int = 0
    """How often it was begun."""
    created_ms: int
    started_ms: int | None = None
    """When its last attempt began."""
    ended_ms: int | None = None
    queue_ms: float | None = None
    init_ms: float | None = None
    run_ms: float | None = None
    memory_bytes: int = 0
    """The instance's peak so far."""
    caller: str = ""
    """The id of the token that asked for it."""
    replay_of: str | None = None
    parent_invocation_id: str | None = None
    """The invocation whose function called it, if one did."""
    depth: int = 0
    """How many invocations it is within."""
    network: tuple[NetworkUse, ...] = ()
    """What it used of the network, by host; of the last attempt."""
    error: RecordError | None = None
    log: str = ""
    log_bytes: int = 0
    """What it printed in all, also what was cut."""
    log_cut_bytes: int = 0
    """What of it is not in `log`."""
    payload: str | None = None
    """JSON text, with `store_payload`."""
    result: str | None = None

    @property
    def parent(self) -> Parent | None:
        """What it was called by, as its call has it."""
        called_by = self.parent_invocation_id
        return None if called_by is None else Parent(called_by, self.depth)

    @property
    def ended(self) -> bool:
        """Whether it has ended, which it does once."""
        return self.status not in (QUEUED, RUNNING)


class Work(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What it takes to run a stored invocation, until it has ended."""

    topic: str
    service: str
    payload: str | None = None
    """JSON text; None if it is stored apart."""
    pinned: int | None = None
    """The version it asked for by `?version=`."""
    due_ms: int = 0
    """When the next attempt may begin."""
    key: str | None = None
    """The hash of its Idempotency-Key, if it has one."""
    begun: bool = False
    """Whether an attempt runs that the record does not count yet."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stored invocation that has not ended, and the sequence of its last message."""

    account: str
    record: Record
    work: Work
    sequence: int
    payload_pieces: int = 0
    """How many messages its payload has; 0 if it is in `work`."""

    def with_payload(self, payload: str | None) -> Accepted:
        """Return it with a payload in `work`, or with none."""
        return replace(self, work=msgspec.structs.replace(self.work, payload=payload))


@dataclass(frozen=True, slots=True)
class Claim:
    """What an Idempotency-Key claims for the invocation it comes with."""

    body_digest: str
    """SHA-256 of the whole request, in hexadecimal."""
    expires_ms: int


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """The invocation that has an Idempotency-Key, and what it answered."""

    invocation_id: str
    invocation_type: str
    body_digest: str
    ended: bool
    """Always False of an Async one, whose answer is its id."""
    result: str | None = None
    code: str | None = None
    error: RecordError | None = None


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a function's `monitor_config` says of its records."""

    ttl_ms: int
    """From the end; 0 for none."""
    store_payload: bool

    @classmethod
    def of(cls, monitor_config: dict[str, Any]) -> Keeping:
        """Read the setting as it was given; what is absent has its default."""
        given = monitor_config.get("ttl")
        ttl_ms = TTL_MS_DEFAULT if given is None else 0 if given == 0 else max(TTL_MS_MIN, int(given))
        return cls(ttl_ms, bool(monitor_config.get("store_payload")))


def created_ms_of(call_id: bytes) -> int:
    """Return the wall clock, in milliseconds, at which an id was made."""
    return int.from_bytes(call_id[:6], "big")


def id_of_text(text: str) -> bytes | None:
    """Return the 16 bytes of an id as users write it, or None if it is none."""
    digits = text.replace("-", "")
    if len(digits) != 32:
        return None
    try:
        found = bytes.fromhex(digits)
    except ValueError:
        return None
    return found if text_of(found) == text.lower() or digits == text.lower() else None


def reason_of(code: str | None) -> str:
    """Return the status of an invocation that ended with `code`."""
    return EndReason.OK.value if code is None else END_REASON_OF_CODE[code].value
