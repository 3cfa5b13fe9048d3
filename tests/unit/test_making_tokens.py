"""Making tokens: never more than the maker may do, gone with the maker, and never stored as they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stoker.catalog import events
from stoker.catalog.principal import SCOPES, Principal
from stoker.catalog.tokens import Authenticator, TokenDraft, digest_of
from stoker.model.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    StokerError,
    Unauthenticated,
)
from stoker.model.limits import Limits
from stoker.testing.catalog import ACCOUNT, CatalogBench


class Bench(CatalogBench):
    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.authenticator = Authenticator(self.fold, now_ms=lambda: self.now_ms)

    async def start(self) -> Principal:
        """Store the administrator's token; return who it is."""
        content = {"name": "administrator", "digest": digest_of(b"admin").hex(), "scopes": ["*"]}
        key, data = events.token_key(ACCOUNT, "administrator"), events.encode("created", 0, **content)
        sequence = await self.log.append(str(key), data, expected=0)
        self.fold.apply(str(key), data, sequence)
        return self.who(b"admin")

    def who(self, token: bytes) -> Principal:
        return self.authenticator.authenticate(None, token)

    async def make(self, maker: Principal, *scopes: str, **rest: Any) -> Principal:
        token, _ = await self.catalog.tokens.create(
            maker, TokenDraft("t", scopes or ("functions:read",), **rest)
        )
        return self.who(token.encode())

    def opens(self, principal: Principal) -> bool:
        return self.authenticator.still_knows(principal)


async def refusal(bench: Bench, maker: Principal, *scopes: str, **rest: Any) -> tuple[str, str | None]:
    with pytest.raises(StokerError) as refused:
        await bench.make(maker, *scopes, **rest)
    return refused.value.code, refused.value.field


async def test_a_token_is_shown_once_and_stored_as_its_hash() -> None:
    bench = Bench()
    admin = await bench.start()

    token, stored = await bench.catalog.tokens.create(admin, TokenDraft("ci", ("functions:invoke",)))

    assert token.encode() not in b"".join(event.data for event in bench.log.events)
    assert stored.digest == digest_of(token.encode())
    assert bench.who(token.encode()).scopes == {"functions:invoke"}
    assert token not in repr(stored)


async def test_it_does_all_that_was_asked_for_and_no_more() -> None:
    bench = Bench()
    admin = await bench.start()

    made = await bench.make(admin, "functions:read", collection="tools", calls_per_minute=5, expires_in=60)

    assert (made.account, made.scopes, made.collection) == (ACCOUNT, frozenset({"functions:read"}), "tools")
    assert [rate.per_minute for rate in made.rates] == [5]
    bench.now_ms += 59_999
    assert bench.opens(made)
    bench.now_ms += 1
    assert not bench.opens(made)


async def test_an_expired_token_is_unknown_and_in_no_list() -> None:
    bench = Bench()
    admin = await bench.start()
    token, _ = await bench.catalog.tokens.create(admin, TokenDraft("t", ("functions:read",), expires_in=1))

    bench.now_ms += 1000

    with pytest.raises(Unauthenticated, match="not known"):
        bench.who(token.encode())
    assert [one.token_id for one in bench.catalog.tokens.seen_by(admin)] == ["administrator"]


@pytest.mark.parametrize("scope", SCOPES)
async def test_no_scope_beyond_the_makers(scope: str) -> None:
    bench = Bench()
    admin = await bench.start()
    others = [other for other in SCOPES if other != scope]
    maker = await bench.make(admin, *others)

    allowed = maker.may(scope)

    assert allowed is (scope == "functions:read")  # that is within functions:write
    if not allowed:
        assert await refusal(bench, maker, *others[:1], scope) == ("auth.forbidden", "/scopes/1")
    await bench.make(maker, *others)


async def test_what_is_not_asked_for_is_as_the_maker_has_it() -> None:
    bench = Bench()
    admin = await bench.start()
    maker = await bench.make(
        admin, "tokens:write", "functions:read", collection="tools", calls_per_minute=5, expires_in=60
    )

    made = await bench.make(maker, "functions:read")

    assert (made.collection, made.rates) == ("tools", maker.rates)
    bench.now_ms += 60_000
    assert not bench.opens(made)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"collection": "other"}, "/collection"),
        ({"calls_per_minute": 6}, "/calls_per_minute"),
        ({"expires_in": 61}, "/expires_in"),
    ],
)
async def test_nothing_beyond_the_makers(asked: dict[str, Any], field: str) -> None:
    bench = Bench()
    admin = await bench.start()
    own: dict[str, Any] = {"collection": "tools", "calls_per_minute": 5, "expires_in": 60}
    maker = await bench.make(admin, "tokens:write", **own)

    assert await refusal(bench, maker, "tokens:write", **asked) == ("auth.forbidden", field)
    await bench.make(maker, "tokens:write", **own)


