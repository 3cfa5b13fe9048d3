"""Attempts of Async calls: each is counted, also one that takes the server with it, and each has its log."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import wait_until

RUNS_LONG = "exports.handler = () => { console.log('begun'); return new Promise(() => {}); };"
BEGUN_S = 1.0
"""An attempt that has run for so long is stored as begun."""


def submit(client: Client, name: str, payload: object = None) -> str:
    answer = client.http.post(
        f"/compute/functions/{client.collection}/{name}/invoke",
        json={"payload": json.dumps(payload), "invocation_type": "Async"},
    )
    assert answer.status_code == 200, answer.text
    found: str = json.loads(answer.json()["body"])["invocation_id"]
    return found


def record(client: Client, invocation_id: str, wait_ms: int = 0) -> dict[str, Any]:
    found = client.http.get(f"/compute/invocations/{invocation_id}?wait={wait_ms}")
    assert found.status_code == 200, found.text
    body: dict[str, Any] = found.json()["body"]
    return body


def runs_since_s(client: Client, invocation_id: str) -> float:
    found = record(client, invocation_id)
    if found["status"] != "running":
        return 0.0
    return time.time() - datetime.fromisoformat(found["started"]).timestamp()


def test_attempts_that_take_the_server_with_them_count_and_come_to_an_end(isolated: None, data: Path) -> None:
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        client.function("poison", RUNS_LONG, retry={"attempts": 2, "backoff_ms": 1}, timeout=600_000)
        invocation_id = submit(client, "poison")
    seen = []
    for _ in range(2):
        with server.client() as client:
            wait_until(lambda client=client: runs_since_s(client, invocation_id) > BEGUN_S)  # type: ignore[misc]
            seen.append(record(client, invocation_id)["attempts"])
        server.kill()
        server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            ended = record(client, invocation_id, wait_ms=20_000)
            letters = client.http.get(f"/compute/functions/{client.collection}/poison/dead-letters").json()
    finally:
        assert server.stop() == 0, "".join(server.stderr)

    assert seen == [1, 2]
    assert (ended["status"], ended["code"], ended["attempts"]) == ("lost", "platform.lost", 2)
    assert [one["invocation_id"] for one in letters["body"]["results"]] == [invocation_id]


def test_an_attempt_that_a_crash_cut_off_is_one_of_those_that_a_function_has(
    isolated: None, data: Path
) -> None:
    server = ServerProcess(data).wait_ready()
    source = "exports.handler = async ({ ms }) => { await new Promise((r) => setTimeout(r, ms)); return 1; };"
    with server.client() as client:
        client.function("slow", source, retry={"attempts": 3}, timeout=600_000)
        invocation_id = submit(client, "slow", {"ms": 2_500})
        wait_until(lambda: runs_since_s(client, invocation_id) > BEGUN_S)
    server.kill()
    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            ended = record(client, invocation_id, wait_ms=20_000)
    finally:
        assert server.stop() == 0, "".join(server.stderr)

    assert (ended["status"], ended["attempts"]) == ("ok", 2)


def test_the_log_has_what_each_attempt_printed(client: Client) -> None:
    source = """
exports.handler = async () => { console.log('I try'); throw new Error('no'); };
"""
    name = client.function("tries", source, retry={"attempts": 3, "backoff_ms": 1})

    invocation_id = submit(client, name)
    ended = record(client, invocation_id, wait_ms=20_000)
    log = client.http.get(f"/compute/invocations/{invocation_id}/log").text

    assert (ended["status"], ended["attempts"], ended["log_bytes"]) == ("error", 3, 18)
    assert log == "I try\n[stoker: attempt 2]\nI try\n[stoker: attempt 3]\nI try\n"


def test_of_long_logs_that_of_the_last_attempt_is_whole(client: Client) -> None:
    source = """
exports.handler = async () => {
  for (let i = 0; i < 3000; i++) console.log('x'.repeat(59));
  console.log('end');
  throw new Error('no');
};
"""
    name = client.function("talks", source, retry={"attempts": 2, "backoff_ms": 1})

    invocation_id = submit(client, name)
    ended = record(client, invocation_id, wait_ms=20_000)
    log = client.http.get(f"/compute/invocations/{invocation_id}/log").text

    assert ended["log_bytes"] == 2 * 180_004
    _, last = log.split("[stoker: attempt 2]\n")
    assert last.startswith("x" * 59 + "\n" + "x" * 59)
    assert last.count("x" * 59 + "\n") == 3000
    cut = 360_008 - 180_004 - 64 * 1024
    assert log.endswith(f"end\n\n[stoker: {cut} more bytes were cut]\n")
