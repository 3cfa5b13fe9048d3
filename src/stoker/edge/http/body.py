"""A request's body, read whole or piece by piece. The connection below bounds its size as well."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from stoker.edge.http.holding import FREE_BYTES
from stoker.model.errors import InvalidRequest, TooLarge


async def read_whole(request: Request) -> bytes:
    """Return the body. Raises InvalidRequest if the client left before it was all there, NoCapacity."""
    hold = request.scope.get("hold")  # there is none where a tool asks a route
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > FREE_BYTES and hold is not None:
                hold(len(piece))
            pieces.append(piece)
    except ClientDisconnect:
        raise InvalidRequest("the body is incomplete") from None
    return b"".join(pieces)


async def read_pieces(request: Request, *, bytes_max: int) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises TooLarge past `bytes_max`, InvalidRequest as `read_whole`."""
    left = bytes_max
    try:
        async for piece in request.stream():
            left -= len(piece)
            if left < 0:
                raise TooLarge(f"the body is at most {bytes_max} bytes")
            yield piece
    except ClientDisconnect:
        raise InvalidRequest("the body is incomplete") from None
