"""What the worker asks of a sandbox, and of whatever makes sandboxes.

Owns the two protocols and the error of a machine that has no isolation to offer. Does not know languages,
functions or frames. `supervised` and `process` carry it out.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from stoker.model.egress import EgressPolicy
from stoker.model.errors import PlatformError, StokerError
from stoker.model.injection import Injected
from stoker.model.launch import Code, Exit, InstanceLimits, LaunchPlan
from stoker.model.limits import Limits
from stoker.model.network import NetworkUse

Notice = Callable[[str, Mapping[str, object]], None]
"""Takes an event's name and its fields for the operator's log."""


class IsolationUnavailable(StokerError):
    """No engine works here. `message` says what is wrong, `hint` the one command to type."""

    code = "isolation.unavailable"


class SandboxGone(PlatformError):
    """It ended before it could do what was asked; `ended()` tells how."""


@dataclass(frozen=True, slots=True)
class Site:
    """What is fixed for the life of an engine."""

    data: Path
    """The data directory; a hash of its real path is in the name of every cgroup."""
    code_root: Path
    """Every `Code.path` is a folder directly in it, named by 64 hexadecimal digits."""
    plans: tuple[LaunchPlan, ...]
    """All that can ever be booted; one a runtime."""
    limits: Limits
    egress: EgressPolicy = field(default_factory=EgressPolicy)
    authorities: str = ""
    """A file of certificate authorities, for a machine that has none of its own."""


@dataclass(frozen=True, slots=True)
class WayOut:
    """What a sandbox may reach, and who hears of it."""

    account: str
    """Whose it is: what all of an account share is bounded."""
    rules: tuple[str, ...]
    """As `model.egress` reads them."""
    active: Callable[[], None]
    """Told that it uses the network, once after each `tally`."""
    refused: Callable[[str], None]
    """Given a line for the log of the call that runs, of each connection that was not let through."""
    injects: bool
    """Whether secrets go into its requests."""
    headers: Callable[[str, int], Awaitable[Sequence[Injected]]]
    """Asked what goes into a request to a canonical host and port; raises StokerError."""
    injected: Callable[[str, str], None]
    """Told of each secret that went out, by its name, and the host."""
    inward: Callable[[socket.socket], None]
    """Given each connection to stoker's own API, to serve and to close."""


class Sandbox(Protocol):
    """One booted program and everything that it may start.

    The caller closes `wire` and `output` when it has done with them, also of a sandbox that has ended.
    """

    id: str
    """12 hexadecimal digits, unique on this machine."""
    pid: int | None
    """The host's, of its first process; None if that was gone already."""
    wire: socket.socket
    """The host's end of a stream socket pair, non-blocking; its peer is descriptor 0 of the program."""
    output: int
    """Non-blocking read end of the one pipe that is descriptors 1 and 2 of the program."""
    code_root: str
    """Where the program finds its code, once assigned: `/code`, or a path of the host without isolation."""

    environment: Mapping[str, str]
    """Variables that tell the program of its way out; they come before those of the function."""

    async def assign(self, code: Code | None, limits: InstanceLimits, tunnels: tuple[str, ...] = ()) -> None:
        """Give it to a function, once: its code appears at `code_root` and the limits are in force.

        The host of each of `tunnels`, `host:port` in small letters, resolves inside from then on, to where
        that port listens; what connects to it goes on to the very host and port if `reach` allows that.
        Without isolation there are no tunnels: names are the machine's.
        The program has to chdir there again, as the code hides the empty folder it was started in. Raises
        PlatformError, SandboxGone if it has ended; either way it is of no more use and is being killed.
        """

    def reach(self, way_out: WayOut) -> None:
        """Let it reach the outside, once; before, it reaches nothing."""

    def tally(self, taken: Callable[[tuple[NetworkUse, ...]], None]) -> None:
        """Count what it used of the network since this was called last, and tell `taken`, soon.

        Where nobody can tell within TALLY_S_MAX, that is one entry for an unknown host.
        """

    def kill(self) -> None:
        """End it and all it has started. Returns at once, may be called at any time and again."""

    async def ended(self) -> Exit:
        """Return how it ended, once nothing of it runs any more. Many may wait."""

    async def usage(self) -> Exit:
        """Return the figures of a living one (`memory_peak_bytes`, `processes_limit_hit`), or, if it has
        ended, what `ended` says."""

    def memory_peak(self) -> int:
        """Return the most memory it has used so far, in bytes; a quick look, at any time, 0 if unknown."""

    async def stats(self) -> dict[str, Any] | None:
        """Return what its cgroup counted, as an OCI runtime's `events --stats` does: `cpu` (nanoseconds),
        `memory`, `pids` and `blkio` (bytes, operations). None if it has ended. Raises PlatformError."""


class Engine(Protocol):
    """Makes sandboxes; one a server."""

    name: str
    """`crun`, `runc`, `runsc` or `process`."""

    async def boot(self, plan: LaunchPlan, *, urgent: bool) -> Sandbox:
        """Start one of the site's plans; return once the program has been started (it says HELLO later).

        What is not urgent boots at the lowest CPU weight. Raises PlatformError. If the caller is
        cancelled, what has been started is killed.
        """

    async def hurry(self, sandbox: Sandbox) -> None:
        """Give a spare that still boots the CPU weight of a core, as somebody waits for it now."""

    async def close(self) -> None:
        """Kill all sandboxes and return once no process, mount or cgroup of them is left. Idempotent."""

    async def ended(self) -> None:
        """Return when no sandbox lives or can be booted any more, be it closed or broken."""
