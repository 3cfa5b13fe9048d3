"""One client's connection: whose turn it is, what it may still send, and when it is closed.

Owns the order of answers, flow control in both directions and the end of a connection. Does not know
how requests are parsed (`reader`), how a half-closed client is watched (`probe`) or what is answered.

The hot path runs from `data_received` through the reader and the handler to one `write`, all in one
call. Only the first request of a read does so; the rest wait for a turn of the event loop each, so that
a client that sends thousands at once cannot keep the others from being served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from stoker.edge.errors import RequestTimeout
from stoker.edge.http.asgi import AsgiExchange, scope_of
from stoker.edge.http.head import CONTINUE
from stoker.edge.http.origin import Origin
from stoker.edge.http.patience import Patience, Verdict
from stoker.edge.http.probe import Probe
from stoker.edge.http.reader import RequestReader, TakeBody
from stoker.edge.http.request import Exchange, Request, is_invoke
from stoker.edge.http.service import Service
from stoker.edge.http.turn import Refusal, Turn

WAITING_MAX = 32
"""Requests of one connection behind the current one, past which reading stops."""
WAITING_BYTES_MAX = 256 * 1024
"""What their bodies hold together, past which reading stops: one read of the event loop."""
STRANGERS_BYTES_MAX = 16 * 1024
"""What is held of an invoke's body before it is looked at who sends it."""
JOINED_BYTES_MAX = 64 * 1024
"""A body up to this size is copied behind its head, which is cheaper than a second write."""


