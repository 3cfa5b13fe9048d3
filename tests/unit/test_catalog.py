"""The catalog: what is stored before it is told, and what is refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from stoker.catalog import events
from stoker.catalog.draft import DraftAsset
from stoker.model.errors import (
    InvalidRequest,
    NameTaken,
    NotFound,
    StorageFull,
    TooLarge,
    VersionConflict,
)
from stoker.model.function import Concurrency, Function
from stoker.model.limits import Limits
from stoker.testing.catalog import ACCOUNT, CatalogBench, a_draft
from stoker.testing.clock import in_fake_time, settled


async def test_a_created_function_is_stored_with_its_content_and_its_collection() -> None:
    bench = CatalogBench()

    function = await bench.create(env_vars=("A=1",), size="1GB", concurrency={"max_instances": 3})

    assert function.subject == "ms.compute.my-namespace.function.3970185486"
    assert (function.type, function.modified) == ("created", 1_714_378_974)
    assert (function.code.version, function.code.timeout_ms, function.code.read_only_fs) == (1, 30_000, True)
    assert function.memory_bytes == 1024 * 2**20
    assert function.concurrency == Concurrency(max_instances=3)
    assert await bench.catalog.contents_of(function) == [b"exports.handler = (event) => event\n"]
    collection = bench.fold.collections[ACCOUNT, "my-namespace"]
    assert (collection.name, collection.type) == ("my-namespace", "created")
    assert (await bench.refolded()).resolve(ACCOUNT, "my-namespace", "my-function").function == function


async def test_the_second_function_of_a_collection_makes_no_other_one() -> None:
    bench = CatalogBench()
    await bench.create()

    for text in ("my-namespace", "ms.compute.my-namespace.collection"):
        await bench.create(name=f"in {text[:2]}", collection=text)

    assert list(bench.fold.collections) == [(ACCOUNT, "my-namespace")]
    assert len(bench.fold.functions) == 3


async def test_a_text_that_can_be_no_topic_and_names_no_collection_is_refused() -> None:
    bench = CatalogBench()

    with pytest.raises(InvalidRequest) as refused:
        await bench.create(collection="my tools")

    assert refused.value.field == "/compute_asset/collection_topic"
    assert bench.log.events == []


async def test_a_name_that_is_taken_is_refused_and_nothing_is_stored_for_it() -> None:
    bench = CatalogBench()
    await bench.create()
    before = len(bench.log.events)

    with pytest.raises(NameTaken) as refused:
        await bench.create(assets=(DraftAsset("index.js", "file", b"other"),))

    assert refused.value.field == "/name"
    assert len(bench.log.events) == before
    assert len(await bench.blobs.list()) == 1


async def test_a_name_is_free_in_another_collection_and_another_account() -> None:
    bench = CatalogBench()
    await bench.create()

    await bench.create(collection="other")
    await bench.catalog.create_function("second", a_draft())

    assert len(bench.fold.functions) == 3


async def test_of_20_creates_of_one_name_at_once_one_wins() -> None:
    bench = CatalogBench()

    ends = await asyncio.gather(*(bench.create() for _ in range(20)), return_exceptions=True)

    won = [end for end in ends if isinstance(end, Function)]
    assert len(won) == 1
    assert [type(end) for end in ends if end not in won] == [NameTaken] * 19
    assert len(bench.log.events) == 2


async def test_20_functions_at_once_in_a_new_collection_make_it_once() -> None:
    bench = CatalogBench()

    await asyncio.gather(*(bench.create(name=f"f{number}") for number in range(20)))

    assert len(bench.fold.functions) == 20
    assert len(bench.log.events) == 21


async def test_code_that_cannot_be_unpacked_stores_nothing() -> None:
    bench = CatalogBench()
    bench.unpacker.error = TooLarge("too many files", field="/compute_asset/assets")

    with pytest.raises(TooLarge):
        await bench.create()

    assert bench.log.events == []
    assert await bench.blobs.list() == set()


async def test_a_schema_that_does_not_compile_stores_nothing_and_is_pointed_at() -> None:
    bench = CatalogBench()

    with pytest.raises(InvalidRequest) as refused:
        await bench.create(schema={"output": {"type": "no such type"}})

    assert (refused.value.field or "").startswith("/schema/output")
    assert bench.log.events == []


async def test_a_full_disk_is_told_and_leaves_no_function() -> None:
    bench = CatalogBench()
    bench.log.fail_with = StorageFull("the disk is full")

    with pytest.raises(StorageFull):
        await bench.create()

    assert bench.fold.functions == {}


# -- changing ----------------------------------------------------------------------------------------


async def test_a_patch_replaces_what_it_names_and_nothing_else() -> None:
    bench = CatalogBench()
    created = await bench.create(description="old", schema={"input": {"type": "object"}})
    bench.now_ms += 5_000

    await bench.catalog.patch_function(
        ACCOUNT, bench.entry(), {"description": "new", "size": "small", "concurrency": {"per_instance": 4}}
    )

    function = bench.entry().function
    assert (function.description, function.size, function.memory_bytes) == ("new", "small", 256 * 2**20)
    assert function.concurrency == Concurrency(per_instance=4)
    assert function.schema == {"input": {"type": "object"}}
    assert (function.type, function.modified) == ("patched", created.modified + 5)
    assert function.code == created.code
    assert (await bench.refolded()).resolve(ACCOUNT, "my-namespace", "my-function").function == function


async def test_a_patch_that_names_nothing_stores_nothing() -> None:
    bench = CatalogBench()
    await bench.create()
    before = len(bench.log.events)

    await bench.catalog.patch_function(ACCOUNT, bench.entry(), {})

    assert len(bench.log.events) == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "a/b"}, "/name"),
        ({"size": "tiny"}, "/size"),
        ({"monitor_config": {"ttl": -1}}, "/monitor_config/ttl"),
        ({"retry": {"attempts": 0}}, "/retry/attempts"),
        ({"concurrency": {"per_instance": 0}}, "/concurrency/per_instance"),
        ({"schema": {"input": 3}}, "/schema/input"),
    ],
)
async def test_a_patch_is_checked_as_a_create_is(changes: dict[str, object], field: str) -> None:
    bench = CatalogBench()
    created = await bench.create()

    with pytest.raises(InvalidRequest) as refused:
        await bench.catalog.patch_function(ACCOUNT, bench.entry(), changes)

    assert refused.value.field == field
    assert bench.entry().function is created


async def test_a_function_cannot_take_anothers_name_but_may_be_given_its_own() -> None:
    bench = CatalogBench()
    await bench.create()
    await bench.create(name="other")

    await bench.catalog.patch_function(ACCOUNT, bench.entry("other"), {"name": "other"})
    with pytest.raises(NameTaken):
        await bench.catalog.patch_function(ACCOUNT, bench.entry("other"), {"name": "my-function"})


async def test_two_renames_to_one_name_at_once_end_with_one_of_that_name() -> None:
    bench = CatalogBench()
    for name in ("a", "b"):
        await bench.create(name=name)

    ends = await asyncio.gather(
        *(bench.catalog.patch_function(ACCOUNT, bench.entry(name), {"name": "c"}) for name in ("a", "b")),
        return_exceptions=True,
    )

    assert [type(end) for end in ends] == [type(None), NameTaken]


async def test_a_new_schema_is_the_contract_of_the_next_call_and_another_change_keeps_it() -> None:
    bench = CatalogBench()
    await bench.create(schema={"input": {"type": "object"}})
    entry = bench.entry()
    first = bench.catalog.contract(entry)

    await bench.catalog.patch_function(ACCOUNT, entry, {"description": "other"})
    kept = bench.catalog.contract(entry)
    await bench.catalog.patch_function(ACCOUNT, entry, {"schema": {"input": {"type": "string"}}})
    changed = bench.catalog.contract(entry)

    assert kept is first
    assert changed.input is not None
    assert changed.input.check("text") is None
    assert changed.input.check({}) is not None


async def test_a_contract_is_compiled_anew_after_a_restart() -> None:
    bench = CatalogBench()
    await bench.create(schema={"output": {"type": "string"}})
    entry = bench.entry()
    entry.contract = None  # as it is after a start

    contract = bench.catalog.contract(entry)

    assert contract.input is None
    assert contract.output is not None
    assert contract.output.check(1) is not None


async def test_a_schema_that_was_stored_under_wider_limits_is_still_a_contract() -> None:
    bench = CatalogBench(Limits(schema_bytes_max=10, schema_depth_max=1))
    deep = {"items": {"items": {"items": {"type": "string"}}}}
    with pytest.raises(InvalidRequest):
        await bench.create(schema={"input": deep})
    await bench.create()
    entry = bench.entry()
    entry.contract, entry.function = None, replace(entry.function, schema={"input": deep})

    contract = bench.catalog.contract(entry)

    assert contract.input is not None
    assert contract.input.check([[[1]]]) is not None


async def test_a_deleted_function_is_gone_and_can_be_neither_changed_nor_deleted_again() -> None:
    bench = CatalogBench()
    await bench.create()
    entry = bench.entry()

    await bench.catalog.delete_function(ACCOUNT, entry)

    with pytest.raises(NotFound):
        bench.entry()
    with pytest.raises(NotFound):
        await bench.catalog.delete_function(ACCOUNT, entry)
    with pytest.raises(NotFound):
        await bench.catalog.patch_function(ACCOUNT, entry, {"description": "x"})


async def test_of_two_deletes_at_once_one_finds_nothing() -> None:
    bench = CatalogBench()
    await bench.create()
    entry = bench.entry()

    ends = await asyncio.gather(
        *(bench.catalog.delete_function(ACCOUNT, entry) for _ in range(2)), return_exceptions=True
    )

    assert [type(end) for end in ends] == [type(None), NotFound]


async def test_a_change_of_a_revision_that_was_passed_is_a_conflict() -> None:
    bench = CatalogBench()
    created = await bench.create()
    read = frozenset({created.revision})
    await bench.catalog.patch_function(ACCOUNT, bench.entry(), {"description": "a"}, revisions=read)

    for change in ({"description": "b"}, {}):
        with pytest.raises(VersionConflict):
            await bench.catalog.patch_function(ACCOUNT, bench.entry(), change, revisions=read)
    with pytest.raises(VersionConflict):
        await bench.catalog.delete_function(ACCOUNT, bench.entry(), revisions=read)

    assert bench.entry().function.description == "a"


async def test_of_20_patches_of_one_revision_at_once_one_wins() -> None:
    bench = CatalogBench()
    read = frozenset({(await bench.create()).revision})

    ends = await asyncio.gather(
        *(
            bench.catalog.patch_function(ACCOUNT, bench.entry(), {"description": str(n)}, revisions=read)
            for n in range(20)
        ),
        return_exceptions=True,
    )

    assert sorted(type(end).__name__ for end in ends) == ["NoneType"] + ["VersionConflict"] * 19


# -- who is told -------------------------------------------------------------------------------------


async def test_listeners_hear_of_every_change_once_it_is_stored() -> None:
    bench = CatalogBench()

    created = await bench.create()
    await bench.catalog.patch_function(ACCOUNT, bench.entry(), {"description": "x"})
    patched = bench.entry().function
    await bench.catalog.delete_function(ACCOUNT, bench.entry())

    assert bench.changes == [(created, created), (created, patched), (patched, None)]


async def test_nobody_hears_of_what_was_not_stored() -> None:
    bench = CatalogBench()
    await bench.create()
    bench.changes.clear()
    bench.log.fail_with = StorageFull("the disk is full")

    with pytest.raises(StorageFull):
        await bench.catalog.delete_function(ACCOUNT, bench.entry())

    assert bench.changes == []
    assert bench.entry().function.name == "my-function"


async def test_a_listener_that_fails_does_not_make_a_stored_change_look_refused() -> None:
    bench = CatalogBench()
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

    def fail(before: Function, after: Function | None) -> None:
        raise RuntimeError("the pool has a bug")

    bench.catalog.on_change.insert(0, fail)

    await bench.create()

    assert len(bench.changes) == 1
    assert [str(error) for error in told] == ["the pool has a bug"]


# -- objects -----------------------------------------------------------------------------------------


async def test_a_stored_object_is_found_by_its_key_and_replaced_by_the_next() -> None:
    bench = CatalogBench()

    await bench.put_object("a key / with anything", b"one")
    await bench.put_object("a key / with anything", b"two")

    stored = bench.catalog.objects.find(ACCOUNT, "a key / with anything")
    assert stored is not None
    assert await bench.catalog.content(ACCOUNT, stored.digest) == b"two"
    assert stored.size_bytes == 3
    assert bench.catalog.objects.find(ACCOUNT, "another") is None
    assert bench.catalog.objects.find("other", "a key / with anything") is None


# -- callers that leave, answers that are lost ---------------------------------------------------------


@in_fake_time
async def test_a_caller_who_leaves_while_the_log_stores_does_not_let_a_name_be_taken_twice() -> None:
    # The rename is sent, its caller leaves, a create of the same name comes: were it decided before the
    # rename is folded in, both would be stored, as they go to different subjects.
    bench = CatalogBench()
    await bench.create(name="old")
    bench.log.held = asyncio.Event()
    rename = asyncio.create_task(
        bench.catalog.patch_function(ACCOUNT, bench.entry("old"), {"name": "my-function"})
    )
    await settled()

    rename.cancel()
    create = asyncio.create_task(bench.create())
    await settled()
    bench.log.held.set()
    (end,) = await asyncio.gather(create, return_exceptions=True)

    assert isinstance(end, NameTaken)
    assert len((await bench.refolded()).functions) == 1


@in_fake_time
async def test_who_listens_hears_of_a_change_whose_caller_has_left() -> None:
    bench = CatalogBench()
    await bench.create()
    bench.log.held = asyncio.Event()
    delete = asyncio.create_task(bench.catalog.delete_function(ACCOUNT, bench.entry()))
    await settled()

    delete.cancel()
    bench.log.held.set()
    await bench.catalog.settle()

    assert bench.changes[-1][1] is None
    assert bench.fold.functions == {}


async def test_a_change_that_was_stored_though_its_answer_was_lost_shows_at_the_next_one() -> None:
    # The client was told to try again, and does: it must not meet a conflict for ever.
    bench = CatalogBench()
    await bench.create(name="first")
    bench.log.answers_lost = 1
    with pytest.raises(Exception, match="does not answer"):
        await bench.create()

    with pytest.raises(NameTaken):
        await bench.create()

    assert bench.entry().function.name == "my-function"
    assert [after.name for _, after in bench.changes if after] == ["first", "my-function"]
    await bench.catalog.patch_function(ACCOUNT, bench.entry(), {"description": "x"})


async def test_a_deletion_whose_answer_was_lost_is_told_to_listeners_once_it_is_seen() -> None:
    bench = CatalogBench()
    await bench.create()
    bench.log.answers_lost = 1
    with pytest.raises(Exception, match="does not answer"):
        await bench.catalog.delete_function(ACCOUNT, bench.entry())

    await bench.create(name="other")

    assert bench.changes[1][0].name == "my-function"
    assert bench.changes[1][1] is None


async def test_what_another_gateway_stored_is_a_conflict_once_and_known_afterwards() -> None:
    bench = CatalogBench()
    function = await bench.create()
    other = await bench.refolded()
    stored = other.resolve(ACCOUNT, "my-namespace", "my-function")
    subject = str(events.function_key(ACCOUNT, "my-namespace", function.service))
    entry = bench.entry()
    bench.catalog.contract(entry)
    changes = {"description": "from elsewhere", "schema": {"input": {"type": "string"}}}
    data = events.encode("patched", 0, changes=changes)
    await bench.log.append(subject, data, expected=stored.function.revision)

    with pytest.raises(VersionConflict):
        await bench.catalog.patch_function(ACCOUNT, bench.entry(), {"size": "small"})

    assert bench.entry().function.description == "from elsewhere"
    contract = bench.catalog.contract(entry)
    assert contract.input is not None
    assert contract.input.check(1) is not None
    await bench.catalog.patch_function(ACCOUNT, bench.entry(), {"size": "small"})
