"""The judge: whether a function may have a connection, and to which very address.

Owns the order of the checks and the words of a refusal. A name that no rule allows is not looked up; one that
is allowed is looked up once, and what is returned is what is connected to. Does not know connections.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence

from stoker.egress.addresses import Address, refusal_of
from stoker.egress.head import Head
from stoker.egress.protocol import Bounds
from stoker.model.egress import Rule, is_address, rule_for

ADDRESSES_MAX = 4
"""Of one name, that are tried."""
Lookup = Callable[[str, int], Awaitable[Sequence[Address]]]


class Refusal(Exception):
    """The function may not go there. The text names the rule, and how to allow it if that can be."""


class Unreachable(Exception):
    """It may, but there is no way: no such name, nobody who answers."""


class Judge:
    """Decides for one broker."""

    def __init__(self, bounds: Bounds, leads_out: Callable[[Address], bool]) -> None:
        self._public = bounds.public
        self._ranges = tuple(map(ipaddress.ip_network, bounds.ranges))
        self._leads_out = leads_out

    async def addresses(self, head: Head, rules: Sequence[Rule], lookup: Lookup) -> list[Address]:
        """Return the addresses that may be connected to, the first one first; at least one.

        Raises Refusal or Unreachable.
        """
        if not self._public and not self._ranges:
            raise Refusal("the operator lets nothing out (--egress none)")
        if rule_for(rules, head.host, head.port) is None:
            listed = ", ".join(map(str, rules[:10])) or "nothing"
            raise Refusal(f'no rule allows it ({listed}); add "{head.authority}" to network.egress')
        if is_address(head.host):
            found: Sequence[Address] = [ipaddress.ip_address(head.host)]
        else:
            found = await lookup(head.host, head.port)
        if not found:
            raise Unreachable(f"{head.host} has no address")
        allowed, reason = [], ""
        for address in found:
            why = self._why_not(address)
            if why is None:
                allowed.append(address)
            else:
                reason = reason or why
        if not allowed:
            raise Refusal(reason)
        return allowed[:ADDRESSES_MAX]

    def _why_not(self, address: Address) -> str | None:
        kind = refusal_of(address, public=self._public, ranges=self._ranges)
        if kind == "private":
            bits = address.max_prefixlen
            return f"{address} is private; the operator can allow it: --egress-allow-range {address}/{bits}"
        if kind == "public":
            return f"{address} is public, which the operator does not allow (--egress none)"
        if kind is not None:
            return f"{address} is {kind}, which is never reached"
        try:
            leads_out = self._leads_out(address)
        except OSError:
            leads_out = False
        return None if leads_out else f"{address} is an address of this machine, or has no route"
