"""What functions reach in the bench: an HTTP/1.1 server that answers `ok`. Takes an address and a port.

Prints a line when it is started, and listens once it has read one: by then it has the address. Keeps
connections. Does not know HTTP but for where a head ends.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Ok(asyncio.Protocol):
    """Answers each head."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._held = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._held = (self._held + data).split(b"\r\n\r\n")
        if heads:
            self._transport.write(ANSWER * len(heads))


async def serve(address: str, port: int) -> None:
    """Serve until killed."""
    print("started", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    server = await asyncio.get_running_loop().create_server(Ok, address, port, backlog=1024)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
