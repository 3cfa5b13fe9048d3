"""Servers that are not our child (`--nats`): the same store, shared by several gateways."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from stoker.backbone.connection import Connection
from stoker.backbone.embedded import EmbeddedServer
from stoker.backbone.errors import StoreDamaged
from stoker.backbone.event_log import EventLog
from stoker.backbone.guard import StoreGuard
from stoker.backbone.jetstream import JetStream
from stoker.model.errors import VersionConflict
from stoker.testing.backbone import SIGNS

OpenLog = Callable[[str], Awaitable[EventLog]]


@pytest.fixture
async def jetstream(nats_server_program: Path, tmp_path: Path) -> AsyncIterator[JetStream]:
    """A connection to a server that somebody else runs."""
    server = EmbeddedServer(tmp_path / "elsewhere")
    await server.start()
    async with Connection([server.url], credentials=server.credentials) as connection:
        yield JetStream(connection)
    await server.stop()


@pytest.fixture
async def open_log(jetstream: JetStream, tmp_path: Path) -> AsyncIterator[OpenLog]:
    """Return a function that opens the log as the gateway with that data directory does."""
    guards: dict[str, StoreGuard] = {}

    async def opening(gateway: str) -> EventLog:
        if gateway in guards:
            await guards.pop(gateway).close()
        guard = guards[gateway] = StoreGuard.open(tmp_path / gateway, embedded=False)
        log = EventLog(
            jetstream,
            guard,
            stream="CATALOG",
            subjects=["accounts.*.catalog.>"],
            signs=SIGNS,
            replicas=jetstream.replicas,
        )
        await log.open()
        return log

    yield opening
    for guard in guards.values():
        await guard.close()


async def count(log: EventLog) -> int:
    return await log.replay(lambda event: None)


async def test_a_second_gateway_joins_the_store_of_the_first_for_good(open_log: OpenLog) -> None:
    first = await open_log("first")
    await first.append("accounts.a.catalog.x", b"1", expected=0)

    second = await open_log("second")
    assert await count(second) == 1
    await second.append("accounts.a.catalog.y", b"2", expected=0)

    assert await count(await open_log("first")) == await count(await open_log("second")) == 2


async def test_of_two_gateways_one_is_told_of_the_conflict(open_log: OpenLog) -> None:
    first, second = await open_log("first"), await open_log("second")
    await first.append("accounts.a.catalog.x", b"1", expected=0)

    with pytest.raises(VersionConflict):
        await second.append("accounts.a.catalog.x", b"2", expected=0)


async def test_a_stream_that_was_deleted_is_not_made_anew(open_log: OpenLog, jetstream: JetStream) -> None:
    log = await open_log("first")
    await log.append("accounts.a.catalog.x", b"1", expected=0)
    await jetstream.api("STREAM.DELETE.CATALOG")

    with pytest.raises(StoreDamaged, match="CATALOG"):
        await open_log("first")


async def test_a_stream_that_was_deleted_and_made_by_another_store_is_refused(
    open_log: OpenLog, jetstream: JetStream
) -> None:
    await open_log("first")
    await jetstream.api("STREAM.DELETE.CATALOG")
    await open_log("stranger")

    with pytest.raises(StoreDamaged, match="another store"):
        await open_log("first")


async def test_a_stream_that_was_purged_is_shorter_than_what_was_acknowledged(
    open_log: OpenLog, jetstream: JetStream
) -> None:
    log = await open_log("first")
    for number in range(5):
        await log.append("accounts.a.catalog.x", b"%d" % number, expected=None)
    await jetstream.api("STREAM.PURGE.CATALOG", {"keep": 2})

    with pytest.raises(StoreDamaged, match="lacks event 1 of 5"):
        await count(await open_log("first"))


async def test_one_server_keeps_one_copy(jetstream: JetStream) -> None:
    assert jetstream.replicas == 1
