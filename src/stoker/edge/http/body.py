"""A request's body, read whole. The connection below bounds its size."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from stoker.model.errors import InvalidRequest


async def read_whole(request: Request) -> bytes:
    """Return the body; InvalidRequest if the client left before it was all there."""
    try:
        return await request.body()
    except ClientDisconnect:
        raise InvalidRequest("the body is incomplete") from None
