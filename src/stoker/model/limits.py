"""Limits: every number that bounds a request, a call or an instance, with its unit in its name.

Source of the defaults: the operating contract, *Sizes that hold unless configured*. Does not know
where a setting comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """One value for the life of a server."""

    request_bytes_max: int = 64 * MIB
    code_bytes_max: int = 256 * MIB
    """One function's unpacked assets."""
    code_files_max: int = 10_000
    payload_bytes_max: int = 6 * MIB
    async_payload_bytes_max: int = 1 * MIB
    result_bytes_max: int = 6 * MIB
    timeout_ms_default: int = 30_000
    timeout_ms_min: int = 1
    timeout_ms_max: int = 900_000
    ttl_ms_max: int = 365 * 24 * 3600 * 1000
    log_bytes_max: int = 256 * KIB
    """Of one invocation; what is past it is drained and counted."""
    tmp_bytes_max: int = 64 * MIB
    processes_max: int = 64
    """Processes and threads of an instance beyond the runtime's own."""
    name_chars_max: int = 128
    schema_bytes_max: int = 256 * KIB
    schema_depth_max: int = 64
    schema_expansion_max: int = 10_000
    """How many subschemas one value may have to be held against (references followed)."""
    env_bytes_max: int = 64 * KIB
    """All `env_vars` of a function together."""
    wait_ms_max: int = 5_000
    """How long a synchronous call waits for an instance."""
    waiting_calls_max: int = 1_000
    """Calls of one function that wait for an instance."""
    instances_max: int = 256
    """Instances that serve a function, on this machine."""
    idle_ms_max: int = 15 * 60 * 1000
    """An instance that served nothing for so long is ended."""
    connections_max: int = 4_096
    """Of clients at once: when another comes, the oldest that asks for nothing just now makes room."""
    header_bytes_max: int = 64 * KIB
    request_wait_ms_max: int = 60_000
    """From the first byte of a request to its last."""
    idle_connection_ms_max: int = 75_000
    drain_ms_max: int = 30_000
    """How long accepted work may go on after SIGTERM."""
    record_bytes_max: int = 5 * GIB
    """What the records of an account take in all; past it the oldest go first."""
    unstored_bytes_max: int = 64 * MIB
    """Records of ended calls that wait to be stored, while the store is away; past it the oldest are lost."""
    dead_letter_ms_max: int = 7 * 24 * 3600 * 1000
    """How long a dead letter is kept, whatever its function's `ttl`."""
    idempotency_ms_max: int = 24 * 3600 * 1000
    """How long an Idempotency-Key is known."""
    record_wait_ms_max: int = 60_000
    """How long `?wait=` may wait for the end of an invocation."""
    followers_max: int = 64
    """Live tails of logs at once."""
