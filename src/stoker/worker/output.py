"""Output: the pipe that is an instance's standard output and standard error.

Keeps what is printed up to a bound, counts and drains the rest. Does not know calls: who asks with
`take` gets what was printed since the last time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import termios
from collections.abc import Callable
from contextlib import suppress

_CHUNK_BYTES = 64 * 1024
_WIDE_PIPE_BYTES = 1024 * 1024
READS_MAX = 16
REST_S = 0.005
"""After so many reads the reader rests: who prints byte by byte would else have the event loop to itself.
Nothing waits for it, as `take` looks into the pipe."""


class Output:
    """The read end, non-blocking; owned from the constructor to `close`."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop, bytes_max: int) -> None:
        self._fd = fd
        self._loop = loop
        self._bytes_max = bytes_max
        self._kept = bytearray()
        self._total = 0
        self._sink = -1
        self._reads = 0
        self._resting: asyncio.TimerHandle | None = None
        self.on_more: Callable[[], None] | None = None
        """Called when something was read that nobody asked for with `take`."""

    @property
    def kept(self) -> bytearray:
        """What was printed since the last time, as far as it has been read and within the bound."""
        return self._kept

    @property
    def total(self) -> int:
        """How much was printed since the last time, as far as it has been read."""
        return self._total

    def open(self) -> None:
        """Begin to read."""
        self._loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Stop reading and give the descriptors back. Harmless when repeated."""
        if self._resting is not None:
            self._resting.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._sink >= 0:
            os.close(self._sink)
            self._sink = -1

    def take(self) -> tuple[bytes, int]:
        """Return what was printed since the last time, cut at the bound, and how much it was in all.

        Looks into the pipe once more first: what was printed before an answer was sent is in it by now.
        What somebody goes on printing meanwhile is left, so the look ends.
        """
        left = self._there()
        while left > 0 and (count := self._read()) > 0:
            left -= count
        if not self._total:
            return b"", 0
        log, total = bytes(self._kept), self._total
        self._kept.clear()
        self._total = 0
        return log, total

    def note(self, line: bytes) -> None:
        """Add a line of ours behind what has been printed so far; within the bound, as all of it."""
        left = self._there()
        while left > 0 and (count := self._read()) > 0:
            left -= count
        if self._kept and not self._kept.endswith(b"\n"):
            line = b"\n" + line
        self._kept += line[: max(0, self._bytes_max - len(self._kept))]
        self._total += len(line)
        if self.on_more is not None:
            self.on_more()

    def take_between(self, own: bytes | None, following: bytes) -> tuple[bytes, int]:
        """Return what was printed between two marks: after `own`, if it is there, and before `following`.

        Where `following` is not there yet, nothing of who comes next is: all belongs to the one before.
        """
        at = self._kept.find(following)
        left = self._there()
        while at < 0 and left > 0 and (count := self._read()) > 0:
            left -= count
            at = self._kept.find(following, max(0, len(self._kept) - count - len(following)))
        if at < 0:
            log, total = self.take()
        else:
            log, total = bytes(self._kept[:at]), at
            del self._kept[:at]
            self._total -= at
        return without_mark(log, total, own)

    def _readable(self) -> None:
        if self._read() == 0:
            self._loop.remove_reader(self._fd)  # every writer is gone
            return
        if self.on_more is not None:
            self.on_more()
        self._reads += 1
        if self._reads >= READS_MAX:  # somebody prints without end: the pipe may fill meanwhile
            self._reads = 0
            self._loop.remove_reader(self._fd)
            self._resting = self._loop.call_later(REST_S, self.open)

    def _there(self) -> int:
        """Return how much is in the pipe; 0 when it is closed."""
        if self._fd < 0:
            return 0
        return int.from_bytes(fcntl.ioctl(self._fd, termios.FIONREAD, b"\0\0\0\0"), "little")

    def _read(self) -> int:
        """Read one piece and return its size; 0 at the end, -1 if nothing is there yet."""
        room = self._bytes_max - len(self._kept)
        if room <= 0:
            return self._drain()
        try:
            piece = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:
            return -1
        self._kept += piece[:room]
        self._total += len(piece)
        return len(piece)

    def _drain(self) -> int:
        """Throw away what is there: the kernel moves it without a copy, a wide pipe at a time."""
        if self._sink < 0:
            self._sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            with suppress(OSError):  # over the user's share of pipe memory: narrow is only slower
                fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _WIDE_PIPE_BYTES)
        there = self._there()
        if there == 0:  # nothing, or the end: a read tells which, a splice would wait
            try:
                self._total += (count := len(os.read(self._fd, _CHUNK_BYTES)))
            except BlockingIOError:
                return -1
            return count
        try:
            drained = os.splice(self._fd, self._sink, there)
        except BlockingIOError:  # the function may read the pipe as well, by its name in /proc
            return -1
        self._total += drained
        return drained


def without_mark(log: bytes, total: int, own: bytes | None) -> tuple[bytes, int]:
    """Return a log, and how much was printed in all, without the mark that a call's own begins with."""
    at = -1 if own is None else log.find(own)
    if own is None or at < 0:
        return log, total
    return log[at + len(own) :], total - at - len(own)
