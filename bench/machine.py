"""This machine: its facts, and what a tree of processes uses of it.

Owns the reading of /proc. Does not know whose processes they are.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from program import CannotMeasure

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a figure depends on besides the programs."""

    processor: str
    cores: int
    kernel: str
    python: str
    node: str
    load_average: float  # of the last minute, when the bench began
    fdatasync_ms: float  # median, 4 KiB appended, where the data directories lie


@dataclass(frozen=True, slots=True)
class Memory:
    """The proportional set size of one process: shared pages count by their share."""

    pid: int
    name: str
    pss_bytes: int
    sandboxed: bool  # in another network namespace than the root of its tree: an instance, not the platform


def this_machine(node: str, data_parent: Path) -> Machine:
    """Return the machine's facts; `data_parent` is where data directories are made."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=platform.python_version(),
        node=node,
        load_average=os.getloadavg()[0],
        fdatasync_ms=fdatasync_ms(data_parent, count=100),
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def fdatasync_ms(directory: Path, *, count: int) -> float:
    """Return the median of so many appends of 4 KiB, each made durable."""
    taken = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(count):
            file.write(b"." * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def tree(root: int) -> list[int]:
    """Return the process and its descendants, in whatever PID namespaces they are."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def cpu_s(root: int) -> float:
    """Return the CPU time that the tree has used, children that have ended included."""
    stats = [stat for pid in tree(root) if (stat := _stat(pid)) is not None]
    return sum(int(ticks) for stat in stats for ticks in stat[11:15]) / TICKS_PER_S


def memory(root: int) -> list[Memory]:
    """Return what each process of the tree holds. Raises CannotMeasure if that may not be read."""
    outside = _network(root)
    return [Memory(p, _name(p), _pss_bytes(p), _network(p) != outside) for p in sorted(tree(root))]


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on (the parent is 1), or None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError as error:
        raise CannotMeasure(f"process {pid}: {error.strerror}") from None


def _network(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError as error:
        raise CannotMeasure(f"the network namespace of process {pid}: {error.strerror}") from None


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError as error:
        raise CannotMeasure(f"the memory of process {pid}: {error.strerror}") from None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) * 1024
    raise CannotMeasure(f"/proc/{pid}/smaps_rollup has no Pss")
