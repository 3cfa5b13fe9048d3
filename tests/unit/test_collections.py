"""Collections: their topics, their names, and when one may go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stoker.model.errors import InvalidRequest, NameTaken, NotEmpty, NotFound, VersionConflict
from stoker.model.function import Collection
from stoker.model.subjects import fnv1a
from stoker.testing.catalog import ACCOUNT, CatalogBench

COLLIDING = ("name-69228", "name-883176")


async def _create(bench: CatalogBench, name: str = "datahub", **rest: Any) -> Collection:
    given = {"description": None, "collection_type": "function", **rest}
    return await bench.catalog.collections.create(ACCOUNT, name, **given)


async def test_a_collection_that_is_created_by_name_has_its_hash_as_topic() -> None:
    bench = CatalogBench()

    collection = await _create(bench, description="all of it", collection_type="container")

    assert (collection.topic, collection.name) == ("1753641292", "datahub")
    assert (collection.description, collection.collection_type) == ("all of it", "container")
    assert (collection.type, collection.modified) == ("created", 1_714_378_974)
    assert (await bench.refolded()).collections == {(ACCOUNT, "1753641292"): collection}


async def test_of_two_names_that_collide_the_second_takes_the_next_number() -> None:
    bench = CatalogBench()

    first, second = [await _create(bench, name) for name in COLLIDING]

    assert int(second.topic) == int(first.topic) + 1 == fnv1a(COLLIDING[0]) + 1


async def test_a_number_stays_with_its_name_when_the_collection_is_deleted() -> None:
    bench = CatalogBench()
    first = await _create(bench, COLLIDING[0])
    await bench.catalog.collections.delete(ACCOUNT, first.topic)

    other = await _create(bench, COLLIDING[1])
    again = await _create(bench, COLLIDING[0])

    assert (again.topic, other.topic) == (first.topic, str(int(first.topic) + 1))
    assert (await bench.refolded()).collections == bench.fold.collections


async def test_a_number_stays_with_the_name_it_was_created_by_after_a_rename() -> None:
    bench = CatalogBench()
    first = await _create(bench)
    await bench.catalog.collections.patch(ACCOUNT, first.topic, {"name": "renamed"})

    second = await _create(bench)

    assert int(second.topic) == int(first.topic) + 1


@pytest.mark.parametrize(
    ("name", "rest", "field"),
    [
        ("", {}, "/name"),
        ("a/b", {}, "/name"),
        ("a\n", {}, "/name"),
        ("x" * 129, {}, "/name"),
        ("good", {"collection_type": "folder"}, "/collection_type"),
        ("good", {"collection_type": ""}, "/collection_type"),
        ("good", {"description": "x" * 4097}, "/description"),
    ],
)
async def test_what_breaks_the_contract_is_refused_with_its_field(
    name: str, rest: dict[str, Any], field: str
) -> None:
    bench = CatalogBench()

    with pytest.raises(InvalidRequest) as refused:
        await _create(bench, name, **rest)

    assert refused.value.field == field
    assert bench.log.events == []


async def test_names_are_unique_in_an_account_however_the_collection_came_to_be() -> None:
    bench = CatalogBench()
    await bench.create(collection="tools")
    await _create(bench)

    for name in ("tools", "datahub"):
        with pytest.raises(NameTaken):
            await _create(bench, name)
    with pytest.raises(NameTaken):
        await bench.catalog.collections.patch(ACCOUNT, "tools", {"name": "datahub"})
    await bench.catalog.collections.patch(ACCOUNT, "tools", {"name": "tools"})
    await bench.catalog.collections.create("other", "datahub", description=None, collection_type="function")


async def test_of_20_creates_of_one_name_at_once_one_wins() -> None:
    bench = CatalogBench()

    ends = await asyncio.gather(*(_create(bench) for _ in range(20)), return_exceptions=True)

    assert sorted(type(end).__name__ for end in ends) == ["Collection"] + ["NameTaken"] * 19


async def test_a_patch_changes_what_it_names_and_old_paths_no_longer_lead_there() -> None:
    bench = CatalogBench()
    created = await _create(bench, description="old")
    await bench.create(collection="datahub")
    bench.now_ms += 5_000

    await bench.catalog.collections.patch(ACCOUNT, created.topic, {"name": "renamed"})

    patched = bench.fold.collections[ACCOUNT, created.topic]
    assert (patched.name, patched.description, patched.type) == ("renamed", "old", "patched")
    assert patched.modified == created.modified + 5
    assert bench.entry(collection="renamed").function.collection_topic == created.topic
    with pytest.raises(NotFound):
        bench.entry(collection="datahub")
    assert (await bench.refolded()).collections == bench.fold.collections


async def test_a_patch_of_nothing_stores_nothing() -> None:
    bench = CatalogBench()
    created = await _create(bench)

    await bench.catalog.collections.patch(ACCOUNT, created.topic, {})

    assert len(bench.log.events) == 1


async def test_a_collection_that_holds_functions_stays() -> None:
    bench = CatalogBench()
    await bench.create()

    with pytest.raises(NotEmpty):
        await bench.catalog.collections.delete(ACCOUNT, "my-namespace")

    assert bench.entry().function.name == "my-function"


async def test_a_collection_whose_functions_are_gone_can_go_and_come_back_with_them() -> None:
    bench = CatalogBench()
    first = await bench.create()
    await bench.catalog.delete_function(ACCOUNT, bench.entry())

    await bench.catalog.collections.delete(ACCOUNT, "my-namespace")
    gone = bench.fold.collection(ACCOUNT, "my-namespace")
    again = await bench.create()

    assert gone is None
    assert (again.service, again.code.version) == (first.service, 2)
    assert (await bench.refolded()).functions.keys() == bench.fold.functions.keys()


async def test_what_is_gone_can_be_neither_changed_nor_deleted_again() -> None:
    bench = CatalogBench()
    topic = (await _create(bench)).topic
    await bench.catalog.collections.delete(ACCOUNT, topic)

    with pytest.raises(NotFound):
        await bench.catalog.collections.patch(ACCOUNT, topic, {"description": "x"})
    with pytest.raises(NotFound):
        await bench.catalog.collections.delete(ACCOUNT, topic)


async def test_a_change_of_a_revision_that_was_passed_is_a_conflict() -> None:
    bench = CatalogBench()
    created = await _create(bench)
    read = frozenset({created.revision})
    await bench.catalog.collections.patch(ACCOUNT, created.topic, {"description": "a"}, revisions=read)

    with pytest.raises(VersionConflict):
        await bench.catalog.collections.patch(ACCOUNT, created.topic, {}, revisions=read)
    with pytest.raises(VersionConflict):
        await bench.catalog.collections.delete(ACCOUNT, created.topic, revisions=read)


async def test_a_function_and_the_delete_of_its_empty_collection_at_once_end_consistently() -> None:
    bench = CatalogBench()
    created = await _create(bench, "my tools")

    function, deleted = await asyncio.gather(
        bench.create(collection="my tools"),
        bench.catalog.collections.delete(ACCOUNT, created.topic),
        return_exceptions=True,
    )

    # Whichever came first: a name that is no topic makes no collection of its own.
    assert (isinstance(function, InvalidRequest), isinstance(deleted, NotEmpty)) in (
        (True, False),
        (False, True),
    )
    assert len(bench.fold.functions) == len(bench.fold.collections)


async def test_collections_are_listed_in_the_order_of_their_creation() -> None:
    bench = CatalogBench()
    for name in ("b", "a", "c"):
        await _create(bench, name)
    await bench.catalog.collections.patch(ACCOUNT, str(fnv1a("a")), {"description": "x"})
    await bench.catalog.collections.delete(ACCOUNT, str(fnv1a("b")))
    await _create(bench, "b")

    for fold in (bench.fold, await bench.refolded()):
        assert [collection.name for collection in fold.collections_of(ACCOUNT)] == ["a", "c", "b"]
        assert list(fold.collections_of("other")) == []
