"""Archives as items of a function: what unpacks, and what a stranger's archive cannot do."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.model.errors import InvalidRequest
from stoker.model.limits import MIB, Limits
from stoker.testing.archives import member, tar_of, tgz_of, zip_of
from stoker.worker.code_tree import build

SMALL = Limits(code_bytes_max=1 * MIB, code_files_max=50)
VALUE, NAME = "/compute_asset/assets/0/asset_value", "/compute_asset/assets/0/asset_name"


class Bench:
    """Builds folders below a directory of the test."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.root = place / "root"

    def build(self, *items: tuple[str, str, bytes], limits: Limits = SMALL) -> Path:
        build(items, self.root, self._place / "spool", limits=limits)
        return self.root

    def archive(self, content: bytes, limits: Limits = SMALL) -> Path:
        return self.build(("code.any", "archive", content), limits=limits)

    def refused(self, content: bytes, limits: Limits = SMALL) -> InvalidRequest:
        with pytest.raises(InvalidRequest) as caught:
            self.archive(content, limits)
        assert not self.root.exists()
        assert os.listdir(self._place) in ([], ["spool"])
        return caught.value


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def modes(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode)
        for path in root.rglob("*")
        if not path.is_symlink()
    }


FORMS = pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def test_a_zip_unpacks_with_its_folders_and_executable_bits(bench: Bench) -> None:
    content = zip_of(
        ("index.js", b"code", stat.S_IFREG | 0o600),
        ("lib/", b"", stat.S_IFDIR | 0o700),
        ("lib/run", b"#!", stat.S_IFREG | 0o700),
        ("made/on/windows.txt", b"w", 0),
    )

    root = bench.archive(content)

    assert (root / "index.js").read_bytes() == b"code"
    assert (root / "made/on/windows.txt").read_bytes() == b"w"
    assert modes(root) == {
        "index.js": 0o644,
        "lib": 0o755,
        "lib/run": 0o755,
        "made": 0o755,
        "made/on": 0o755,
        "made/on/windows.txt": 0o644,
    }


@FORMS
def test_a_tar_gz_unpacks_in_every_form_of_tar(bench: Bench, form: int) -> None:
    long = "d" * 60 + "/" + "e" * 60
    content = gzip.compress(
        tar_of(
            member("./", kind=tarfile.DIRTYPE),
            member("./index.js", b"code"),
            member(long, b"long", mode=0o755),
            form=form,
        )
    )

    root = bench.archive(content)

    assert (root / "index.js").read_bytes() == b"code"
    assert (root / long).read_bytes() == b"long"
    assert modes(root)[long] == 0o755


def test_a_tar_in_a_gzip_of_two_members_unpacks_too(bench: Bench) -> None:
    content = tar_of(member("a", b"a" * 3000), member("naïve/ü", b"b"))

    root = bench.archive(gzip.compress(content[:1500]) + gzip.compress(content[1500:]))

    assert (root / "a").read_bytes() == b"a" * 3000
    assert (root / "naïve/ü").read_bytes() == b"b"


@pytest.mark.parametrize(
    "content",
    [
        b"console.log('no archive')",
        b"",
        b"PK",
        gzip.compress(b"only a gzip"),
        b"\x1f\x8bbroken",
        b"ustar" * 200,
        tar_of(member("a", b"a tar that is not gzipped")),
    ],
)
def test_an_archive_that_is_none_by_its_content_is_a_file(bench: Bench, content: bytes) -> None:
    root = bench.build(("./index.js", "archive", content))

    assert (root / "index.js").read_bytes() == content


def test_a_zip_that_is_called_a_file_stays_one(bench: Bench) -> None:
    content = zip_of(("a", b"a", 0))

    root = bench.build(("a.zip", "binary", content))

    assert (root / "a.zip").read_bytes() == content


def test_of_two_entries_with_one_name_the_later_wins_also_between_items(bench: Bench) -> None:
    first = zip_of(("a", b"1", 0), ("./b", b"1", stat.S_IFREG | 0o755))
    second = tgz_of(member("a", b"2"), member("b", b"2"), member("./b", b"3"))

    root = bench.build(("x", "archive", first), ("y", "archive", second), ("a", "file", b"4"))

    assert (root / "a").read_bytes() == b"4"
    assert (root / "b").read_bytes() == b"3"
    assert modes(root) == {"a": 0o644, "b": 0o644}


