"""The messages between the gateway and the supervisor, and what may stand in them.

`Setup` comes once and fixes what can be run; all
that comes later names it. The supervisor is root and the gateway parses HTTP, so every field is checked
against a pattern or a range before it becomes a value. Knows nothing of sockets. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stoker.egress.protocol import Bounds
from stoker.model import packet as packets
from stoker.model.egress import TUNNELS_MAX
from stoker.model.packet import (
    COUNT_MAX,
    SANDBOX,
    TAG,
    Check,
    Malformed,
    Table,
    flag,
    listed,
    number,
    or_none,
    require,
    text,
)

MEMORY_BYTES_MAX = 1 << 50
CPU_MILLIS_MAX = 1_000_000
PROCESSES_MAX = 1_000_000


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
    tunnels: tuple[str, ...]
    """Where each leads, `host:port`, each host a name in small letters."""


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

_FOLDER = text(r"[0-9a-f]{64}")
_PLAN = text(r"[a-z][a-z0-9-]{0,31}")
_PROSE = text(r".{0,4096}")
_BYTES = number(0, MEMORY_BYTES_MAX)
_COUNT = number(0, COUNT_MAX)
_WORD = text(r"[A-Za-z0-9_]{1,64}")


def _figures(value: Any, depth: int = 5) -> bool:
    """Whether it is a tree of named counts and words, as deep as the shape of the figures is."""
    if type(value) is dict:
        return depth > 0 and all(_WORD(name) and _figures(one, depth - 1) for name, one in value.items())
    if type(value) is list:
        return depth > 0 and all(_figures(one, depth - 1) for one in value)
    return _COUNT(value) or _WORD(value)


_REQUESTS: Table = {
    "Boot": (Boot, {"tag": TAG, "plan": _PLAN, "urgent": flag}),
    "Assign": (
        Assign,
        {
            "tag": TAG,
            "sandbox": SANDBOX,
            "folder": or_none(_FOLDER),
            "writable": flag,
            "memory_bytes": number(1 << 20, MEMORY_BYTES_MAX),
            "cpu_millis": number(1, CPU_MILLIS_MAX),
            "processes": number(0, PROCESSES_MAX),
            "tunnels": listed(text(r"[a-z0-9_.-]{1,253}:[0-9]{1,5}"), TUNNELS_MAX),
        },
    ),
    "Usage": (Usage, {"tag": TAG, "sandbox": SANDBOX}),
    "Count": (Count, {"tag": TAG, "sandbox": SANDBOX}),
    "Hurry": (Hurry, {"sandbox": SANDBOX}),
    "Kill": (Kill, {"sandbox": SANDBOX}),
}
_REPORTS: Table = {
    "Ready": (Ready, {}),
    "Refused": (Refused, {"reason": _PROSE}),
    "Booted": (Booted, {"tag": TAG, "sandbox": SANDBOX}),
    "Done": (Done, {"tag": TAG}),
    "Failed": (Failed, {"tag": TAG, "reason": _PROSE}),
    "Used": (Used, {"tag": TAG, "memory_peak_bytes": _BYTES, "processes_limit_hit": flag}),
    "Counted": (
        Counted,
        {"tag": TAG, "figures": lambda value: type(value) is dict and _figures(value)},
    ),
    "Ended": (
        Ended,
        {
            "sandbox": SANDBOX,
            "code": or_none(number(0, 255)),
            "signal": or_none(number(1, 64)),
            "killed_from_outside": flag,
            "out_of_memory": flag,
            "processes_limit_hit": flag,
            "memory_peak_bytes": _BYTES,
        },
    ),
    "Brokered": (Brokered, {}),
    "Note": (Note, {"event": text(r"[a-z_.]{1,64}"), "detail": _PROSE}),
}
_PATH = text(r"/[^\0]{0,4095}")
_ARGUMENT = text(r"[^\0]*")
_VARIABLE = text(r"[^\0=]+")
_RANGE = text(r"[0-9a-f.:]{1,64}/[0-9]{1,3}")
_SETUP: dict[str, Check] = {
    "runtime": text(r"crun|runc|runsc"),
    "binary": _PATH,
    "owner": text(r"[0-9a-f]{12}"),
    "code_root": _PATH,
    "tmp_bytes_max": number(4096, MEMORY_BYTES_MAX),
    "plans": lambda value: type(value) is dict and all(_PLAN(name) for name in value),
    "egress": lambda value: type(value) is dict,
}
_BOUNDS: dict[str, Check] = {
    "public": flag,
    "ranges": listed(_RANGE),
    "connections_max": number(1, COUNT_MAX),
    "account_connections_max": number(1, COUNT_MAX),
    "bytes_max": number(1, COUNT_MAX),
    "idle_ms_max": number(1, COUNT_MAX),
    "connect_ms_max": number(1, COUNT_MAX),
    "account_bytes_max": number(1, COUNT_MAX),
    "authorities": text(r"[^\0]{0,4096}"),
}


def cut(reason: str) -> str:
    """Return as much of `reason` as a message may hold."""
    return reason[:4096]


def request(packet: bytes) -> Request:
    """Return what the gateway wants; Malformed if it is not exactly one of the requests."""
    found: Request = packets.decode(packet, _REQUESTS)
    return found


def report(packet: bytes) -> Report:
    """Return what the supervisor says; Malformed if it is not exactly one of the reports."""
    found: Report = packets.decode(packet, _REPORTS)
    return found


def setup(packet: bytes) -> Setup:
    """Return the setup; Malformed if a field is missing, unknown or out of bounds."""
    fields = packets.object_of(packet)
    if fields.pop("is", None) != "Setup":
        raise Malformed("the first packet is not a setup")
    require(fields, _SETUP)
    plans = {name: _plan(name, value) for name, value in fields.pop("plans").items()}
    bounds = fields.pop("egress")
    require(bounds, _BOUNDS)
    egress = Bounds(**{**bounds, "ranges": tuple(bounds["ranges"])})
    return Setup(**fields, plans=plans, egress=egress)


def _plan(name: str, value: Any) -> PlanSetup:
    def pair(item: Any) -> bool:
        return type(item) is list and len(item) == 2 and _VARIABLE(item[0]) and _ARGUMENT(item[1])

    if type(value) is not dict:
        raise Malformed(f"plan {name} is not an object")
    require(
        value,
        {
            "layers": listed(_PATH),
            "argv": lambda items: listed(_ARGUMENT)(items) and len(items) > 0,
            "env": listed(pair),
            "own_threads": number(0, PROCESSES_MAX),
        },
    )
    return PlanSetup(
        tuple(value["layers"]),
        tuple(value["argv"]),
        tuple((key, text) for key, text in value["env"]),
        value["own_threads"],
    )
