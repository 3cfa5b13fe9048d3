"""The formats of stored invocations: what was written once must be readable for good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stoker.model.network import NetworkUse
from stoker.model.record import Record, RecordError, Work
from stoker.records import formats
from stoker.records.formats import CallState, DeadLetter, KeyState, Pack, UnreadableRecord
from stoker.records.view import Filter, Place, Stored, View

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "records.json").read_text())
"""Never edited: a new kind, or a kind with what it may newly have, goes to the end."""

A, B, C = (f"0190a6c2-0d{pair}-7abc-8123-0123456789ab" for pair in ("4b", "4c", "4d"))
FUNCTION = "ms.compute.tools.function.3970185486"
WRITTEN_MS = 1720777350012


def read(index: int) -> formats.Message:
    golden = GOLDEN[index]
    return formats.decode(golden["subject"], json.dumps(golden["message"]).encode())


def test_there_is_one_of_each_kind() -> None:
    assert {type(read(index)) for index in range(len(GOLDEN))} == {CallState, Pack, DeadLetter, KeyState}


def test_each_field_of_each_kind_is_in_one_of_them() -> None:
    def names(part: object) -> set[str]:
        return {name for name, value in part.items()} if isinstance(part, dict) else set()

    by_kind: dict[type, set[str]] = {kind: set() for kind in (CallState, Pack, DeadLetter, KeyState)}
    records, works, errors = set[str](), set[str](), set[str]()
    for index, golden in enumerate(GOLDEN):
        message = golden["message"]
        by_kind[type(read(index))] |= names(message)
        works |= names(message.get("work"))
        errors |= names(message.get("error"))
        for record in [message.get("record", {}), *message.get("records", [])]:
            records |= names(record)
            errors |= names(record.get("error"))

    for kind, found in [*by_kind.items(), (Record, records), (Work, works), (RecordError, errors)]:
        assert found == set(kind.__struct_fields__), kind  # type: ignore[attr-defined]


def test_what_was_written_by_format_1_is_read_as_it_was_meant() -> None:
    error = RecordError("no such name", "TypeError", "at handler (index.js:3:9)", "/name")
    queued = Record(
        invocation_id=A,
        function=FUNCTION,
        version=2,
        invocation_type="Async",
        status="queued",
        created_ms=1720777346379,
        caller="administrator",
        replay_of=B,
    )

    assert read(0) == CallState(
        format=1,
        record=queued,
        work=Work(
            topic="tools",
            service="3970185486",
            payload='{"name":"Ada"}',
            pinned=2,
            due_ms=1720777347379,
            key="ab" * 32,
        ),
    )
    waiting = read(1)
    assert isinstance(waiting, CallState)
    assert waiting.work == Work(topic="tools", service="3970185486", payload=None, pinned=None, due_ms=0)
    assert (waiting.payload_pieces, waiting.expires_ms, waiting.record.attempts) == (2, None, 1)
    assert read(2) == CallState(
        format=1,
        record=Record(
            invocation_id=A,
            function=FUNCTION,
            version=2,
            invocation_type="Async",
            status="error",
            code="function.error",
            attempts=3,
            created_ms=1720777346379,
            started_ms=1720777350000,
            ended_ms=1720777350012,
            queue_ms=3621.5,
            init_ms=2.25,
            run_ms=9.75,
            memory_bytes=47185920,
            caller="administrator",
            replay_of=B,
            error=error,
            log="hello Ada\n",
            log_bytes=300000,
            payload='{"name":"Ada"}',
            result="null",
        ),
        expires_ms=1721382150012,
        payload_pieces=2,
        result_pieces=3,
    )
    pack = read(3)
    assert isinstance(pack, Pack)
    assert pack.expires_ms == 1721382146390
    assert [(one.invocation_id, one.invocation_type, one.status) for one in pack.records] == [
        (B, "RequestResponse", "ok"),
        (C, "RequestResponse", "timeout"),
    ]
    letter, detached, redriven = read(4), read(5), read(6)
    assert isinstance(letter, DeadLetter)
    assert (letter.payload, letter.payload_pieces, letter.pinned, letter.gone) == (
        '{"name":"Ada"}',
        0,
        2,
        False,
    )
    assert letter.record.error == RecordError("no such name")
    assert isinstance(detached, DeadLetter)
    assert (detached.payload, detached.payload_pieces, detached.pinned) == (None, 2, None)
    assert isinstance(redriven, DeadLetter)
    assert redriven.gone
    keys = [read(index) for index in range(7, 12)]
    assert keys == [
        KeyState(invocation_id=A, invocation_type="Async", expires_ms=1720863746379, **ANY_KEY),
        KeyState(
            invocation_id=B,
            ended=True,
            code="function.error",
            error=RecordError("no such name", "TypeError", "at handler (index.js:3:9)"),
            **SYNC_KEY,
        ),
        KeyState(invocation_id=C, ended=True, result='{"hello":"Ada"}', **SYNC_KEY),
        KeyState(invocation_id=C, ended=True, result_pieces=3, **SYNC_KEY),
        KeyState(invocation_id=C, gone=True, **SYNC_KEY),
    ]
    cut = read(12)
    assert isinstance(cut, Pack)
    assert [(one.log_bytes, one.log_cut_bytes) for one in cut.records] == [(300000, 37856)]
    child = read(13)
    assert isinstance(child, Pack)
    assert [(one.parent_invocation_id, one.depth) for one in child.records] == [(A, 1)]
    begun = read(14)
    assert isinstance(begun, CallState)
    assert begun.work is not None
    assert (begun.work.begun, begun.record.attempts, begun.record.log) == (True, 1, "hello Ada\n")
    assert child.records[0].network == (NetworkUse("api.example.com:443", 2, 512, 70000, 1),)


ANY_KEY: dict[str, Any] = {"format": 1, "body_digest": "cd" * 32}
SYNC_KEY = ANY_KEY | {"invocation_type": "RequestResponse", "expires_ms": 1720863746380}


def test_everything_is_written_as_it_was() -> None:
    for index, golden in enumerate(GOLDEN):
        assert json.loads(formats.encode(read(index))) == golden["message"]


def test_the_subjects_are_as_they_were() -> None:
    written = [
        formats.call_subject("default", A),
        formats.pack_subject("default"),
        formats.dead_subject("default", "tools", "3970185486", B),
        formats.key_subject("default", "tools", "3970185486", "ab" * 32),
    ]

    assert written == [GOLDEN[index]["subject"] for index in (0, 3, 5, 7)]
    assert (formats.account_of(written[0]), formats.noun_of(written[1])) == ("default", "pack")
    assert formats.body_subject("default", A, "payload", 3) == (
        f"accounts.default.invocation.body.{A}.payload.3"
    )


async def test_the_view_reads_them_too(tmp_path: Path) -> None:
    told: list[str] = []

    class Notes:
        def info(self, event: str, **fields: object) -> None:
            pass

        def warning(self, event: str, **fields: object) -> None:
            told.append(f"{event} {fields}")

    view = View(tmp_path / "view.sqlite3", "a", now_ms=lambda: WRITTEN_MS, notes=Notes())
    await view.open()
    await view.ingest(
        [
            Stored(sequence, golden["subject"], json.dumps(golden["message"]).encode())
            for sequence, golden in enumerate(GOLDEN, 1)
        ]
    )

    assert told == []
    assert [await view.find("default", one) for one in (A, B, C)] == [
        Place(3, None),
        Place(4, 0),
        Place(4, 1),
    ]
    assert await view.count("default", Filter(FUNCTION, ("error",))) == 1
    assert await view.dead_letter("default", "tools", "3970185486", A) == 5
    assert await view.key("default", "tools", "3970185486", "ab" * 32) == 8
    assert sorted(await view.due(99)) == [1, 2, 6, 11]
    await view.close()


@pytest.mark.parametrize(
    ("subject", "data"),
    [
        ("accounts.default.invocation.pack", b'{"format":2,"expires_ms":1,"records":[]}'),
        ("accounts.default.invocation.pack", b'{"expires_ms":1,"records":[]}'),
        ("accounts.default.invocation.pack", b"{"),
        ("accounts.default.invocation.pack", b'{"format":1,"expires_ms":1,"records":[{"log":"\xff"}]}'),
        ("accounts.default.invocation.bill.1", b'{"format":1}'),
        (f"accounts.default.invocation.body.{A}.payload.0", b"{}"),
    ],
)
def test_what_this_version_does_not_know_is_refused_and_never_guessed(subject: str, data: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        formats.decode(subject, data)


@pytest.mark.parametrize("size", [0, 1, formats.BODY_PIECE_BYTES, formats.BODY_PIECE_BYTES + 1])
def test_a_body_in_pieces_is_the_same_body(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)

    pieces = formats.pieces_of(body[:size])

    assert b"".join(pieces) == body[:size]
    assert all(0 < len(piece) <= formats.BODY_PIECE_BYTES for piece in pieces)
