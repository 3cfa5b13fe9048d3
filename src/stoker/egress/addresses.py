"""Addresses: which of them a function may ever be connected to.

Owns the lists of what is never reached, of what is not public, and the forms in which an IPv4 address hides
in an IPv6 one. Pure; which addresses are this machine's own is asked of the kernel (`routes`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


_NEVER = (
    ("loopback", _networks("127.0.0.0/8", "::1/128")),
    ("unspecified", _networks("0.0.0.0/8", "::/128")),
    ("link-local", _networks("169.254.0.0/16", "fe80::/10")),  # the metadata service of most clouds
    (
        "a metadata service",
        _networks(
            "168.63.129.16/32",
            "100.100.100.200/32",
            "192.0.0.192/32",
            "fd00:ec2::254/128",
            "fd20:ce::254/128",
        ),
    ),
    ("multicast", _networks("224.0.0.0/4", "ff00::/8")),
    ("broadcast", _networks("255.255.255.255/32")),
)
"""Refused whatever the operator allows."""
_PRIVATE = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
    "fec0::/10",
)
_RESERVED = _networks(
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "2001::/23",  # Teredo, which hides an IPv4 address, among others
    "2001:db8::/32",
    "3fff::/20",
)
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def refusal_of(address: Address, *, public: bool, ranges: Sequence[Network]) -> str | None:
    """Return in a word or two what an address is that must not be reached; None if it may be.

    `ranges` are the operator's; they never open what is loopback, link-local, metadata or multicast.
    """
    seen = _behind(address)
    for kind, networks in _NEVER:
        if any(_within(one, networks) for one in seen):
            return kind
    if _within(address, ranges):
        return None
    for one in seen:
        if _within(one, _PRIVATE):
            return "private"
        if _within(one, _RESERVED):
            return "reserved"
    if len(seen) == 1 and address.version == 6 and address not in _GLOBAL_6:
        return "reserved"
    return None if public else "public"


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _behind(address: Address) -> tuple[Address, ...]:
    """Return an address and the IPv4 address that it stands for or is carried to, if there is one."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return (address,) if inner is None else (address, inner)
