"""Limits: every number that bounds a request, a call or an instance, with its unit in its name.

Source of the defaults: the operating contract, *Sizes that hold unless configured*. Owns what a limit may
be set to as well. Does not know where a setting comes from, nor who keeps to it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from stoker.model.egress import RULES_MAX, TUNNELS_MAX

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MINUTE_MS = 60 * 1000
DAY_MS = 24 * 60 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Limits:
    """One value for the life of a server."""

    request_bytes_max: int = 64 * MIB
    """The body of a request."""
    held_bodies_bytes_max: int = 1 * GIB
    """What the bodies of all requests under way take of the memory, but for a MiB of each."""
    header_bytes_max: int = 64 * KIB
    """A request's target and all its headers."""
    code_bytes_max: int = 256 * MIB
    """One function's unpacked assets."""
    code_files_max: int = 10_000
    """Files and links of one function, and as many folders."""
    payload_bytes_max: int = 6 * MIB
    """The payload of a RequestResponse call."""
    async_payload_bytes_max: int = 1 * MIB
    """The payload of an Async call."""
    result_bytes_max: int = 6 * MIB
    """The result of a call, as JSON."""
    timeout_ms_default: int = 30_000
    """`timeout` of a function that gives none."""
    timeout_ms_min: int = 1
    """The shortest `timeout`."""
    timeout_ms_max: int = 900_000
    """The longest `timeout`."""
    ttl_ms_max: int = 365 * DAY_MS
    """The longest `ttl` of `monitor_config`."""
    log_bytes_max: int = 256 * KIB
    """The log of one invocation; what is past it is drained and counted."""
    tmp_bytes_max: int = 64 * MIB
    """`/tmp` of an instance; what lies in it counts as memory."""
    processes_max: int = 64
    """Processes and threads of an instance beyond the runtime's own."""
    name_chars_max: int = 128
    """A name of a function or collection, and an `asset_type`."""
    topic_chars_max: int = 64
    """The topic of a new collection: a token of a subject."""
    description_chars_max: int = 4_096
    """A description."""
    settings_bytes_max: int = 16 * KIB
    """Each of `monitor_config`, `retry`, `concurrency`, `network`, and what `schema` has beside `input` and
    `output`, as JSON."""
    schema_bytes_max: int = 256 * KIB
    """Each of `schema.input` and `schema.output`, as JSON."""
    schema_depth_max: int = 64
    """Subschemas within each other."""
    schema_expansion_max: int = 10_000
    """Subschemas that one value may have to be held against, references followed."""
    env_bytes_max: int = 64 * KIB
    """All `env_vars` of a function together."""
    secrets_max: int = 100
    """Secrets that one function lists."""
    secret_bytes_max: int = 32 * KIB
    """The value of a secret."""
    account_secrets_max: int = 1_000
    """Secrets of an account."""
    account_tokens_max: int = 1_000
    """Tokens of an account."""
    wait_ms_max: int = 5_000
    """How long a synchronous call waits for an instance."""
    waiting_calls_max: int = 1_000
    """Calls of one function that wait for an instance."""
    instances_max: int = 256
    """Instances that serve functions, on this machine."""
    idle_ms_max: int = 15 * MINUTE_MS
    """An instance that served nothing for so long is ended."""
    connections_max: int = 4_096
    """Clients at once: when another comes, the oldest that asks for nothing just now makes room."""
    request_wait_ms_max: int = 60_000
    """From the first byte of a request to its last."""
    idle_connection_ms_max: int = 75_000
    """A connection that asks for nothing for so long is closed."""
    drain_ms_max: int = 30_000
    """How long accepted work may go on after SIGTERM."""
    record_bytes_max: int = 5 * GIB
    """The records of an account in all; past it the oldest go first."""
    unstored_bytes_max: int = 64 * MIB
    """Records of ended calls that wait to be stored, while the store is away; past it the oldest are lost."""
    dead_letter_ms_max: int = 7 * DAY_MS
    """How long a dead letter is kept, whatever its function's `ttl`."""
    idempotency_ms_max: int = DAY_MS
    """How long an Idempotency-Key is known."""
    record_wait_ms_max: int = 60_000
    """How long `?wait=` may wait for the end of an invocation."""
    followers_max: int = 64
    """Live tails of logs at once."""
    egress_rules_max: int = 100
    """Rules of `network.egress` of one function."""
    egress_tunnels_max: int = 20
    """Entries of `network.tunnels` of one function."""
    egress_connections_max: int = 256
    """Connections to the outside that one instance has at once."""
    egress_account_connections_max: int = 1_024
    """Connections to the outside that all instances of an account have at once."""
    egress_bytes_max: int = 1 * GIB
    """What passes through all connections of one call to the outside, both ways together."""
    egress_account_bytes_max: int = 64 * GIB
    """What passes through all connections of an account to the outside within a minute."""
    egress_idle_ms_max: int = 5 * MINUTE_MS
    """A connection to the outside in which nothing passes for so long is cut."""
    egress_connect_ms_max: int = 10_000
    """Looking a name up and connecting to it."""