async def test_a_child_of_a_child_is_bounded_by_all_before_it() -> None:
    bench = Bench()
    admin = await bench.start()
    first = await bench.make(admin, "tokens:write", calls_per_minute=5)
    second = await bench.make(first, "tokens:write", calls_per_minute=3)

    third = await bench.make(second, "tokens:write")

    assert [rate.per_minute for rate in third.rates] == [5, 3]
    assert await refusal(bench, third, "tokens:write", calls_per_minute=4) == (
        "auth.forbidden",
        "/calls_per_minute",
    )


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"scopes": ("*",)}, "/scopes/0"),
        ({"scopes": ("functions:read", "functions:delete")}, "/scopes/1"),
        ({"scopes": ("secrets:read",)}, "/scopes/0"),
        ({"scopes": ()}, "/scopes"),
        ({"name": ""}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"collection": "no topic"}, "/collection"),
        ({"collection": ""}, "/collection"),
        ({"calls_per_minute": 0}, "/calls_per_minute"),
        ({"expires_in": 0}, "/expires_in"),
        ({"expires_in": -5}, "/expires_in"),
        ({"scopes": ("functions:read", "secrets:write"), "collection": "tools"}, "/scopes/1"),
        ({"scopes": ("accounts:write",), "collection": "tools"}, "/scopes/0"),
    ],
)
async def test_what_means_nothing_is_refused(asked: dict[str, Any], field: str) -> None:
    bench = Bench()
    admin = await bench.start()
    wanted = TokenDraft(**{"name": "t", "scopes": ("functions:read",), **asked})

    with pytest.raises(InvalidRequest) as refused:
        await bench.catalog.tokens.create(admin, wanted)

    assert refused.value.field == field
    assert len(bench.log.events) == 1


async def test_a_collection_is_meant_by_its_topic_whatever_it_was_called() -> None:
    bench = Bench()
    admin = await bench.start()
    collection = await bench.catalog.collections.create(
        ACCOUNT, "datahub", description=None, collection_type="function"
    )

    for text in ("datahub", collection.topic, collection.subject):
        assert (await bench.make(admin, collection=text)).collection == collection.topic


async def test_a_token_opens_nothing_once_it_is_deleted_nor_does_what_was_made_with_it() -> None:
    bench = Bench()
    admin = await bench.start()
    parent = await bench.make(admin, "tokens:write")
    child = await bench.make(parent, "tokens:write")
    grandchild = await bench.make(child, "tokens:write")
    other = await bench.make(admin, "tokens:write")

    await bench.catalog.tokens.delete(admin, parent.token_id)

    assert [bench.opens(one) for one in (parent, child, grandchild, other, admin)] == [False] * 3 + [True] * 2
    fold = await bench.refolded()
    assert fold.tenants.tokens == bench.fold.tenants.tokens
    with pytest.raises(NotFound):
        await bench.catalog.tokens.delete(admin, child.token_id)


async def test_one_that_is_deleted_while_it_makes_another_makes_none() -> None:
    bench = Bench()
    admin = await bench.start()
    maker = await bench.make(admin, "tokens:write")
    bench.log.held = asyncio.Event()
    deleting = asyncio.create_task(bench.catalog.tokens.delete(admin, maker.token_id))
    await asyncio.sleep(0)
    making = asyncio.create_task(bench.make(maker, "tokens:write"))
    await asyncio.sleep(0)

    bench.log.held.set()

    await deleting
    with pytest.raises(Unauthenticated):
        await making


async def test_the_administrators_token_is_not_deleted() -> None:
    bench = Bench()
    admin = await bench.start()

    with pytest.raises(InvalidRequest):
        await bench.catalog.tokens.delete(admin, "administrator")
    assert bench.opens(admin)


async def test_tokens_of_another_account_are_not_there() -> None:
    bench = Bench()
    admin = await bench.start()
    _, token, stored = await bench.catalog.accounts.create("acme", bench.catalog.accounts.all()[0].quotas)
    stranger = bench.who(token.encode())

    assert [one.token_id for one in bench.catalog.tokens.seen_by(stranger)] == [stored.token_id]
    with pytest.raises(NotFound):
        await bench.catalog.tokens.delete(admin, stored.token_id)
    with pytest.raises(NotFound):
        await bench.catalog.tokens.delete(stranger, "administrator")


async def test_a_token_limited_to_a_collection_sees_tokens_of_that_alone() -> None:
    bench = Bench()
    admin = await bench.start()
    here = await bench.make(admin, "tokens:write", collection="tools")
    also_here = await bench.make(admin, collection="tools")
    elsewhere = await bench.make(admin, collection="other")
    tokens = bench.catalog.tokens

    assert [one.token_id for one in tokens.seen_by(here)] == [here.token_id, also_here.token_id]
    for other in (elsewhere, admin):
        with pytest.raises(NotFound):
            await tokens.delete(here, other.token_id)
    await tokens.delete(here, also_here.token_id)


async def test_an_account_has_a_bounded_number_of_which_expired_ones_are_none() -> None:
    bench = Bench(Limits(account_tokens_max=3))
    admin = await bench.start()
    await bench.make(admin, expires_in=1)
    await bench.make(admin)

    with pytest.raises(QuotaExceeded):
        await bench.make(admin)
    bench.now_ms += 1000
    await bench.make(admin)

    assert len(bench.fold.tenants.tokens) == 3


async def test_forbidden_comes_before_invalid() -> None:
    bench = Bench()
    maker = await bench.make(await bench.start(), "tokens:write")

    with pytest.raises(Forbidden):
        await bench.make(maker, "functions:read", expires_in=-1)
