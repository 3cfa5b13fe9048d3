"""One request on the lean path: what was asked, and the way to answer it.

Owns the two values a handler of the invoke route sees. Does not know sockets, parsing or the order
of answers.
"""

from __future__ import annotations

from collections.abc import Callable

from stoker.edge.http.head import STATUS_PREFIX
from stoker.edge.http.origin import Origin
from stoker.edge.http.turn import Channel

INVOKE_PREFIX = b"/compute/functions/"
INVOKE_SUFFIX = b"/invoke"


class Request:
    """One HTTP request. Header names are matched without case, values come without outer blanks."""

    __slots__ = (
        "api_key",
        "authorization",
        "body",
        "chunked",
        "content_length",
        "content_type",
        "expects_continue",
        "headers",
        "hosts",
        "http_version",
        "idempotency_key",
        "keep_alive",
        "method",
        "origin",
        "path",
        "query",
    )

    def __init__(self) -> None:
        self.method = b""
        self.path = b""
        """As it was sent, still percent-encoded."""
        self.query = b""
        """What follows the first `?`, still percent-encoded."""
        self.body: bytes | bytearray = b""
        """The whole body; empty on the ASGI path, where it is received in pieces."""
        self.headers: list[tuple[bytes, bytes]] = []
        """All of them, as they were sent."""
        self.authorization: bytes | None = None
        self.api_key: bytes | None = None
        """`X-Api-Key`."""
        self.idempotency_key: bytes | None = None
        self.content_type: bytes | None = None
        self.content_length: int | None = None
        self.chunked = False
        self.expects_continue = False
        self.hosts = 0
        """How many Host headers there were."""
        self.http_version = "1.1"
        self.keep_alive = True
        self.origin: Origin | None = None
        """Who calls, where the connection tells."""

    def header(self, name: bytes) -> bytes | None:
        """Return the first header called `name` (in lower case), or None."""
        for key, value in self.headers:
            if len(key) == len(name) and key.lower() == name:
                return value.strip(b" \t")
        return None


class Exchange:
    """The turn of one request on the lean path: one request, at most one answer."""

    __slots__ = ("_channel", "gone", "request")

    def __init__(self, channel: Channel, request: Request) -> None:
        self._channel: Channel | None = channel
        self.request = request
        self.gone: Callable[[], None] | None = None
        """Set by the handler. Called once if the client left before `respond`."""

    def respond(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """Answer with JSON. `headers` are ready-made lines, each with its `\\r\\n`.

        The first answer counts. A later one, or one after the client left, does nothing: whoever
        calls may be in the middle of somebody else's protocol, where an error must not surface.
        """
        channel = self._channel
        if channel is not None:
            self._channel = self.gone = None
            channel.answer(self.request, status, body, headers)

    @property
    def open(self) -> bool:
        """True until it was answered or the client left."""
        return self._channel is not None

    @property
    def held_bytes(self) -> int:
        """The memory its body takes."""
        return len(self.request.body)

    @property
    def probe_bytes(self) -> bytes:
        """What any answer begins with; nothing once it is written."""
        return STATUS_PREFIX if self._channel is not None else b""

    def begin(self) -> None:
        """Called by the connection: all that came before is answered."""
        if self._channel is not None:
            self._channel.invoke(self)

    def left(self) -> None:
        """Called by the connection: it is lost."""
        gone = self.gone
        self._channel = self.gone = None
        if gone is not None:
            gone()

    def writable(self) -> None:
        """Called by the connection: the client has caught up. A lean answer is one write."""


LeanHandler = Callable[[Request, Exchange], None]
"""Answers an invoke request, now or later, through the exchange. Must not block."""
Admit = Callable[[Request], None]
"""Looks at an invoke request whose body is large and not read yet. Raises StokerError to refuse it."""


def admit_all(request: Request) -> None:
    """Read whatever body anybody sends."""


def is_invoke(method: bytes, path: bytes) -> bool:
    """Tell whether a request is `POST /compute/functions/{c}/{f}/invoke`."""
    return (
        method == b"POST"
        and path.startswith(INVOKE_PREFIX)
        and path.endswith(INVOKE_SUFFIX)
        and path.count(b"/") == 5
        and b"//" not in path
    )