TTL_MS_DEFAULT = 7 * DAY_MS
"""How long records are kept where a function says nothing."""
MOST_BY_UNIT = MappingProxyType({"bytes": 1 << 50, "ms": 36_500 * DAY_MS})
"""What a limit of that unit may be at most: past it times leave the calendar, sizes what kernels take."""
MOST_OTHERWISE = 1_000_000
_BOUNDS = MappingProxyType(
    {
        "header_bytes_max": (4 * KIB, 16 * MIB),  # the longest token of an administrator fits in it
        "payload_bytes_max": (1, 256 * MIB),  # it and the result are one text in memory, a few times over
        "async_payload_bytes_max": (1, 256 * MIB),
        "result_bytes_max": (1, 256 * MIB),
        "timeout_ms_max": (1, 2**32 - 1),  # the wire has 32 bits for it
        "tmp_bytes_max": (4 * KIB, 1 << 50),  # a page
        "name_chars_max": (1, 1024),
        "topic_chars_max": (1, 64),  # the grammar of subjects
        # An event that holds all of these together fits into one message of NATS.
        "description_chars_max": (1, 128 * KIB),
        "settings_bytes_max": (1 * KIB, 256 * KIB),
        "schema_bytes_max": (1, 1 * MIB),
        "env_bytes_max": (1, 1 * MIB),
        "secrets_max": (1, 1_000),
        "secret_bytes_max": (1, 1 * MIB),
        "egress_rules_max": (1, RULES_MAX),
        "egress_tunnels_max": (1, TUNNELS_MAX),
        "schema_depth_max": (1, 250),  # the depth of any JSON that is taken
    }
)
_AT_MOST = (
    ("timeout_ms_min", "timeout_ms_default"),
    ("timeout_ms_default", "timeout_ms_max"),
    ("request_bytes_max", "held_bodies_bytes_max"),
    ("payload_bytes_max", "request_bytes_max"),
    ("async_payload_bytes_max", "request_bytes_max"),
)


def bounds_of(name: str) -> tuple[int, int]:
    """Return the least and the most that a limit may be set to."""
    if name in _BOUNDS:
        return _BOUNDS[name]
    return 1, MOST_BY_UNIT.get(unit_of(name), MOST_OTHERWISE)


def unit_of(name: str) -> str:
    """Return the unit that a limit's name tells: `ms`, `bytes`, `chars` or what is counted."""
    return name.split("_")[-2]


def for_stored(limits: Limits) -> Limits:
    """Return the limits for code and schemas that are stored: within what held when they came.

    A limit that is lowered must not end what runs already.
    """
    names = (
        "code_bytes_max",
        "code_files_max",
        "schema_bytes_max",
        "schema_depth_max",
        "schema_expansion_max",
    )
    return replace(limits, **{name: bounds_of(name)[1] for name in names})


def fault_of(limits: Limits) -> str | None:
    """Return what is wrong with the first limit that makes no sense, its name first; None if all do."""
    for name in (field.name for field in fields(Limits)):
        value = getattr(limits, name)
        least, most = bounds_of(name)
        if not least <= value <= most:
            return f"{name} is from {least} to {most}, not {value}"
    for low, high in _AT_MOST:
        if getattr(limits, low) > getattr(limits, high):
            return f"{low} ({getattr(limits, low)}) is more than {high} ({getattr(limits, high)})"
    if limits.ttl_ms_max < TTL_MS_DEFAULT:
        kept = f"what records are kept for by default ({TTL_MS_DEFAULT})"
        return f"ttl_ms_max ({limits.ttl_ms_max}) is less than {kept}"
    one = limits.payload_bytes_max + limits.result_bytes_max + limits.log_bytes_max
    if limits.record_bytes_max < one:
        parts = "payload_bytes_max, result_bytes_max and log_bytes_max together"
        return f"record_bytes_max ({limits.record_bytes_max}) is less than {parts} ({one})"
    return None
