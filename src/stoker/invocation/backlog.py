"""A backlog: the Async invocations of one function that wait for their turn, in the order they became ready.

Does not know how they are run. Who leaves is left in its place and passed over when its turn comes.
"""

from __future__ import annotations

from collections import deque

from stoker.invocation.live import Live, Stage


class Backlog:
    """One for a function that has any."""

    __slots__ = ("_ready", "loading", "pumping", "submitted")

    def __init__(self) -> None:
        self._ready: deque[Live] = deque()
        self.loading = 0
        """Those whose payload is on its way from the store."""
        self.submitted = 0
        """Those that the executor has."""
        self.pumping = False
        """While what is first is being begun."""

    def add(self, one: Live) -> None:
        """Let one wait for its turn, behind all others."""
        one.stage = Stage.READY
        self._ready.append(one)

    def put_back(self, one: Live) -> None:
        """Give one the turn back that it had."""
        one.stage = Stage.READY
        self._ready.appendleft(one)

    def first(self) -> Live | None:
        """Return the one whose turn is next, or None."""
        while self._ready:
            if self._ready[0].stage is Stage.READY:
                return self._ready[0]
            self._ready.popleft()
        return None

    def take(self) -> Live | None:
        """Return the one whose turn it is, out of the backlog."""
        one = self.first()
        if one is not None:
            self._ready.popleft()
        return one

    @property
    def idle(self) -> bool:
        """Whether nothing of it is left."""
        return not self._ready and not self.loading and not self.submitted
