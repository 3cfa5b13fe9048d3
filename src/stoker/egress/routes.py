"""Routes: whether the kernel would send to an address out of this machine, or to itself.

One question to rtnetlink an address, which knows every interface, alias and local range, as it is at that
moment. Does not know what an address is for.
"""

from __future__ import annotations

import socket
import struct

from stoker.egress.addresses import Address

_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_RTA_DST = 1
_RTN_UNICAST = 1
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=8BI")
_ATTRIBUTE = struct.Struct("=HH")


def leads_out(address: Address) -> bool:
    """Tell whether what is sent there leaves this machine; False for its own addresses and unreachable ones.

    OSError if the kernel cannot be asked.
    """
    destination = address.packed
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(destination), _RTA_DST) + destination
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    route = _ROUTE.pack(family, len(destination) * 8, 0, 0, 0, 0, 0, 0, 0)
    size = _HEADER.size + len(route) + len(attribute)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
        asked.sendto(_HEADER.pack(size, _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + route + attribute, (0, 0))
        answer = asked.recv(8192)
    if _HEADER.unpack_from(answer)[1] != _RTM_NEWROUTE:
        return False
    kind: int = _ROUTE.unpack_from(answer, _HEADER.size)[7]
    return kind == _RTN_UNICAST
