"""Code folders: built once, complete, readable by others, removed when nobody needs them."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stoker.model.errors import InvalidRequest, PlatformError, StorageFull
from stoker.model.function import Asset
from stoker.model.limits import Limits
from stoker.testing.archives import member, tgz_of
from stoker.worker.code_cache import CodeCache, folder_name


class Store:
    """Contents by digest, with a gate that holds back fetches."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.asked, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()

    def asset(self, name: str, content: bytes, kind: str = "file") -> Asset:
        digest = f"{hash((name, content)):x}"
        self.contents[digest] = content
        return Asset(name, kind, digest, len(content))

    async def fetch(self, digest: str) -> bytes:
        self.fetched.append(digest)
        self.asked.set()
        await self.gate.wait()
        return self.contents[digest]


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[CodeCache]:
    cache = CodeCache(tmp_path / "code", limits=Limits())
    cache.clear()
    yield cache
    await cache.close()


async def test_a_folder_holds_the_items_and_is_named_by_its_manifest(
    cache: CodeCache, tmp_path: Path
) -> None:
    store = Store()
    assets = (store.asset("index.js", b"js"), store.asset("lib/a.txt", b"a"))

    folder = await cache.folder(assets, store.fetch)

    assert folder == tmp_path / "code" / folder_name(assets)
    assert len(folder.name) == 64
    assert (folder / "index.js").read_bytes() == b"js"
    assert (folder / "lib/a.txt").read_bytes() == b"a"
    assert os.listdir(tmp_path / "code") == [folder.name]


def test_the_name_tells_names_kinds_digests_and_order_apart() -> None:
    one, two = Asset("a", "file", "1", 1), Asset("b", "file", "2", 1)
    others = [(one,), (two, one), (one, Asset("b", "archive", "2", 1)), (one, Asset("c", "file", "2", 1)), ()]

    names = {folder_name(assets) for assets in [*others, (one, two)]}

    assert len(names) == 6


async def test_files_are_readable_by_others_whatever_the_umask(tmp_path: Path) -> None:
    store = Store()
    archive = tgz_of(member("bin/run", b"#!", mode=0o700), member("big", bytes(100_000), mode=0o600))
    assets = (store.asset("index.js", b"js"), store.asset("x", archive, "archive"))
    before = os.umask(0o077)
    try:
        cache = CodeCache(tmp_path / "code", limits=Limits())
        cache.clear()
        folder = await cache.folder(assets, store.fetch)
    finally:
        os.umask(before)

    found = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, folder.parent, *folder.rglob("*")]
    }

    expected = {
        "code": 0o755,
        folder.name: 0o755,
        "bin": 0o755,
        "run": 0o755,
        "big": 0o644,
        "index.js": 0o644,
    }
    assert found == expected


async def test_concurrent_calls_for_the_same_items_build_once(cache: CodeCache) -> None:
    store = Store()
    assets = (store.asset("a", b"a"),)
    store.gate.clear()
    calls = [asyncio.create_task(cache.folder(assets, store.fetch)) for _ in range(20)]
    await store.asked.wait()

    store.gate.set()
    folders = await asyncio.gather(*calls)

    assert len(set(folders)) == 1
    assert len(store.fetched) == 1


async def test_a_call_that_is_cancelled_leaves_the_folder_to_the_others(cache: CodeCache) -> None:
    store = Store()
    assets = (store.asset("a", b"a"),)
    store.gate.clear()
    first, second = (asyncio.create_task(cache.folder(assets, store.fetch)) for _ in range(2))
    await store.asked.wait()

    first.cancel()
    store.gate.set()
    folder = await second

    assert (folder / "a").read_bytes() == b"a"
    assert first.cancelled() or first.cancelling()
    assert len(store.fetched) == 1


