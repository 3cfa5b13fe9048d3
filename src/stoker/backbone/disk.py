"""The disk's reserve: what is kept free, so that nats-server never meets a full disk.

Owns how much that is and who may use it. Does not know what is stored.
"""

from __future__ import annotations

import os
from pathlib import Path

RESERVE_BYTES = 64 * 1024 * 1024
"""Free space below which nothing new is accepted. At ENOSPC nats-server 2.15.1 answers no write to the
stream any more, also after space was made, until it is restarted; the reserve keeps us away from there."""
RESERVE_FILES = 64
ENDS_PART = 8
"""What ends accepted work, and so lets space be made, may use the reserve down to this part of it."""


class DiskReserve:
    """How much of the disk below a directory is left."""

    def __init__(self, directory: Path, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._directory = directory
        self._reserve_bytes = reserve_bytes

    @property
    def touched(self) -> bool:
        """Tell whether the reserve is all that is left: nothing new is accepted."""
        return self._short_of(1)

    @property
    def used(self) -> bool:
        """Tell whether the reserve is used up too, but for the part that nobody may use."""
        return self._short_of(ENDS_PART)

    def _short_of(self, part: int) -> bool:
        space = os.statvfs(self._directory)  # 2 us: answered from the kernel's memory
        return space.f_bavail * space.f_frsize < self._reserve_bytes // part or (
            space.f_files > 0 and space.f_favail < RESERVE_FILES // part
        )
