"""Reading requests: bytes in, requests out, and every refusal that needs no answer from elsewhere.

Owns the parser of one connection, the limits of head and body, and what HTTP leaves ambiguous. Does
not know sockets, time or how anything is answered. Once it has raised, it must not be fed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from stoker.edge.http.holding import FREE_BYTES
from stoker.edge.http.request import Request
from stoker.model.errors import InvalidRequest, TooLarge
from stoker.model.limits import Limits

TakeBody = Callable[[bytes], None]


class Sink(Protocol):
    """Who takes the requests."""

    def head_read(self, request: Request) -> TakeBody | None:
        """A request's head is complete. Returns who takes its body; None collects it in the request.

        Raises StokerError to have nothing more read.
        """

    def body_grows(self, request: Request, count: int) -> None:
        """So many bytes more are collected of a body that is large. Raises StokerError, as `head_read`."""

    def request_read(self, request: Request) -> None:
        """A request is complete. Must not raise."""


class RequestReader:
    """Turns the bytes of one connection into requests, in order."""

    __slots__ = (
        "_body_bytes",
        "_in_head",
        "_limits",
        "_parser",
        "_priming",
        "_progressed",
        "_read_bytes",
        "_request",
        "_sink",
        "_stalled_bytes",
        "_take_body",
        "_upgrading",
        "_url",
        "ended",
    )

    def __init__(self, sink: Sink, limits: Limits) -> None:
        self._sink = sink
        self._limits = limits
        self._parser = HttpRequestParser(self)
        self._request: Request | None = None
        self._in_head = False
        self._url = b""
        self._take_body: TakeBody | None = None
        self._body_bytes = 0
        self._read_bytes = 0
        self._stalled_bytes = 0
        self._progressed = False
        self._upgrading = False
        self._priming = False
        self.ended = False
        """True once a request said that it is the last; what follows it is ignored."""

    def feed(self, data: bytes) -> bool:
        """Read `data` and hand its requests to the sink. Returns True in the middle of a request.

        Raises InvalidRequest for what is not HTTP or too long a head, TooLarge for the body.
        """
        if self.ended:
            return False
        self._progressed = False
        self._read_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._read_past_upgrade(memoryview(data)[upgrade.args[0] :])
        except HttpParserError as error:
            self._raise(error)
        if self._request is None:
            return False
        # Counts what came since the last thing that took shape: an endless header line, chunk
        # extension or trailer never reaches a callback, and would grow inside the parser.
        self._stalled_bytes = 0 if self._progressed else self._stalled_bytes + len(data)
        if self._stalled_bytes > self._limits.header_bytes_max:
            raise self._head_too_long()
        return True

    def leave(self) -> None:
        """Let go of what was read of a request: the rest will not come.

        The parser and what it calls hold each other, and the collector of such circles comes by seldom.
        """
        self._request = self._take_body = None

    @property
    def unfinished(self) -> Request | None:
        """The request that is being read."""
        return self._request

    # What httptools calls, in this order.

    def on_message_begin(self) -> None:
        if self._priming:
            return
        self._request = Request()
        self._url = b""
        self._body_bytes = self._stalled_bytes = 0
        self._take_body = None
        self._in_head = self._progressed = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request
        if request is None or not self._in_head:
            return  # a trailer, which nobody asked for
        request.headers.append((name, value))
        length = len(name)  # tells nearly all headers apart without lowering their case
        if length == 4:
            if name.lower() == b"host":
                request.hosts += 1
        elif length == 13:
            if name.lower() == b"authorization":
                request.authorization = _once(request.authorization, value, "Authorization")
        elif length == 14:
            if name.lower() == b"content-length":
                request.content_length = int(value)
        elif length == 12:
            if name.lower() == b"content-type":
                request.content_type = _once(request.content_type, value, "Content-Type")
        elif length == 9:
            if name.lower() == b"x-api-key":
                request.api_key = _once(request.api_key, value, "X-Api-Key")
        elif length == 15:
            if name.lower() == b"idempotency-key":
                request.idempotency_key = _once(request.idempotency_key, value, "Idempotency-Key")
        elif length == 17:
            if name.lower() == b"transfer-encoding":
                if value.strip(b" \t").lower() != b"chunked":
                    raise InvalidRequest("the only transfer coding that is understood is chunked")
                request.chunked = True
        elif length == 6 and name.lower() == b"expect":
            request.expects_continue = value.strip(b" \t").lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        request = self._request
        if request is None or self._priming:
            self._priming = False
            return
        self._in_head = False
        parser = self._parser
        limits = self._limits
        if (self._read_bytes > limits.header_bytes_max or not self._progressed) and (
            _head_bytes(self._url, request) > limits.header_bytes_max
        ):
            raise self._head_too_long()
        request.method = parser.get_method()
        request.http_version = version = parser.get_http_version()
        request.keep_alive = parser.should_keep_alive()
        request.path, _, request.query = _origin_form(self._url).partition(b"?")
        if version == "1.1":
            if request.hosts != 1:
                raise InvalidRequest("a request of HTTP/1.1 has one Host header")
        elif version != "1.0":
            raise InvalidRequest("the versions of HTTP that are understood are 1.1 and 1.0")
        elif request.chunked or request.expects_continue:
            raise InvalidRequest("HTTP/1.0 knows neither Transfer-Encoding nor Expect")
        if request.method == b"CONNECT":
            raise InvalidRequest("this server is no proxy")
        if request.content_length is not None and request.content_length > limits.request_bytes_max:
            raise self._body_too_large()
        self._upgrading = parser.should_upgrade()
        self._take_body = self._sink.head_read(request)

    def on_body(self, chunk: bytes) -> None:
        request = self._request
        if request is None:
            return
        self._progressed = True
        self._stalled_bytes = 0
        self._body_bytes += len(chunk)
        if self._body_bytes > self._limits.request_bytes_max:
            raise self._body_too_large()
        if self._take_body is not None:
            self._take_body(chunk)
        elif not request.body:
            request.body = chunk  # most bodies come in one piece: no copy
        else:
            if self._body_bytes > FREE_BYTES:
                self._sink.body_grows(request, len(chunk))
            if not isinstance(request.body, bytearray):
                request.body = bytearray(request.body)
            request.body += chunk

    def on_message_complete(self) -> None:
        request = self._request
        if request is None or self._upgrading:
            return
        self._request = None
        self.ended = not request.keep_alive
        self._sink.request_read(request)

    def _read_past_upgrade(self, rest: memoryview) -> None:
        """Read on as if the request had not asked for an upgrade, which a server may ignore.

        httptools takes such a request for complete after its head and would read its body as the next
        request. So another parser is told of the framing alone and reads the body.
        """
        while True:
            request = self._request
            if request is None:
                return
            self._upgrading = False
            self._priming = True
            self._parser = HttpRequestParser(self)
            self._parser.feed_data(_framing(request))
            try:
                self._parser.feed_data(rest)
            except HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                continue
            except HttpParserError as error:
                self._raise(error)
            return

    def _raise(self, error: HttpParserError) -> None:
        if isinstance(error, HttpParserCallbackError) and error.__context__ is not None:
            raise error.__context__ from None
        if not self.ended:  # else it is what came after `Connection: close`
            raise InvalidRequest(f"this is not HTTP: {error}") from None

    def _head_too_long(self) -> InvalidRequest:
        return InvalidRequest(f"the request's head is longer than {self._limits.header_bytes_max} bytes")

    def _body_too_large(self) -> TooLarge:
        return TooLarge(f"the request's body is larger than {self._limits.request_bytes_max} bytes")


def _once(before: bytes | None, value: bytes, name: str) -> bytes:
    if before is not None:
        raise InvalidRequest(f"more than one {name} header")
    return value.strip(b" \t")


def _head_bytes(url: bytes, request: Request) -> int:
    return len(url) + sum(len(name) + len(value) + 4 for name, value in request.headers)


def _origin_form(url: bytes) -> bytes:
    """Return path and query of a request target: RFC 9112 3.2 demands the absolute form as well."""
    if b"#" in url:
        raise InvalidRequest("a request target has no fragment")
    if url[:1] in (b"/", b"*"):
        return url
    scheme, separator, rest = url.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise InvalidRequest("the request target is neither a path nor a URL")
    path, mark, query = rest.partition(b"?")
    return b"/" + path.partition(b"/")[2] + mark + query


def _framing(request: Request) -> bytes:
    lines = [b"POST / HTTP/1.1"]
    if request.chunked:
        lines.append(b"Transfer-Encoding: chunked")
    elif request.content_length is not None:
        lines.append(b"Content-Length: %d" % request.content_length)
    if not request.keep_alive:
        lines.append(b"Connection: close")
    return b"\r\n".join([*lines, b"", b""])