async def test_a_refused_folder_leaves_nothing_and_may_be_asked_for_again(
    cache: CodeCache, tmp_path: Path
) -> None:
    store = Store()
    assets = (store.asset("ok", b"a"), store.asset("../x", b"a"))

    for _ in range(2):
        with pytest.raises(InvalidRequest) as caught:
            await cache.folder(assets, store.fetch)
        assert caught.value.field == "/compute_asset/assets/1/asset_name"

    assert not cache.contains(assets)
    assert os.listdir(tmp_path / "code") == []


async def test_items_that_are_too_large_together_are_refused_before_they_are_fetched(tmp_path: Path) -> None:
    store = Store()
    cache = CodeCache(tmp_path / "code", limits=Limits(code_bytes_max=10))
    cache.clear()

    with pytest.raises(InvalidRequest) as caught:
        await cache.folder((store.asset("a", b"x" * 6), store.asset("b", b"x" * 5)), store.fetch, new=True)

    assert caught.value.field == "/compute_asset/assets"
    assert store.fetched == []
    at_the_limit = (store.asset("a", b"x" * 5), store.asset("b", b"x" * 5))
    assert (await cache.folder(at_the_limit, store.fetch, new=True)).is_dir()


async def test_what_was_stored_under_wider_limits_is_still_unpacked(tmp_path: Path) -> None:
    store = Store()
    cache = CodeCache(tmp_path / "code", limits=Limits(code_bytes_max=10, code_files_max=1))
    cache.clear()
    assets = (store.asset("a", b"x" * 6), store.asset("b", b"x" * 6))

    folder = await cache.folder(assets, store.fetch)

    assert sorted(os.listdir(folder)) == ["a", "b"]


async def test_what_the_store_raises_reaches_every_caller(cache: CodeCache) -> None:
    assets = (Asset("a", "file", "unknown", 1),)

    ended = await asyncio.gather(
        *(cache.folder(assets, Store().fetch) for _ in range(3)), return_exceptions=True
    )

    assert [type(error) for error in ended] == [KeyError] * 3
    assert not cache.contains(assets)


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, StorageFull), (errno.EIO, PlatformError)])
async def test_a_disk_that_fails_is_told_as_what_it_is_and_leaves_nothing(
    cache: CodeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    store = Store()
    assets = (store.asset("a", b"a"),)

    def fail(handle: int, data: object) -> int:
        raise OSError(number, "no")

    monkeypatch.setattr("stoker.worker.code_tree.os.write", fail)
    with pytest.raises(error):
        await cache.folder(assets, store.fetch)

    assert os.listdir(tmp_path / "code") == []


async def test_trimming_removes_the_least_recently_used_and_never_what_is_kept(
    cache: CodeCache, tmp_path: Path
) -> None:
    store = Store()
    one, two, three = ((store.asset("a", bytes([n]) * 50_000),) for n in range(3))
    for assets in (one, two, three, one):
        await cache.folder(assets, store.fetch)

    await cache.trim({folder_name(two)}, 120_000)
    assert [cache.contains(assets) for assets in (one, two, three)] == [True, True, False]
    await cache.trim({folder_name(two)}, 0)

    assert [cache.contains(assets) for assets in (one, two, three)] == [False, True, False]
    assert os.listdir(tmp_path / "code") == [folder_name(two)]


async def test_a_trimmed_folder_is_built_again_when_it_is_asked_for(cache: CodeCache) -> None:
    store = Store()
    assets = (store.asset("a", b"a"),)
    await cache.folder(assets, store.fetch)
    await cache.trim(set(), 0)

    folder = await cache.folder(assets, store.fetch)

    assert (folder / "a").read_bytes() == b"a"
    assert len(store.fetched) == 2


async def test_the_start_of_a_server_wipes_what_a_power_cut_may_have_torn(tmp_path: Path) -> None:
    root = tmp_path / "code"
    (root / ("f" * 64)).mkdir(parents=True)
    (root / ".new-1").mkdir()
    cache = CodeCache(root, limits=Limits())

    cache.clear()

    assert os.listdir(root) == []
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
