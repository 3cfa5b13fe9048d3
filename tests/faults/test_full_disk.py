"""A full disk: new work is refused and says why, what runs finishes, reads go on, and it recovers by itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from stoker.backbone.disk import RESERVE_BYTES
from stoker.model.limits import MIB
from tests.faults.caller import Caller
from tests.faults.conftest import Broken

DISK_BYTES = RESERVE_BYTES + 96 * MIB
SLOW = """
exports.handler = async ({ ms }) => { await new Promise((done) => setTimeout(done, ms)); return ms; };
"""


@pytest.fixture
def data(isolated: None) -> Iterator[Path]:
    """A data directory on a small file system of the test's own."""
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as folder:
        options = f"size={DISK_BYTES},mode=755"
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "stoker-test", folder], check=False
        ).returncode:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("file systems cannot be mounted here")
        try:
            yield Path(folder) / "data"
        finally:
            subprocess.run(["umount", folder], check=True)


@pytest.fixture
async def caller(server: Broken) -> AsyncIterator[Caller]:
    async with Caller(server) as caller:
        yield caller


def fill(ballast: Path, free_bytes: int) -> None:
    """Leave so much of the file system free."""
    with ballast.open("wb") as file:
        while (left := _free(ballast) - free_bytes) > 0:
            file.write(bytes(min(left, MIB)))
            file.flush()


def _free(path: Path) -> int:
    space = os.statvfs(path)
    return space.f_bavail * space.f_frsize


def refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (507, "storage.full"), answer.text
    assert "disk is full" in answer.json()["error"]


async def test_a_full_disk_refuses_what_is_new_and_ends_what_runs_and_recovers(
    server: Broken, caller: Caller
) -> None:
    await caller.create("slow", SLOW)
    ballast = server.data.parent / "ballast"
    done = await caller.accepted("slow", {"ms": 0})
    await caller.ended(done)
    plain = asyncio.ensure_future(caller.invoke("slow", {"ms": 1500}))
    keyed = asyncio.ensure_future(caller.invoke("slow", {"ms": 1500}, {"Idempotency-Key": "running"}))
    queued = await caller.accepted("slow", {"ms": 1500})
    await caller.until(lambda: caller.count("slow", "running"), 2)

    fill(ballast, RESERVE_BYTES - 8 * MIB)

    ready = await caller.http.get("/readyz")
    assert (ready.status_code, ready.json()["error"]) == (503, "the disk is full")
    assert (await caller.http.get("/healthz")).status_code == 200
    refused(await caller.post("slow", {"ms": 0}, "Async"))
    refused(await caller.invoke("slow", {"ms": 0}, {"Idempotency-Key": "new"}))
    refused(await caller.http.post("/compute/functions", json=_function("new")))
    refused(await caller.http.patch(caller.path("slow"), json={"description": "new"}))
    refused(await caller.http.put("/compute/assets/new", content=b"new"))
    await _plain_calls_are_refused(caller)
    assert (await caller.record(done))["status"] == "ok"
    assert (await caller.get(caller.path("slow")))["name"] == "slow"
    assert [answer.status_code for answer in (await plain, await keyed)] == [200, 200]
    assert (await caller.ended(queued))["status"] == "ok"

    ballast.unlink()

    await caller.until(lambda: _is_ready(caller), 1)
    assert (await caller.http.post("/compute/functions", json=_function("new"))).status_code == 201
    assert (await caller.ended(await caller.accepted("slow", {"ms": 0})))["status"] == "ok"
    await caller.until(lambda: _served(caller), 1)
    again = await caller.invoke("slow", {"ms": 1500}, {"Idempotency-Key": "running"})
    assert again.headers["x-invocation-id"] == (await keyed).headers["x-invocation-id"]
    counts = {status: await caller.count("slow", status) for status in ("queued", "running", "ok")}
    assert (counts["queued"], counts["running"]) == (0, 0)
    assert counts["ok"] == await caller.count("slow")
    assert (await caller.record((await plain).headers["x-invocation-id"]))["status"] == "ok"


async def _plain_calls_are_refused(caller: Caller) -> None:
    """Their records are stored behind them: those under way when the disk fills are still answered."""

    async def one() -> int:
        answer = await caller.invoke("slow", {"ms": 0})
        if answer.status_code == 200:
            return 0
        refused(answer)
        return 1

    await caller.until(one, 1)


async def _served(caller: Caller) -> int:
    return int((await caller.invoke("slow", {"ms": 0})).status_code == 200)


async def _is_ready(caller: Caller) -> int:
    return int((await caller.http.get("/readyz")).status_code == 200)


def _function(name: str) -> dict[str, object]:
    asset = {"collection_topic": "delivery", "handler": "index.handler", "assets": []}
    return {"name": name, "monitor_config": {}, "compute_asset": asset}
