"""Tasks: what a queue has begun and goes on by itself, mostly while the store writes.

Does not know what they are for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


class Tasks:
    """One for a queue. What fails is told to the loop's exception handler."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        """Set whenever one ends; cleared by who waits for that."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None] | None:
        """Let it go on by itself; once closed nothing is begun, and None is returned."""
        if self._closed:
            work.close()
            return None
        task = asyncio.get_running_loop().create_task(work, name="an Async invocation")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Cancel all; return once they have ended."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler(
                {"message": "an Async invocation could not be carried on", "exception": error}
            )
