"""The door of agents: `/mcp`, Model Context Protocol over streamable HTTP.

Owns who may come in, how many, and for how long: each token has a seat of its own, so that nothing of one is
another's. The seat, and with it the SDK, is loaded when the first agent comes.
Does not know the protocol, nor any tool.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from stoker.catalog.principal import Principal
from stoker.edge.errors import ErrorAnswers
from stoker.edge.http.access import Access
from stoker.edge.http.body import read_pieces
from stoker.edge.mcp.origin import is_allowed
from stoker.edge.mcp.toolbox import Toolbox
from stoker.model.errors import Forbidden, InvalidRequest, NoCapacity, Unauthenticated
from stoker.model.function import Function
from stoker.model.limits import MIB

if TYPE_CHECKING:
    from stoker.edge.mcp.seat import Seat

BODY_BYTES_MAX = 16 * MIB
"""Of one message: the longest payload, or the code that an agent writes."""
SESSIONS_MAX = 1024
"""Of all tokens together."""
LOOK_S = 1.0
"""Between two looks at whose token is over, and at what has changed."""
SEAT_IDLE_S_MAX = 60.0
"""After which the seat of a token that nobody uses is let go; the next request makes another."""
SETTLE_S = 0.05
"""After a change, so that many at once are one announcement."""
PATH = "/mcp"


class McpDoor:
    """All seats of a server. Open by being asked; close it once."""

    def __init__(self, access: Access, toolbox: Toolbox, errors: ErrorAnswers) -> None:
        self._access = access
        self._toolbox = toolbox
        self._errors = errors
        self._seats: dict[tuple[str, str], Seat] = {}
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    def routes(self) -> list[Route]:
        """Return the one route."""
        return [Route(PATH, _Endpoint(self), methods=["GET", "POST", "DELETE"])]

    def function_changed(self, before: Function, after: Function | None) -> None:
        """Take note that the tools of some tokens may be others now."""
        self._changed.set()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Raises StokerError for who may not come in."""
        request = Request(scope, receive)
        if not is_allowed(request.headers.get("origin"), request.headers.get("host")):
            raise Forbidden(
                "pages of that origin may not ask here",
                hint="ask from a program, or from a page on this machine",
            )
        principal = self._access.principal(request)
        if request.method == "POST":
            receive = await _with_whole_body(request, receive)
        if self._closed:
            raise NoCapacity("the server is stopping", retry_after_s=1)
        seat = await self._seat(principal)
        if _begins_session(request) and sum(one.sessions for one in self._seats.values()) >= SESSIONS_MAX:
            raise NoCapacity(f"there are {SESSIONS_MAX} sessions already", retry_after_s=60)
        await seat.serve(scope, receive, send)

    async def _seat(self, principal: Principal) -> Seat:
        place = (principal.account, principal.token_id)
        seat = self._seats.get(place)
        if seat is None:
            # In a thread, as it takes most of a second; the first who ask wait for the one import.
            seat_type = (await asyncio.to_thread(importlib.import_module, "stoker.edge.mcp.seat")).Seat
            seat = self._seats.get(place)
            if seat is None:
                seat = self._seats[place] = seat_type(
                    principal, self._toolbox, self._errors, body_bytes_max=BODY_BYTES_MAX
                )
            if self._watching is None:
                self._watching = asyncio.get_running_loop().create_task(self._watch(), name="mcp seats")
        seat.renew(principal)
        return seat

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
                await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                pass
            self._changed.clear()
            for place, seat in list(self._seats.items()):
                if not self._access.still_knows(seat.principal):
                    del self._seats[place]
                    await seat.close(Unauthenticated("the token is not known here"))
                elif seat.idle_s > SEAT_IDLE_S_MAX:
                    del self._seats[place]
                    await seat.close(NoCapacity("the session is over"))
                else:
                    seat.look()

    def drain(self) -> None:
        """Let those go who only listen, and take nobody in any more: the server stops."""
        self._closed = True
        for seat in self._seats.values():
            seat.end_streams(NoCapacity("the server is stopping", retry_after_s=1))

    async def close(self) -> None:
        """End everything. Harmless when repeated."""
        self._closed = True
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        seats, self._seats = list(self._seats.values()), {}
        for seat in seats:
            await seat.close(NoCapacity("the server is stopping", retry_after_s=1))


class _Endpoint:
    """The door as an ASGI application: what is no function a route hands the whole exchange to."""

    def __init__(self, door: McpDoor) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door.answer(scope, receive, send)


def _begins_session(request: Request) -> bool:
    """Tell whether a request can only be one that opens a session, of the era that has them."""
    headers = request.headers
    return (
        request.method == "POST" and "mcp-session-id" not in headers and "mcp-protocol-version" not in headers
    )


async def _with_whole_body(request: Request, receive: Receive) -> Receive:
    """Return what gives the whole body, then what `receive` does. Raises InvalidRequest, TooLarge."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise InvalidRequest("the body is JSON", hint="Content-Type: application/json")
    body = b"".join([piece async for piece in read_pieces(request, bytes_max=BODY_BYTES_MAX)])
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again
