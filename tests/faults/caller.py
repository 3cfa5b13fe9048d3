"""A caller of one server that may be gone for a while: small words for what the tests of delivery do."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import httpx

from tests.faults.conftest import Broken

COLLECTION = "delivery"
PATIENCE_S = 120.0
"""Against a hang."""


class Caller:
    """Async words over one server's API; every answer that is not expected fails the test."""

    def __init__(self, server: Broken) -> None:
        token = (server.data / "token").read_text().strip()
        self.http = httpx.AsyncClient(
            base_url=server.process.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=2 * PATIENCE_S,
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=0),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    @staticmethod
    def path(name: str) -> str:
        """Return where a function is."""
        return f"/compute/functions/{COLLECTION}/{name}"

    async def create(
        self,
        name: str,
        source: str,
        *,
        timeout_ms: int = 30_000,
        retry: tuple[int, int] = (50, 20),
        **rest: Any,
    ) -> None:
        """Create a function whose records hold payload and result; `retry` is attempts and backoff."""
        body = {
            "name": name,
            "monitor_config": {"store_payload": True},
            "retry": {"attempts": retry[0], "backoff_ms": retry[1]},
            "compute_asset": {
                "collection_topic": COLLECTION,
                "handler": "index.handler",
                "timeout": timeout_ms,
                "assets": _assets(source),
            },
            **rest,
        }
        answer = await self.http.post("/compute/functions", json=body)
        assert answer.status_code == 201, answer.text

    async def change(self, name: str, source: str) -> None:
        """Give it other code."""
        path = f"/compute/compute-assets/{COLLECTION}/{name}"
        answer = await self.http.patch(path, json={"assets": _assets(source)})
        assert answer.status_code == 200, answer.text

    async def post(
        self, name: str, payload: object, kind: str, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Return what a call is answered."""
        body = {"payload": json.dumps(payload), "invocation_type": kind}
        return await self.http.post(f"{self.path(name)}/invoke", json=body, headers=headers)

    async def invoke(
        self, name: str, payload: object, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Return what a RequestResponse call is answered."""
        return await self.post(name, payload, "RequestResponse", headers)

    async def accepted(self, name: str, payload: object) -> str:
        """Return the id of an Async invocation."""
        answer = await self.post(name, payload, "Async")
        assert answer.status_code == 200, answer.text
        return str(answer.headers["x-invocation-id"])

    async def many(self, name: str, payloads: list[dict[str, Any]]) -> list[str]:
        """Return the ids of as many, which are asked for at once."""
        return list(await asyncio.gather(*(self.accepted(name, payload) for payload in payloads)))

    async def get(self, path: str, **query: Any) -> Any:
        """Return the body of what must be there."""
        answer = await self.http.get(path, params=query)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.json()["body"]

    async def record(self, invocation_id: str) -> dict[str, Any]:
        """Return a record as it is now; it must be known."""
        found: dict[str, Any] = await self.get(f"/compute/invocations/{invocation_id}")
        return found

    async def ended(self, invocation_id: str) -> dict[str, Any]:
        """Return a record once it has ended."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                record: dict[str, Any] = await self.get(f"/compute/invocations/{invocation_id}", wait=60_000)
                if record["status"] not in ("queued", "running"):
                    return record

    async def all(self, name: str) -> list[dict[str, Any]]:
        """Return a function's records as a list tells them."""
        body = await self.get("/compute/invocations", function=f"{COLLECTION}/{name}")
        found: list[dict[str, Any]] = body["results"]
        assert len(found) == body["results_total"]
        return found

    async def all_at_last(self, name: str, count: int) -> list[dict[str, Any]]:
        """Return the same once lists are answered again, and tell of so many."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if await self.count(name) >= count:
                    answer = await self.http.get(
                        "/compute/invocations", params={"function": f"{COLLECTION}/{name}"}
                    )
                    if answer.status_code == 200:
                        found: list[dict[str, Any]] = answer.json()["body"]["results"]
                        return found
                    assert answer.status_code == 503, answer.text
                await asyncio.sleep(0.02)

    async def count(self, name: str, status: str | None = None) -> int:
        """Return how many records a function has; -1 while none can be counted."""
        query = {"function": f"{COLLECTION}/{name}", "limit": "1"}
        if status is not None:
            query["status"] = status
        answer = await self.http.get("/compute/invocations", params=query)
        return int(answer.json()["body"]["results_total"]) if answer.status_code == 200 else -1

    async def until(self, look: Callable[[], Awaitable[int]], least: int) -> None:
        """Return once `look` tells so many."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if await look() >= least:
                    return
                await asyncio.sleep(0.005)


def _assets(source: str) -> list[dict[str, Any]]:
    value = base64.b64encode(source.encode()).decode()
    return [{"asset_name": "index.js", "asset_type": "file", "asset_value": value}]
