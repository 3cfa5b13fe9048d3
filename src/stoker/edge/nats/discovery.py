"""Service discovery: `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS` answered for every deployed function.

One task answers one question after the other, a few functions at a time, so that calls go on in between.
Does not know what a service is made of. Source: ADR-32 of the NATS architecture.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson

from stoker.edge.nats.bus import Bus, Incoming, Log, may_be_answered
from stoker.edge.services import Service, Services

DISCOVERY = "$SRV.>"
WAITING_MAX = 64
"""Questions that wait for their answers; more are dropped, as whoever asks does not count on all of them."""
AT_A_TIME = 25
"""Answers between two looks at what else there is to do: 1 ms."""
TYPE_PREFIX = "io.nats.micro.v1."


class Discovery:
    """One for a server. Open it once, close it once. `started` is RFC 3339."""

    def __init__(self, services: Services, bus: Bus, log: Log, *, started: str) -> None:
        self._services = services
        self._bus = bus
        self._log = log
        self._started = started
        self._waiting: deque[tuple[str, list[str], str]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._answer_all(), name="nats-discovery")
        await self._bus.serve(DISCOVERY, self.request)

    async def close(self) -> None:
        """Answer no more. Harmless when repeated."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def request(self, request: Incoming) -> None:
        """Take a question in: `$SRV.VERB`, `$SRV.VERB.name` or `$SRV.VERB.name.id`."""
        verb, *which = request.subject.split(".")[1:]
        if verb not in _SHAPES or len(which) > 2 or not may_be_answered(request, self._log):
            return
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append((verb, which, request.reply))
            self._wake.set()

    async def _answer_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                verb, which, reply = self._waiting.popleft()
                try:
                    await self._answer(verb, which, reply)
                except Exception as error:
                    self._log.warning("nats_discovery_failed", exc_info=error)

    async def _answer(self, verb: str, which: list[str], reply: str) -> None:
        shape = _SHAPES[verb]
        kind = f"{TYPE_PREFIX}{verb.lower()}_response"
        for number, service in enumerate(self._services.all(*which), 1):
            answer = {"type": kind, **_identity(service), **shape(service, self._started)}
            self._bus.answer(reply, orjson.dumps(answer), {})
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)


def _identity(service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "id": service.id,
        "version": service.version,
        "metadata": service.metadata,
    }


def _ping(service: Service, started: str) -> dict[str, Any]:
    return {}


def _info(service: Service, started: str) -> dict[str, Any]:
    return {"description": service.description, "endpoints": [service.endpoint]}


def _stats(service: Service, started: str) -> dict[str, Any]:
    counter = service.counter
    endpoint = service.endpoint
    del endpoint["metadata"]
    return {
        "started": started,
        "endpoints": [
            {
                **endpoint,
                "num_requests": counter.requests,
                "num_errors": counter.errors,
                "last_error": counter.last_error,
                "processing_time": round(counter.run_ms * 1_000_000),
                "average_processing_time": round(counter.average_ms * 1_000_000),
                "data": None,
            }
        ],
    }


_SHAPES: dict[str, Callable[[Service, str], dict[str, Any]]] = {
    "PING": _ping,
    "INFO": _info,
    "STATS": _stats,
}
