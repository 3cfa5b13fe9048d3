"""How things are broken: processes that are killed or stand still, told by what the kernel calls them."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.processes import descendants, groups_with_memory_limit, wait_until, wait_until_gone


def comm(pid: int) -> str:
    """Return the name of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def nats_of(pid: int) -> int:
    """Return the pid of the server's nats-server."""
    found = [one for one in descendants(pid) if comm(one) == "nats-server"]
    assert len(found) == 1, found
    return found[0]


def sandboxes_of(pid: int) -> list[int]:
    """Return the first process of each sandbox: what is pid 1 in there."""
    return [one for one in descendants(pid) if _pid_inside(one) == 1 and comm(one) == "sh"]


def processes_in(size_mb: int) -> list[int]:
    """Return the processes of the sandboxes that have this memory limit."""
    groups = groups_with_memory_limit(size_mb << 20)
    return [int(pid) for group in groups for pid in (group / "cgroup.procs").read_text().split()]


def _pid_inside(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), 0)


def kill_everything(pid: int) -> None:
    """Kill a server with all that it has started; return when nothing of it runs."""
    everything = [pid, *descendants(pid)]
    for one in everything:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    assert not wait_until_gone(everything[1:])


def kill_nats(pid: int) -> None:
    """Kill the store alone; return when another has taken its place."""
    old = nats_of(pid)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: any(comm(one) == "nats-server" and one != old for one in descendants(pid)))


def kill_some_sandboxes(pid: int, chance: random.Random) -> int:
    """Kill half of all sandboxes, spares too; return how many."""
    found = sandboxes_of(pid)
    chosen = chance.sample(found, -(-len(found) // 2))
    for one in chosen:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    return len(chosen)


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Let processes stand still in between."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def stand_still(pids: list[int], seconds: float) -> None:
    """Let processes stand still for so long."""
    with stopped(pids):
        time.sleep(seconds)
