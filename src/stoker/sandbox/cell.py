"""One sandbox as the supervisor keeps it: its state and everything that must be given back.

    STARTING -> LIVE -> KILLED -> OVER      the OCI runtime works; the program runs; SIGKILL is on its way;
        |         |                  ^      its first process is gone, and with it, by the kernel, all
        +---------+------------------+      others of its PID namespace

Does not know how a state is reached. Standard library only.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from enum import Enum

from stoker.sandbox.oci import Launch
from stoker.sandbox.protocol import Assign, Boot


class State(Enum):
    """Where a sandbox is in its life."""

    STARTING = "starting"
    LIVE = "live"
    KILLED = "killed"
    OVER = "over"


TRANSITIONS = {
    State.STARTING: {State.LIVE, State.OVER},
    State.LIVE: {State.KILLED, State.OVER},
    State.KILLED: {State.OVER},
    State.OVER: set(),
}


@dataclass(slots=True)
class Cell:
    """A sandbox; `id` names its cgroup, folders and state."""

    id: str
    slot: int
    own_threads: int
    boot: Boot
    launch: Launch
    state: State = State.STARTING
    pidfd: int | None = None
    oom_event: int | None = None
    assigned: Assign | None = None
    copier_pid: int | None = None
    """The child that fills a writable /code."""
    removals: int = 0
    """How often its cgroup was still busy."""

    def enter(self, state: State) -> None:
        """Go to a state; a step that the table does not know is a fault of ours."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self.state} -> {state}")
        self.state = state

    def kill(self) -> None:
        """Send SIGKILL to the first process; harmless at any time."""
        if self.state is State.LIVE:
            self.enter(State.KILLED)
        if self.state is State.KILLED and self.pidfd is not None:
            _signal(self.pidfd)

    def close(self) -> None:
        """Close the descriptors that it holds."""
        for handle in (self.pidfd, self.oom_event):
            if handle is not None:
                os.close(handle)
        self.pidfd = self.oom_event = None


def _signal(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
