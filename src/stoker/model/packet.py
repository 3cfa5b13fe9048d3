"""Packets: what the processes of one machine say to each other, and how it is checked.

One JSON object a packet of a SOCK_SEQPACKET socket. Each reader has a table of the messages it takes; every
field of one is held against a pattern or a range before it becomes a value, whoever sent it. Knows no message
and no socket. Standard library only, as the supervisor and the broker import it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

PACKET_BYTES_MAX = 180 * 1024
"""Below Linux's default send buffer, so that one packet always fits."""
TAG_MAX = 1 << 53
COUNT_MAX = (1 << 64) - 1

Check = Callable[[Any], bool]
Table = dict[str, tuple[type, dict[str, Check]]]
"""By the name of a message: its dataclass, and a check for each of its fields."""


class Malformed(Exception):
    """A packet that is not one of the messages; the connection ends."""


def number(low: int, high: int) -> Check:
    """Return the check for a whole number from `low` to `high`."""
    return lambda value: type(value) is int and low <= value <= high


def text(pattern: str) -> Check:
    """Return the check for a text that matches all of `pattern`."""
    compiled = re.compile(pattern, re.DOTALL)
    return lambda value: type(value) is str and compiled.fullmatch(value) is not None


def or_none(check: Check) -> Check:
    """Return the check for what passes `check`, or nothing."""
    return lambda value: value is None or check(value)


def listed(check: Check, most: int = COUNT_MAX) -> Check:
    """Return the check for a list of at most so many that each pass `check`; it becomes a tuple."""
    return lambda value: type(value) is list and len(value) <= most and all(map(check, value))


def flag(value: Any) -> bool:
    """Tell whether it is a truth value."""
    return type(value) is bool


TAG = number(1, TAG_MAX)
SANDBOX = text(r"[0-9a-f]{12}")


def encode(message: Any) -> bytes:
    """Return the packet of a message."""
    return json.dumps({"is": type(message).__name__, **asdict(message)}).encode()


def decode(packet: bytes, table: Table) -> Any:
    """Return the message of a packet; Malformed if it is not exactly one of the table."""
    fields = object_of(packet)
    kind = fields.pop("is", None)
    if type(kind) is not str or kind not in table:
        raise Malformed("a message of no known kind")
    build, checks = table[kind]
    require(fields, checks)
    return build(**{name: tuple(value) if type(value) is list else value for name, value in fields.items()})


def object_of(packet: bytes) -> dict[str, Any]:
    """Return the object of a packet; Malformed if it is none."""
    try:
        fields = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if type(fields) is not dict:
        raise Malformed("not a JSON object")
    return fields


def require(fields: dict[str, Any], checks: dict[str, Check]) -> None:
    """Raise Malformed unless there are exactly the fields that are checked, and each passes."""
    if fields.keys() != checks.keys():
        raise Malformed(f"fields {sorted(fields)} instead of {sorted(checks)}")
    for name, check in checks.items():
        if not check(fields[name]):
            raise Malformed(f"field {name} is out of bounds")
