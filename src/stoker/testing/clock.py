"""Fake time: an event loop whose clock jumps to the next timer as soon as nothing else is left to do.

Real sockets and pipes work as long as both ends are held by the test; threads and child processes do not,
as nobody would wait for them. A test that waits for what can never happen fails at once.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, cast

P = ParamSpec("P")


class Stuck(AssertionError):
    """Everything waits, and nothing is left that could wake anything."""


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 1000 s and moves only while everything waits."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._settling: list[asyncio.Future[None]] = []
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Return the fake time, in seconds."""
        return self._now

    def nothing_ready(self, timeout: float | None) -> None:
        """Called by the selector in place of a wait of `timeout` seconds."""
        if self._settling:
            settling, self._settling = self._settling, []
            for future in settling:
                if not future.done():
                    future.set_result(None)
        elif timeout is None:
            raise Stuck("nothing is left that could happen")
        else:
            self._now += max(timeout, 1e-9)

    def settle(self) -> asyncio.Future[None]:
        """Return a future that is done once everything else waits for a timer."""
        future: asyncio.Future[None] = self.create_future()
        self._settling.append(future)
        return future


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: FakeTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and (timeout is None or timeout > 0):
            self._loop.nothing_ready(timeout)
        return found


async def settled() -> None:
    """Return once everything else waits for a timer: all that can happen now has happened."""
    await cast(FakeTimeLoop, asyncio.get_running_loop()).settle()


async def passed(seconds: float) -> None:
    """Let that much fake time pass, and all that happens meanwhile happen."""
    await asyncio.sleep(seconds)
    await settled()


def in_fake_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a plain test of an async one: it runs on a loop of its own, in fake time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
