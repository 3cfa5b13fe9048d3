"""Looking at nats-server's files: what is gone or impossible is seen without starting a server on it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from stoker.backbone.store_files import StoreFiles

ERASED, TOMBSTONE = 1 << 63, 1 << 62


def record(sequence: int, subject: bytes = b"accounts.a.catalog.x", data: bytes = b"data") -> bytes:
    """Return a message as a block holds it."""
    length = 22 + len(subject) + len(data) + 8
    return struct.pack("<IQqH", length, sequence, 0, len(subject)) + subject + data + bytes(8)


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """Return the folder of a stream that looks well, with an empty block."""
    folder = tmp_path / "jetstream" / "$G" / "streams" / "S"
    (folder / "msgs").mkdir(parents=True)
    (folder / "meta.inf").write_text('{"name": "S"}')
    (folder / "meta.sum").write_text("0123456789abcdef")
    (folder / "msgs" / "1.blk").touch()
    return folder


def test_rising_sequences_with_gaps_and_tombstones_are_well(tmp_path: Path, stream: Path) -> None:
    (stream / "msgs" / "1.blk").write_bytes(record(1) + record(2) + record(9) + record(2 | TOMBSTONE, b""))
    (stream / "msgs" / "2.blk").write_bytes(record(10))
    (stream / "msgs" / "10.blk").write_bytes(record(11))

    assert StoreFiles(tmp_path).fault_of("S") is None


def test_what_follows_an_erased_message_is_looked_at(tmp_path: Path, stream: Path) -> None:
    block = stream / "msgs" / "1.blk"
    block.write_bytes(record(1) + record(2 | ERASED, b"", b"random") + record(3))
    assert StoreFiles(tmp_path).fault_of("S") is None

    block.write_bytes(record(1) + record(2 | ERASED, b"", b"random") + record(1))

    assert StoreFiles(tmp_path).fault_of("S") == (block, "has sequences that are out of order")


def test_a_gap_of_any_width_is_well_below_what_was_acknowledged(tmp_path: Path, stream: Path) -> None:
    block = stream / "msgs" / "1.blk"
    block.write_bytes(record(1) + record(1 << 30))
    files = StoreFiles(tmp_path)

    assert files.fault_of("S", acknowledged=1 << 30) is None
    assert files.fault_of("S", acknowledged=(1 << 30) - 1) == (block, "has sequences that are out of order")


def test_a_first_message_far_from_one_is_well(tmp_path: Path, stream: Path) -> None:
    (stream / "msgs" / "1.blk").write_bytes(record(1 << 40) + record((1 << 40) + 1))

    assert StoreFiles(tmp_path).fault_of("S") is None


@pytest.mark.parametrize("bit", [25, 31, 32, 47, 61])
def test_a_flipped_bit_that_nats_server_would_choke_on_is_found(
    tmp_path: Path, stream: Path, bit: int
) -> None:
    block = stream / "msgs" / "1.blk"
    block.write_bytes(record(1) + record(2 | 1 << bit) + record(3))

    assert StoreFiles(tmp_path).fault_of("S") == (block, "has sequences that are out of order")


def test_a_torn_tail_is_left_to_the_server(tmp_path: Path, stream: Path) -> None:
    (stream / "msgs" / "1.blk").write_bytes(record(1) + record(2)[:-3])

    assert StoreFiles(tmp_path).fault_of("S") is None


def test_a_block_of_a_format_that_we_do_not_know_is_left_to_the_server(tmp_path: Path, stream: Path) -> None:
    (stream / "msgs" / "1.blk").write_bytes(b"cmp\x02" + bytes(range(200)))

    assert StoreFiles(tmp_path).fault_of("S") is None


@pytest.mark.parametrize("name", ["meta.inf", "meta.sum"])
def test_a_missing_or_empty_description_of_the_stream_is_found(
    tmp_path: Path, stream: Path, name: str
) -> None:
    (stream / name).write_bytes(b"")
    assert StoreFiles(tmp_path).fault_of("S") == (stream / name, "is empty")

    (stream / name).unlink()
    assert StoreFiles(tmp_path).fault_of("S") == (stream / name, "is gone")


def test_the_block_of_a_sequence_is_the_last_that_begins_before_it(tmp_path: Path, stream: Path) -> None:
    (stream / "msgs" / "1.blk").write_bytes(record(1) + record(2))
    (stream / "msgs" / "2.blk").write_bytes(record(5))

    files = StoreFiles(tmp_path)

    assert files.block_with_sequence("S", 3).name == "1.blk"
    assert files.block_with_sequence("S", 6).name == "2.blk"
    assert files.block_with_sequence("T", 6) == files.of_stream("T")


def test_the_block_of_a_subject_is_found_by_what_is_in_it(tmp_path: Path, stream: Path) -> None:
    (stream / "msgs" / "1.blk").write_bytes(record(1))
    (stream / "msgs" / "2.blk").write_bytes(record(2, b"accounts.a.blob.abc.manifest"))

    files = StoreFiles(tmp_path)

    assert files.block_with_subject("S", "accounts.a.blob.abc").name == "2.blk"
    assert files.block_with_subject("S", "accounts.a.blob.def") == files.of_stream("S")
