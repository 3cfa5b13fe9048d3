"""Accounts: they come with a token, get quotas, and go with all that they had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from stoker.backbone.event_log import Event
from stoker.catalog import events
from stoker.catalog.accounts import QUOTA_MAX
from stoker.catalog.quotas import Quotas
from stoker.catalog.stored import Account
from stoker.catalog.tokens import Authenticator
from stoker.model.errors import (
    InvalidRequest,
    NameTaken,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
)
from stoker.model.function import Function
from stoker.testing.backbone import SIGNS
from stoker.testing.catalog import CatalogBench, a_draft


async def an_account(bench: CatalogBench, name: str = "acme", **quotas: int) -> tuple[Account, bytes]:
    account, token, _ = await bench.catalog.accounts.create(name, Quotas(**quotas))
    return account, token.encode()


async def test_an_account_comes_with_a_token_that_may_do_all_within_it() -> None:
    bench = CatalogBench()

    account, token = await an_account(bench, functions=3)

    principal = Authenticator(bench.fold).authenticate(b"Bearer " + token, None)
    assert (principal.account, principal.collection, principal.rates) == (account.id, None, ())
    assert principal.may("tokens:write")
    assert not principal.may("accounts:write")
    assert (account.name, account.quotas) == ("acme", Quotas(functions=3))
    assert token not in b"".join(event.data for event in bench.log.events)


async def test_an_accounts_id_is_not_its_name_and_never_comes_back() -> None:
    bench = CatalogBench()
    first, _ = await an_account(bench)
    await bench.catalog.accounts.delete("acme")

    second, _ = await an_account(bench)

    assert len({first.id, second.id, "acme"}) == 3
    assert bench.catalog.accounts.find("acme").id == second.id
    with pytest.raises(NotFound):
        bench.catalog.accounts.find(second.id)


async def test_a_name_is_an_accounts_alone() -> None:
    bench = CatalogBench()
    await an_account(bench)

    for name in ("acme", "default"):
        with pytest.raises(NameTaken):
            await an_account(bench, name)


async def test_of_two_that_want_a_name_at_once_one_gets_it() -> None:
    bench = CatalogBench()

    made = await asyncio.gather(an_account(bench), an_account(bench), return_exceptions=True)

    assert sorted(isinstance(one, NameTaken) for one in made) == [False, True]


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a/b", "*", ">", "a" * 65, "ä", "a\n"])
async def test_a_name_can_stand_in_a_subject(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await an_account(CatalogBench(), name)
    assert refused.value.field == "/name"


@pytest.mark.parametrize("limit", [-1, QUOTA_MAX + 1])
async def test_a_quota_has_bounds(limit: int) -> None:
    bench = CatalogBench()

    with pytest.raises(InvalidRequest) as created:
        await an_account(bench, code_bytes=limit)
    with pytest.raises(InvalidRequest) as limited:
        await bench.catalog.accounts.limit("default", Quotas(code_bytes=limit))

    assert (created.value.field, limited.value.field) == ("/limits/code_bytes", "/code_bytes")
    assert bench.log.events == []


async def test_quotas_are_replaced_whole_and_hold_at_once_and_after_a_restart() -> None:
    bench = CatalogBench()
    account, _ = await an_account(bench, functions=1, code_bytes=5)

    await bench.catalog.accounts.limit("acme", Quotas(functions=0))

    assert bench.catalog.accounts.find("acme").quotas == Quotas(functions=0)
    with pytest.raises(QuotaExceeded) as refused:
        await bench.catalog.create_function(account.id, a_draft())
    assert refused.value.code == "quota.functions"
    fold = await bench.refolded()
    assert fold.tenants.accounts == bench.fold.tenants.accounts
    with pytest.raises(NotFound):
        await bench.catalog.accounts.limit("nobody", Quotas())


async def test_the_default_account_has_quotas_too_but_does_not_go() -> None:
    bench = CatalogBench()

    await bench.catalog.accounts.limit("default", Quotas(functions=1))
    await bench.create()

    with pytest.raises(QuotaExceeded):
        await bench.create(name="another")
    with pytest.raises(InvalidRequest):
        await bench.catalog.accounts.delete("default")


async def test_code_is_bounded_by_what_is_stored_each_content_once() -> None:
    bench = CatalogBench()
    size = len(a_draft().assets[0].content)  # type: ignore[arg-type]
    await bench.catalog.accounts.limit("default", Quotas(code_bytes=size))
    await bench.create()

    await bench.create(name="the same code")
    with pytest.raises(QuotaExceeded) as refused:
        await bench.put_object("lib", b"x")

    assert refused.value.code == "quota.code_bytes"
    assert bench.fold.references.bytes_of("default") == size
    assert len(await bench.blobs.list()) == 1
    await bench.catalog.delete_function("default", bench.entry())
    await bench.catalog.delete_function("default", bench.entry("the same code"))
    assert bench.fold.references.bytes_of("default") == 0
    await bench.put_object("lib", b"x" * size)


async def test_a_version_that_would_be_too_much_is_refused_before_it_is_stored() -> None:
    bench = CatalogBench()
    function = await bench.create()
    await bench.catalog.accounts.limit("default", Quotas(code_bytes=30))
    assets = a_draft().assets
    larger = type(assets[0])("index.js", "file", b"x" * 100)

    with pytest.raises(QuotaExceeded):
        await bench.catalog.versions.change("default", bench.entry(), {"assets": (larger,)})

    assert bench.entry().function is function
    assert len(await bench.blobs.list()) == 1
    await bench.catalog.versions.change("default", bench.entry(), {"timeout": 5})


# -- going -------------------------------------------------------------------------------------------


async def a_full_account(bench: CatalogBench) -> tuple[Account, bytes]:
    account, token = await an_account(bench)
    await bench.put_secret("KEY", account=account.id)
    await bench.catalog.create_function(account.id, a_draft(secrets=("KEY",)))
    await bench.catalog.collections.create(account.id, "c", description=None, collection_type="function")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"object"

    await bench.catalog.objects.put(account.id, "lib", pieces())
    gone = await bench.catalog.create_function(account.id, a_draft(name="gone"))
    entry = bench.fold.resolve(account.id, gone.collection_topic, "gone")
    await bench.catalog.delete_function(account.id, entry)
    return account, token


async def test_the_log_forgets_what_a_deleted_account_had_and_still_folds_to_the_same() -> None:
    bench = CatalogBench()
    account, _ = await a_full_account(bench)
    await bench.create()
    await bench.catalog.accounts.delete("acme")
    before = bench.fold.tenants.gone[account.id]

    await bench.catalog.accounts.erase(account.id)

    left = [event for event in bench.log.events if account.id in event.subject]
    assert [events.Subject.parse(event.subject).noun for event in left] == ["account", "erased"]
    for fold in (bench.fold, await bench.refolded()):
        assert fold.tenants.gone == {account.id: before}
        assert fold.sequence == len(bench.log.events)
        assert _places(fold, account.id) == []
        assert [entry.function.name for entry in fold.entries("default")] == ["my-function"]
    await bench.catalog.accounts.create("acme", Quotas())
    entry = bench.entry()
    await bench.catalog.versions.change("default", entry, {"timeout": 5})  # decisions go on


async def test_a_log_that_forgot_the_end_of_what_an_account_had_folds_to_the_same() -> None:
    """The last is erased first: what a crash leaves of it begins as it did."""
    bench = CatalogBench()
    account, _ = await a_full_account(bench)
    await bench.catalog.accounts.delete("acme")
    whole = list(bench.log.events)
    own = [event.sequence for event in whole if account.id in event.subject][:-1]

    for kept in range(len(own)):
        stand_ins = {place: Event(SIGNS.stand_in, b"", place, 0) for place in own[kept:]}
        bench.log.events = [stand_ins.get(event.sequence, event) for event in whole]
        fold = await bench.refolded()
        assert list(fold.tenants.gone) == [account.id]
        assert _places(fold, account.id) == []
        assert fold.references.bytes_of(account.id) == 0


async def test_with_an_account_goes_all_that_it_had_and_nothing_of_others() -> None:
    bench = CatalogBench()
    await bench.create()
    account, token = await a_full_account(bench)
    kept = await bench.blobs.list("default")
    told: list[tuple[Function, Function | None]] = bench.changes
    told.clear()
    gone: list[str] = []
    loosened: list[set[tuple[str, str]]] = []
    bench.catalog.on_gone.append(gone.append)
    bench.catalog.on_loosened.append(loosened.append)

    await bench.catalog.accounts.delete("acme")

    for fold in (bench.fold, await bench.refolded()):
        assert [one.name for one in fold.tenants.accounts.values()] == ["default"]
        with pytest.raises(Unauthenticated):
            Authenticator(fold).authenticate(b"Bearer " + token, None)
        assert _places(fold, account.id) == []
        assert [entry.function.name for entry in fold.entries("default")] == ["my-function"]
        assert fold.references.bytes_of(account.id) == 0
        assert list(fold.tenants.gone) == [account.id]
    assert [(before.name, after) for before, after in told] == [("my-function", None)]
    assert gone == [account.id]
    await bench.catalog.sweep(set().union(*loosened))
    assert await bench.blobs.list() == kept


def _places(fold: object, account: str) -> list[object]:
    """Return whatever the fold has under an account's id, wherever that is."""
    return [
        key
        for things in vars(fold).values()
        if isinstance(things, dict)
        for key in things
        if isinstance(key, tuple) and key[0] == account
    ]


async def test_what_was_asked_for_before_the_end_and_comes_after_it_is_refused() -> None:
    bench = CatalogBench()
    account, _ = await an_account(bench)
    bench.log.held = asyncio.Event()
    deleting = asyncio.create_task(bench.catalog.accounts.delete("acme"))
    await asyncio.sleep(0)
    creating = asyncio.create_task(bench.catalog.create_function(account.id, a_draft()))
    await asyncio.sleep(0)

    bench.log.held.set()

    await deleting
    with pytest.raises(Unauthenticated):
        await creating
    assert list(bench.fold.entries(account.id)) == []


async def test_an_end_whose_acknowledgement_was_lost_is_told_all_the_same() -> None:
    bench = CatalogBench()
    account, _ = await a_full_account(bench)
    bench.changes.clear()
    bench.log.answers_lost = 1

    with pytest.raises(Exception, match="does not answer"):
        await bench.catalog.accounts.delete("acme")
    with pytest.raises(NotFound):
        await bench.catalog.accounts.limit("acme", Quotas())
    await an_account(bench)  # decides on what is stored, and so sees that it has gone

    assert account.id in bench.fold.tenants.gone
    assert [after for _, after in bench.changes] == [None]
