"""Copying a code folder that may be hostile: no link is followed, nothing but plain files is opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.sandbox.copying import NotPlain, copy_tree, measure


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with files, folders and a link."""
    folder = tmp_path / "source"
    (folder / "inner" / "deep").mkdir(parents=True)
    (folder / "main.js").write_text("main")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o4755)
    (folder / "inner" / "deep" / "more.txt").write_bytes(b"x" * 5000)
    (folder / "link").symlink_to("/etc/passwd")
    return folder


@pytest.fixture
def handles(source: Path, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Descriptors of the source and of an empty target."""
    (tmp_path / "target").mkdir()
    opened = tuple(os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, tmp_path / "target"))
    yield opened[0], opened[1]
    for handle in opened:
        os.close(handle)


@pytest.mark.parametrize("writable", [True, False])
def test_a_copy_has_the_same_content_and_plain_modes(
    handles: tuple[int, int], tmp_path: Path, writable: bool
) -> None:
    copy_tree(*handles, owner=None, writable=writable)

    target = tmp_path / "target"
    modes = {
        str(path.relative_to(target)): oct(path.lstat().st_mode & 0o7777)
        for path in [target, *target.rglob("*")]
        if not path.is_symlink()
    }
    assert (target / "inner" / "deep" / "more.txt").read_bytes() == b"x" * 5000
    assert os.readlink(target / "link") == "/etc/passwd"
    folders, files, programs = ("0o755", "0o644", "0o755") if writable else ("0o555", "0o444", "0o555")
    assert modes == {
        ".": folders,
        "inner": folders,
        "inner/deep": folders,
        "main.js": files,
        "run.sh": programs,
        "inner/deep/more.txt": files,
    }


def test_a_pipe_in_the_folder_ends_the_copy_instead_of_holding_it_up(
    source: Path, handles: tuple[int, int]
) -> None:
    os.mkfifo(source / "pipe")

    with pytest.raises(NotPlain):
        copy_tree(*handles, owner=None, writable=True)


def test_a_file_that_becomes_a_link_under_the_copy_is_not_followed(
    source: Path, handles: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The folder's owner swaps the file between the look at it and the opening of it.
    looked = stat.S_ISREG

    def swap(mode: int) -> bool:
        (source / "main.js").unlink()
        (source / "main.js").symlink_to("/etc/shadow")
        monkeypatch.setattr(stat, "S_ISREG", looked)
        return True

    for name in ("run.sh", "link"):
        (source / name).unlink()
    (source / "inner" / "deep" / "more.txt").unlink()
    (source / "inner" / "deep").rmdir()
    (source / "inner").rmdir()
    monkeypatch.setattr(stat, "S_ISREG", swap)

    with pytest.raises(NotPlain):
        copy_tree(*handles, owner=None, writable=True)


def test_the_extent_counts_whole_pages_and_every_entry(handles: tuple[int, int]) -> None:
    extent = measure(handles[0])

    assert extent.files == 7
    assert extent.size_bytes >= 8192 + 3 * 4096
    assert extent.size_bytes % 4096 == 0
