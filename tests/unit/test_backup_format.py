"""The form of a backup: what was written comes back, and nothing else is taken for it."""

from __future__ import annotations

import io
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.app.backup import format
from stoker.app.backup.format import BackupDamaged, Encoder, Head, Item, Manifest, Part, PartEnd

HEAD = Head("1.2.3", "0123", 1_700_000_000_000)
CONTENT = b"exports.handler = () => 1"
DIGEST = sha256(CONTENT).hexdigest()
MESSAGES = [("accounts.default.catalog.a", b'{"n":1}'), ("accounts.default.catalog.ü", b"")]
MANIFEST = Manifest(events=2, messages=0, contents=1, bytes=32, secrets={"abcd": 3})

Pieces = st.lists(st.binary(max_size=40), max_size=5)


def written(parts: list[tuple[Part, list[bytes]]]) -> bytes:
    encoder = Encoder()
    text = encoder.head(HEAD)
    for part, pieces in parts:
        text += encoder.part(part) + b"".join(map(encoder.piece, pieces)) + encoder.part_end()
    return text + encoder.end(MANIFEST)


def items_of(text: bytes) -> list[Item]:
    return list(format.read(io.BytesIO(text)))


def refusal_of(text: bytes) -> BackupDamaged:
    with pytest.raises(BackupDamaged) as refused:
        items_of(text)
    return refused.value


GOOD = written(
    [
        (Part(format.INVOCATIONS), []),
        (Part(format.CATALOG), [format.message(*one) for one in MESSAGES]),
        (Part(format.CONTENT, "default", DIGEST), [CONTENT[:5], CONTENT[5:]]),
    ]
)


def test_what_was_written_comes_back_in_its_order() -> None:
    head, *parts, manifest = items_of(GOOD)

    assert (head, manifest) == (HEAD, MANIFEST)
    assert parts[:2] == [Part(format.INVOCATIONS), PartEnd()]
    assert parts[2] == Part(format.CATALOG)
    assert [format.message_in(piece) for piece in parts[3:5] if isinstance(piece, bytes)] == MESSAGES
    assert parts[5:] == [
        PartEnd(), Part(format.CONTENT, "default", DIGEST), CONTENT[:5], CONTENT[5:], PartEnd(),
    ]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from([Part("a"), Part("content", "x", "y")]), Pieces), max_size=4))
def test_any_parts_come_back(parts: list[tuple[Part, list[bytes]]]) -> None:
    expected: list[Item] = [HEAD]
    for part, pieces in parts:
        expected += [part, *pieces, PartEnd()]

    assert items_of(written(parts)) == [*expected, MANIFEST]


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_one_that_is_cut_anywhere_is_refused(length: int) -> None:
    assert isinstance(refusal_of(GOOD[:length]), BackupDamaged)


@pytest.mark.parametrize("place", range(len(GOOD)))
def test_a_flipped_bit_anywhere_is_noticed(place: int) -> None:
    for bit in range(8):
        flipped = bytearray(GOOD)
        flipped[place] ^= 1 << bit
        refusal_of(bytes(flipped))


@given(st.data())
def test_bytes_that_are_taken_out_put_in_or_changed_places_are_noticed(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GOOD)))
    until = data.draw(st.integers(at, len(GOOD)))
    other = data.draw(st.binary(max_size=20))
    changed = GOOD[:at] + other + GOOD[until:]

    if changed != GOOD:
        refusal_of(changed)


@given(st.binary(max_size=200))
def test_what_is_something_else_is_no_backup(text: bytes) -> None:
    assert "no backup of stoker" in refusal_of(text).message


def test_it_is_said_what_is_wrong() -> None:
    content = GOOD.index(CONTENT[:5])
    changed = GOOD[:content] + b"E" + GOOD[content + 1 :]

    assert "cut short: it ends after" in refusal_of(GOOD[:-40]).message
    assert f"part 3, content {DIGEST[:12]}, is not as it was written" in refusal_of(changed).message
    assert "something follows its end" in refusal_of(GOOD + b"\0").message


def test_a_newer_format_is_refused_with_what_to_do() -> None:
    refused = refusal_of(GOOD.replace(b"stoker backup 1\n", b"stoker backup 2\n"))

    assert "format 2; this stoker knows format 1" in refused.message
    assert refused.hint is not None
    assert "newer" in refused.hint


def test_a_length_that_is_beyond_reason_is_not_read() -> None:
    start = GOOD.index(b"H", len(b"stoker backup 1\n"))
    huge = GOOD[:start] + b"H\xff\xff\xff\xff" + GOOD[start + 5 :]

    assert "header cannot be read" in refusal_of(huge).message


def test_messages_that_cannot_be_read_are_refused() -> None:
    for piece in (b"", b"\0", b"\0\x09abc", b"\0\x01\xff"):
        with pytest.raises(BackupDamaged):
            format.message_in(piece)
