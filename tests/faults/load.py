"""Load that keeps a book: what was attempted, what was acknowledged, and what came of it.

Plain, keyed and Async calls go to a function of their own each, while their code is updated. Nothing is
counted that a test could not know from outside.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

COLLECTION = "faults"
KINDS = ("plain", "keyed", "async")
HANG_S = 120.0
"""Against a hang: a busy machine fails no test."""
SOURCE = """
const mark = %d;
exports.handler = async ({ n, ms }) => {
  if (ms) await new Promise((done) => setTimeout(done, ms));
  return { n, mark, run: require('node:crypto').randomUUID() };
};
"""
MAY_BE_REFUSED = {
    (429, "function.busy"),
    (503, "no_capacity"),
    (500, "platform.lost"),
    (409, "idempotency.in_progress"),
}
"""What a caller may be told while something is broken, besides losing the connection."""
END_REASONS = (
    *("ok", "error", "timeout", "memory", "processes", "output"),
    *("input_schema", "output_schema", "cancelled", "lost"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an acknowledged request was answered."""

    n: int
    invocation_id: str
    value: Any


@dataclass
class Book:
    """One kind of call."""

    kind: str
    attempted: set[int] = field(default_factory=set)
    acknowledged: dict[int, Answer] = field(default_factory=dict)
    refused: Counter[tuple[int, str]] = field(default_factory=Counter)
    cut_off: int = 0
    """Requests whose connection was lost: nobody knows what came of them."""
    by_worker: dict[int, list[int]] = field(default_factory=dict)
    """Acknowledged ones, each begun after the one before it was answered."""


