"""The messages between the gateway and the supervisor, and what may stand in them.

One JSON object a packet of a SOCK_SEQPACKET socket. `Setup` comes once and fixes what can be run; all
that comes later names it. The supervisor is root and the gateway parses HTTP, so every field is checked
against a pattern or a range before it becomes a value. Knows nothing of sockets. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from stoker.egress.protocol import Bounds

PACKET_BYTES_MAX = 180 * 1024
"""Below Linux's default send buffer, so that one packet always fits."""
MEMORY_BYTES_MAX = 1 << 50
CPU_MILLIS_MAX = 1_000_000
PROCESSES_MAX = 1_000_000
TAG_MAX = 1 << 53
COUNT_MAX = (1 << 64) - 1


class Malformed(Exception):
    """A packet that is not one of the messages; the connection ends."""


@dataclass(frozen=True, slots=True)
class PlanSetup:
    """One plan, as far as the supervisor needs it."""

    layers: tuple[str, ...]
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    own_threads: int


@dataclass(frozen=True, slots=True)
class Setup:
    """The first packet: all that is fixed for the life of a supervisor."""

    runtime: str
    """`crun`, `runc` or `runsc`."""
    binary: str
    owner: str
    """12 hexadecimal digits: hash of the data directory."""
    code_root: str
    """Folder of the code folders."""
    tmp_bytes_max: int
    plans: dict[str, PlanSetup]
    egress: Bounds


@dataclass(frozen=True, slots=True)
class Boot:
    """Start a sandbox; answered by Booted or Failed."""

    tag: int
    plan: str
    urgent: bool


@dataclass(frozen=True, slots=True)
class Assign:
    """Give a booted sandbox to a function; answered by Done or Failed."""

    tag: int
    sandbox: str
    folder: str | None
    writable: bool
    memory_bytes: int
    cpu_millis: int
    processes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Ask what a sandbox has used; answered by Used or Failed."""

    tag: int
    sandbox: str


@dataclass(frozen=True, slots=True)
class Count:
    """Ask for all that is counted of a sandbox; answered by Counted or Failed."""

    tag: int
    sandbox: str


@dataclass(frozen=True, slots=True)
class Hurry:
    """Give a spare the CPU weight of a whole core."""

    sandbox: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End a sandbox; Ended follows, once."""

    sandbox: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The supervisor stands; the answer to Setup."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It cannot work here; the supervisor ends."""

    reason: str


@dataclass(frozen=True, slots=True)
class Booted:
    """With four descriptors: wire, output, the file that tells the peak of its memory (to be read from its
    start), and a pidfd of the sandbox's first process."""

    tag: int
    sandbox: str


@dataclass(frozen=True, slots=True)
class Done:
    """Carried out."""

    tag: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Not carried out; the reason is for the log."""

    tag: int
    reason: str


@dataclass(frozen=True, slots=True)
class Used:
    """Answer to Usage."""

    tag: int
    memory_peak_bytes: int
    processes_limit_hit: bool


@dataclass(frozen=True, slots=True)
class Counted:
    """Answer to Count."""

    tag: int
    figures: dict[str, Any]
    """As `stats_of` shapes them."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing of the sandbox runs any more."""

    sandbox: str
    code: int | None
    signal: int | None
    killed_from_outside: bool
    out_of_memory: bool
    processes_limit_hit: bool
    memory_peak_bytes: int


@dataclass(frozen=True, slots=True)
class Brokered:
    """With one descriptor: a socket to an egress broker that has been started, and knows nothing yet."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the operator's log."""

    event: str
    detail: str


Request = Boot | Assign | Usage | Count | Hurry | Kill
Report = Ready | Refused | Booted | Done | Failed | Used | Counted | Ended | Brokered | Note
Check = Callable[[Any], bool]


