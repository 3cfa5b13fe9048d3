"""A seat: one token's place at the protocol, with its sessions and its subscriptions.

What the maintained SDK does is beneath this: JSON-RPC, both eras of the protocol, sessions, event streams.
Imported when the first agent comes, as the SDK takes its time and memory. Does not know what a tool does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import mcp_types as types
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.session import ServerSession
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.shared.exceptions import MCPError
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from stoker import __version__
from stoker.catalog.principal import Principal
from stoker.edge.errors import ErrorAnswers
from stoker.edge.mcp.shapes import credential_of, cursor_of, listed, result_of, start_of
from stoker.edge.mcp.toolbox import Menu, Toolbox, UnknownTool
from stoker.edge.mcp.turns import Turns
from stoker.model.errors import NotFound, StokerError

SESSIONS_MAX = 64
"""Of one token."""
SUBSCRIPTIONS_MAX = 64
IDLE_S_MAX = 15 * 60
"""After which a session that nothing was asked in, and nobody listens to, is over."""
TOOLS_A_PAGE = 500
STREAM_OPENED = b": open\n\n"
"""A comment, with which the answer's head goes out: the first event may be long in coming."""
NOTICE_S_MAX = 5
"""How long a client that does not read is waited for."""
SESSION_HEADER = "mcp-session-id"
INSTRUCTIONS = (
    "stoker runs functions. Each function that you may call is a tool, named <collection>__<name>. "
    "The stoker_* tools create, change, call and debug functions, as far as your token may. "
    "When a call fails, the error names code, message, stack and invocation_id: read what it printed with "
    "stoker_logs, mend the code with stoker_update_function, or go back with stoker_rollback."
)

logging.getLogger("mcp").setLevel(logging.ERROR)  # what strangers send is no event of ours