class Connection(asyncio.Protocol):
    """The protocol of one accepted socket."""

    __slots__ = (
        "_current",
        "_deaf",
        "_direct",
        "_eof",
        "_held",
        "_next_scheduled",
        "_origin",
        "_patience",
        "_probe",
        "_reader",
        "_service",
        "_streaming",
        "_transport",
        "_waiting",
        "write_paused",
    )

    def __init__(self, service: Service, origin: Origin | None = None) -> None:
        self._service = service
        self._origin = origin
        """Who calls, of a connection from inside an instance."""
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader(self, service.limits)
        self._current: Turn | None = None
        self._waiting: deque[Turn] = deque()
        self._streaming: AsgiExchange | None = None
        """Whose body is being read."""
        self._probe: Probe | None = None
        self.write_paused = False
        self._direct = False
        """True while the read at hand may still run a handler."""
        self._next_scheduled = False
        self._deaf = False
        """True once nothing that comes in counts any more."""
        self._eof = False
        self._held: dict[Request, int] = {}
        """What is counted of the bodies that were collected."""
        self._patience = Patience(service.limits)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._service.roll.joined(self)
        self._patience.idle(self._service.now_ms)
        if self._service.draining:
            self._close()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._patience.heard(self._service.now_ms)
            return
        self._direct = True
        try:
            unfinished = self._reader.feed(data)
        except Exception as error:  # what cannot be read on is answered, whatever the reason
            self._refuse(error)
        else:
            if unfinished:
                self._patience.request_begun(self._service.now_ms)
        if self._waiting or self._streaming is not None:
            self._schedule_next()
            self._regulate_reading()

    def eof_received(self) -> bool:
        self._eof = True
        if self._streaming is not None:
            self._streaming.left()  # its body will never be complete
            if self._streaming is self._current:
                return False
            self._waiting.remove(self._streaming)
            self._streaming = None
        self._patience.request_ended()
        if self._patience.lingering or (self._current is None and not self._waiting):
            return False
        self._start_probe()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._deaf = True
        self._service.roll.parted(self)
        self._stop_probe()
        turns = [*self._waiting] if self._current is None else [self._current, *self._waiting]
        self._current = None
        self._waiting.clear()
        self._reader.leave()
        self._let_go()
        for turn in turns:
            try:
                turn.left()
            except Exception as error:  # a handler's `gone`: the others must still be told
                self._service.errors.answer(error)

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._current is not None:
            self._current.writable()
        else:
            self._schedule_next()

    # What the reader calls.

    def head_read(self, request: Request) -> TakeBody | None:
        if self._deaf:
            return None
        request.origin = self._origin
        if is_invoke(request.method, request.path):
            if request.chunked or (request.content_length or 0) > STRANGERS_BYTES_MAX:
                self._service.admit(request)
            if request.expects_continue and self._current is None and not self._waiting:
                self.send_continue()
            return None
        if self._origin is not None:
            has_token = request.authorization is not None or request.api_key is not None
            self._origin.require(request.path, has_token=has_token)
        exchange = AsgiExchange(self, request, scope_of(request, self._transport), self._service)
        self._streaming = exchange
        self._take_turn(exchange)
        return exchange.body_read

    def body_grows(self, request: Request, count: int) -> None:
        if not self._deaf:
            self._service.holding.take(count)
            self._held[request] = self._held.get(request, 0) + count

    def request_read(self, request: Request) -> None:
        self._patience.request_ended()
        if self._streaming is not None:
            self._streaming.body_ended()
            self._streaming = None
        elif not self._deaf:
            self._take_turn(Exchange(self, request))

    # What turns call: `Channel`.

    def invoke(self, exchange: Exchange) -> None:
        try:
            self._service.invoke(exchange.request, exchange)
        except Exception as error:  # a handler's mistake is its caller's 500, not the connection's end
            answer = self._service.errors.answer(error)
            exchange.respond(answer.status, answer.body, answer.header_lines)

    def answer(self, request: Request | None, status: int, body: bytes, headers: bytes) -> None:
        keep_alive = request is not None and request.keep_alive and not self._service.draining
        if not keep_alive:
            headers += b"Connection: close\r\n"
        elif request is not None and request.http_version == "1.0":
            headers += b"Connection: keep-alive\r\n"
        head = self._service.heads.json(status)
        length = len(body)
        if request is not None and request.method == b"HEAD":
            self.start_answer(b"%b%d\r\n%b\r\n" % (head, length, headers))
        elif length <= JOINED_BYTES_MAX:
            self.start_answer(b"%b%d\r\n%b\r\n%b" % (head, length, headers, body))
        else:
            self.start_answer(b"%b%d\r\n%b\r\n" % (head, length, headers), body)
        self.finished(keep_alive=keep_alive)

    def start_answer(self, *parts: bytes) -> None:
        if self._probe is not None:
            head, *rest = parts
            parts = (head[self._stop_probe() :], *rest)
        self._write(parts)

    def continue_answer(self, *parts: bytes) -> None:
        if parts:
            self._stop_probe()  # what it sent are leading zeros of this chunk
            self._write(parts)

    def finished(self, *, keep_alive: bool) -> None:
        self._current = None
        if self._held:
            self._let_go()
        if not keep_alive:
            self._end()
        elif self._waiting:
            self._schedule_next()
        elif self._eof or self._deaf:
            self._end()
        else:
            self._patience.idle(self._service.now_ms)

    def connection_line(self, request: Request, *, keep_alive: bool) -> bytes:
        if not keep_alive:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if request.http_version == "1.0" else b""

    def may_keep_alive(self) -> bool:
        return not self._service.draining

    def send_continue(self) -> None:
        self._write((CONTINUE,))

    def body_taken(self) -> None:
        if self._patience.paused:
            self._regulate_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # What the server calls.

    @property
    def in_flight(self) -> bool:
        return self._current is not None or bool(self._waiting)

    def drain(self) -> None:
        """Close now if no request is in flight or being sent, else after its answer."""
        patience = self._patience
        if self._current is None and not (self._waiting or patience.reading or patience.lingering):
            self._close()

    def sweep(self) -> None:
        """Close what has been idle, late, lingering or unread for too long."""
        transport = self._transport
        if transport is None:
            return
        verdict = self._patience.look(
            self._service.now_ms,
            in_flight=self.in_flight,
            unsent_bytes=transport.get_write_buffer_size(),
        )
        if verdict is Verdict.IDLE:
            transport.close()
        elif verdict is Verdict.UNREAD:
            transport.abort()
        elif verdict is Verdict.LATE:
            limit_ms = self._service.limits.request_wait_ms_max
            self._refuse(RequestTimeout(f"the request was not complete after {limit_ms} ms"))

    # The order of turns.

    def _take_turn(self, turn: Turn) -> None:
        if self._current is None and not self._waiting and self._direct and not self.write_paused:
            self._direct = False
            self._begin(turn)
        else:
            self._waiting.append(turn)

    def _begin(self, turn: Turn) -> None:
        self._current = turn
        if self._eof:
            self._start_probe()
        turn.begin()

    def _schedule_next(self) -> None:
        if self._waiting and self._current is None and not self.write_paused and not self._next_scheduled:
            self._next_scheduled = True
            self._service.loop.call_soon(self._next)

    def _next(self) -> None:
        self._next_scheduled = False
        if self._waiting and self._current is None and not self.write_paused:
            self._begin(self._waiting.popleft())
            self._regulate_reading()

    def _let_go(self) -> None:
        """Count no more what the bodies of requests took that are over."""
        alive = {turn.request for turn in self._waiting if isinstance(turn, Exchange)}
        if self._reader.unfinished is not None:
            alive.add(self._reader.unfinished)
        for request in self._held.keys() - alive:
            self._service.holding.give(self._held.pop(request))

    def _refuse(self, error: Exception) -> None:
        """Answer `error` when its turn comes, read no more, and close after it."""
        answer = self._service.errors.answer(error)
        if self._deaf:
            return  # the last answer is out already
        self._patience.request_ended()
        streaming, self._streaming = self._streaming, None
        if streaming is not None:
            streaming.refuse(answer)
        else:
            self._direct = True
            self._take_turn(Refusal(self, answer))
        self._deaf = True

    def _start_probe(self) -> None:
        if self._transport is None or self._probe is not None or self._current is None:
            return
        if probe_bytes := self._current.probe_bytes:
            self._probe = Probe(self._service.loop, self._transport, probe_bytes)
            self._probe.start()

    def _stop_probe(self) -> int:
        probe, self._probe = self._probe, None
        return probe.stop() if probe is not None else 0

    # The flow of bytes, and the end.

    def _write(self, parts: tuple[bytes, ...]) -> None:
        transport = self._transport
        if transport is None:
            return  # lost: writing would raise, in whoever's protocol we are called from
        for part in parts:
            transport.write(part)
        if self._eof:
            self._start_probe()

    def _regulate_reading(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        waiting = self._waiting
        streaming = self._streaming
        full = len(waiting) > WAITING_MAX  # looked at first: one read may hold thousands
        if not full:
            held_bytes = sum(turn.held_bytes for turn in waiting)
            if streaming is not None and streaming is self._current:
                held_bytes += streaming.held_bytes
            full = held_bytes > WAITING_BYTES_MAX
        if full and not self._patience.paused:
            self._patience.pause(self._service.now_ms)
            transport.pause_reading()
        elif not full and self._patience.paused:
            self._read_on(transport)

    def _read_on(self, transport: asyncio.Transport) -> None:
        self._patience.resume(self._service.now_ms)
        transport.resume_reading()

    def _end(self) -> None:
        """The last answer is written: let it arrive, then close."""
        transport = self._transport
        self._waiting.clear()
        self._streaming = None
        if transport is None or transport.is_closing():
            return
        if self._eof or self._reader.ended:
            transport.close()
            return
        self._deaf = True
        self._patience.linger(self._service.now_ms)
        if self._patience.paused:
            self._read_on(transport)
        if transport.can_write_eof():
            transport.write_eof()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
