"""What a server leaves on a machine: its processes, cgroups, mounts and files, looked at in the kernel."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

GUARD_S_MAX = 20.0
"""Against a hang; what is waited for is an event, not a time."""
GONE_S_MAX = 1.0
"""The operating contract: after kill -9 everything is gone within a second."""

_CGROUP = Path("/sys/fs/cgroup")
_GROUPS = ("stoker-", "*/stoker-")
"""Where a server's groups begin in the one hierarchy of version 2 and in each of version 1."""
_MEMORY_LIMITS = ("stoker-*/*/memory.max", "memory/stoker-*/*/memory.limit_in_bytes")


def wait_until(happened: Callable[[], bool]) -> None:
    """Return once `happened` is true; the test fails if it never is."""
    deadline = time.monotonic() + GUARD_S_MAX
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail("what was waited for did not happen")
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """Return all processes below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def wait_until_gone(pids: list[int]) -> list[int]:
    """Return those of `pids` that still run when the contract's second is over."""
    deadline = time.monotonic() + GONE_S_MAX
    while left := [pid for pid in pids if _runs(pid)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.01)
    return []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def groups_with_memory_limit(memory_bytes: int) -> list[Path]:
    """Return the cgroups of living sandboxes with exactly this memory limit."""
    found = []
    for file in (file for pattern in _MEMORY_LIMITS for file in _CGROUP.glob(pattern)):
        try:
            if int(file.read_text()) == memory_bytes:
                found.append(file.parent)
        except (OSError, ValueError):
            continue  # it ended while we looked
    return found


def leftovers(data: Path) -> list[str]:
    """Return what a server of this data directory has left: cgroups, mounts, files in /run and /tmp."""
    owner = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:12]
    cgroups = [str(path) for pattern in _GROUPS for path in _CGROUP.glob(f"{pattern}{owner}*")]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if owner in line]
    files = [str(p) for folder in ("/run", "/tmp") for p in Path(folder).glob(f"*{owner}*")]
    return cgroups + mounts + files
