"""Machines: the sandbox instances that serve functions, as they are shown to who asks.

A value; does not know how a sandbox is made, nor how it is answered.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.function import Function


@dataclass(frozen=True, slots=True)
class Machine:
    """One instance that serves a function."""

    id: str
    number: int
    """Of two on this server the one that came later has the higher."""
    pid: int | None
    """The host's, of its first process; None if that is not known."""
    function: Function
    runtime_version: str
    created_ms: int
    """Wall clock, milliseconds since the epoch, when it was given to its function."""
    memory_bytes: int
    """The most it may use."""
    isolation: str
    """What isolates it: `crun`, `runc`, `runsc` or `process`."""