class _Server(Server[Any]):
    """The SDK's server, which announces changes of the tools in the older era as well."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        return super().create_initialization_options(
            notification_options or NotificationOptions(tools_changed=True),
            experimental_capabilities,
            extensions,
        )


class _Session:
    """One session of the older era, as far as it is known here."""

    def __init__(self, used_s: float) -> None:
        self.used_s = used_s
        self.open = 0
        """Requests under way."""
        self.channel: ServerSession | None = None
        """Where announcements go."""
        self.being_told = False


class Seat:
    """The place of one token."""

    def __init__(
        self,
        principal: Principal,
        toolbox: Toolbox,
        errors: ErrorAnswers,
        *,
        body_bytes_max: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._principal = principal
        self._toolbox = toolbox
        self._clock = clock
        """In seconds."""
        self._turns = Turns(errors)
        self._sessions: dict[str, _Session] = {}
        self._menu_state = toolbox.state
        self._menu = self._announced = toolbox.menu(principal)
        self._serving = 0
        self._used_s = self._clock()
        self._notices: set[asyncio.Task[None]] = set()
        self._bus = InMemorySubscriptionBus()
        self._listening = ListenHandler(self._bus, max_subscriptions=SUBSCRIPTIONS_MAX)
        server = _Server(
            "stoker",
            title="stoker",
            version=__version__,
            instructions=INSTRUCTIONS,
            get_tool_input_schema=lambda name: None,  # no argument of ours travels in a header
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_subscriptions_listen=self._listening,
        )
        server.middleware[:] = [self._observe]
        self._manager = StreamableHTTPSessionManager(
            server,
            session_idle_timeout=IDLE_S_MAX,
            max_sessions=SESSIONS_MAX,
            max_request_body_size=body_bytes_max,
        )
        self._opened, self._closing = asyncio.Event(), asyncio.Event()
        self._running = asyncio.get_running_loop().create_task(self._run(), name="mcp sessions of a token")

    async def _run(self) -> None:
        async with self._manager.run():
            self._opened.set()
            await self._closing.wait()

    @property
    def sessions(self) -> int:
        """How many there are."""
        return len(self._sessions)

    @property
    def principal(self) -> Principal:
        """Whose it is."""
        return self._principal

    @property
    def idle_s(self) -> float:
        """How long there has been neither a session nor a request."""
        return 0.0 if self._sessions or self._serving else self._clock() - self._used_s

    def renew(self, principal: Principal) -> None:
        """Take note of what the token may do by now."""
        if principal != self._principal:
            self._principal, self._menu_state = principal, -1

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of the token."""
        self._serving += 1
        session_id = Request(scope).headers.get(SESSION_HEADER)
        session = None if session_id is None else self._sessions.get(session_id)
        if session is not None:
            session.open += 1

        async def watched(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start" and message["status"] < 400:
                headers = dict(message["headers"])
                made = headers.get(SESSION_HEADER.encode())
                if session_id is None and made is not None:
                    self._sessions[made.decode("latin-1")] = _Session(self._clock())
                if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
                    await send({"type": "http.response.body", "body": STREAM_OPENED, "more_body": True})

        try:
            await self._opened.wait()
            status = await self._turns.take(
                self._manager.handle_request, scope, receive, watched, session=session_id
            )
            if session_id is not None and (status == 404 or (scope["method"] == "DELETE" and status < 400)):
                self._sessions.pop(session_id, None)
                self._turns.end(NotFound("the session is over"), streams_only=True, session=session_id)
        finally:
            self._serving -= 1
            self._used_s = self._clock()
            if session is not None:
                session.open -= 1
                session.used_s = self._used_s

    # -- what the SDK calls ----------------------------------------------------------------------

    async def _observe(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if isinstance(ctx.request, Request):
            session = self._sessions.get(ctx.request.headers.get(SESSION_HEADER, ""))
            if session is not None and session.channel is None:
                session.channel = ctx.session
        return await call_next(ctx)

    async def _list_tools(
        self, ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        tools = self._current().tools
        start = start_of(None if params is None else params.cursor)
        page = tools[start : start + TOOLS_A_PAGE]
        more = start + TOOLS_A_PAGE < len(tools)
        return types.ListToolsResult(
            tools=[listed(tool) for tool in page],
            next_cursor=cursor_of(start + TOOLS_A_PAGE) if more else None,
        )

    async def _call_tool(
        self, ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        assert isinstance(ctx.request, Request)
        try:
            answer = await self._toolbox.call(
                self._current(), credential_of(ctx.request), params.name, params.arguments or {}
            )
        except UnknownTool as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from None
        return result_of(answer)

    def _current(self) -> Menu:
        state = self._toolbox.state
        if state != self._menu_state:
            self._menu_state, self._menu = state, self._toolbox.menu(self._principal)
        return self._menu

    # -- what happens meanwhile ------------------------------------------------------------------

    def look(self) -> None:
        """Let go of sessions that are over, and announce the tools if they are others by now."""
        now_s = self._clock()
        for session_id, session in list(self._sessions.items()):
            if not session.open and now_s - session.used_s > IDLE_S_MAX:
                del self._sessions[session_id]
        menu, announced = self._current(), self._announced
        if menu is not announced:
            self._announced = menu
            if menu.tools != announced.tools:
                self._announce()

    def _announce(self) -> None:
        for session in self._sessions.values():
            if session.channel is not None and not session.being_told:
                self._tell(_notify(session, session.channel))
        self._tell(self._bus.publish(ToolsListChanged()))

    def _tell(self, notice: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(notice, name="mcp announcement")
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    def end_streams(self, why: StokerError) -> None:
        """Let those go who only listen."""
        self._listening.close()
        self._turns.end(why, streams_only=True)

    async def close(self, why: StokerError) -> None:
        """End all sessions and requests; who waits for an answer is told why."""
        self._listening.close()
        self._turns.end(why)
        self._closing.set()
        await asyncio.gather(self._running, *self._notices, return_exceptions=True)
        self._sessions.clear()


async def _notify(session: _Session, channel: ServerSession) -> None:
    session.being_told = True
    try:
        async with asyncio.timeout(NOTICE_S_MAX):
            await channel.send_tool_list_changed()
    except TimeoutError:
        pass  # it does not read: it will list the tools when it does
    finally:
        session.being_told = False
