"""Control groups of version 2: one directory in the one hierarchy.

Verified on Debian 12 (Linux 6.1, systemd 252) as root: from a login shell's scope and from services with and
without Delegate=. Source: Documentation/admin-guide/cgroup-v2.rst. Knows the files and their order of
writing; nothing of sandboxes.
"""

from __future__ import annotations

import os

from stoker.sandbox.cgroups import (
    NEEDED,
    SHARES_PER_CORE,
    CgroupsUnusable,
    Figures,
    counter,
    read,
    read_if_there,
    removed,
    write,
)
from stoker.sandbox.stats import Stats, keyed, limit_of, operations_v2, stats_of

CORE_WEIGHT = 100
"""The kernel's default."""
MEMORY_STAT = (
    "anon",
    "file",
    "kernel_stack",
    "sock",
    "shmem",
    "file_mapped",
    "pgfault",
    "pgmajfault",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
)
"""What is told of memory.stat."""


class CgroupsV2:
    """`Cgroups` on version 2. `name` is the parent's, without a slash."""

    swap_limit = False
    """memory.swap.max stands apart; `limit` sets it to 0."""

    def __init__(self, point: str, name: str) -> None:
        self._point = point
        self._name = name

    def prepare(self, cores: int) -> None:
        """Make the parent and hand the controllers down to its children."""
        offered = read(f"{self._point}/cgroup.controllers").split()
        missing = [name for name in NEEDED if name not in offered]
        if missing:
            raise CgroupsUnusable(f"the cgroup controllers {', '.join(missing)} are not available")
        wanted = " ".join(f"+{name}" for name in NEEDED)
        parent = f"{self._point}/{self._name}"
        try:
            if not set(NEEDED) <= set(read(f"{self._point}/cgroup.subtree_control").split()):
                # EBUSY if processes lie in this very group and it is not the machine's root.
                write(f"{self._point}/cgroup.subtree_control", wanted)
            os.makedirs(parent, exist_ok=True)
            write(f"{parent}/cgroup.subtree_control", wanted)
            write(f"{parent}/cpu.weight", weight_of(cores * SHARES_PER_CORE))
        except OSError as error:
            raise CgroupsUnusable(f"cannot make a cgroup: {error.strerror}") from error

    def path(self, sandbox: str) -> str:
        """Return the path below the mount."""
        return f"/{self._name}/{sandbox}"

    def weigh(self, sandbox: str, shares: int) -> None:
        """Write cpu.weight."""
        write(f"{self._of(sandbox)}/cpu.weight", weight_of(shares))

    def limit(self, sandbox: str, *, memory_bytes: int, shares: int, processes: int) -> None:
        """Write memory, swap, CPU and pids; an OOM kill takes the whole group from now on."""
        group = self._of(sandbox)
        write(f"{group}/memory.oom.group", 1)
        if os.path.exists(f"{group}/memory.swap.max"):
            write(f"{group}/memory.swap.max", 0)
        write(f"{group}/memory.max", memory_bytes)
        self.weigh(sandbox, shares)
        write(f"{group}/pids.max", int(read(f"{group}/pids.current")) + processes)

    def watch(self, sandbox: str) -> int | None:
        """None: memory.oom.group makes the kernel kill the whole group."""
        return None

    def figures(self, sandbox: str) -> Figures:
        """Read the peak (Linux 5.19 and newer), the kills and the refused forks."""
        group = self._of(sandbox)
        try:
            out_of_memory = counter(read(f"{group}/memory.events"), "oom_kill") > 0
            peak = int(read(self.memory_file(sandbox)))
            if out_of_memory:  # without memory.peak that is what is left after the kill
                peak = max(peak, limit_of(read(f"{group}/memory.max")))
            return Figures(
                memory_peak_bytes=peak,
                processes_limit_hit=counter(read(f"{group}/pids.events"), "max") > 0,
                out_of_memory=out_of_memory,
            )
        except FileNotFoundError:
            return Figures(0, False, False)

    def memory_file(self, sandbox: str) -> str:
        """Return memory.peak, which Linux 5.19 brought, else memory.current."""
        peak = f"{self._of(sandbox)}/memory.peak"
        return peak if os.path.exists(peak) else f"{self._of(sandbox)}/memory.current"

    def stats(self, sandbox: str) -> Stats:
        """Read cpu, memory and pids, and io where that controller is handed down."""
        group = self._of(sandbox)
        cpu, counted = keyed(read(f"{group}/cpu.stat")), keyed(read(f"{group}/memory.stat"))
        return stats_of(
            total_ns=cpu.get("usage_usec", 0) * 1000,
            user_ns=cpu.get("user_usec", 0) * 1000,
            kernel_ns=cpu.get("system_usec", 0) * 1000,
            throttling=(
                cpu.get("nr_periods", 0),
                cpu.get("nr_throttled", 0),
                cpu.get("throttled_usec", 0) * 1000,
            ),
            memory={
                "usage": int(read(f"{group}/memory.current")),
                "limit": limit_of(read(f"{group}/memory.max")),
                "max": int(read(self.memory_file(sandbox))),
                "failcnt": counter(read(f"{group}/memory.events"), "max"),
            },
            cache_bytes=counted.get("file", 0),
            memory_stat={name: counted[name] for name in MEMORY_STAT if name in counted},
            pids={
                "current": int(read(f"{group}/pids.current")),
                "limit": limit_of(read(f"{group}/pids.max")),
            },
            blkio=list(operations_v2(read_if_there(f"{group}/io.stat"))),
        )

    def members(self, sandbox: str) -> list[int]:
        """Read cgroup.procs."""
        try:
            return [int(pid) for pid in read(f"{self._of(sandbox)}/cgroup.procs").split()]
        except FileNotFoundError:
            return []

    def remove(self, sandbox: str) -> bool:
        """Remove the directory."""
        return removed(self._of(sandbox))

    def children(self) -> list[str]:
        """List the directories below the parent."""
        parent = f"{self._point}/{self._name}"
        if not os.path.isdir(parent):
            return []
        return sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())

    def close(self) -> bool:
        """Remove the parent."""
        return removed(f"{self._point}/{self._name}")

    def _of(self, sandbox: str) -> str:
        return f"{self._point}/{self._name}/{sandbox}"


def weight_of(shares: int) -> int:
    """Return the cpu.weight (1 to 10000) of cpu.shares: a core's 1024 are 100, what every other group has.

    The formula of older OCI runtimes makes 39 of them, so that a neighbour would count for three cores.
    """
    return min(max(shares * CORE_WEIGHT // SHARES_PER_CORE, 1), 10_000)
