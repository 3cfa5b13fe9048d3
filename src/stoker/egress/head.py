"""Heads: what a function asks of its proxy, read from the first bytes of a connection.

CONNECT and the absolute form of RFC 9112; anything else is refused. Pure; does not know rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stoker.model.egress import authority_of, host_of, port_of, split_authority

BYTES_MAX = 64 * 1024
END = b"\r\n\r\n"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HOP_BY_HOP = frozenset(("proxy-connection", "proxy-authorization", "connection", "keep-alive", "host"))
"""Between a function and its proxy, or written anew."""
_SHOWN = re.compile(r"[^A-Za-z0-9._:\[\]-]")


class BadHead(Exception):
    """It is no request to a proxy; the text says why, in words for the function's author."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a function wants to go."""

    host: str
    """Canonical, as `model.egress.host_of` has it."""
    port: int
    forward: bytes | None
    """The head to send on, of a request in absolute form; None for CONNECT."""

    @property
    def authority(self) -> str:
        """Host and port."""
        return authority_of(self.host, self.port)


def parse_head(data: bytes) -> Head:
    """Return what a head up to and with its empty line asks for. Raises BadHead."""
    if data[: -len(END)].count(b"\n") != data.count(b"\r\n") - 2 or data.count(b"\r") != data.count(b"\n"):
        raise BadHead("lines of HTTP end in CR LF")
    lines = data[: -len(END)].decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not _TOKEN.match(words[0]) or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadHead("the request line is not one of HTTP/1.1")
    method, target, _ = words
    if method == "CONNECT":
        return _head(*split_authority(target), None)
    scheme, _, rest = target.partition("://")
    if scheme.lower() != "http" or not rest:
        raise BadHead("the proxy takes CONNECT, or http:// and a host; what is https goes through CONNECT")
    authority, path = _split(rest)
    host, port = split_authority(authority)
    found = _head(host, port or "80", None)
    named = found.host if ":" not in found.host else f"[{found.host}]"
    fields = [f"{method} {path} HTTP/1.1", f"Host: {named if found.port == 80 else found.authority}"]
    for line in lines[1:]:
        name, colon, _ = line.partition(":")
        if not colon or not _TOKEN.match(name):
            raise BadHead("a header field is NAME: VALUE")
        if name.lower() not in _HOP_BY_HOP:
            fields.append(line)
    # One request a connection: whose the next one would be need not be followed in what is passed on.
    fields += ["Connection: close", "", ""]
    return Head(found.host, found.port, "\r\n".join(fields).encode("latin-1"))


def _split(rest: str) -> tuple[str, str]:
    at = next((index for index, char in enumerate(rest) if char in "/?#"), len(rest))
    authority, path = rest[:at], rest[at:].partition("#")[0]
    return authority.rpartition("@")[2], path if path.startswith("/") else f"/{path}"


def _head(host: str, port: str | None, forward: bytes | None) -> Head:
    try:
        return Head(host_of(host), port_of(port or ""), forward)
    except ValueError:
        shown = _SHOWN.sub("?", host[:100])
        raise BadHead(f"{shown} is no host and port: a name, or an address in its usual spelling") from None
