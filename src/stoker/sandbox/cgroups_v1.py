"""Control groups of version 1: one directory in each of several hierarchies.

Verified on a hybrid machine. Knows the files and their order of writing; nothing of sandboxes.
"""

from __future__ import annotations

import os

from stoker.sandbox.cgroups import (
    NEEDED,
    SHARES_PER_CORE,
    CgroupsUnusable,
    Figures,
    Mount,
    counter,
    read,
    read_if_there,
    removed,
    write,
)
from stoker.sandbox.stats import Stats, keyed, limit_of, operations_v1, stats_of

MEMORY_STAT = (
    "cache",
    "rss",
    "mapped_file",
    "shmem",
    "swap",
    "pgfault",
    "pgmajfault",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
)
"""What is told of memory.stat."""


class CgroupsV1:
    """`Cgroups` on version 1. `name` is the parent's, without a slash."""

    def __init__(self, mounts: list[Mount], name: str) -> None:
        self._name = name
        self._points = [mount.point for mount in mounts]
        self._by_controller = {
            controller: mount.point for mount in mounts for controller in mount.controllers
        }
        memory = self._by_controller.get("memory")
        self.swap_limit = bool(memory) and os.path.exists(f"{memory}/memory.memsw.limit_in_bytes")

    def prepare(self, cores: int) -> None:
        """Make the parent; the OCI runtime makes it in the hierarchies that limit nothing."""
        missing = [name for name in NEEDED if name not in self._by_controller]
        if missing:
            raise CgroupsUnusable(f"no cgroup hierarchy for {', '.join(missing)} is mounted")
        try:
            for controller in NEEDED:
                os.makedirs(f"{self._by_controller[controller]}/{self._name}", exist_ok=True)
            write(f"{self._by_controller['cpu']}/{self._name}/cpu.shares", cores * SHARES_PER_CORE)
        except OSError as error:
            raise CgroupsUnusable(f"cannot make a cgroup: {error.strerror}") from error

    def path(self, sandbox: str) -> str:
        """Return the path in every hierarchy."""
        return f"/{self._name}/{sandbox}"

    def weigh(self, sandbox: str, shares: int) -> None:
        """Write cpu.shares."""
        write(f"{self._of('cpu', sandbox)}/cpu.shares", shares)

    def limit(self, sandbox: str, *, memory_bytes: int, shares: int, processes: int) -> None:
        """Write memory, swap, CPU and pids."""
        memory = self._of("memory", sandbox)
        files = [f"{memory}/memory.limit_in_bytes"]
        if self.swap_limit:
            files.append(f"{memory}/memory.memsw.limit_in_bytes")
            # The kernel never lets the sum of memory and swap be below its part.
            if memory_bytes > int(read(files[1])):
                files.reverse()
        for file in files:
            write(file, memory_bytes)
        self.weigh(sandbox, shares)
        pids = self._of("pids", sandbox)
        write(f"{pids}/pids.max", int(read(f"{pids}/pids.current")) + processes)

    def watch(self, sandbox: str) -> int | None:
        """Return an eventfd that the kernel signals when it kills for want of memory."""
        memory = self._of("memory", sandbox)
        control = os.open(f"{memory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            write(f"{memory}/cgroup.event_control", f"{event} {control}")
        except OSError:
            os.close(event)
            raise
        finally:
            os.close(control)
        return event

    def figures(self, sandbox: str) -> Figures:
        """Read the peak, the kills and the refused forks."""
        memory = self._of("memory", sandbox)
        try:
            return Figures(
                memory_peak_bytes=int(read(self.memory_file(sandbox))),
                processes_limit_hit=counter(read(f"{self._of('pids', sandbox)}/pids.events"), "max") > 0,
                out_of_memory=counter(read(f"{memory}/memory.oom_control"), "oom_kill") > 0,
            )
        except FileNotFoundError:
            return Figures(0, False, False)

    def memory_file(self, sandbox: str) -> str:
        """Return memory.max_usage_in_bytes."""
        return f"{self._of('memory', sandbox)}/memory.max_usage_in_bytes"

    def stats(self, sandbox: str) -> Stats:
        """Read cpuacct, cpu, memory, pids and blkio; zeros for a hierarchy that is not mounted."""
        memory, pids = self._of("memory", sandbox), self._of("pids", sandbox)
        throttled = keyed(read(f"{self._of('cpu', sandbox)}/cpu.stat"))
        counted = keyed(read(f"{memory}/memory.stat"))
        return stats_of(
            total_ns=self._number("cpuacct", sandbox, "cpuacct.usage"),
            user_ns=self._number("cpuacct", sandbox, "cpuacct.usage_user"),
            kernel_ns=self._number("cpuacct", sandbox, "cpuacct.usage_sys"),
            throttling=(
                throttled.get("nr_periods", 0),
                throttled.get("nr_throttled", 0),
                throttled.get("throttled_time", 0),
            ),
            memory={
                "usage": int(read(f"{memory}/memory.usage_in_bytes")),
                "limit": int(read(f"{memory}/memory.limit_in_bytes")),
                "max": int(read(self.memory_file(sandbox))),
                "failcnt": int(read(f"{memory}/memory.failcnt")),
            },
            cache_bytes=counted.get("cache", 0),
            memory_stat={name: counted[name] for name in MEMORY_STAT if name in counted},
            pids={
                "current": int(read(f"{pids}/pids.current")),
                "limit": limit_of(read(f"{pids}/pids.max")),
            },
            blkio=list(
                operations_v1(self._text("blkio", sandbox, "blkio.throttle.io_service_bytes_recursive"))
            ),
        )

    def members(self, sandbox: str) -> list[int]:
        """Read cgroup.procs."""
        try:
            return [int(pid) for pid in read(f"{self._of('pids', sandbox)}/cgroup.procs").split()]
        except FileNotFoundError:
            return []

    def remove(self, sandbox: str) -> bool:
        """Remove the directory in every hierarchy."""
        return all([removed(f"{point}/{self._name}/{sandbox}") for point in self._points])

    def children(self) -> list[str]:
        """List the directories of all hierarchies."""
        names: set[str] = set()
        for point in self._points:
            parent = f"{point}/{self._name}"
            if os.path.isdir(parent):
                names.update(entry.name for entry in os.scandir(parent) if entry.is_dir())
        return sorted(names)

    def close(self) -> bool:
        """Remove the parent in every hierarchy."""
        return all([removed(f"{point}/{self._name}") for point in self._points])

    def _text(self, controller: str, sandbox: str, file: str) -> str:
        """Return what a file of a controller says that may not be there."""
        if controller not in self._by_controller:
            return ""
        return read_if_there(f"{self._of(controller, sandbox)}/{file}")

    def _number(self, controller: str, sandbox: str, file: str) -> int:
        return int(self._text(controller, sandbox, file) or 0)

    def _of(self, controller: str, sandbox: str) -> str:
        return f"{self._by_controller[controller]}/{self._name}/{sandbox}"
