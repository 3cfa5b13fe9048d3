"""Turns: which call runs in an instance that runs one at a time, and which wait for theirs inside it.

Owns the order, and asking back what is stuck behind a long call. Does not know how a call ends, nor why one
was sent ahead of its turn.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from math import inf

from stoker.model.call import Call
from stoker.model.limits import Limits
from stoker.runtimes import wire
from stoker.worker.deadlines import Deadlines
from stoker.worker.running import Running, patience_end, tell_began
from stoker.worker.wire_end import WireEnd

STUCK_MS = 10
"""A call that was sent ahead is asked back once the one before it has run for so long. More than the shims
let pass before they look for such a word (2 ms), so that it is never missed."""


class Turns:
    """`running` is the instance's own: calls that wait for their turn are in it too.

    `on_returned(call)` gives back a call that never began, or whose patience is over. `on_idle()` is called
    when nothing is left inside after that.
    """

    __slots__ = (
        "_clock",
        "_deadlines",
        "_limits",
        "_loop",
        "_on_idle",
        "_on_returned",
        "_running",
        "_timer",
        "_wire",
        "ahead",
        "begun",
    )

    def __init__(
        self,
        running: dict[bytes, Running],
        wire_end: WireEnd,
        deadlines: Deadlines,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        *,
        on_idle: Callable[[], None],
        on_returned: Callable[[Call], None],
        clock: Callable[[], float],
    ) -> None:
        self.begun: bytes | None = None
        """The call that runs; until its answer comes, also if it was given up."""
        self.ahead: OrderedDict[bytes, Running] = OrderedDict()
        """Calls that were sent before their turn, in order: none of them begins before that answer."""
        self._running = running
        self._wire = wire_end
        self._deadlines = deadlines
        self._limits = limits
        self._loop = loop
        self._on_idle = on_idle
        self._on_returned = on_returned
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    def line_up(self, call: Call, now: float) -> Running:
        """Send a call ahead of its turn, behind those that are inside."""
        running = self._running[call.id] = self.ahead[call.id] = Running(call, now, inf, 0.0)
        running.mark = call.id
        timeout_ms = call.function.code.timeout_ms
        self._wire.write_soon(wire.encode_invoke(call.id, timeout_ms, call.payload, kind=wire.AHEAD))
        if self._timer is None:
            self._timer = self._loop.call_later(STUCK_MS / 1000, self._look)
        return running

    def answered(self) -> None:
        """Take note that the call that ran has answered: the next one inside has begun by that."""
        if not self.ahead:
            self.begun = None
            return
        self.begun, running = self.ahead.popitem(last=False)
        running.started = now = self._clock()
        running.deadline = deadline = now + running.call.function.code.timeout_ms / 1000
        if deadline < self._deadlines.at:
            self._deadlines.arm(deadline)
        if running.call.began is not None and not running.revoked:  # the word may have come before its turn
            tell_began(running.call, self._loop)

    def ask_back(self, running: Running) -> None:
        """Send word that a call that waits inside is not to begin. Harmless when repeated."""
        if not running.revoked:  # once: it lies in the wire until the instance reads
            running.revoked = True
            self._wire.write_soon(wire.encode_frame(wire.REVOKE, running.call.id, b""))

    def revoked(self, call_id: bytes) -> bool:
        """Take back a call that did not begin; False if nobody asked for it."""
        known = self._running.get(call_id)
        if known is None or not known.revoked or known.said is not None:
            return False
        if call_id == self.begun:  # the word came between the answer before it and its own beginning
            self.answered()
        elif self.ahead.pop(call_id, None) is None:
            return True
        self._give_back(known)
        if self.begun is None:
            self._on_idle()
        return True

    def give_back_all(self) -> None:
        """Give back what has not begun, of an instance that is gone."""
        while self.ahead:
            self._give_back(self.ahead.popitem(last=False)[1])

    def close(self) -> None:
        """Ask nothing back any more. Harmless when repeated."""
        if self._timer is not None:
            self._timer.cancel()

    def _give_back(self, running: Running) -> None:
        del self._running[running.call.id]
        if not running.call.has_ended:
            running.call.cancel = None
            self._on_returned(running.call)

    def _look(self) -> None:
        """Ask back what is stuck behind a call that turned out to be a long one."""
        self._timer = None
        if not self.ahead or self.begun is None:
            return
        begun = self._running.get(self.begun)
        now = self._clock()
        if begun is None or (now - begun.started) * 1000 >= STUCK_MS:
            for running in list(self.ahead.values()):
                self.ask_back(running)
                if now >= patience_end(running.call, self._limits) and not running.call.has_ended:
                    # The word was said long ago, so that it does not begin: but nobody is there to confirm.
                    running.call.cancel = None
                    self._on_returned(running.call)
        self._timer = self._loop.call_later(STUCK_MS / 1000, self._look)
