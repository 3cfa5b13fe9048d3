"""The figures of a control group in the shape that OCI runtimes print for `events --stats`.

Owns the names in that shape and the reading of keyed control files. Does not know where the files lie.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Stats = dict[str, Any]

BLOCK_OPERATIONS_MAX = 256
"""Lines of block devices that are told: a packet has its bound."""


def stats_of(
    *,
    total_ns: int,
    user_ns: int,
    kernel_ns: int,
    throttling: tuple[int, int, int],
    memory: dict[str, int],
    cache_bytes: int,
    memory_stat: dict[str, int],
    pids: dict[str, int],
    blkio: list[dict[str, Any]],
) -> Stats:
    """Return the figures in their shape.

    `throttling`: periods, throttled ones, and for how many nanoseconds. `memory`: `usage`, `limit`, `max`
    (bytes; the peak) and `failcnt`. `pids`: `current` and `limit`. What has no limit has 0 as its limit.
    """
    periods, throttled_periods, throttled_ns = throttling
    return {
        "cpu": {
            "usage": {"total": total_ns, "user": user_ns, "kernel": kernel_ns},
            "throttling": {
                "periods": periods,
                "throttledPeriods": throttled_periods,
                "throttledTime": throttled_ns,
            },
        },
        "memory": {"usage": memory, "cache": cache_bytes, "raw": memory_stat},
        "pids": pids,
        "blkio": {"ioServiceBytesRecursive": blkio[:BLOCK_OPERATIONS_MAX]},
    }


def keyed(text: str) -> dict[str, int]:
    """Return the numbers of a flat keyed file: `name number` a line."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def limit_of(text: str) -> int:
    """Return a limit; 0 for `max`, which is none."""
    return 0 if text.strip() == "max" else int(text)


def operations_v1(text: str) -> Iterator[dict[str, Any]]:
    """Yield the lines `major:minor operation bytes` of blkio.throttle.io_service_bytes_recursive."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            yield _operation(words[0], words[1], words[2])


def operations_v2(text: str) -> Iterator[dict[str, Any]]:
    """Yield what was read and written by the lines `major:minor rbytes=N wbytes=N ...` of io.stat."""
    for line in text.splitlines():
        device, *counts = line.split()
        for count in counts:
            name, _, value = count.partition("=")
            if name in ("rbytes", "wbytes"):
                yield _operation(device, "Read" if name == "rbytes" else "Write", value)


def _operation(device: str, name: str, value: str) -> dict[str, Any]:
    major, _, minor = device.partition(":")
    return {"major": int(major), "minor": int(minor), "op": name, "value": int(value)}