def test_a_file_larger_than_memory_allows_is_spooled_and_whole(bench: Bench) -> None:
    content = os.urandom(300_000)

    root = bench.archive(tgz_of(member("big", content, mode=0o755), member("same", kind=b"1", target="big")))

    assert (root / "big").read_bytes() == (root / "same").read_bytes() == content
    assert modes(root) == {"big": 0o755, "same": 0o755}


def test_a_hard_link_counts_with_its_content_and_leads_to_a_file_before_it(bench: Bench) -> None:
    half = b"x" * (600 * 1024)

    twice = bench.refused(tgz_of(member("a", half), member("b", kind=b"1", target="a")))
    outside = bench.refused(tgz_of(member("b", kind=b"1", target="../etc/passwd")))
    nowhere = bench.refused(tgz_of(member("b", kind=b"1", target="a")))

    assert "bytes" in twice.message
    assert ".." in outside.message
    assert "leads to no file" in nowhere.message


@pytest.mark.parametrize("make", [zip_of, tgz_of])
def test_a_bomb_is_stopped_at_the_bytes_it_really_unpacks_to(
    bench: Bench, make: Callable[..., bytes]
) -> None:
    zeros = bytes(64 * MIB)
    content = make(("a", zeros, 0)) if make is zip_of else make(member("a", zeros))
    assert len(content) < MIB / 8

    error = bench.refused(content)

    assert error.field == VALUE
    assert "more than 1048576 bytes" in error.message


def test_a_zip_whose_directory_lies_about_sizes_is_refused(bench: Bench) -> None:
    content = bytearray(zip_of(("a", bytes(64 * MIB), 0)))
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (10).to_bytes(4, "little")

    error = bench.refused(bytes(content))

    assert error.field == VALUE


def test_a_zip_whose_entries_share_one_compressed_kernel_is_stopped_at_real_bytes(bench: Bench) -> None:
    # Fifield's bomb: many directory entries lead to the same local file.
    content = zip_of(("a", bytes(900_000), 0))
    start, end = content.rindex(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    entry = content[start:end]
    tail = bytearray(content[end:])
    tail[8:10] = tail[10:12] = (40).to_bytes(2, "little")
    tail[12:16] = (40 * len(entry)).to_bytes(4, "little")

    error = bench.refused(content[:start] + entry * 40 + bytes(tail))

    assert "bytes" in error.message or "whole" in error.message


def test_a_zip_with_a_huge_directory_is_refused_before_it_is_read(bench: Bench) -> None:
    content = zip_of(*((f"{n}" * 20, b"", 0) for n in range(1000)))

    error = bench.refused(content)

    assert "too many entries" in error.message


@pytest.mark.parametrize(
    "content",
    [
        zip_of(*((f"f{n}", b"", 0) for n in range(51))),
        tgz_of(*(member(f"f{n}") for n in range(51))),
        tgz_of(*(member(f"d{n}", kind=tarfile.DIRTYPE) for n in range(51))),
        tgz_of(*(member("same", str(n).encode()) for n in range(101))),
        tgz_of(*(member(f"{n}/" + "/".join("d" * 20)) for n in range(3))),
    ],
    ids=["zip", "tar", "directories", "one name again and again", "implied directories"],
)
def test_more_entries_than_files_are_allowed_are_refused(bench: Bench, content: bytes) -> None:
    error = bench.refused(content)

    assert "more than 50 files" in error.message or "too many entries" in error.message


def test_a_tar_whose_header_promises_more_than_there_is_is_refused(bench: Bench) -> None:
    content = bytearray(tar_of(member("a", b"x")))
    info = tarfile.TarInfo("a")
    info.size = 10**11
    content[:512] = info.tobuf(tarfile.GNU_FORMAT)

    error = bench.refused(gzip.compress(bytes(content)))

    assert "ends too early" in error.message


def test_a_tar_with_a_negative_size_is_refused(bench: Bench) -> None:
    # CVE-2025-8194: Python's tarfile went backwards for ever.
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))

    error = bench.refused(gzip.compress(bytes(header) + bytes(1024)))

    assert "impossible size" in error.message


def test_a_tar_whose_long_name_or_pax_header_is_huge_is_refused_before_it_is_read(bench: Bench) -> None:
    for kind in (b"L", b"x", b"g"):
        info = tarfile.TarInfo("a")
        info.type, info.size = kind, 10**9

        error = bench.refused(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))

        assert "too long" in error.message


