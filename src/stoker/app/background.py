"""Background: the tasks that a server has beside its calls, from their start to its end.

Does not know what they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol


class Notes(Protocol):
    """The operator's log."""

    def error(self, event: str, **fields: object) -> object: ...


class Background:
    """One for a server. A task that fails is told of in the log; the server goes on."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Start something."""
        self.own(asyncio.get_running_loop().create_task(work, name=name))

    def own(self, task: asyncio.Task[Any]) -> None:
        """Take over what was started."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def close(self) -> None:
        """Cancel what still runs, and return when all of it has ended."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._notes.error("task_failed", task=task.get_name(), exc_info=error)
