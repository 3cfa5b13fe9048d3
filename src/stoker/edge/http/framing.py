"""Framing: how the end of one answer is told, and whether the connection outlives it.

Owns Content-Length against chunks against closing, and what has no body at all. Does not know sockets,
nor who writes the answer. Source: RFC 9112, section 6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.types import Message

from stoker.edge.http.request import Request

_UNSAFE = re.compile(rb"[\r\n\0]")
_OURS = frozenset((b"date", b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
"""Headers that belong to the connection: what the application says of them is not passed on."""

CHUNK_PREFIX = b"0" * 8
"""Leading zeros of a chunk's size, which mean nothing (RFC 9112 7.1). Clients take 16 digits in all."""


@dataclass(slots=True)
class Framing:
    """The framing of one answer, while it is written."""

    header_lines: bytes
    keep_alive: bool
    bodiless: bool
    """The status or the method forbids a body: what is given is not written."""
    chunked: bool
    left_bytes: int | None
    """How many bytes are still owed; None where no length was promised."""

    def pieces(self, body: bytes, *, more: bool) -> tuple[bytes, ...]:
        """Return what is to be written for a part of the body.

        Raises RuntimeError past the promised length: the client would take the rest for an answer.
        """
        if self.bodiless:
            return ()
        if self.left_bytes is not None:
            self.left_bytes -= len(body)
            if self.left_bytes < 0:
                raise RuntimeError("the application's body is longer than its Content-Length")
        if not self.chunked:
            return (body,) if body else ()
        last = () if more else (b"0\r\n\r\n",)
        return (b"%x\r\n" % len(body), body, b"\r\n", *last) if body else last

    def check_complete(self) -> None:
        """Raise RuntimeError if less than the promised length was written."""
        if self.left_bytes and not self.bodiless:
            raise RuntimeError("the application's body is shorter than its Content-Length")


def frame(request: Request, head: Message, *, keep_alive: bool, final_bytes: int | None) -> Framing:
    """Return the framing for an answer that begins with `head`.

    `final_bytes` is the size of the whole body where it is known, else None. Raises RuntimeError for a
    header that would break out of its line.
    """
    status: int = head["status"]
    lines: list[bytes] = []
    length: int | None = None
    for name, value in head.get("headers", ()):
        if _UNSAFE.search(name) or _UNSAFE.search(value):
            raise RuntimeError(f"the application's header {name!r} has a line break in it")
        lowered = name.lower()
        if lowered in _OURS:
            continue
        if lowered == b"content-length":
            if length is not None:
                raise RuntimeError("the application gave two Content-Length headers")
            length = int(value)
        lines.append(b"%b: %b\r\n" % (name, value))
    without_body = status in (204, 304) or status < 200
    bodiless = without_body or request.method == b"HEAD"
    chunked = False
    if length is None and not bodiless:
        if final_bytes is not None:
            length = final_bytes
            lines.append(b"Content-Length: %d\r\n" % length)
        elif request.http_version == "1.1":
            chunked = True
            lines.append(b"Transfer-Encoding: chunked\r\n")
        else:
            keep_alive = False  # HTTP/1.0 has nothing but the connection's end to tell the body's
    return Framing(b"".join(lines), keep_alive, bodiless, chunked, length)
