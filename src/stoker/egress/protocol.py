"""The messages of the broker: what the supervisor gives it, what the gateway tells it, what it reports.

Both peers are ours, but one of them parses HTTP: every field is checked. Knows nothing of sockets. Standard
library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stoker.egress.counts import HOSTS_MAX
from stoker.egress.head import Head
from stoker.model.egress import RULES_MAX, TUNNELS_MAX, Rule, parse_rule, parse_tunnel
from stoker.model.packet import COUNT_MAX, SANDBOX, TAG, Malformed, Table, flag, listed, number, or_none, text

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
    """Of all connections of one call, both ways together."""
    account_bytes_max: int
    """Of an account, in a minute."""
    idle_ms_max: int
    connect_ms_max: int
    """From what was asked for to the connection, with the look-up of the name."""
    authorities: str = ""
    """The file of certificate authorities for a machine that has none."""


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
    injects: bool
    """Whether secrets go into its requests: the gateway is asked of each host."""

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
class Want:
    """What goes into a request of plain HTTP to this host and port? Answered by Headers."""

    tag: int
    sandbox: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Headers:
    """What goes into it. Not to be shown."""

    tag: int
    port: int
    """To which it goes by https; 0 if nothing goes into it, and it goes out as it is."""
    lines: tuple[tuple[str, str, str, str], ...]
    """(name of the secret, header, value, placeholder) each."""
    problem: str
    """Why what has to go into it is not to be had, for the function's author; else empty."""

    def __repr__(self) -> str:
        return f"Headers({self.tag}, ***)"


@dataclass(frozen=True, slots=True)
class Injected:
    """A secret goes out, to a host."""

    sandbox: str
    secret: str
    host: str


@dataclass(frozen=True, slots=True)
class Active:
    """The sandbox uses the network, for the first time since it was last counted."""

    sandbox: str


@dataclass(frozen=True, slots=True)
class Tally:
    """What has it used since this was asked last? Answered by Tallied."""

    tag: int
    sandbox: str


@dataclass(frozen=True, slots=True)
class Tallied:
    """What was used."""

    tag: int
    rows: tuple[tuple[str, int, int, int, int], ...]
    """(host, connections, bytes sent, bytes received, refused) each."""


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


def _row(value: Any) -> bool:
    return type(value) is list and len(value) == 5 and _RULE(value[0]) and all(map(_COUNT, value[1:]))


def _line(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and all(type(part) is str for part in value)


_ACCOUNT = text(r".{1,200}")
_RULE = text(r".{1,300}")
_COUNT = number(0, COUNT_MAX)
_WORDS = text(rf".{{0,{LINE_CHARS_MAX}}}")
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
            "rules": listed(_RULE, RULES_MAX + TUNNELS_MAX),
            "injects": flag,
        },
    ),
    "Shut": (Shut, {"sandbox": SANDBOX}),
    "Noted": (Noted, {"tag": TAG}),
    "Tally": (Tally, {"tag": TAG, "sandbox": SANDBOX}),
    "Headers": (
        Headers,
        {"tag": TAG, "port": number(0, 65535), "lines": listed(_line), "problem": _WORDS},
    ),
}
FROM_BROKER: Table = {
    "Inward": (Inward, {"sandbox": SANDBOX}),
    "Active": (Active, {"sandbox": SANDBOX}),
    "Tallied": (Tallied, {"tag": TAG, "rows": listed(_row, HOSTS_MAX + 1)}),
    "Refused": (Refused, {"tag": TAG, "sandbox": SANDBOX, "line": _WORDS}),
    "Want": (Want, {"tag": TAG, "sandbox": SANDBOX, "host": _RULE, "port": number(1, 65535)}),
    "Injected": (Injected, {"sandbox": SANDBOX, "secret": text(r".{1,128}"), "host": _RULE}),
}
