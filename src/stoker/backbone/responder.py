"""The responder: requests of others come in, and each is answered when its answer is there.

Owns what waits to be sent, so that whoever has an answer gives it away without waiting: it may stand in a
callback of the hot path. Does not know what is asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

import nats.errors
import structlog
from nats.aio.msg import Msg

from stoker.backbone.connection import Connection

_log = structlog.get_logger("stoker.backbone.responder")

HEADER_BYTES_MAX = 4 * 1024
"""What the headers of an answer may take of the server's largest message."""


class Responder:
    """Serves subjects on a connection. Open it once, close it once; the connection is the caller's.

    What waits to be sent is bounded by what the callers let wait: they answer a request once.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._answers: deque[tuple[str, bytes, Mapping[str, str]]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def answer_bytes_max(self) -> int:
        """The largest answer that can be sent."""
        return self._connection.message_bytes_max - HEADER_BYTES_MAX

    async def open(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._send(), name="nats-answers")

    async def close(self) -> None:
        """Send what waits, as far as a server takes it, and stop. Harmless when repeated."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._send_waiting()

    async def serve(self, subject: str, on_request: Callable[[Msg], None], *, queue: str = "") -> None:
        """Have every message of `subject` given to `on_request`, also after the server was restarted.

        Of all that serve it under the same `queue` one gets it.
        """

        async def on_message(message: Msg) -> None:
            on_request(message)

        await self._connection.serve(subject, on_message, queue=queue)

    def answer(self, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Send an answer to who waits at `reply`; lost if the server goes before it has it."""
        self._answers.append((reply, data, headers))
        self._wake.set()

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            await self._send_waiting()

    async def _send_waiting(self) -> None:
        self._wake.clear()
        while self._answers:
            reply, data, headers = self._answers.popleft()
            try:
                await self._connection.tell(reply, data, headers)
            except (nats.errors.Error, OSError) as error:
                _log.debug("nats_answer_lost", reply=reply, error=repr(error))
