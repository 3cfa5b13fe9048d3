"""Printed: which part of what an instance prints is which call's, and who is told of it at once.

Calls that share an instance print in frames; where one at a time runs, the output since the last end is its
own, or what stands between two marks. Does not know how output is read, nor how a call ends.
"""

from __future__ import annotations

from collections.abc import Mapping

from stoker.worker.output import Output, without_mark
from stoker.worker.running import Running
from stoker.worker.tail import Tail, Tap
from stoker.worker.turns import Turns


class Printed:
    """`running` is the instance's own."""

    __slots__ = ("_log_bytes_max", "_output", "_running", "_turns", "shared", "tap")

    def __init__(
        self, output: Output, running: Mapping[bytes, Running], turns: Turns, log_bytes_max: int
    ) -> None:
        self.shared = False
        """Whether several calls run at a time."""
        self.tap: Tap | None = None
        """Who is told what calls print, as they print it."""
        self._output = output
        self._running = running
        self._turns = turns
        self._log_bytes_max = log_bytes_max

    def log_of(self, running: Running) -> tuple[bytes, int]:
        """Return what a call that ends has printed, cut at the bound, and how much it was in all."""
        if not self.shared:
            begun = self._turns.begun
            if begun is not None and begun != running.call.id:  # the next one runs already
                return self._output.take_between(running.mark, begun)
            log, log_bytes = self._output.take()
            return without_mark(log, log_bytes, running.mark)
        log = bytes(running.own_log or b"")
        if not self._running:  # what no frame claimed (a child process, native code) goes to the last one
            rest, rest_bytes = self._output.take()
            return (log + rest)[: self._log_bytes_max], running.own_log_bytes + rest_bytes
        return log, running.own_log_bytes

    def line(self, call_id: bytes, text: bytes) -> None:
        """Take what a frame says a call has printed."""
        running = self._running.get(call_id)
        if running is not None:
            if running.own_log is None:
                running.own_log = bytearray()
            running.own_log_bytes += len(text)
            running.own_log += text[: max(0, self._log_bytes_max - len(running.own_log))]
            if running.tail is not None:
                running.tail.more(running.own_log, running.own_log_bytes)

    def follow(self, tap: Tap | None) -> None:
        """Tell what calls print from now on, as they print it; None for no more of it."""
        self.tap = tap
        self._output.on_more = None if tap is None or self.shared else self._more
        for running in self._running.values():
            running.tail = None if tap is None else self.tail_of(running, tap)
            if running.tail is not None:
                if self.shared:
                    running.tail.skip(running.own_log or b"")
                elif self._prints_alone(running):
                    running.tail.skip(self._output.kept)

    def tail_of(self, running: Running, tap: Tap) -> Tail:
        """Return what tells a call's output, from its beginning on."""
        return Tail(tap, running.call.id, self._log_bytes_max)

    def _more(self) -> None:
        begun = self._turns.begun
        running = None if begun is None else self._running.get(begun)
        if running is not None and running.tail is not None and self._prints_alone(running):
            running.tail.more(self._output.kept, self._output.total)

    def _prints_alone(self, running: Running) -> bool:
        """Whether all output since the last call's end is its own: no other's turn may have come since."""
        return running.call.id == self._turns.begun and running.mark is None and not self._turns.ahead
