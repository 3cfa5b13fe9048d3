"""The bridge to an ASGI application: one request as a scope, `receive`, `send` and a task.

Owns the translation of one exchange, its framing and its back-pressure. Does not know routes, nor the
order of answers on the connection. Source: ASGI 3.0, HTTP connection scope.
"""

from __future__ import annotations

import asyncio
from collections import deque
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope

from stoker.edge.errors import ErrorAnswer
from stoker.edge.http.framing import CHUNK_PREFIX, Framing, frame
from stoker.edge.http.head import STATUS_PREFIX
from stoker.edge.http.request import Request
from stoker.edge.http.service import Service
from stoker.edge.http.turn import Channel

ASGI_VERSION = {"version": "3.0", "spec_version": "2.3"}
"""2.3 and not 2.4: from 2.4 on starlette learns that a client left only from its next `send`, so that an
idle event stream would be held for ever. Below, it listens for the disconnect as well."""


class AsgiExchange:
    """The turn of one request that the application answers."""

    __slots__ = (
        "_arrived",
        "_body_done",
        "_channel",
        "_chunks",
        "_done",
        "_drained",
        "_framing",
        "_gone",
        "_head",
        "_held",
        "_refusal",
        "_request",
        "_scope",
        "_service",
        "_task",
        "_told_end",
        "held_bytes",
    )

    def __init__(self, channel: Channel, request: Request, scope: Scope, service: Service) -> None:
        self._channel = channel
        self._request = request
        self._scope = scope
        scope["hold"] = self.hold
        self._held = 0
        """What is counted of the body that the application has collected."""
        self._service = service
        self._task: asyncio.Task[None] | None = None
        self._chunks: deque[bytes] = deque()
        self.held_bytes = 0
        """Of the body, received and not yet taken."""
        self._body_done = False
        self._told_end = False
        self._head: Message | None = None
        self._framing: Framing | None = None
        self._refusal: ErrorAnswer | None = None
        self._gone = False
        self._done = False
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()

    @property
    def probe_bytes(self) -> bytes:
        """The status line's beginning, or within a chunked answer that of the next chunk."""
        if self._done:
            return b""
        if self._framing is None:
            return STATUS_PREFIX
        return CHUNK_PREFIX if self._framing.chunked else b""

    @property
    def started(self) -> bool:
        """True once some of the answer is written."""
        return self._framing is not None or self._done

    # What the connection calls.

    def begin(self) -> None:
        """Run the application in a task of its own."""
        if self._refusal is not None:
            self._answer(self._refusal)
            return
        self._task = task = self._service.loop.create_task(self._run(), name="http request")
        self._service.tasks.add(task)
        task.add_done_callback(self._service.tasks.discard)

    def body_read(self, chunk: bytes) -> None:
        """Take a piece of the request's body."""
        if not self._done and not self._gone:
            self._chunks.append(chunk)
            self.held_bytes += len(chunk)
            self._arrived.set()

    def body_ended(self) -> None:
        """The request's body is complete."""
        self._body_done = True
        self._arrived.set()

    def left(self) -> None:
        """Tell the application that its client is gone. What it does about it is its business."""
        self._gone = True
        self._arrived.set()
        self._drained.set()

    def writable(self) -> None:
        """Let `send` go on."""
        self._drained.set()

    def refuse(self, answer: ErrorAnswer) -> None:
        """End the request with `answer`: the rest of its body will not be read."""
        if self._refusal is not None or self._done:
            return
        self._refusal = answer
        if self._task is None:
            return  # `begin` answers, in its turn
        self.left()
        if self.started:
            self._channel.abort()
        else:
            self._answer(answer)

    # What the application calls.

    def hold(self, count: int) -> None:
        """Count so many bytes of the body as held until the answer. Raises NoCapacity."""
        self._service.holding.take(count)
        self._held += count

    async def receive(self) -> Message:
        """Return the next piece of the body, or `http.disconnect` once nothing is left to answer."""
        while True:
            if self._gone or self._done:
                return {"type": "http.disconnect"}
            if self._chunks or (self._body_done and not self._told_end):
                chunk = self._chunks.popleft() if self._chunks else b""
                self.held_bytes -= len(chunk)
                self._told_end = self._body_done and not self._chunks
                self._channel.body_taken()
                return {"type": "http.request", "body": chunk, "more_body": not self._told_end}
            if self._request.expects_continue and not self.started and not self._body_done:
                self._request.expects_continue = False
                self._channel.send_continue()
            self._arrived.clear()
            await self._arrived.wait()

    async def send(self, message: Message) -> None:
        """Write the next part of the answer; waits while the client does not read.

        Does nothing after the client left. Raises RuntimeError for what the protocol does not allow.
        """
        if self._gone:
            return
        kind = message["type"]
        if kind == "http.response.start":
            if self._head is not None:
                raise RuntimeError("the application began its answer twice")
            self._head = message
        elif kind == "http.response.body":
            if self._head is None or self._done:
                raise RuntimeError("the application sent a body before its head or after its end")
            self._write(self._head, message.get("body", b""), more=message.get("more_body", False))
            while self._channel.write_paused and not self._gone and not self._done:
                self._drained.clear()
                await self._drained.wait()
        else:
            raise RuntimeError(f"the application sent {kind}, which is no part of an answer")

    def _write(self, head: Message, body: bytes, *, more: bool) -> None:
        channel = self._channel
        request = self._request
        framing = self._framing
        lines = b""
        if framing is None:
            keep_alive = request.keep_alive and self._body_done and channel.may_keep_alive()
            framing = frame(request, head, keep_alive=keep_alive, final_bytes=None if more else len(body))
            connection = channel.connection_line(request, keep_alive=framing.keep_alive)
            lines = self._service.heads.bare(head["status"]) + framing.header_lines + connection + b"\r\n"
        pieces = framing.pieces(body, more=more)  # raises before anything is out, so that a 500 can be
        if not more:
            framing.check_complete()
        first = self._framing is None
        self._framing = framing
        if not more:
            self._finish()  # first of all, so that no probe follows the last piece
        if first:
            channel.start_answer(lines, *pieces)
        else:
            channel.continue_answer(*pieces)
        if not more:
            channel.finished(keep_alive=framing.keep_alive)

    def _finish(self) -> None:
        self._done = True
        self._chunks.clear()
        self.held_bytes = 0
        self._arrived.set()
        self._drained.set()

    async def _run(self) -> None:
        try:
            await self._service.app(self._scope, self.receive, self.send)
            if not self._done and not self._gone:
                raise RuntimeError("the application returned before its answer was complete")
        except asyncio.CancelledError:
            if not self._done:
                self._channel.abort()
            raise
        except ClientDisconnect as error:  # what starlette makes of `http.disconnect`
            if not self._gone:
                self._failed(error)
        except Exception as error:  # the application's mistake: logged under an id, and its caller's 500
            self._failed(error)
        finally:
            self._service.holding.give(self._held)

    def _failed(self, error: Exception) -> None:
        answer = self._service.errors.answer(error)
        if self._done or self._gone:
            return
        if self.started:
            self._channel.abort()  # so that the client does not take the part for the whole
        else:
            self._answer(answer)

    def _answer(self, answer: ErrorAnswer) -> None:
        if not self._body_done:
            self._request.keep_alive = False
        self._finish()
        self._channel.answer(self._request, answer.status, answer.body, answer.header_lines)


def scope_of(request: Request, transport: asyncio.BaseTransport | None) -> Scope:
    """Return the ASGI scope of a request that came over `transport`."""
    secure, client, server = False, None, None
    if transport is not None:
        secure = transport.get_extra_info("sslcontext") is not None
        client = _address(transport.get_extra_info("peername"))
        server = _address(transport.get_extra_info("sockname"))
    return {
        "type": "http",
        "asgi": ASGI_VERSION,
        "http_version": request.http_version,
        "method": request.method.decode("ascii"),
        "scheme": "https" if secure else "http",
        # What is no UTF-8 becomes U+FFFD, and so matches no name; a route never fails on it.
        "path": unquote_to_bytes(request.path).decode("utf-8", "replace"),
        "raw_path": request.path,
        "query_string": request.query,
        "root_path": "",
        "headers": [(name.lower(), value.strip(b" \t")) for name, value in request.headers],
        "client": client,
        "server": server,
        "origin": request.origin,
    }


def _address(name: object) -> tuple[str, int] | None:
    # Of IPv6 there are four members; of a Unix socket there is a string.
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
