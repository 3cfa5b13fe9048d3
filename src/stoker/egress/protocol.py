"""The messages of the broker: what the supervisor gives it, what the gateway tells it, what it reports.

Both peers are ours, but one of them parses HTTP: every field is checked. Knows nothing of sockets. Standard
library only.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoker.egress.head import Head
from stoker.model.egress import RULES_MAX, TUNNELS_MAX, Rule, parse_rule, parse_tunnel
from stoker.model.packet import SANDBOX, TAG, Malformed, Table, listed, or_none, text

LINE_CHARS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is fixed for the life of a broker: the operator's policy and the limits."""

    public: bool
    ranges: tuple[str, ...]
    connections_max: int
    """Of one instance, at once."""
    account_connections_max: int
    bytes_max: int
    """Of one connection, both ways together."""
    idle_ms_max: int
    connect_ms_max: int
    """From what was asked for to the connection, with the look-up of the name."""


@dataclass(frozen=True, slots=True)
class Open:
    """With one descriptor: a listening socket inside the sandbox."""

    sandbox: str
    target: str | None
    """Where all that connects there wants to go, `host:port`; None for the proxy's port, which is told."""

    def parsed(self) -> Head | None:
        """Return the target; Malformed if it is none."""
        if self.target is None:
            return None
        try:
            rule = parse_tunnel(self.target)
        except ValueError as error:
            raise Malformed("a tunnel that is none") from error
        return Head(rule.host, rule.port, None)


@dataclass(frozen=True, slots=True)
class Shut:
    """The sandbox has ended: all its connections are cut."""

    sandbox: str


@dataclass(frozen=True, slots=True)
class Serve:
    """Whose a sandbox is, and what it may reach. Until then its port takes no connection."""

    sandbox: str
    account: str
    rules: tuple[str, ...]

    def parsed(self) -> tuple[Rule, ...]:
        """Return the rules; Malformed if one is none."""
        try:
            return tuple(map(parse_rule, self.rules))
        except ValueError as error:
            raise Malformed("a rule that is none") from error


@dataclass(frozen=True, slots=True)
class Noted:
    """The line of a Refused is in the log: the function may hear of it."""

    tag: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A line for the log of the call that runs; answered by Noted."""

    tag: int
    sandbox: str
    line: str


@dataclass(frozen=True, slots=True)
class Inward:
    """With one descriptor: a connection of a sandbox to stoker's own API."""

    sandbox: str


_ACCOUNT = text(r".{1,200}")
FROM_SUPERVISOR: Table = {
    "Open": (Open, {"sandbox": SANDBOX, "target": or_none(text(r"[a-z0-9_.-]{1,253}:[0-9]{1,5}"))}),
    "Shut": (Shut, {"sandbox": SANDBOX}),
}
FROM_GATEWAY: Table = {
    "Serve": (
        Serve,
        {
            "sandbox": SANDBOX,
            "account": _ACCOUNT,
            "rules": listed(text(r".{1,300}"), RULES_MAX + TUNNELS_MAX),
        },
    ),
    "Shut": (Shut, {"sandbox": SANDBOX}),
    "Noted": (Noted, {"tag": TAG}),
}
FROM_BROKER: Table = {
    "Inward": (Inward, {"sandbox": SANDBOX}),
    "Refused": (Refused, {"tag": TAG, "sandbox": SANDBOX, "line": text(rf".{{0,{LINE_CHARS_MAX}}}")}),
}
