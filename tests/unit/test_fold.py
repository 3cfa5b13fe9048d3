"""The fold: what the events mean, and how a path finds what it names."""

from __future__ import annotations

from itertools import product
from urllib.parse import quote

import pytest

from stoker.catalog import events
from stoker.catalog.fold import Fold
from stoker.model.errors import NotFound
from stoker.model.subjects import fnv1a
from stoker.testing.catalog import CatalogBench
from stoker.testing.functions import a_function

COLLIDING = ("name-69228", "name-883176")


def _store(fold: Fold, subject: object, kind: str, **content: object) -> None:
    fold.apply(str(subject), events.encode(kind, 0, **content), fold.sequence + 1)


def _collection(fold: Fold, topic: str = "tools", name: str = "my tools", account: str = "default") -> None:
    content = {"name": name, "description": None, "collection_type": "function"}
    _store(fold, events.collection_key(account, topic), "created", collection=content)


def _function(fold: Fold, name: str, service: str | None = None, account: str = "default") -> None:
    subject = events.function_key(account, "tools", service or str(fnv1a(name)))
    _store(fold, subject, "created", function=events.function_content(a_function(name=name)))


@pytest.mark.parametrize(
    "collection", ["tools", "my%20tools", "my tools", "ms.compute.tools.collection", "%74ools"]
)
@pytest.mark.parametrize(
    "function",
    ["3970185486", "my-function", "my%2Dfunction", "ms.compute.tools.function.3970185486"],
)
def test_a_path_names_a_function_by_topic_subject_or_name(collection: str, function: str) -> None:
    fold = Fold()
    _collection(fold)
    _function(fold, "my-function")

    entry = fold.resolve("default", collection, function)

    assert entry.function.name == "my-function"


@pytest.mark.parametrize("name", ["ü ö", "100%", "a%20b", "?#&", "..", "日本語", "a+b"])
def test_any_name_can_be_percent_encoded(name: str) -> None:
    fold = Fold()
    _collection(fold)
    _function(fold, name)

    assert fold.resolve("default", "tools", quote(name, safe="")).function.name == name


@pytest.mark.parametrize(
    ("collection", "function"),
    [
        ("other", "my-function"),
        ("tools", "other"),
        ("tools", "ms.compute.other.function.3970185486"),
        ("tools", "%ff"),
        ("%ff", "my-function"),
        ("", "my-function"),
    ],
)
def test_what_does_not_exist_is_not_found(collection: str, function: str) -> None:
    fold = Fold()
    _collection(fold)
    _function(fold, "my-function")

    with pytest.raises(NotFound):
        fold.resolve("default", collection, function)


def test_what_is_another_accounts_does_not_exist() -> None:
    fold = Fold()
    for account in ("default", "other"):
        _collection(fold, account=account)
    _function(fold, "my-function", account="other")

    with pytest.raises(NotFound) as hidden:
        fold.resolve("default", "tools", "my-function")
    with pytest.raises(NotFound) as missing:
        fold.resolve("default", "tools", "never-was")

    assert hidden.value.message == missing.value.message


def test_an_exact_topic_wins_over_a_name() -> None:
    fold = Fold()
    _collection(fold)
    _function(fold, "my-function")
    _function(fold, "3970185486")  # a function that is called like the other one's number

    assert fold.resolve("default", "tools", "3970185486").function.name == "my-function"


def test_an_exact_topic_of_a_collection_wins_over_a_name() -> None:
    fold = Fold()
    _collection(fold, "tools", "first")
    _collection(fold, "other", "tools")

    found = fold.collection("default", "tools")

    assert found is not None
    assert found.topic == "tools"


def test_a_path_that_was_resolved_before_follows_a_change() -> None:
    fold = Fold()
    _collection(fold)
    _function(fold, "my-function")
    before = fold.resolve("default", "tools", "my-function")
    subject = events.function_key("default", "tools", "3970185486")

    _store(fold, subject, "patched", changes={"name": "renamed"})

    assert fold.resolve("default", "tools", "renamed") is before
    with pytest.raises(NotFound):
        fold.resolve("default", "tools", "my-function")


def test_a_renamed_function_keeps_its_service() -> None:
    fold = Fold()
    _collection(fold)
    _function(fold, "my-function")

    _store(
        fold,
        events.function_key("default", "tools", "3970185486"),
        "patched",
        changes={"name": "renamed"},
    )

    function = fold.resolve("default", "tools", "3970185486").function
    assert (function.name, function.created_name, function.type) == ("renamed", "my-function", "patched")


