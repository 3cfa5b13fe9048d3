"""Egress: what a function may reach outside, as values: hosts, rules, and what the operator allows.

Pure. Does not know names' addresses, sockets or HTTP. Standard library only, as the supervisor and the
broker import it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

HOST_CHARS_MAX = 253
RULES_MAX = 500
"""Of one version, whatever the setting was when it was made: they all go into one message."""
TUNNELS_MAX = 100
"""Likewise."""
_LABEL = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_LAST = r"[A-Za-z_][A-Za-z0-9_-]{0,62}"
# No label may hold a dot and none may be empty, so there is one way to read a name: linear time. The last
# label begins with no digit: `127.1` and `0x7f000001` are no names, though resolvers read an address in them.
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LAST}\.?\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `network.egress`."""

    host: str
    """Canonical: `*`, `*.` and a name, a name, or an address."""
    port: int

    def allows(self, host: str, port: int) -> bool:
        """Tell whether it names this canonical host at this port."""
        if port != self.port:
            return False
        if self.host.startswith("*"):
            return host.endswith(self.host[1:]) and (self.host == "*" or not is_address(host))
        return host == self.host

    def __str__(self) -> str:
        return authority_of(self.host, self.port)


INTERNAL = Rule("stoker.internal", 80)
"""Leads to stoker's own API, with what the call that runs may do; to be listed among the tunnels."""
DEFAULT_RULES = (Rule("*", 80), Rule("*", 443))
"""Of a function that has no `network.egress`."""


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """What the operator allows to all functions."""

    public: bool = True
    """Whether public addresses may be reached."""
    ranges: tuple[str, ...] = ()
    """Ranges, as CIDR, that may be reached though they are not public."""


def host_of(text: str) -> str:
    """Return the canonical form of a name, an IPv4 address or an IPv6 address in brackets.

    Names are lower case and without a final dot; an IPv4-mapped address is the IPv4 one. ValueError if it is
    none of these: an address has one spelling, four decimal numbers or what RFC 4291 has.
    """
    if text.startswith("[") and text.endswith("]"):
        if "%" in text:
            raise ValueError("an address has no zone here")
        six = ipaddress.IPv6Address(text[1:-1])
        return str(six.ipv4_mapped or six)
    if len(text) <= HOST_CHARS_MAX + 1 and _NAME.match(text):
        return text.rstrip(".").lower()
    return str(ipaddress.IPv4Address(text))


def is_address(host: str) -> bool:
    """Tell whether a canonical host is an address; a name's last label begins with no digit."""
    return ":" in host or host.rpartition(".")[2][:1].isdigit()


def port_of(text: str) -> int:
    """Return a port; ValueError if it is none from 1 to 65535, in decimal."""
    port = int(text) if _PORT.match(text) else 0
    if not 1 <= port <= 65535:
        raise ValueError("a port is from 1 to 65535")
    return port


def split_authority(text: str) -> tuple[str, str | None]:
    """Return host and port, as written, of `host:port` or `host`; None where no port is written."""
    host, colon, port = text.rpartition(":")
    return (host, port) if colon and not text.endswith("]") else (text, None)


def authority_of(host: str, port: int) -> str:
    """Return a canonical host and a port as one text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_rule(text: str) -> Rule:
    """Return the rule that `HOST:PORT`, `*.HOST:PORT` or `*:PORT` is; ValueError if it is none."""
    host, port = split_authority(text)
    if port is None:
        raise ValueError("a rule has a port")
    if host == "*":
        return Rule("*", port_of(port))
    if host.startswith("*."):
        name = host_of(host[2:])
        if is_address(name):
            raise ValueError("addresses have no subdomains")
        return Rule(f"*.{name}", port_of(port))
    return Rule(host_of(host), port_of(port))


def parse_tunnel(text: str) -> Rule:
    """Return where the tunnel `HOST:PORT` leads; ValueError if it is none.

    The host is a name, which is to resolve inside a sandbox; names of the loopback have their meaning there.
    """
    host, port = split_authority(text)
    name = host_of(host)
    if is_address(name) or name == "localhost" or name.endswith(".localhost"):
        raise ValueError("a tunnel leads to a name")
    tunnel = Rule(name, port_of(port or ""))
    if name == INTERNAL.host and tunnel != INTERNAL:
        raise ValueError(f"only {INTERNAL} is there")
    return tunnel


def rule_for(rules: Iterable[Rule], host: str, port: int) -> Rule | None:
    """Return the first rule that allows a canonical host at a port; None if none does."""
    return next((rule for rule in rules if rule.allows(host, port)), None)
