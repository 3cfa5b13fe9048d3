"""The messages of the broker: what the supervisor gives it, what the gateway tells it, what it reports.

One JSON object a packet of a SOCK_SEQPACKET socket. Both peers are ours, but one of them parses HTTP: every
field is checked before it becomes a value. Knows nothing of sockets. Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from stoker.model.egress import RULES_MAX, Rule, parse_rule

PACKET_BYTES_MAX = 180 * 1024
"""Below Linux's default send buffer, so that one packet always fits."""
LINE_CHARS_MAX = 1000


class Malformed(Exception):
    """A packet that is not one of the messages; the connection ends."""


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
    """With one descriptor: the listening socket inside the sandbox."""

    sandbox: str


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


Message = Open | Shut | Serve | Noted | Refused


def encode(message: Message) -> bytes:
    """Return the packet of a message."""
    return json.dumps({"is": type(message).__name__, **asdict(message)}).encode()


def decode(packet: bytes) -> Message:
    """Return the message; Malformed if it is not exactly one."""
    try:
        fields = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if type(fields) is not dict:
        raise Malformed("not a JSON object")
    kind = fields.pop("is", None)
    sandbox = fields.get("sandbox")
    if sandbox is not None and not (type(sandbox) is str and len(sandbox) == 12):
        raise Malformed("no sandbox has that name")
    try:
        return _built(kind, fields)
    except TypeError as error:
        raise Malformed(f"the fields of {kind} are others") from error


def _built(kind: Any, fields: dict[str, Any]) -> Message:
    if kind == "Open":
        return Open(**fields)
    if kind == "Shut":
        return Shut(**fields)
    if kind == "Serve":
        account, rules = fields.get("account"), fields.get("rules")
        listed = type(rules) is list and len(rules) <= RULES_MAX and all(type(rule) is str for rule in rules)
        if type(account) is not str or not listed:
            raise Malformed("an account or rules that are none")
        return Serve(**{**fields, "rules": tuple(fields["rules"])})
    if type(fields.get("tag")) is not int or type(fields.get("line", "")) is not str:
        raise Malformed("a message of no known kind")
    if kind == "Noted":
        return Noted(**fields)
    if kind == "Refused":
        return Refused(**fields)
    raise Malformed("a message of no known kind")
