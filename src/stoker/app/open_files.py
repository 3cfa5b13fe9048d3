"""Open files: how many this process may have, and how they are shared out.

Service managers start a process with 1,024 and let it ask for more. Does not know who opens them.
"""

from __future__ import annotations

import resource

from stoker.model.limits import Limits

FILES_MAX = 65_536
"""More is of no use: connections are bounded, and some programs count up to the limit."""
FILES_OF_AN_INSTANCE = 5
"""Wire, output, where output is drained to, the peak of its memory, and one on its way."""
FILES_OF_THE_REST = 256
"""Runtimes that boot, NATS, code that is unpacked, the store."""


def raise_open_files() -> int:
    """Let this process and its children open as many files as they may; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        return allowed
    return FILES_MAX if soft == resource.RLIM_INFINITY else soft


def connections_max_of(files: int, limits: Limits) -> int:
    """Return how many clients there may be at once, so that instances always find files for themselves."""
    kept = FILES_OF_THE_REST + FILES_OF_AN_INSTANCE * limits.instances_max
    return min(limits.connections_max, max(files - kept, files // 4))
