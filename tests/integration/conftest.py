"""What the tests against a real NATS server share."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop

from stoker.backbone.blobs import BlobStore
from stoker.backbone.connection import Connection
from stoker.backbone.embedded import EmbeddedServer
from stoker.backbone.errors import BackboneMissing
from stoker.backbone.event_log import Event, EventLog
from stoker.backbone.guard import StoreGuard
from stoker.backbone.jetstream import JetStream
from stoker.backbone.program import find_nats_server
from stoker.testing.backbone import SIGNS


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that stoker runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def nats_server_program() -> Path:
    """The program. Without it the test skips; in CI it fails."""
    try:
        return find_nats_server()
    except BackboneMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing.message}, and CI must not skip what needs it")
        pytest.skip(missing.message)


class Store:
    """An opened store on a data directory, in the order in which a server opens it."""

    guard: StoreGuard
    server: EmbeddedServer
    connection: Connection
    jetstream: JetStream
    log: EventLog
    blobs: BlobStore

    def __init__(self, data: Path, connect: Callable[[EmbeddedServer], Connection]) -> None:
        self.data = data
        self._connect = connect
        self._exits = AsyncExitStack()

    async def open(self) -> Store:
        """Open all; what was opened is closed again if something is refused."""
        async with AsyncExitStack() as exits:
            self.guard = StoreGuard.open(self.data)
            exits.push_async_callback(self.guard.close)
            self.server = EmbeddedServer(self.data / "nats")
            exits.push_async_callback(self.server.stop)
            await self.server.start()
            self.connection = self._connect(self.server)
            exits.push_async_callback(self.connection.close)
            await self.connection.open()
            self.jetstream = JetStream(self.connection, disk_reserve_bytes=0)
            self.log = EventLog(
                self.jetstream, self.guard, stream="CATALOG", subjects=["accounts.*.catalog.>"], signs=SIGNS
            )
            self.blobs = BlobStore(self.jetstream, self.guard, spool_dir=self.data)
            await self.log.open()
            await self.blobs.open()
            self._exits = exits.pop_all()
        return self

    async def events(self) -> list[Event]:
        """Replay all."""
        seen: list[Event] = []
        await self.log.replay(seen.append)
        return seen

    def signal_server(self, number: int) -> None:
        """Send a signal to nats-server."""
        assert self.server.pid is not None
        os.kill(self.server.pid, number)
        if number == signal.SIGSTOP:  # its other threads go on for a moment, and would still answer
            os.waitid(os.P_PID, self.server.pid, os.WSTOPPED)

    async def kill_server(self) -> None:
        """Kill nats-server and return once the next one is connected to."""
        back = asyncio.Event()
        self.connection.on_reconnect(back.set)
        self.signal_server(signal.SIGKILL)
        await back.wait()

    async def close(self) -> None:
        """Close all. Harmless when repeated."""
        await self._exits.aclose()


OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture
async def open_store(nats_server_program: Path, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Return a function that opens a store on a directory; what it opened is closed after the test."""
    opened: list[Store] = []

    async def opening(
        data: Path | None = None, connect: Callable[[EmbeddedServer], Connection] = Connection.to_embedded
    ) -> Store:
        store = Store(data or tmp_path / "data", connect)
        opened.append(store)
        return await store.open()

    yield opening
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    """A new, empty, opened store."""
    return await open_store()
