"""Versions: what makes one, what one that comes back is, and what they have in common."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stoker.catalog.draft import DraftAsset, StoredContent
from stoker.model.errors import InvalidRequest, NotFound, StorageFull, TooLarge, VersionConflict
from stoker.testing.catalog import ACCOUNT, CatalogBench
from stoker.testing.clock import in_fake_time, settled

NEW = (DraftAsset("index.js", "file", b"exports.handler = () => 2\n"),)


async def _change(bench: CatalogBench, revisions: frozenset[int] | None = None, **changes: Any) -> None:
    await bench.catalog.versions.change(ACCOUNT, bench.entry(), changes, revisions=revisions)


async def _roll_back(bench: CatalogBench, version: int, revisions: frozenset[int] | None = None) -> None:
    await bench.catalog.versions.roll_back(ACCOUNT, bench.entry(), version, revisions=revisions)


async def test_a_change_of_code_is_a_new_version_with_the_rest_of_the_latest_one() -> None:
    bench = CatalogBench()
    await bench.put_secret("S")
    created = await bench.create(env_vars=("A=1",), secrets=("S",), network={"egress": []})
    bench.now_ms += 5_000

    await _change(bench, assets=NEW, timeout=7, handler="app.handler", read_only_fs=False)

    function = bench.entry().function
    code = function.code
    assert (code.version, code.timeout_ms, code.handler, code.read_only_fs) == (2, 7, "app.handler", False)
    assert (code.runtime, code.env_vars, code.secrets, code.network) == (
        "nodejs",
        ("A=1",),
        ("S",),
        {"egress": []},
    )
    assert (function.type, function.modified, code.modified) == ("patched", *[created.modified + 5] * 2)
    assert await bench.catalog.contents_of(function) == [NEW[0].content]
    assert (await bench.refolded()).resolve(ACCOUNT, "my-namespace", "my-function").function == function


async def test_what_is_given_as_none_is_what_a_create_has_by_default() -> None:
    bench = CatalogBench()
    await bench.put_secret("S")
    await bench.create(timeout=7, env_vars=("A=1",), secrets=("S",), network={"egress": []})

    await _change(bench, timeout=None, env_vars=None, secrets=None, network=None)

    code = bench.entry().function.code
    assert (code.timeout_ms, code.env_vars, code.secrets, code.network) == (30_000, None, None, None)


async def test_every_change_is_a_version_also_one_that_equals_the_latest() -> None:
    bench = CatalogBench()
    await bench.create()

    await _change(bench, handler="index.handler")
    await _change(bench, handler="index.handler")

    assert list(bench.entry().versions) == [1, 2, 3]


async def test_a_change_of_nothing_is_no_version_and_still_asks_for_the_revision() -> None:
    bench = CatalogBench()
    created = await bench.create()

    await _change(bench)
    with pytest.raises(VersionConflict):
        await _change(bench, frozenset({0}))

    assert bench.entry().function is created


async def test_another_change_of_a_function_is_no_version() -> None:
    bench = CatalogBench()
    await bench.create()

    await bench.catalog.patch_function(ACCOUNT, bench.entry(), {"description": "x"})

    assert list(bench.entry().versions) == [1]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"handler": "index"}, "/handler"),
        ({"runtime": "ruby"}, "/runtime"),
        ({"timeout": 0}, "/timeout"),
        ({"env_vars": ("A",)}, "/env_vars/0"),
        ({"secrets": ("no name",)}, "/secrets/0"),
        ({"network": {"egress": ["x"]}}, "/network/egress/0"),
        ({"assets": (DraftAsset("a", "k" * 129, b""),)}, "/assets/0/asset_type"),
    ],
)
async def test_a_change_is_checked_as_a_create_is(changes: dict[str, Any], field: str) -> None:
    bench = CatalogBench()
    created = await bench.create()

    with pytest.raises(InvalidRequest) as refused:
        await _change(bench, **changes)

    assert refused.value.field == field
    assert bench.entry().function is created


async def test_a_handler_that_is_none_is_explained_for_the_runtime_that_the_function_has() -> None:
    bench = CatalogBench()
    await bench.create(runtime="python", handler="main.handler")

    with pytest.raises(InvalidRequest) as refused:
        await _change(bench, handler="main")

    assert "main.handler" in (refused.value.hint or "")


@pytest.mark.parametrize("kind", [InvalidRequest, TooLarge])
async def test_code_that_cannot_be_unpacked_makes_no_version_and_is_pointed_at(kind: Any) -> None:
    bench = CatalogBench()
    created = await bench.create()
    bench.unpacker.error = kind("no", field="/compute_asset/assets/0/asset_value", hint="smaller")

    with pytest.raises(kind) as refused:
        await _change(bench, assets=NEW)

    assert (refused.value.field, refused.value.hint) == ("/assets/0/asset_value", "smaller")
    assert bench.entry().function is created
    assert len(await bench.blobs.list()) == 1


async def test_a_version_may_be_made_of_what_was_stored_beforehand() -> None:
    bench = CatalogBench()
    await bench.create()
    stored = await bench.put_object("lib", b"stored")

    await _change(bench, assets=(DraftAsset("index.js", "file", stored),))

    (asset,) = bench.entry().function.code.assets
    assert (asset.digest, asset.size_bytes) == (stored.digest, 6)


@in_fake_time
async def test_a_stored_content_is_kept_until_the_version_that_links_it_is_stored() -> None:
    bench = CatalogBench()
    await bench.create()
    stored = await bench.put_object("lib", b"stored")
    held = asyncio.Event()

    async def unpack(assets: object, fetch: object) -> None:
        await held.wait()

    bench.unpacker.unpack = unpack  # type: ignore[method-assign]
    change = asyncio.create_task(_change(bench, assets=(DraftAsset("index.js", "file", stored),)))
    await settled()
    await bench.put_object("lib", b"another")  # nothing but the change needs the first one now

    removed = await bench.catalog.sweep({(ACCOUNT, stored.digest)})
    held.set()
    await change

    assert removed == 0
    assert await bench.catalog.contents_of(bench.entry().function) == [b"stored"]


async def test_a_change_of_a_revision_that_was_passed_is_a_conflict_and_stores_nothing() -> None:
    bench = CatalogBench()
    read = frozenset({(await bench.create()).revision})
    await _change(bench, read, handler="a.b")
    blobs = await bench.blobs.list()

    with pytest.raises(VersionConflict):
        await _change(bench, read, assets=NEW)
    with pytest.raises(VersionConflict):
        await _roll_back(bench, 1, read)

    assert bench.entry().function.code.version == 2
    assert await bench.blobs.list() == blobs


async def test_of_20_changes_of_one_revision_at_once_one_wins_and_without_one_all_do() -> None:
    bench = CatalogBench()
    read = frozenset({(await bench.create()).revision})

    ends = await asyncio.gather(
        *(_change(bench, read, handler=f"a{n}.b") for n in range(20)), return_exceptions=True
    )
    await asyncio.gather(*(_change(bench, handler=f"a{n}.b") for n in range(20)))

    assert sorted(type(end).__name__ for end in ends) == ["NoneType"] + ["VersionConflict"] * 19
    assert list(bench.entry().versions) == list(range(1, 23))


async def test_changes_of_different_parts_at_once_are_both_there_in_the_end() -> None:
    bench = CatalogBench()
    await bench.create()

    await asyncio.gather(_change(bench, assets=NEW), _change(bench, timeout=7))

    code = bench.entry().function.code
    assert (code.version, code.timeout_ms, code.assets[0].size_bytes) == (3, 7, len(NEW[0].content))  # type: ignore[arg-type]


async def test_a_deleted_function_takes_no_version() -> None:
    bench = CatalogBench()
    await bench.create()
    entry = bench.entry()
    await bench.catalog.delete_function(ACCOUNT, entry)

    with pytest.raises(NotFound):
        await bench.catalog.versions.change(ACCOUNT, entry, {"handler": "a.b"})
    with pytest.raises(NotFound):
        await bench.catalog.versions.roll_back(ACCOUNT, entry, 1)


async def test_a_full_disk_makes_no_version() -> None:
    bench = CatalogBench()
    created = await bench.create()
    bench.log.fail_with = StorageFull("the disk is full")

    with pytest.raises(StorageFull):
        await _change(bench, handler="a.b")

    assert bench.entry().function is created
    assert list(bench.entry().versions) == [1]


@in_fake_time
async def test_a_change_whose_caller_has_left_is_carried_to_its_end() -> None:
    bench = CatalogBench()
    await bench.create()
    bench.log.held = asyncio.Event()
    change = asyncio.create_task(_change(bench, assets=NEW))
    await settled()

    change.cancel()
    bench.log.held.set()
    await bench.catalog.settle()

    assert bench.entry().function.code.version == 2


async def test_listeners_hear_of_a_version_as_of_any_change() -> None:
    bench = CatalogBench()
    created = await bench.create()

    await _change(bench, handler="a.b")
    changed = bench.entry().function
    await _roll_back(bench, 1)

    assert bench.changes[1:] == [(created, changed), (changed, bench.entry().function)]


async def test_a_compiled_contract_outlives_a_change_of_code() -> None:
    bench = CatalogBench()
    await bench.create(schema={"input": {"type": "object"}})
    contract = bench.catalog.contract(bench.entry())

    await _change(bench, assets=NEW)

    assert bench.catalog.contract(bench.entry()) is contract


# -- what comes back ---------------------------------------------------------------------------------


async def test_a_rollback_is_a_new_version_that_equals_the_old_one() -> None:
    bench = CatalogBench()
    first = (await bench.create(env_vars=("A=1",))).code
    await _change(bench, assets=NEW, env_vars=("A=2",), timeout=7)
    bench.now_ms += 5_000

    await _roll_back(bench, 1)

    code = bench.entry().function.code
    assert (code.version, code.modified) == (3, first.modified + 5)
    assert (code.assets, code.env_vars, code.timeout_ms) == (first.assets, ("A=1",), 30_000)
    assert bench.entry().function.type == "patched"


@pytest.mark.parametrize("version", [0, -1, 2, 10**30])
async def test_a_version_that_never_was_cannot_come_back(version: int) -> None:
    bench = CatalogBench()
    created = await bench.create()

    with pytest.raises(NotFound) as refused:
        await _roll_back(bench, version)

    assert refused.value.field == "/version"
    assert bench.entry().function is created


async def test_the_history_of_a_function_that_came_back_begins_anew_and_goes_on_counting() -> None:
    bench = CatalogBench()
    await bench.create()
    await _change(bench, handler="a.b")
    await bench.catalog.delete_function(ACCOUNT, bench.entry())

    await bench.create()
    await _change(bench, handler="a.b")

    assert list(bench.entry().versions) == [3, 4]
    with pytest.raises(NotFound):
        await _roll_back(bench, 2)
    refolded = (await bench.refolded()).resolve(ACCOUNT, "my-namespace", "my-function")
    assert list(refolded.versions) == [3, 4]


# -- what versions share and need --------------------------------------------------------------------


async def test_what_versions_have_in_common_is_one_object_also_after_a_restart() -> None:
    bench = CatalogBench()
    await bench.create(env_vars=("A=1",))
    await _change(bench, timeout=7)
    await _change(bench, assets=NEW)
    await _roll_back(bench, 1)

    for fold in (bench.fold, await bench.refolded()):
        first, second, third, fourth = fold.resolve(ACCOUNT, "my-namespace", "my-function").versions.values()
        assert first.assets is second.assets is fourth.assets
        assert first.assets is not third.assets
        assert first.env_vars is second.env_vars is third.env_vars is fourth.env_vars


async def test_contents_of_all_versions_are_in_use_until_the_function_goes() -> None:
    bench = CatalogBench()
    loosened: list[set[tuple[str, str]]] = []
    bench.catalog.on_loosened.append(loosened.append)
    await bench.create()
    await _change(bench, assets=NEW)
    await _roll_back(bench, 1)
    contents = await bench.blobs.list()

    kept = await bench.catalog.sweep(contents)
    await bench.catalog.delete_function(ACCOUNT, bench.entry())
    swept = await bench.catalog.sweep(contents)

    assert (len(contents), kept, swept) == (2, 0, 2)
    assert loosened == [contents]


async def test_what_another_function_needs_is_not_loosened_by_a_delete() -> None:
    bench = CatalogBench()
    loosened: list[set[tuple[str, str]]] = []
    bench.catalog.on_loosened.append(loosened.append)
    await bench.create()
    await bench.create(name="other", assets=(NEW[0], DraftAsset("b.js", "file", b"alone")))
    await _change(bench, assets=NEW)

    await bench.catalog.delete_function(ACCOUNT, bench.entry("other"))

    assert [len(contents) for contents in loosened] == [1]


async def test_a_replaced_object_is_loosened_unless_it_is_the_same_or_a_version_has_it() -> None:
    bench = CatalogBench()
    loosened: list[set[tuple[str, str]]] = []
    bench.catalog.on_loosened.append(loosened.append)
    first = await bench.put_object("lib", b"one")
    await bench.put_object("lib", b"one")
    second = await bench.put_object("lib", b"two")
    await bench.create(assets=(DraftAsset("a", "file", StoredContent(second.digest, 3)),))

    await bench.put_object("lib", b"three")

    assert loosened == [{(ACCOUNT, first.digest)}]


async def test_a_function_at_a_version_is_the_function_of_now_with_the_code_of_then() -> None:
    bench = CatalogBench()
    await bench.create()
    await _change(bench, assets=NEW)
    await bench.catalog.patch_function(ACCOUNT, bench.entry(), {"size": "small"})
    entry = bench.entry()

    old = entry.at_version(1)

    assert (old.code, old.size) == (entry.versions[1], "small")
    assert entry.at_version(1) is old
    assert entry.at_version(2) is entry.function
    with pytest.raises(NotFound) as unknown:
        entry.at_version(3)
    assert unknown.value.field is None


async def test_a_function_at_a_version_is_another_once_the_function_has_changed() -> None:
    bench = CatalogBench()
    await bench.create()
    await _change(bench, assets=NEW)
    before = bench.entry().at_version(1)

    await bench.catalog.patch_function(ACCOUNT, bench.entry(), {"size": "small"})

    assert bench.entry().at_version(1) is not before
    assert bench.entry().at_version(1).size == "small"
