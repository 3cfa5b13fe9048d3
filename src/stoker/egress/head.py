"""Heads: what a function asks of its proxy, read from the first bytes of a connection.

CONNECT and the absolute form of RFC 9112; anything else is refused. Pure; does not know rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class Line:
    """A header that is set, with a secret in it."""

    secret: str
    """Its name."""
    header: str
    value: str = field(repr=False)
    placeholder: str
    """Tells which line is meant, where there are several for one header."""


def injected_head(data: bytes, host: str, port: int, lines: Sequence[Line]) -> tuple[bytes, list[Line]]:
    """Return the head of a request in origin form with headers set, and the lines that went into it.

    Whatever the function wrote into these headers is gone. The Host is the one that was asked for: with
    another one, what serves many names at one address would send the value on to somebody else. Raises
    BadHead for what two readers might read differently.
    """
    method, target, fields = _read(data)
    if not target.startswith("/"):
        raise BadHead("a request inside a tunnel asks for a path")
    names = [name.lower() for name, _ in fields]
    if names.count("content-length") + names.count("transfer-encoding") > 1:
        raise BadHead("the length of the body is said more than once")
    chosen = _chosen(fields, lines)
    gone = _HOP_BY_HOP | {line.header.lower() for line in chosen}
    named = host if ":" not in host else f"[{host}]"
    out = [f"{method} {target} HTTP/1.1", f"Host: {named if port == 443 else authority_of(host, port)}"]
    out += [f"{name}:{value}" for name, value in fields if name.lower() not in gone]
    out += [f"{line.header}: {line.value}" for line in chosen]
    out += ["Connection: close", "", ""]
    return "\r\n".join(out).encode("latin-1"), chosen


def _chosen(fields: Sequence[tuple[str, str]], lines: Sequence[Line]) -> list[Line]:
    """Return one line a header: the one whose placeholder stands in it, or else the first."""
    chosen: dict[str, Line] = {}
    for line in lines:
        chosen.setdefault(line.header.lower(), line)
    for name, value in fields:
        for line in lines:
            if name.lower() == line.header.lower() and line.placeholder in value:
                chosen[name.lower()] = line
    return list(chosen.values())


def parse_head(data: bytes) -> Head:
    """Return what a head up to and with its empty line asks for. Raises BadHead."""
    method, target, fields = _read(data)
    if method == "CONNECT":
        return _head(*split_authority(target), None)
    scheme, _, rest = target.partition("://")
    if scheme.lower() != "http" or not rest:
        raise BadHead("the proxy takes CONNECT, or http:// and a host; what is https goes through CONNECT")
    authority, path = _split(rest)
    host, port = split_authority(authority)
    found = _head(host, port or "80", None)
    named = found.host if ":" not in found.host else f"[{found.host}]"
    out = [f"{method} {path} HTTP/1.1", f"Host: {named if found.port == 80 else found.authority}"]
    out += [f"{name}:{value}" for name, value in fields if name.lower() not in _HOP_BY_HOP]
    # One request a connection: whose the next one would be need not be followed in what is passed on.
    out += ["Connection: close", "", ""]
    return Head(found.host, found.port, "\r\n".join(out).encode("latin-1"))


def _read(data: bytes) -> tuple[str, str, list[tuple[str, str]]]:
    """Return method, target and header fields; the values as they stand, with their blanks."""
    if data[: -len(END)].count(b"\n") != data.count(b"\r\n") - 2 or data.count(b"\r") != data.count(b"\n"):
        raise BadHead("lines of HTTP end in CR LF")
    lines = data[: -len(END)].decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not _TOKEN.match(words[0]) or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadHead("the request line is not one of HTTP/1.1")
    fields = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.match(name):
            raise BadHead("a header field is NAME: VALUE")
        fields.append((name, value))
    return words[0], words[1], fields


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