class Load:
    """Callers, and the books of what they saw."""

    def __init__(self, url: str, token: str, chance: random.Random) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=HANG_S,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=0),
        )
        self.chance = chance
        self.books = {kind: Book(kind) for kind in KINDS}
        self.unexpected: list[str] = []
        self.updates: Counter[str] = Counter()
        self._numbers = count(1)
        self._marks = count(1)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def __str__(self) -> str:
        told = [f"updates {dict(self.updates)}"]
        for kind, book in self.books.items():
            counts = f"{len(book.attempted)} attempted, {len(book.acknowledged)} acknowledged"
            told.append(f"{kind}: {counts}, {book.cut_off} cut off, refused {dict(book.refused)}")
        return "; ".join(told)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    # -- functions ---------------------------------------------------------------------------------

    async def create(self) -> None:
        """Create a function of each kind."""
        for kind in KINDS:
            body = {
                "name": kind,
                "monitor_config": {"store_payload": True},
                "concurrency": {"max_instances": 3},
                "retry": {"attempts": 50, "backoff_ms": 20},
                "compute_asset": {
                    "collection_topic": COLLECTION,
                    "handler": "index.handler",
                    "assets": _assets(0),
                },
            }
            answer = await self._http.post("/compute/functions", json=body)
            assert answer.status_code == 201, answer.text

    async def marks(self, kind: str) -> dict[int, int]:
        """Return the mark of the code of each version that a function has had."""
        answer = await self.get(f"/compute/compute-assets/{COLLECTION}/{kind}/history")
        found = {}
        for version in answer["results"]:
            source = base64.b64decode(version["assets"][0]["asset_value"]).decode()
            found[version["version"]] = int(source.split("mark = ")[1].split(";")[0])
        return found

    # -- calling -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, *, plain: int = 3, keyed: int = 3, queued: int = 3) -> AsyncIterator[None]:
        """Call and update all the time in between."""
        workers = [(self._plain, plain), (self._keyed, keyed), (self._async, queued)]
        self._stop.clear()
        number = count(len(self._tasks))
        self._tasks = [
            asyncio.create_task(self._work(make, next(number)))
            for make, times in workers
            for _ in range(times)
        ]
        self._tasks.append(asyncio.create_task(self._update()))
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.gather(*self._tasks)

    async def until(self, enough: Callable[[], Awaitable[bool]]) -> None:
        """Return once `enough` tells so."""
        async with asyncio.timeout(HANG_S):
            while True:
                if await enough():
                    return
                await asyncio.sleep(0.005)

    async def acknowledged(self, more: int) -> None:
        """Return once so many more of every kind are acknowledged."""
        before = {kind: len(book.acknowledged) for kind, book in self.books.items()}

        async def enough() -> bool:
            return all(len(self.books[kind].acknowledged) >= before[kind] + more for kind in KINDS)

        await self.until(enough)

    async def _work(self, make: Callable[[int, int], Any], worker: int) -> None:
        while not self._stop.is_set():
            await make(next(self._numbers), worker)

    async def _plain(self, n: int, worker: int) -> None:
        answer = await self._call("plain", n)
        if answer is not None:
            value = json.loads(answer.json()["body"])
            self._acknowledge("plain", n, worker, answer, value)

    async def _keyed(self, n: int, worker: int) -> None:
        answer = await self._call("keyed", n)
        if answer is not None:
            self._acknowledge("keyed", n, worker, answer, json.loads(answer.json()["body"]))

    async def _async(self, n: int, worker: int) -> None:
        answer = await self._call("async", n)
        if answer is not None:
            accepted = json.loads(answer.json()["body"])
            assert accepted["invocation_id"] == answer.headers["x-invocation-id"]
            self._acknowledge("async", n, worker, answer, None)

    def _acknowledge(self, kind: str, n: int, worker: int, answer: httpx.Response, value: Any) -> None:
        if value is not None and value["n"] != n:
            self.unexpected.append(f"{kind} {n} was answered {value}")
        book = self.books[kind]
        book.acknowledged[n] = Answer(n, answer.headers["x-invocation-id"], value)
        book.by_worker.setdefault(worker, []).append(n)

    async def _call(self, kind: str, n: int) -> httpx.Response | None:
        book = self.books[kind]
        book.attempted.add(n)
        try:
            answer = await self.call(kind, n)
        except httpx.TransportError:
            book.cut_off += 1
            await asyncio.sleep(0.05)  # nobody is there: do not fill the book meanwhile
            return None
        if answer.status_code == 200:
            return answer
        told = (answer.status_code, answer.json().get("code", ""))
        book.refused[told] += 1
        if told not in MAY_BE_REFUSED:
            self.unexpected.append(f"{kind} {n} was refused: {told} {answer.text}")
        await asyncio.sleep(0.05)
        return None

    async def call(self, kind: str, n: int) -> httpx.Response:
        """Make one call; the same again for the same number."""
        payload = {"n": n, "ms": n % 7}
        return await self._http.post(
            f"/compute/functions/{COLLECTION}/{kind}/invoke",
            json={
                "payload": json.dumps(payload),
                "invocation_type": "Async" if kind == "async" else "RequestResponse",
            },
            headers={"Idempotency-Key": f"key-{n}"} if kind == "keyed" else {},
        )

    async def _update(self) -> None:
        while not self._stop.is_set():
            mark, kind = next(self._marks), self.chance.choice(KINDS)
            path = f"/compute/compute-assets/{COLLECTION}/{kind}"
            try:
                answer = await self._http.patch(path, json={"assets": _assets(mark)})
            except httpx.TransportError:
                self.updates["cut off"] += 1
            else:
                self.updates[str(answer.status_code)] += 1
                if answer.status_code not in (200, 503):
                    self.unexpected.append(f"an update was refused: {answer.status_code} {answer.text}")
            await asyncio.sleep(0.1)

    # -- looking -----------------------------------------------------------------------------------

    async def get(self, path: str, **query: Any) -> Any:
        """Return the body of what must be there."""
        answer = await self._http.get(path, params=query)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.json()["body"]

    async def record(self, invocation_id: str, *, wait_ms: int = 0) -> dict[str, Any] | None:
        """Return a record, None if there is none."""
        path = f"/compute/invocations/{invocation_id}"
        answer = await self._http.get(path, params={"wait": wait_ms} if wait_ms else {})
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["body"]
        return found

    async def records(self, ids: list[str], *, wait_ms: int = 0) -> dict[str, dict[str, Any] | None]:
        """Return the records of many, some at a time."""
        slots = asyncio.Semaphore(16)

        async def one(invocation_id: str) -> dict[str, Any] | None:
            async with slots:
                return await self.record(invocation_id, wait_ms=wait_ms)

        return dict(zip(ids, await asyncio.gather(*map(one, ids)), strict=True))

    async def counted(self, kind: str) -> dict[str, int]:
        """Return how many records of a kind there are of each status, and in all."""
        function = f"{COLLECTION}/{kind}"
        found = {}
        for status in ("queued", "running", *END_REASONS):
            body = await self.get("/compute/invocations", function=function, status=status, limit=1)
            found[status] = body["results_total"]
        found["all"] = (await self.get("/compute/invocations", function=function, limit=1))["results_total"]
        return found

    async def listed(self, kind: str) -> list[dict[str, Any]]:
        """Return all records of a kind."""
        body = await self.get("/compute/invocations", function=f"{COLLECTION}/{kind}")
        results: list[dict[str, Any]] = body["results"]
        return results


def _assets(mark: int) -> list[dict[str, Any]]:
    value = base64.b64encode((SOURCE % mark).encode()).decode()
    return [{"asset_name": "index.js", "asset_type": "file", "asset_value": value}]
