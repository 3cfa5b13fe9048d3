"""Acceptance: an invocation is stored once it cannot be refused any more, and once for a key."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from stoker.catalog.principal import Principal
from stoker.invocation.acceptance import ASYNC, REQUEST_RESPONSE, KeyRequest
from stoker.model.errors import (
    IdempotencyConflict,
    InputRejected,
    InvalidRequest,
    NoCapacity,
    NotFound,
    StokerError,
    StorageFull,
    TooLarge,
    Unavailable,
)
from stoker.model.limits import Limits
from stoker.model.record import Accepted, KeyHolder
from stoker.testing.catalog import ACCOUNT
from stoker.testing.clock import in_fake_time, settled
from stoker.testing.invocation import MemoryLetter
from stoker.testing.invocation_bench import PRINCIPAL, InvocationBench

KEY = KeyRequest("order-7", b'{"payload":"{}"}')
OTHER_BODY = KeyRequest("order-7", b'{"payload":"[]"}')


class Desk(InvocationBench):
    """With one function."""

    async def with_function(self, **changes: Any) -> Desk:
        await self.catalog.create(**changes)
        return self

    async def ask(
        self,
        payload: bytes = b"{}",
        invocation_type: str = ASYNC,
        *,
        principal: Principal = PRINCIPAL,
        **asked: Any,
    ) -> Accepted | KeyHolder:
        return await self.acceptance.accept(
            principal, self.catalog.entry(), payload, invocation_type, **asked
        )

    async def accepted(self, *args: Any, **asked: Any) -> Accepted:
        found = await self.ask(*args, **asked)
        assert isinstance(found, Accepted)
        return found


@in_fake_time
async def test_what_is_accepted_is_stored_with_all_it_takes_to_run_it() -> None:
    desk = await Desk().with_function()

    found = await desk.accepted(b' {"a" : 1}', version=1)

    assert desk.store.pending() == [found]
    record, work = found.record, found.work
    assert (record.status, record.invocation_type, record.attempts) == ("queued", ASYNC, 0)
    assert (record.caller, record.version, record.replay_of) == ("token-1", 1, None)
    assert record.function == desk.catalog.entry().function.subject
    assert (work.payload, work.pinned, work.key) == (' {"a" : 1}', 1, None)


@in_fake_time
async def test_a_keyed_call_is_stored_as_running() -> None:
    desk = await Desk().with_function()

    found = await desk.accepted(b"{}", REQUEST_RESPONSE, key=KEY)

    assert (found.record.status, found.record.invocation_type) == ("running", REQUEST_RESPONSE)
    assert found.work.key == KEY.token


@pytest.mark.parametrize(
    ("payload", "asked", "error"),
    [
        (b"nope", {}, InvalidRequest),
        (b"[1]", {}, InputRejected),
        (b'{"long":"%b"}' % (b"x" * 100), {}, TooLarge),
        (b"{}", {"version": 2}, NotFound),
    ],
    ids=["no JSON", "schema", "size", "version"],
)
@pytest.mark.parametrize("key", [None, KEY])
@in_fake_time
async def test_what_is_refused_is_not_stored_and_its_key_is_free(
    payload: bytes, asked: dict[str, Any], error: type[StokerError], key: KeyRequest | None
) -> None:
    desk = await Desk(Limits(async_payload_bytes_max=50)).with_function(schema={"input": {"type": "object"}})

    with pytest.raises(error):
        await desk.ask(payload, key=key, **asked)

    assert (desk.store.calls, desk.store.keys) == ({}, {})
    assert isinstance(await desk.ask(key=key), Accepted)


@in_fake_time
async def test_each_type_has_its_own_limit_of_the_payload() -> None:
    limits = Limits(async_payload_bytes_max=5, payload_bytes_max=10)
    desk = await Desk(limits).with_function()

    await desk.ask(b'"xxx"')
    await desk.ask(b'"xxxxxxxx"', REQUEST_RESPONSE, key=KEY)
    with pytest.raises(TooLarge):
        await desk.ask(b'"xxxx"')
    with pytest.raises(TooLarge):
        await desk.ask(b'"xxxxxxxxx"', REQUEST_RESPONSE, key=KeyRequest("another", b""))

    assert len(desk.store.calls) == 2


@in_fake_time
async def test_nothing_is_accepted_while_the_server_stops() -> None:
    desk = await Desk().with_function()
    desk.acceptance.closed = True

    with pytest.raises(NoCapacity) as refused:
        await desk.ask()

    assert refused.value.retry_after_s == 1
    assert desk.store.calls == {}


@in_fake_time
async def test_a_replay_is_accepted_whatever_its_payload_and_its_record_tells_of_what() -> None:
    # Its record tells when its turn comes that the payload does not fit any more.
    desk = await Desk().with_function(schema={"input": {"type": "object"}})

    found = await desk.accepted(b"[1]", replay_of="an earlier one")

    assert found.record.replay_of == "an earlier one"


@in_fake_time
async def test_a_redriven_dead_letter_is_gone_with_the_same_write() -> None:
    desk = await Desk().with_function()
    first = await desk.accepted()
    place = (ACCOUNT, first.work.topic, first.work.service, first.record.invocation_id)
    desk.store.dead[place] = MemoryLetter(first.record, "{}", None)
    asked: dict[str, Any] = {"replay_of": first.record.invocation_id, "redriven": True}

    found = await desk.accepted(**asked)
    with pytest.raises(NotFound):
        await desk.ask(**asked)

    assert found.record.replay_of == first.record.invocation_id
    assert (desk.store.dead, len(desk.store.calls)) == ({}, 2)


@in_fake_time
async def test_a_replay_leaves_the_dead_letter_where_it_is() -> None:
    desk = await Desk().with_function()
    first = await desk.accepted()
    place = (ACCOUNT, first.work.topic, first.work.service, first.record.invocation_id)
    desk.store.dead[place] = MemoryLetter(first.record, "{}", None)

    await desk.accepted(replay_of=first.record.invocation_id)

    assert list(desk.store.dead) == [place]


# -- keys ------------------------------------------------------------------------------------------


@in_fake_time
async def test_fifty_with_the_same_key_at_once_are_one_acceptance() -> None:
    desk = await Desk().with_function()

    found = await asyncio.gather(*(desk.ask(key=KEY) for _ in range(50)))

    (accepted,) = [one for one in found if isinstance(one, Accepted)]
    holders = [one for one in found if isinstance(one, KeyHolder)]
    assert {one.invocation_id for one in holders} == {accepted.record.invocation_id}
    assert len(holders) == 49
    assert len(desk.store.calls) == 1


@in_fake_time
async def test_fifty_with_the_same_key_at_once_are_one_running_call() -> None:
    desk = await Desk().with_function()

    found = await asyncio.gather(*(desk.ask(b"{}", REQUEST_RESPONSE, key=KEY) for _ in range(50)))

    (accepted,) = [one for one in found if isinstance(one, Accepted)]
    holders = [one for one in found if isinstance(one, KeyHolder)]
    assert {(one.invocation_id, one.ended) for one in holders} == {(accepted.record.invocation_id, False)}
    assert len(holders) == 49
    assert len(desk.store.calls) == 1


@in_fake_time
async def test_a_key_that_is_known_answers_with_its_invocation_across_restarts() -> None:
    desk = await Desk().with_function()
    first = await desk.accepted(key=KEY)

    again = await desk.ask(key=KEY)
    after = Desk(catalog=desk.catalog, store=desk.store)
    later = await after.ask(key=KEY)

    assert isinstance(again, KeyHolder)
    assert isinstance(later, KeyHolder)
    assert {again.invocation_id, later.invocation_id} == {first.record.invocation_id}
    assert len(desk.store.calls) == 1


@pytest.mark.parametrize("invocation_type", [ASYNC, REQUEST_RESPONSE])
@in_fake_time
async def test_a_key_with_another_body_is_a_conflict_while_it_is_accepted_and_afterwards(
    invocation_type: str,
) -> None:
    desk = await Desk().with_function()
    desk.store.held = asyncio.Event()
    first = asyncio.ensure_future(desk.ask(b"{}", invocation_type, key=KEY))
    await settled()

    with pytest.raises(IdempotencyConflict):
        await desk.ask(b"{}", invocation_type, key=OTHER_BODY)
    desk.store.held.set()
    found = await first
    with pytest.raises(IdempotencyConflict) as refused:
        await desk.ask(b"{}", invocation_type, key=OTHER_BODY)
    after = Desk(catalog=desk.catalog, store=desk.store)
    with pytest.raises(IdempotencyConflict):
        await after.ask(b"{}", invocation_type, key=OTHER_BODY)

    assert isinstance(found, Accepted)
    assert refused.value.hint
    assert len(desk.store.calls) == 1


@in_fake_time
async def test_a_key_belongs_to_its_account_and_function() -> None:
    desk = await Desk().with_function()
    await desk.catalog.create(name="other")
    other = desk.catalog.entry("other")

    first = await desk.ask(key=KEY)
    second = await desk.acceptance.accept(PRINCIPAL, other, b"{}", ASYNC, key=KEY)

    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    # The account is the function's own: one that does not see it cannot ask for it at all.
    assert {place[0] for place in desk.store.keys} == {ACCOUNT}


@in_fake_time
async def test_a_key_is_claimed_for_a_day() -> None:
    desk = await Desk().with_function()

    await desk.accepted(key=KEY)

    (claim,) = desk.store.claims
    assert claim.expires_ms == desk.now_ms() + 24 * 3600 * 1000
    assert claim.body_digest == KEY.body_digest
    assert KEY.key not in str(desk.store.keys)


@pytest.mark.parametrize("error", [Unavailable("away"), StorageFull("full")])
@in_fake_time
async def test_one_that_cannot_be_stored_leaves_its_key_to_whoever_waits_for_it(error: StokerError) -> None:
    desk = await Desk().with_function()
    desk.store.fails_next.append(error)

    found = await asyncio.gather(*(desk.ask(key=KEY) for _ in range(3)), return_exceptions=True)

    assert found[0] is error
    (accepted,) = [one for one in found if isinstance(one, Accepted)]
    (holder,) = [one for one in found if isinstance(one, KeyHolder)]
    assert holder.invocation_id == accepted.record.invocation_id


@in_fake_time
async def test_one_whose_client_left_while_it_was_stored_leaves_no_key_in_hand() -> None:
    desk = await Desk().with_function()
    desk.store.held = asyncio.Event()
    first = asyncio.ensure_future(desk.ask(key=KEY))
    second = asyncio.ensure_future(desk.ask(key=KEY))
    await settled()

    first.cancel()
    await settled()
    desk.store.held.set()

    assert isinstance(await second, Accepted)
    assert desk.acceptance._held == {}


@in_fake_time
async def test_a_running_call_keeps_its_key_in_hand_until_it_is_settled() -> None:
    desk = await Desk().with_function()
    first = await desk.accepted(b"{}", REQUEST_RESPONSE, key=KEY)
    meanwhile = await desk.ask(b"{}", REQUEST_RESPONSE, key=KEY)
    place = next(iter(desk.store.keys))
    desk.store.keys[place] = replace(desk.store.keys[place], ended=True, result="1")

    desk.acceptance.settled(first)
    found = await desk.ask(b"{}", REQUEST_RESPONSE, key=KEY)

    assert isinstance(meanwhile, KeyHolder)
    assert isinstance(found, KeyHolder)
    assert not meanwhile.ended
    assert (found.ended, found.result) == (True, "1")
    assert desk.acceptance._held == {}