def _number(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _text(pattern: str) -> Check:
    compiled = re.compile(pattern, re.DOTALL)
    return lambda value: type(value) is str and compiled.fullmatch(value) is not None


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _flag(value: Any) -> bool:
    return type(value) is bool


_TAG = _number(1, TAG_MAX)
_SANDBOX = _text(r"[0-9a-f]{12}")
_FOLDER = _text(r"[0-9a-f]{64}")
_PLAN = _text(r"[a-z][a-z0-9-]{0,31}")
_PROSE = _text(r".{0,4096}")
_BYTES = _number(0, MEMORY_BYTES_MAX)
_COUNT = _number(0, COUNT_MAX)
_WORD = _text(r"[A-Za-z0-9_]{1,64}")


def _figures(value: Any, depth: int = 5) -> bool:
    """Whether it is a tree of named counts and words, as deep as the shape of the figures is."""
    if type(value) is dict:
        return depth > 0 and all(_WORD(name) and _figures(one, depth - 1) for name, one in value.items())
    if type(value) is list:
        return depth > 0 and all(_figures(one, depth - 1) for one in value)
    return _COUNT(value) or _WORD(value)


_REQUESTS: dict[str, tuple[type, dict[str, Check]]] = {
    "Boot": (Boot, {"tag": _TAG, "plan": _PLAN, "urgent": _flag}),
    "Assign": (
        Assign,
        {
            "tag": _TAG,
            "sandbox": _SANDBOX,
            "folder": _or_none(_FOLDER),
            "writable": _flag,
            "memory_bytes": _number(1 << 20, MEMORY_BYTES_MAX),
            "cpu_millis": _number(1, CPU_MILLIS_MAX),
            "processes": _number(0, PROCESSES_MAX),
        },
    ),
    "Usage": (Usage, {"tag": _TAG, "sandbox": _SANDBOX}),
    "Count": (Count, {"tag": _TAG, "sandbox": _SANDBOX}),
    "Hurry": (Hurry, {"sandbox": _SANDBOX}),
    "Kill": (Kill, {"sandbox": _SANDBOX}),
}
_REPORTS: dict[str, tuple[type, dict[str, Check]]] = {
    "Ready": (Ready, {}),
    "Refused": (Refused, {"reason": _PROSE}),
    "Booted": (Booted, {"tag": _TAG, "sandbox": _SANDBOX}),
    "Done": (Done, {"tag": _TAG}),
    "Failed": (Failed, {"tag": _TAG, "reason": _PROSE}),
    "Used": (Used, {"tag": _TAG, "memory_peak_bytes": _BYTES, "processes_limit_hit": _flag}),
    "Counted": (
        Counted,
        {"tag": _TAG, "figures": lambda value: type(value) is dict and _figures(value)},
    ),
    "Ended": (
        Ended,
        {
            "sandbox": _SANDBOX,
            "code": _or_none(_number(0, 255)),
            "signal": _or_none(_number(1, 64)),
            "killed_from_outside": _flag,
            "out_of_memory": _flag,
            "processes_limit_hit": _flag,
            "memory_peak_bytes": _BYTES,
        },
    ),
    "Brokered": (Brokered, {}),
    "Note": (Note, {"event": _text(r"[a-z_.]{1,64}"), "detail": _PROSE}),
}
_PATH = _text(r"/[^\0]{0,4095}")
_ARGUMENT = _text(r"[^\0]*")
_VARIABLE = _text(r"[^\0=]+")
_RANGE = _text(r"[0-9a-f.:]{1,64}/[0-9]{1,3}")
_SETUP: dict[str, Check] = {
    "runtime": _text(r"crun|runc|runsc"),
    "binary": _PATH,
    "owner": _text(r"[0-9a-f]{12}"),
    "code_root": _PATH,
    "tmp_bytes_max": _number(4096, MEMORY_BYTES_MAX),
    "plans": lambda value: type(value) is dict and all(_PLAN(name) for name in value),
    "egress": lambda value: type(value) is dict,
}
_BOUNDS: dict[str, Check] = {
    "public": _flag,
    "ranges": lambda value: type(value) is list and all(_RANGE(one) for one in value),
    "connections_max": _number(1, COUNT_MAX),
    "account_connections_max": _number(1, COUNT_MAX),
    "bytes_max": _number(1, COUNT_MAX),
    "idle_ms_max": _number(1, COUNT_MAX),
    "connect_ms_max": _number(1, COUNT_MAX),
}


def encode(message: Setup | Request | Report) -> bytes:
    """Return the packet of a message."""
    return json.dumps({"is": type(message).__name__, **asdict(message)}).encode()


def cut(reason: str) -> str:
    """Return as much of `reason` as a message may hold."""
    return reason[:4096]


def request(packet: bytes) -> Request:
    """Return what the gateway wants; Malformed if it is not exactly one of the requests."""
    found: Request = _parsed(packet, _REQUESTS)
    return found


def report(packet: bytes) -> Report:
    """Return what the supervisor says; Malformed if it is not exactly one of the reports."""
    found: Report = _parsed(packet, _REPORTS)
    return found


def setup(packet: bytes) -> Setup:
    """Return the setup; Malformed if a field is missing, unknown or out of bounds."""
    fields = _object(packet)
    if fields.pop("is", None) != "Setup":
        raise Malformed("the first packet is not a setup")
    _check(fields, _SETUP)
    plans = {name: _plan(name, value) for name, value in fields.pop("plans").items()}
    bounds = fields.pop("egress")
    _check(bounds, _BOUNDS)
    egress = Bounds(**{**bounds, "ranges": tuple(bounds["ranges"])})
    return Setup(**fields, plans=plans, egress=egress)


def _plan(name: str, value: Any) -> PlanSetup:
    def listed(check: Check) -> Check:
        return lambda items: type(items) is list and all(check(item) for item in items)

    def pair(item: Any) -> bool:
        return type(item) is list and len(item) == 2 and _VARIABLE(item[0]) and _ARGUMENT(item[1])

    if type(value) is not dict:
        raise Malformed(f"plan {name} is not an object")
    _check(
        value,
        {
            "layers": listed(_PATH),
            "argv": lambda items: listed(_ARGUMENT)(items) and len(items) > 0,
            "env": listed(pair),
            "own_threads": _number(0, PROCESSES_MAX),
        },
    )
    return PlanSetup(
        tuple(value["layers"]),
        tuple(value["argv"]),
        tuple((key, text) for key, text in value["env"]),
        value["own_threads"],
    )


def _parsed(packet: bytes, table: dict[str, tuple[type, dict[str, Check]]]) -> Any:
    fields = _object(packet)
    kind = fields.pop("is", None)
    if type(kind) is not str or kind not in table:
        raise Malformed("a message of no known kind")
    build, checks = table[kind]
    _check(fields, checks)
    return build(**fields)


def _object(packet: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if type(fields) is not dict:
        raise Malformed("not a JSON object")
    return fields


def _check(fields: dict[str, Any], checks: dict[str, Check]) -> None:
    if fields.keys() != checks.keys():
        raise Malformed(f"fields {sorted(fields)} instead of {sorted(checks)}")
    for name, check in checks.items():
        if not check(fields[name]):
            raise Malformed(f"field {name} is out of bounds")
