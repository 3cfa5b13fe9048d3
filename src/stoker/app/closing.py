"""Closing: what has to be undone at a server's end, and an end that comes even if a step hangs.

Nothing that was acknowledged depends on an orderly end: what takes too long is shown and cut off. Does not
know what the steps do.
"""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from structlog.typing import FilteringBoundLogger

SLOW_S = 5.0
"""A step that takes longer is logged, with the place at which every task waits."""


class Closing:
    """Steps to undo: `add` each as soon as there is something to undo, `run` them once."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._steps: list[Callable[[], Awaitable[object]]] = []

    def add(self, step: Callable[[], Awaitable[object]]) -> None:
        """Have `step` run before all that were added earlier."""
        self._steps.append(step)

    async def run(self) -> None:
        """Run the steps; one that fails is logged, and the others run. Harmless when repeated."""
        while self._steps:
            step = self._steps.pop()
            what = getattr(step, "__qualname__", repr(step))
            with self.noticed(what):
                try:
                    await step()
                except Exception:
                    self._log.exception("close_failed", what=what)

    @contextmanager
    def noticed(self, what: str) -> Iterator[None]:
        """Log where every task stands if what is done within takes long."""

        def notice() -> None:
            places = sorted(f"{task.get_name()}: {_place(task)}" for task in asyncio.all_tasks())
            self._log.warning("close_is_slow", what=what, tasks=places)

        timer = asyncio.get_running_loop().call_later(SLOW_S, notice)
        try:
            yield
        finally:
            timer.cancel()


def end_by(seconds: float) -> None:
    """Have the process show where its threads stand, and end with 1, unless it ends within that time.

    Called again, the time counts from then. Works also when the event loop does not run any more.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)


def _place(task: asyncio.Task[object]) -> str:
    return ", ".join(
        f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
        for frame in task.get_stack(limit=1)
    )
