"""The least a server can do: it answers a request of known form without parsing it. Prints its port.

Owns the question how fast the load generator is when nothing else is slow. Does not know HTTP.
"""

from __future__ import annotations

import asyncio
from typing import cast

import uvloop

TOKEN_CHARS = 48
TAIL = b'"}'


class Echo(asyncio.Protocol):
    """Answers each chunk as one request whose body ends in the token and `TAIL`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        body = b'{"message":"' + data[-TOKEN_CHARS - len(TAIL) :]
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def serve() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
