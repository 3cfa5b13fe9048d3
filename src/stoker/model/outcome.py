"""Outcomes: how an invocation ended. A failing function is one of these, never an exception.

Source: the contract's table *What can end a call*. Does not know status codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from stoker.model.network import NetworkUse


class EndReason(Enum):
    """The closed set of end reasons."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    PROCESSES = "processes"
    OUTPUT = "output"
    INPUT_SCHEMA = "input_schema"
    OUTPUT_SCHEMA = "output_schema"
    CANCELLED = "cancelled"
    LOST = "lost"


END_REASON_OF_CODE = {
    "function.error": EndReason.ERROR,
    "function.load_failed": EndReason.ERROR,
    "function.exited": EndReason.ERROR,
    "function.timeout": EndReason.TIMEOUT,
    "function.out_of_memory": EndReason.MEMORY,
    "function.too_many_processes": EndReason.PROCESSES,
    "function.result_invalid": EndReason.OUTPUT,
    "function.result_too_large": EndReason.OUTPUT,
    "schema.input": EndReason.INPUT_SCHEMA,
    "schema.output": EndReason.OUTPUT_SCHEMA,
    "invocation.cancelled": EndReason.CANCELLED,
    "invocation.expired": EndReason.ERROR,
    "platform.lost": EndReason.LOST,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an invocation did not end well; shown to the caller as it is."""

    code: str
    error: str
    error_type: str | None = None
    stack: str | None = None
    """The user's frames only, one a line; paths are those inside the sandbox."""
    field: str | None = None

    @property
    def reason(self) -> EndReason:
        """The end reason that belongs to the code."""
        return END_REASON_OF_CODE[self.code]


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of an invocation went, in milliseconds."""

    queue_ms: float
    init_ms: float
    """Giving an instance to the function; 0 for a warm one."""
    run_ms: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one invocation ended, with its log in it."""

    result: bytes | None
    """The result as JSON text in UTF-8; None if it failed."""
    failure: Failure | None
    log: bytes
    """What it printed, at most `log_bytes_max`."""
    log_bytes: int
    """What it printed in all, also what was cut."""
    timings: Timings
    memory_bytes: int = 0
    network: tuple[NetworkUse, ...] = ()
    """What it used of the network, by host."""

    @property
    def reason(self) -> EndReason:
        """The end reason; `ok` without a failure."""
        return self.failure.reason if self.failure else EndReason.OK
