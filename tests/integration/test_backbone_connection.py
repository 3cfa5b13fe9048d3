"""The connection when the server is killed, stopped or away: an answer or an error, and soon."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

import pytest
from nats.aio.msg import Msg

from stoker.backbone.connection import Connection, Message
from stoker.backbone.embedded import EmbeddedServer
from stoker.model.errors import TooLarge, Unavailable

from .conftest import OpenStore, Store

INFO = Message("$JS.API.INFO")


async def open_impatient(open_store: OpenStore) -> Store:
    """Open a store, and only then make its connection give up soon."""
    store = await open_store()
    store.connection._away_ms_max = 200
    return store


async def answered(connection: Connection) -> bool:
    """Ask as a caller does who is told to come again."""
    while True:
        try:
            return bool((await connection.request(INFO)).data)
        except Unavailable:
            continue


async def test_a_request_made_while_the_server_is_killed_is_answered_by_the_next_one(store: Store) -> None:
    for _ in range(3):
        store.signal_server(signal.SIGKILL)

        assert (await store.connection.request(INFO)).data


async def test_a_server_that_does_not_answer_is_unavailable_and_says_when_to_try_again(
    open_store: OpenStore,
) -> None:
    store = await open_impatient(open_store)
    store.signal_server(signal.SIGSTOP)

    with pytest.raises(Unavailable) as refused:
        await store.connection.request(INFO)

    assert refused.value.retry_after_s == 1
    store.signal_server(signal.SIGCONT)
    assert await answered(store.connection)


async def test_a_server_that_is_gone_is_unavailable_with_a_reason(open_store: OpenStore) -> None:
    store = await open_impatient(open_store)

    await store.server.stop()

    with pytest.raises(Unavailable):
        await store.connection.request(INFO)
    assert not store.jetstream.healthy
    assert store.jetstream.unhealthy_reason == "the backbone is away: stopped"


async def test_a_server_that_comes_back_much_later_is_found_again(open_store: OpenStore) -> None:
    store = await open_impatient(open_store)
    back = asyncio.Event()
    store.connection.on_reconnect(back.set)
    await store.server.stop()
    with pytest.raises(Unavailable):
        await store.connection.request(INFO)

    await store.server._spawn_until_ready()
    await back.wait()

    assert await answered(store.connection)
    assert store.jetstream.healthy


async def test_a_client_that_was_closed_by_an_error_of_the_server_is_replaced(store: Store) -> None:
    # The server closes a connection for an error, and the client then never reconnects by itself.
    back = asyncio.Event()
    store.connection.on_reconnect(back.set)

    await store.connection._client._process_err("'maximum connections exceeded'")
    await back.wait()

    assert (await store.connection.request(INFO)).data


async def test_a_message_past_the_limit_is_too_large(store: Store) -> None:
    with pytest.raises(TooLarge):
        await store.connection.request(Message("accounts.a.catalog.x", bytes(9 * 1024 * 1024)))


async def test_closing_tells_those_who_wait(open_store: OpenStore) -> None:
    store = await open_store(
        connect=lambda server: Connection(
            [server.url],
            credentials=server.credentials,
            server=server,
            away_ms_max=3_600_000,
            attempt_ms_max=3_600_000,
        )
    )
    store.signal_server(signal.SIGSTOP)
    waiting = asyncio.create_task(store.connection.request(INFO))
    await asyncio.sleep(0)

    await store.connection.close()

    async with asyncio.timeout(10):
        with pytest.raises(Unavailable):
            await waiting
    store.signal_server(signal.SIGCONT)


async def test_a_request_that_is_cancelled_leaves_nothing_behind(store: Store) -> None:
    waiting = asyncio.create_task(store.connection.request(INFO))
    await asyncio.sleep(0)

    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not store.connection._answers


class Forgetful(Connection):
    """Loses the answer to the first attempt of each request that stores something."""

    def __init__(self, server: EmbeddedServer) -> None:
        super().__init__([server.url], credentials=server.credentials, server=server)
        self.lost: set[str] = set()

    async def attempt(self, messages: Sequence[Message], *, deadline: float) -> Msg | None:
        answer = await super().attempt(messages, deadline=deadline)
        message_id = messages[-1].headers.get("Nats-Msg-Id") or messages[-1].subject
        if message_id in self.lost or messages[0].subject.startswith("$JS"):
            return answer
        self.lost.add(message_id)
        return None


async def test_an_append_whose_answer_was_lost_is_stored_once_and_is_no_conflict(
    open_store: OpenStore,
) -> None:
    store = await open_store(connect=Forgetful)

    created = await store.log.append("accounts.a.catalog.x", b"1", expected=0)
    changed = await store.log.append("accounts.a.catalog.x", b"2", expected=created)
    blindly = await store.log.append("accounts.a.catalog.x", b"3", expected=None)

    assert [created, changed, blindly] == [1, 2, 3]
    assert [event.data for event in await store.events()] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("expected", [0, None])
async def test_a_batch_whose_answer_was_lost_is_stored_once_and_is_no_conflict(
    open_store: OpenStore, expected: int | None
) -> None:
    store = await open_store(connect=Forgetful)
    await store.log.append("accounts.a.catalog.w", b"0", expected=0)

    sequences = await store.log.append_batch(
        [("accounts.a.catalog.x", b"1", expected), ("accounts.a.catalog.y", b"2", expected)]
    )

    assert sequences == [2, 3]
    assert [event.data for event in await store.events()] == [b"0", b"1", b"2"]


async def test_a_blob_whose_answer_was_lost_is_stored(open_store: OpenStore) -> None:
    store = await open_store(connect=Forgetful)

    digests = [await store.blobs.put("a", bytes(size)) for size in (10, 1_200_000)]

    assert [len(await store.blobs.get("a", digest)) for digest in digests] == [10, 1_200_000]