@pytest.mark.parametrize(
    "record", [b"30 path=x\n", b"path=x\n", b"9 path=a", b"0 a=b\n", b"-9 path=a\n", b"4 a\n"]
)
def test_a_damaged_pax_header_is_refused(bench: Bench, record: bytes) -> None:
    info = tarfile.TarInfo("a")
    info.type, info.size = b"x", len(record)
    content = info.tobuf(tarfile.GNU_FORMAT) + record.ljust(512, b"\0") + tar_of(member("b"))

    assert bench.refused(gzip.compress(content)).field == VALUE


def test_a_sparse_file_is_refused_whatever_size_it_claims(bench: Bench) -> None:
    old = tarfile.TarInfo("a")
    old.type, old.size = tarfile.GNUTYPE_SPARSE, 0
    new = member("a")
    new[0].pax_headers = {"GNU.sparse.realsize": str(10**15), "GNU.sparse.major": "1"}

    for content in (old.tobuf(tarfile.GNU_FORMAT) + bytes(1024), tar_of(new)):
        assert "sparse" in bench.refused(gzip.compress(content)).message


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_fifos_of_a_tar_are_refused(bench: Bench, kind: bytes) -> None:
    error = bench.refused(tgz_of(member("null", kind=kind)))

    assert "device, fifo or socket" in error.message
    assert error.field == VALUE


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_devices_fifos_and_sockets_of_a_zip_are_refused(bench: Bench, kind: int) -> None:
    error = bench.refused(zip_of(("null", b"", kind | 0o644)))

    assert "device, fifo or socket" in error.message


@pytest.mark.parametrize("bit", [stat.S_ISUID, stat.S_ISGID, stat.S_ISVTX])
def test_setuid_setgid_and_sticky_bits_are_refused(bench: Bench, bit: int) -> None:
    of_tar = bench.refused(tgz_of(member("su", mode=0o755 | bit)))
    of_zip = bench.refused(zip_of(("su", b"", stat.S_IFREG | 0o755 | bit)))

    assert "setuid" in of_tar.message
    assert "setuid" in of_zip.message


def test_an_encrypted_zip_and_an_unknown_compression_are_refused(bench: Bench) -> None:
    encrypted = bytearray(zip_of(("a", b"secret", 0)))
    encrypted[encrypted.rindex(b"PK\x01\x02") + 8] |= 1

    of_encrypted = bench.refused(bytes(encrypted))
    of_lzma = bench.refused(zip_of(("a", b"x" * 100, 0), method=zipfile.ZIP_LZMA))

    assert "encrypted" in of_encrypted.message
    assert "compression" in of_lzma.message


@pytest.mark.parametrize("cut", [10, 40, -40, -5])
def test_a_cut_archive_is_refused_not_half_unpacked(bench: Bench, cut: int) -> None:
    content = zip_of(("a", os.urandom(5000), 0), ("b", b"b" * 100, 0))

    assert "whole zip" in bench.refused(content[:cut]).message


def test_a_cut_tar_gz_is_refused(bench: Bench) -> None:
    content = tgz_of(member("a", os.urandom(5000)))

    assert "ends too early" in bench.refused(content[:2000]).message


def test_a_zip_with_an_empty_name_is_refused(bench: Bench) -> None:
    content = zip_of(("", b"", 0), ("a", b"", 0))

    assert "no name of a file" in bench.refused(content).message


def test_a_flipped_bit_in_a_file_of_a_zip_is_noticed(bench: Bench) -> None:
    content = bytearray(zip_of(("a", b"x" * 500, 0), method=zipfile.ZIP_STORED))
    content[100] ^= 1

    assert "whole zip" in bench.refused(bytes(content)).message


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "a\nb", "x" * 300, "y/" * 600 + "z"])
def test_bad_names_in_archives_are_refused(bench: Bench, name: str) -> None:
    error = bench.refused(zip_of((name, b"", 0)))

    assert error.field == VALUE
    assert len(error.message) < 300


def test_a_nul_in_a_name_is_seen_in_either_archive(bench: Bench) -> None:
    of_zip = bench.refused(zip_of(("aXb", b"", 0)).replace(b"aXb", b"a\0b"))
    of_pax = bench.refused(gzip.compress(tar_of(member("ü" * 60 + "X")).replace(b"X\n", b"\0\n")))

    assert "control character" in of_zip.message
    assert "control character" in of_pax.message


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "a\nb", "x" * 300, "y/" * 600 + "z"])
def test_bad_names_in_tars_are_refused(bench: Bench, name: str) -> None:
    assert bench.refused(tgz_of(member(name))).field == VALUE
