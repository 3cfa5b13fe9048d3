"""States: a stored invocation's next message, with what belongs to it, as one atomic write.

Pure functions from values to writes. Does not know when they are made, nor how they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from stoker.backbone.ledger import Write
from stoker.model.record import Claim, Record, Work
from stoker.records import formats
from stoker.records.bodies import ANSWER, PAYLOAD, RESULT, detach
from stoker.records.formats import FORMAT, CallState, DeadLetter, KeyState, Pack


def accepted_writes(account: str, record: Record, work: Work) -> list[Write]:
    """Return the writes of an invocation that is accepted: refused if there is one of its id."""
    payload, pieces = detach(account, record.invocation_id, PAYLOAD, work.payload)
    state = CallState(
        format=FORMAT, record=record, work=replace(work, payload=payload), payload_pieces=len(pieces)
    )
    return [*pieces, _call(account, state, expected=0)]


def waiting_writes(
    account: str, record: Record, work: Work, payload_pieces: int, sequence: int
) -> list[Write]:
    """Return the write of an invocation that is tried again later; `sequence` is its last message's."""
    state = CallState(format=FORMAT, record=record, work=work, payload_pieces=payload_pieces)
    return [_call(account, state, expected=sequence)]


def ended_writes(
    account: str,
    record: Record,
    *,
    expires_ms: int,
    sequence: int | None = None,
    payload_pieces: int = 0,
) -> list[Write]:
    """Return the writes of an end. With `sequence` only the first end is stored: a later one is refused.

    `payload_pieces` are those that are stored already; they are kept if the record keeps its payload.
    """
    invocation_id = record.invocation_id
    writes: list[Write] = []
    if payload_pieces and record.payload is not None:
        record = replace(record, payload=None)
    elif payload_pieces:
        payload_pieces = 0
    else:
        payload, writes = detach(account, invocation_id, PAYLOAD, record.payload)
        record, payload_pieces = replace(record, payload=payload), len(writes)
    result, pieces = detach(account, invocation_id, RESULT, record.result)
    state = CallState(
        format=FORMAT,
        record=replace(record, result=result),
        expires_ms=expires_ms,
        payload_pieces=payload_pieces,
        result_pieces=len(pieces),
    )
    return [*writes, *pieces, _call(account, state, expected=sequence)]


def dead_writes(
    account: str, record: Record, work: Work, payload_pieces: int, *, expires_ms: int
) -> list[Write]:
    """Return the write of a dead letter: what it takes to run the invocation again."""
    letter = DeadLetter(
        format=FORMAT,
        expires_ms=expires_ms,
        record=replace(record, payload=None, result=None, log=""),
        payload=work.payload,
        payload_pieces=payload_pieces,
        pinned=work.pinned,
    )
    subject = formats.dead_subject(account, work.topic, work.service, record.invocation_id)
    return [Write(subject, formats.encode(letter))]


def claimed(record: Record, claim: Claim) -> KeyState:
    """Return what a key stands for from now on."""
    return KeyState(
        format=FORMAT,
        expires_ms=claim.expires_ms,
        invocation_id=record.invocation_id,
        invocation_type=record.invocation_type,
        body_digest=claim.body_digest,
    )


def key_write(account: str, work: Work, state: KeyState, expected: int | None = None) -> Write:
    """Return the write of a key; refused if the key's last message is not at `expected`."""
    return Write(_key(account, work), formats.encode(state), expected)


def answered_writes(
    account: str, work: Work, claim: KeyState, record: Record, result: str | None
) -> list[Write]:
    """Return the writes that store what a keyed call answered, for whoever asks again."""
    result, pieces = detach(account, record.invocation_id, ANSWER, result)
    state = replace(
        claim,
        ended=True,
        result=result,
        code=record.code,
        error=record.error,
        result_pieces=len(pieces),
    )
    return [*pieces, key_write(account, work, state)]


def without_logs(writes: Sequence[Write]) -> list[Write]:
    """Return writes whose records have lost their logs: what a log is made of can take a record past what a
    message may hold. `log_bytes` goes on saying how much was printed."""
    return [Write(write.subject, _without_log(write), write.expected) for write in writes]


def _without_log(write: Write) -> bytes:
    if formats.noun_of(write.subject) not in ("call", "pack"):
        return write.data
    message = formats.decode(write.subject, write.data)
    if isinstance(message, CallState):
        return formats.encode(replace(message, record=replace(message.record, log="")))
    assert isinstance(message, Pack)
    return formats.encode(replace(message, records=[replace(one, log="") for one in message.records]))


def _call(account: str, state: CallState, *, expected: int | None) -> Write:
    subject = formats.call_subject(account, state.record.invocation_id)
    return Write(subject, formats.encode(state), expected)


def _key(account: str, work: Work) -> str:
    assert work.key is not None
    return formats.key_subject(account, work.topic, work.service, work.key)
