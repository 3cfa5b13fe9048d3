"""What the supervisor asks of control groups, and which of their two versions this machine has.

Owns the names (`/stoker-HASH/ID`, HASH of the data directory) and what a reading means. Does not know
which process lies in a group. `cgroups_v1` and `cgroups_v2` carry it out.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Protocol

from stoker.sandbox.stats import Stats

NEEDED = ("memory", "pids", "cpu")
SPARE_SHARES = 2
"""The lowest there is: a spare that boots must not be felt by a function that runs."""
SHARES_PER_CORE = 1024


class CgroupsUnusable(Exception):
    """No limits can be enforced here; says what is missing."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a group has counted so far."""

    memory_peak_bytes: int
    processes_limit_hit: bool
    out_of_memory: bool


class Cgroups(Protocol):
    """The groups of one server: a parent, and one child for each sandbox.

    Every method is a few small file operations; OSError where the kernel refuses.
    """

    swap_limit: bool
    """Whether swap can be limited at boot together with memory."""

    def prepare(self, cores: int) -> None:
        """Make the parent, with the CPU weight of the whole machine; CgroupsUnusable if it cannot be."""

    def path(self, sandbox: str) -> str:
        """Return `cgroupsPath` of an OCI configuration."""

    def weigh(self, sandbox: str, shares: int) -> None:
        """Set the CPU weight, in shares (1024 a core)."""

    def limit(self, sandbox: str, *, memory_bytes: int, shares: int, processes: int) -> None:
        """Put limits in force; `processes` counts from those that run now."""

    def watch(self, sandbox: str) -> int | None:
        """Return a descriptor that turns readable at an out-of-memory kill, which the caller closes; None
        if the kernel itself kills the whole group then."""

    def figures(self, sandbox: str) -> Figures:
        """Return what was counted; zeros where the group is gone."""

    def memory_file(self, sandbox: str) -> str:
        """Return the path of the file whose number is the peak of its memory, or, on kernels that count none,
        its memory as it is."""

    def stats(self, sandbox: str) -> Stats:
        """Return all that is counted, as `stats_of` shapes it."""

    def members(self, sandbox: str) -> list[int]:
        """Return the processes in the group, by the pids of the caller's namespace."""

    def remove(self, sandbox: str) -> bool:
        """Remove the group; False if something is still in it, so that the caller tries again."""

    def children(self) -> list[str]:
        """Return the sandboxes that have a group."""

    def close(self) -> bool:
        """Remove the parent; False if a child is left."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted hierarchy."""

    point: str
    version: int
    controllers: tuple[str, ...]
    """Of version 1, as far as known; version 2 tells them in a file."""


_OCTAL = re.compile(r"\\([0-7]{3})")


def mounts_of(mountinfo: str) -> list[Mount]:
    """Return the hierarchies in the text of /proc/self/mountinfo, the first mount of each."""
    found: dict[tuple[int, tuple[str, ...]], Mount] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind == "cgroup2" else 1
        plain = {"rw", "ro", "xattr", "clone_children", "noprefix"}
        names = () if version == 2 else tuple(o for o in options.split(",") if o not in plain)
        point = _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), left.split(" ")[4])
        found.setdefault((version, names), Mount(point, version, names))
    return list(found.values())


def read(path: str) -> str:
    """Return the text of a control file."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, 65_536).decode()
    finally:
        os.close(handle)


def write(path: str, value: int | str) -> None:
    """Write one value to a control file, in one call as the kernel wants it."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, str(value).encode())
    finally:
        os.close(handle)


def read_if_there(path: str) -> str:
    """Return the text of a control file; nothing where this machine has none of the kind."""
    try:
        return read(path)
    except FileNotFoundError:
        return ""


def counter(text: str, name: str) -> int:
    """Return the number after `name` in a flat keyed file; 0 if it is not there."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def removed(directory: str) -> bool:
    """Remove one group; True once it is gone, False while it is busy."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