def test_spellings_do_not_fill_the_memory() -> None:
    fold = Fold()
    _collection(fold)
    _function(fold, "x" * 17)

    for spelling in product(("x", "%78"), repeat=17):
        fold.resolve("default", "tools", "".join(spelling))

    assert len(fold._resolved) <= 65_537


# -- numbers -----------------------------------------------------------------------------------------


def test_the_names_of_these_tests_collide() -> None:
    first, second = COLLIDING

    assert fnv1a(first) == fnv1a(second)


async def test_of_two_colliding_names_the_second_takes_the_next_number() -> None:
    bench = CatalogBench()

    first, second = [await bench.create(name=name) for name in COLLIDING]

    assert int(second.service) == int(first.service) + 1
    assert bench.entry(COLLIDING[1]).function is second


async def test_a_retired_number_is_kept_for_its_name() -> None:
    bench = CatalogBench()
    first = await bench.create(name=COLLIDING[0])
    await bench.catalog.delete_function("default", bench.entry(COLLIDING[0]))

    other = await bench.create(name=COLLIDING[1])
    again = await bench.create(name=COLLIDING[0])

    assert other.service != first.service
    assert again.service == first.service


async def test_a_function_that_comes_back_has_its_id_and_goes_on_counting_versions() -> None:
    bench = CatalogBench()
    first = await bench.create()
    await bench.catalog.delete_function("default", bench.entry())

    second = await bench.create()

    assert (first.service, first.code.version) == ("3970185486", 1)
    assert (second.service, second.code.version) == ("3970185486", 2)
    assert (await bench.refolded()).resolve("default", "my-namespace", "my-function").function == second


async def test_a_name_that_was_given_up_by_a_rename_is_free_and_takes_another_number() -> None:
    bench = CatalogBench()
    first = await bench.create()
    await bench.catalog.patch_function("default", bench.entry(), {"name": "renamed"})

    second = await bench.create()

    assert int(second.service) == int(first.service) + 1
    assert bench.entry("my-function").function is second


def test_the_highest_number_is_followed_by_the_lowest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.catalog.fold.fnv1a", lambda name: 2**32 - 1)
    fold = Fold()
    _collection(fold)
    _function(fold, "other", str(2**32 - 1))

    assert fold.next_service("default", "tools", "my-function") == ("0", None)


# -- folding -----------------------------------------------------------------------------------------


def test_an_event_is_folded_in_once() -> None:
    fold = Fold()
    _collection(fold)
    subject = str(events.function_key("default", "tools", "1"))
    created = events.encode("created", 0, function=events.function_content(a_function()))
    deleted = events.encode("deleted", 0)
    fold.apply(subject, created, 2)
    fold.apply(subject, deleted, 3)

    fold.apply(subject, created, 2)

    assert fold.functions == {}
    assert fold.sequence == 3


def test_events_of_two_accounts_may_come_to_be_known_in_either_order() -> None:
    fold = Fold()
    content = {"name": "tools", "description": None, "collection_type": "function"}
    data = events.encode("created", 0, collection=content)

    fold.apply(str(events.collection_key("b", "tools")), data, 2)
    between = fold.sequence
    fold.apply(str(events.collection_key("a", "tools")), data, 1)

    assert (between, fold.sequence) == (0, 2)
    assert set(fold.collections) == {("a", "tools"), ("b", "tools")}


def test_a_new_token_of_the_same_id_replaces_the_old_one() -> None:
    fold = Fold()
    key = events.token_key("default", "administrator")
    _store(fold, key, "created", name="a", digest="aa" * 32, scopes=["*"])

    _store(fold, key, "created", name="a", digest="bb" * 32, scopes=["*"])

    assert list(fold.tenants.tokens) == [bytes.fromhex("bb" * 32)]
    _store(fold, key, "deleted")
    assert fold.tenants.tokens == {}


async def test_contents_in_use_are_those_of_functions_and_stored_objects() -> None:
    bench = CatalogBench()
    function = await bench.create()
    await bench.put_object("lib", b"stored")

    used = bench.fold.references.all()

    stored = next(iter(bench.fold.objects.values())).digest
    assert used == {("default", function.code.assets[0].digest), ("default", stored)}


async def test_functions_are_listed_in_the_order_of_their_creation() -> None:
    bench = CatalogBench()
    for name in ("b", "a", "c"):
        await bench.create(name=name)
    await bench.catalog.delete_function("default", bench.entry("b"))
    await bench.create(name="b")

    names = [entry.function.name for entry in bench.fold.entries("default")]

    assert names == ["a", "c", "b"]
