"""The guard's own files: what is new, what is known, what is refused before a server runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.backbone.errors import DataDirectoryInUse, StoreDamaged
from stoker.backbone.guard import StoreGuard


async def made(data: Path, *, embedded: bool = True) -> str:
    guard = StoreGuard.open(data, embedded=embedded)
    store_id = guard.store_id
    await guard.close()
    return store_id


async def test_an_empty_directory_is_a_new_store_and_the_same_one_the_next_time(tmp_path: Path) -> None:
    guard = StoreGuard.open(tmp_path / "data")
    first, was_new = guard.store_id, guard.is_new
    await guard.close()

    guard = StoreGuard.open(tmp_path / "data")

    assert was_new
    assert not guard.is_new
    assert guard.store_id == first
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    await guard.close()


async def test_a_second_server_on_the_directory_is_told_who_has_it(tmp_path: Path) -> None:
    guard = StoreGuard.open(tmp_path)

    with pytest.raises(DataDirectoryInUse) as refused:
        StoreGuard.open(tmp_path)

    assert str(tmp_path) in refused.value.message
    assert str(os.getpid()) in refused.value.message
    await guard.close()


def test_the_lock_of_a_killed_server_is_free(tmp_path: Path) -> None:
    program = "import sys,os,signal,pathlib;from stoker.backbone.guard import StoreGuard;" + (
        "guard=StoreGuard.open(pathlib.Path(sys.argv[1]));os.kill(os.getpid(),signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)

    guard = StoreGuard.open(tmp_path)

    assert not guard.is_new


@pytest.mark.parametrize("left", ["store.mark", "nats/jetstream"])
async def test_a_missing_identity_beside_remains_of_a_store_is_refused(tmp_path: Path, left: str) -> None:
    await made(tmp_path)
    (tmp_path / "nats" / "jetstream").mkdir(parents=True)
    (tmp_path / "store.json").unlink()
    if left == "nats/jetstream":
        (tmp_path / "store.mark").unlink()
    else:
        (tmp_path / "nats" / "jetstream").rmdir()

    with pytest.raises(StoreDamaged) as refused:
        StoreGuard.open(tmp_path)

    assert str(tmp_path / "store.json") in refused.value.message
    assert "restore" in refused.value.message.lower()
    assert "move the data directory aside" in refused.value.message


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": "x", "store": "y"}'])
async def test_an_identity_that_cannot_be_read_is_refused(tmp_path: Path, content: str) -> None:
    await made(tmp_path)
    (tmp_path / "store.json").write_text(content)

    with pytest.raises(StoreDamaged, match=r"store\.json is damaged"):
        StoreGuard.open(tmp_path)


async def test_a_store_of_a_later_format_is_refused(tmp_path: Path) -> None:
    await made(tmp_path)
    content = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps(content | {"format": 2}))

    with pytest.raises(StoreDamaged, match="format 2"):
        StoreGuard.open(tmp_path)


@pytest.mark.parametrize("spoil", [lambda mark: mark.unlink(), lambda mark: mark.write_bytes(b"x" * 1024)])
async def test_a_mark_that_is_gone_or_damaged_is_refused(tmp_path: Path, spoil: object) -> None:
    await made(tmp_path)
    assert callable(spoil)
    spoil(tmp_path / "store.mark")

    with pytest.raises(StoreDamaged, match=r"store\.mark"):
        StoreGuard.open(tmp_path)


async def test_a_store_of_the_embedded_server_is_not_used_with_another_one(tmp_path: Path) -> None:
    await made(tmp_path, embedded=True)

    with pytest.raises(StoreDamaged, match="--nats"):
        StoreGuard.open(tmp_path, embedded=False)


async def test_a_refused_store_leaves_the_lock_free(tmp_path: Path) -> None:
    await made(tmp_path)
    kept = (tmp_path / "store.json").read_text()
    (tmp_path / "store.json").write_text("")
    with pytest.raises(StoreDamaged):
        StoreGuard.open(tmp_path)

    (tmp_path / "store.json").write_text(kept)

    await StoreGuard.open(tmp_path).close()
