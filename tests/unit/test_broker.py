"""The broker, in this process: a sandbox that ends at any moment leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest

from stoker.egress.broker import Broker
from stoker.egress.protocol import Bounds, Open, Serve, Shut
from stoker.model.packet import PACKET_BYTES_MAX, encode

BOUNDS = Bounds(
    public=False,
    ranges=(),
    connections_max=8,
    account_connections_max=8,
    bytes_max=1 << 20,
    account_bytes_max=1 << 20,
    idle_ms_max=1_000,
    connect_ms_max=1_000,
)
ENDS, FOLLOWS = "0" * 12, "1" * 12


class Peers:
    """A broker with the supervisor's and the gateway's end of its two sockets."""

    def __init__(self) -> None:
        self.supervisor, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.gateway, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        loop = asyncio.get_running_loop()
        self._ends = (self.supervisor, theirs, self.gateway, ours)
        self.broker = Broker(BOUNDS, theirs, ours, ssl.create_default_context(), loop.time)
        self.faults: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: self.faults.append(context))
        self._running = loop.create_task(self.broker.run())

    def open(self, sandbox: str) -> tuple[str, int]:
        """Give the broker a sandbox's socket; return where that listens."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            socket.send_fds(self.supervisor, [encode(Open(sandbox, None))], [listener.fileno()])
            address: tuple[str, int] = listener.getsockname()
            return address

    async def hears_of_a_request(self, address: tuple[str, int]) -> bool:
        """Ask for something there; return whether the gateway is told of it."""
        self.gateway.setblocking(False)
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
        async with asyncio.timeout(10):
            told = await asyncio.get_running_loop().sock_recv(self.gateway, PACKET_BYTES_MAX)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        return b"Active" in told

    async def close(self) -> None:
        self.supervisor.close()
        await self._running
        for end in self._ends:
            end.close()


async def until_closed(address: tuple[str, int]) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(*address)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:  # it was closed in that very moment
                continue
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.mark.parametrize("turns", range(8))
async def test_a_sandbox_that_ends_while_its_port_is_being_opened_leaves_no_port(turns: int) -> None:
    peers = Peers()
    address = peers.open(ENDS)
    for _ in range(4):  # the broker knows of it by then, and the turns below are those of the rest
        await asyncio.sleep(0)
    peers.gateway.send(encode(Serve(ENDS, "acme", (), False)))
    for _ in range(turns):
        await asyncio.sleep(0)

    peers.supervisor.send(encode(Shut(ENDS)))

    await until_closed(address)
    following = peers.open(FOLLOWS)  # its descriptor has the number of the one before
    peers.gateway.send(encode(Serve(FOLLOWS, "acme", (), False)))
    assert await peers.hears_of_a_request(following)
    peers.supervisor.send(encode(Shut(FOLLOWS)))
    await until_closed(following)
    await peers.close()
    assert peers.faults == []
