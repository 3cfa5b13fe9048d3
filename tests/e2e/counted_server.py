"""`stoker serve`, whose loop's thread counts the lines of Python that it runs between two SIGUSR2.

    counted_server.py FILE stoker serve ...

The counts go to the file, a line of JSON for each signal.
Lines are not time, but they are the same at every run: a change that adds work to a call shows.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
from collections.abc import Coroutine
from types import FrameType
from typing import Any

import uvloop

from stoker.cli import main


class Counter:
    """Counts while it is on. `toggle` turns it on, or off, and writes down what it knows then."""

    def __init__(self, path: str) -> None:
        # opened before the server gives up root
        self._file = open(path, "w", buffering=1)  # noqa: SIM115
        self._lines = 0
        self._is_on = False

    def toggle(self) -> None:
        """Begin to count, or end; `blocks` are those that the allocator has given out by then."""
        sys.settrace(None)
        gc.collect()
        found = {"lines": self._lines, "blocks": sys.getallocatedblocks()}
        self._lines = 0
        print(json.dumps(found), file=self._file)
        self._is_on = not self._is_on
        if self._is_on:
            sys.settrace(self._trace)

    def _trace(self, _frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            self._lines += 1
        return self._trace


def counted(counter: Counter) -> None:
    """Have whatever uvloop runs from now on listen for the signal."""
    run = uvloop.run

    def run_counted(server: Coroutine[Any, Any, int], **options: Any) -> int:
        async def listening() -> int:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, counter.toggle)
            return await server

        return run(listening(), **options)

    uvloop.run = run_counted  # type: ignore[assignment]


if __name__ == "__main__":
    counted(Counter(sys.argv[1]))
    sys.argv = sys.argv[2:]
    main()
