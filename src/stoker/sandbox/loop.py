"""The supervisor's one loop: descriptors that turn readable, children that end, and the clock.

Single-threaded callbacks. Does not know what any of them is for. Standard library only.
"""

from __future__ import annotations

import heapq
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable

Action = Callable[[], None]
STRAYS_MAX = 1024


class Loop:
    """Must live in the main thread of a process that has no other use for SIGCHLD."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Action]] = []
        self._timer_count = 0
        self._children: dict[int, Callable[[int], None]] = {}
        self._strays: dict[int, int] = {}
        self._wake, woken = socket.socketpair()
        for end in (self._wake, woken):
            end.setblocking(False)
        self._woken = woken
        self.watch(self._wake.fileno(), self._reap)

    def open(self) -> None:
        """Begin to hear of children that end."""
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def watch(self, descriptor: int, readable: Action, writable: Action | None = None) -> None:
        """Call back while a descriptor is readable, and, if asked for, writable; replaces what was set."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        if descriptor in self._selector.get_map():
            self._selector.modify(descriptor, events, (readable, writable))
        else:
            self._selector.register(descriptor, events, (readable, writable))

    def forget(self, descriptor: int) -> None:
        """Stop watching a descriptor, before it is closed."""
        self._selector.unregister(descriptor)

    def forget_if_watched(self, descriptor: int) -> None:
        """Stop watching a descriptor that may not be watched."""
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def after(self, delay_s: float, action: Action) -> None:
        """Call back once, later."""
        self._timer_count += 1
        heapq.heappush(self._timers, (time.monotonic() + delay_s, self._timer_count, action))

    def at_end(self, pid: int, action: Callable[[int], None]) -> None:
        """Call back with the wait status when a child has ended and been reaped."""
        self._children[pid] = action

    def stray(self, pid: int) -> int | None:
        """Return, once, the wait status of a child that ended before anybody had asked for it."""
        return self._strays.pop(pid, None)

    def drop_strays(self) -> None:
        """Forget them all: nobody is going to ask."""
        self._strays.clear()

    def turn(self, until: float | None = None) -> None:
        """Wait for something to happen, at most until then (by time.monotonic), and deal with it."""
        times = [at for at in (until, self._timers[0][0] if self._timers else None) if at is not None]
        timeout = max(0.0, min(times) - time.monotonic()) if times else None
        for key, events in self._selector.select(timeout):
            readable, writable = key.data
            if events & selectors.EVENT_WRITE and writable is not None:
                writable()
            # An earlier callback of this round may have put an end to it.
            if events & selectors.EVENT_READ and key.fd in self._selector.get_map():
                readable()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def _reap(self) -> None:
        self._wake.recv(4096)
        ended: list[tuple[int, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            ended.append((pid, status))
        for pid, status in ended:
            action = self._children.pop(pid, None)
            if action is not None:
                action(status)
            elif len(self._strays) < STRAYS_MAX:
                self._strays[pid] = status
