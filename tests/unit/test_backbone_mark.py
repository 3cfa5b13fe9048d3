"""The high-water mark: exact after a kill, never too high, never of another store."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.backbone.mark import SLOT_BYTES, HighWaterMark, MarkUnreadable


def reopened(path: Path, store_id: str = "store") -> int:
    """Read the file as the next server would."""
    mark = HighWaterMark(path, store_id)
    mark.open()
    return mark.sequence


async def made(path: Path, *sequences: int) -> None:
    mark = HighWaterMark(path, "store")
    mark.create()
    for sequence in sequences:
        mark.advance(sequence)
    await mark.close()


@pytest.mark.parametrize("sequences", [(), (1,), (1, 2), (1, 2, 3), (7, 9, 300, 70_000)])
async def test_the_last_advance_is_what_the_next_server_reads(
    tmp_path: Path, sequences: tuple[int, ...]
) -> None:
    await made(tmp_path / "mark", *sequences)

    assert reopened(tmp_path / "mark") == max(sequences, default=0)


async def test_an_advance_is_in_the_file_before_anything_is_synced_or_closed(tmp_path: Path) -> None:
    mark = HighWaterMark(tmp_path / "mark", "store")
    mark.create()

    mark.advance(41)

    assert reopened(tmp_path / "mark") == 41
    await mark.close()


async def test_the_mark_never_falls(tmp_path: Path) -> None:
    await made(tmp_path / "mark", 5, 3)

    assert reopened(tmp_path / "mark") == 5


async def test_a_reopened_mark_goes_on_rising(tmp_path: Path) -> None:
    await made(tmp_path / "mark", 1, 2, 3)
    mark = HighWaterMark(tmp_path / "mark", "store")
    mark.open()

    mark.advance(4)

    assert reopened(tmp_path / "mark") == 4
    await mark.close()


@pytest.mark.parametrize("slot", [0, 1])
async def test_a_torn_write_costs_at_most_the_last_advance(tmp_path: Path, slot: int) -> None:
    await made(tmp_path / "mark", 8, 9)

    content = bytearray((tmp_path / "mark").read_bytes())
    content[slot * SLOT_BYTES + 3] ^= 1
    (tmp_path / "mark").write_bytes(content)

    assert reopened(tmp_path / "mark") in (8, 9)


@pytest.mark.parametrize("before", [(8, 9), (7, 8, 9)])
async def test_a_torn_write_after_a_restart_spares_the_number_before(
    tmp_path: Path, before: tuple[int, ...]
) -> None:
    await made(tmp_path / "mark", *before)
    whole = (tmp_path / "mark").read_bytes()
    mark = HighWaterMark(tmp_path / "mark", "store")
    mark.open()
    mark.advance(10)
    await mark.close()

    content = bytearray((tmp_path / "mark").read_bytes())
    slot = next(place for place in range(0, len(content), SLOT_BYTES) if content[place] != whole[place])
    content[slot] ^= 1
    (tmp_path / "mark").write_bytes(content)

    assert reopened(tmp_path / "mark") == 9


@pytest.mark.parametrize("content", [b"", bytes(2 * SLOT_BYTES), b"\xff" * 2 * SLOT_BYTES])
def test_a_file_without_a_whole_slot_is_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mark").write_bytes(content)

    with pytest.raises(MarkUnreadable):
        reopened(tmp_path / "mark")


async def test_the_mark_of_another_store_is_unreadable(tmp_path: Path) -> None:
    await made(tmp_path / "mark", 5)

    with pytest.raises(MarkUnreadable):
        reopened(tmp_path / "mark", "another store")
