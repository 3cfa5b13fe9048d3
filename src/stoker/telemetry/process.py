"""Process: what a process of this machine uses, as its kernel tells it.

Knows Linux's /proc and nothing of what the process is for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What one process uses."""

    cpu_s: float
    """Of the processors so far, in user code and in the kernel."""
    resident_bytes: int


def use_of(pid: int) -> ProcessUse | None:
    """Return what a process uses just now, None if it is not there any more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # its name may hold spaces and brackets
    user, kernel, pages = int(fields[11]), int(fields[12]), int(fields[21])
    return ProcessUse((user + kernel) / _TICKS, pages * _PAGE_BYTES)


def open_files() -> int:
    """Return how many files this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # the folder itself
