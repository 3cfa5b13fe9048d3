"""Launch plans: what has to run inside a sandbox, as a value.

`runtimes` makes them, `sandbox` carries them out; neither knows the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """How one runtime is started, in a sandbox and (without isolation) as a plain process.

    The program finds the wire as its standard input, and moves it away at once. It says HELLO on the
    wire once it has booted and waits to be given to a function.
    """

    runtime: str
    """The name in the API, `nodejs` or `python`."""
    version: str
    """The runtime's own version, for instance `24.19.0`."""
    layers: tuple[Path, ...]
    """Host directories that make up the root file system, the uppermost first. Read-only."""
    argv: tuple[str, ...]
    """The command inside the sandbox."""
    env: tuple[tuple[str, str], ...]
    """The whole environment inside the sandbox."""
    process_argv: tuple[str, ...]
    """The command for `--isolation process`, in terms of the host."""
    own_threads: int
    """Processes and threads that the runtime may itself start after its boot."""


@dataclass(frozen=True, slots=True)
class InstanceLimits:
    """What one instance may use, from the moment it is given to a function."""

    memory_bytes: int
    cpu_millis: int
    """Thousandths of a core that it gets under contention; idle CPU is free to use."""
    processes: int
    """Beyond the runtime's own."""


@dataclass(frozen=True, slots=True)
class Code:
    """The folder a function sees as `/code`."""

    path: Path
    """Host directory, complete and never changed after."""
    writable: bool
    """True: the instance gets a private, size-bounded copy that it may write to."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a sandbox ended."""

    code: int | None = None
    """The exit code of the runtime's process, None if a signal ended it or it is not known."""
    signal: int | None = None
    killed_from_outside: bool = False
    """True if a signal ended the sandbox's init itself, which nothing inside can send: the platform lost
    it (or ended it on purpose)."""
    out_of_memory: bool = False
    processes_limit_hit: bool = False
    memory_peak_bytes: int = 0
