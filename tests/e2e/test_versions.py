"""Versions over HTTP: what the next call runs, what comes back, what a history holds, objects for linked code.

Source: the compute API contract, *Assets, versions*.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Client, ServerProcess

MIB = 1024 * 1024


def says(word: object) -> str:
    return f"exports.handler = async (event, context) => [{json.dumps(word)}, context.functionVersion];"


def item(content: str | bytes, name: str = "index.js") -> dict[str, Any]:
    data = content.encode() if isinstance(content, str) else content
    return {
        "asset_name": name,
        "asset_type": "file",
        "asset_value": base64.b64encode(data).decode(),
        "link": False,
    }


def path(client: Client, name: str) -> str:
    return f"/compute/compute-assets/{client.collection}/{name}"


def change(client: Client, name: str, source: str, **rest: Any) -> httpx.Response:
    return client.http.patch(path(client, name), json={"assets": [item(source)], **rest})


def read(client: Client, url: str) -> dict[str, Any]:
    answer = client.http.get(url)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()["body"]
    return body


def test_the_next_call_runs_the_new_code_and_a_rollback_the_old_one(client: Client) -> None:
    client.function("f", says("old"))
    before = client.result("f")

    patched = change(client, "f", says("new"))
    after = client.result("f")
    back = client.http.post(f"{path(client, 'f')}/rollback", json={"version": 1})

    assert (patched.status_code, patched.json()) == (200, {"message": "success"})
    assert (back.status_code, back.json()["body"]["version"]) == (200, 3)
    assert [before, after, client.result("f")] == [["old", "1"], ["new", "2"], ["old", "3"]]
    history = read(client, f"{path(client, 'f')}/history")
    assert [one["version"] for one in history["results"]] == [1, 2, 3]
    assert [one["assets"] for one in history["results"]] == [
        [item(says("old"))],
        [item(says("new"))],
        [item(says("old"))],
    ]
    assert history["results"][-1] == back.json()["body"] == read(client, path(client, "f"))


def test_a_change_of_the_environment_alone_reaches_the_next_call(client: Client) -> None:
    client.function("f", "exports.handler = () => process.env.WORD;", env_vars=["WORD=old"])
    before = client.result("f")

    client.http.patch(path(client, "f"), json={"env_vars": ["WORD=new"]})

    assert [before, client.result("f")] == ["old", "new"]


def test_a_call_in_flight_finishes_on_the_old_code(client: Client) -> None:
    slow = "exports.handler = async () => { await new Promise((r) => setTimeout(r, 2500)); return 'old'; };"
    client.function("f", slow)
    service = read(client, path(client, "f"))["service"]

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(client.result, "f")
        while not running.done() and not read(client, f"/compute/machines?service={service}")["results"]:
            pass
        change(client, "f", says("new"))
        still_running = not running.done()
        after = client.result("f")

        assert still_running
        assert (after, running.result()) == (["new", "2"], "old")


def test_no_call_fails_during_updates_and_each_runs_one_version_whole(client: Client) -> None:
    updates, callers = 12, 4
    client.function("f", says(1))
    over = threading.Event()

    def call(_: int) -> list[tuple[int, Any]]:
        seen = []
        while not over.is_set():
            answer = client.invoke("f")
            seen.append((answer.status_code, answer.json().get("body", answer.text)))
        return seen

    with ThreadPoolExecutor(callers) as threads:
        calls = [threads.submit(call, number) for number in range(callers)]
        try:
            for version in range(2, updates + 2):
                assert change(client, "f", says(version)).status_code == 200
                assert client.result("f") == [version, str(version)]
        finally:
            over.set()
        seen = [one for future in calls for one in future.result()]

    assert {status for status, _ in seen} == {200}, [body for status, body in seen if status != 200][:3]
    pairs = [json.loads(body) for _, body in seen]
    assert all(str(word) == version for word, version in pairs)
    assert len({version for _, version in pairs}) > 1


def test_code_that_cannot_be_unpacked_is_refused_and_the_old_goes_on(client: Client) -> None:
    client.function("f", says("old"))
    broken = {"asset_name": "../index.js", "asset_value": ""}

    refused = client.http.patch(path(client, "f"), json={"assets": [item("1"), broken]})

    assert (refused.status_code, refused.json()["field"]) == (400, "/assets/1/asset_name")
    assert client.result("f") == ["old", "1"]
    assert read(client, f"{path(client, 'f')}/history")["results_total"] == 1


def test_of_writers_that_read_the_same_version_one_wins(client: Client) -> None:
    client.function("f", says("old"))
    etag = client.http.get(path(client, "f")).headers["etag"]

    def write(number: int) -> int:
        headers = {"If-Match": etag}
        url = path(client, "f")
        return client.http.patch(url, json={"assets": [item(says(number))]}, headers=headers).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = sorted(threads.map(write, range(8)))

    assert statuses == [200] + [409] * 7
    rollback = f"{path(client, 'f')}/rollback"
    late = client.http.post(rollback, json={"version": 1}, headers={"If-Match": etag})
    assert (late.status_code, late.json()["code"]) == (409, "version_conflict")
    gone = client.http.delete(f"/compute/functions/{client.collection}/f", headers={"If-Match": etag})
    assert gone.status_code == 409


REFUSALS: list[tuple[str, str, Any, int, str | None]] = [
    ("GET", "/compute/compute-assets/{c}/none", None, 404, None),
    ("GET", "/compute/compute-assets/none/f", None, 404, None),
    ("PATCH", "/compute/compute-assets/{c}/none", {}, 404, None),
    ("GET", "/compute/compute-assets/{c}/none/history", None, 404, None),
    ("POST", "/compute/compute-assets/{c}/none/rollback", {}, 404, None),
    ("PATCH", "/compute/compute-assets/{c}/f", {"handler": "x"}, 400, "/handler"),
    ("PATCH", "/compute/compute-assets/{c}/f", {"runtime": "ruby"}, 400, "/runtime"),
    ("PATCH", "/compute/compute-assets/{c}/f", {"timeout": 900_001}, 400, "/timeout"),
    ("PATCH", "/compute/compute-assets/{c}/f?strict=1", {"more": 1}, 400, "/more"),
    ("POST", "/compute/compute-assets/{c}/f/rollback", {"version": 2}, 404, "/version"),
    ("POST", "/compute/compute-assets/{c}/f/rollback", {"version": "1"}, 400, "/version"),
    ("POST", "/compute/compute-assets/{c}/f/rollback", {}, 400, "/version"),
    ("GET", "/compute/compute-assets/{c}/f/history?limit=0", None, 400, None),
    ("PUT", "/compute/compute-assets/{c}/f", {}, 405, None),
    ("PUT", f"/compute/assets/{'x' * 1025}", {}, 400, None),
]


@pytest.mark.parametrize(("method", "url", "body", "status", "field"), REFUSALS)
def test_what_must_be_refused_is(
    client: Client, method: str, url: str, body: Any, status: int, field: str | None
) -> None:
    client.function("f", says("old"))
    url = url.replace("{c}", client.collection)

    answer = client.http.request(method, url, json=body)
    stranger = httpx.request(method, client.url + url, headers={"X-Api-Key": "guess"})

    assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
    assert isinstance(answer.json()["error"], str)
    assert stranger.status_code == (405 if status == 405 else 401)
    assert client.result("f") == ["old", "1"]


def test_a_history_survives_a_crash_and_a_delete_ends_it(isolated: None, data: Path) -> None:
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        client.function("f", says("old"))
        change(client, "f", says("new"), env_vars=["A=1"])
        client.http.post(f"{path(client, 'f')}/rollback", json={"version": 1})
        before = read(client, f"{path(client, 'f')}/history")
    server.kill()

    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            after = read(client, f"{path(client, 'f')}/history")
            result = client.result("f")
            client.http.delete(f"/compute/functions/{client.collection}/f")
            client.function("f", says("again"))
            again = read(client, f"{path(client, 'f')}/history")
            last = client.result("f")
    finally:
        server.stop()

    assert (after, result) == (before, ["old", "3"])
    assert [one["version"] for one in again["results"]] == [4]
    assert last == ["again", "4"]


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("there is no peak")


def test_an_object_goes_to_the_store_and_into_a_function_without_being_held_whole(
    isolated: None, data: Path
) -> None:
    size = 60 * MIB
    piece = bytes(range(256)) * 4096
    digest = hashlib.sha256(piece * (size // len(piece))).hexdigest()
    reads = (
        "const crypto = require('crypto'), fs = require('fs');"
        "exports.handler = () => crypto.createHash('sha256').update(fs.readFileSync('/code/big')).digest('hex');"
    )

    def pieces() -> Iterator[bytes]:
        for _ in range(size // len(piece)):
            yield piece

    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            before = _peak_bytes(server.process.pid)
            put = client.http.put("/compute/assets/big", content=pieces())
            after = _peak_bytes(server.process.pid)
            link = {"asset_name": "big", "asset_value": "big", "link": True}
            created = client.create("f", {}, assets=[item(reads), link])
            result = client.result("f")
    finally:
        server.stop()

    assert (put.status_code, put.json()["body"]["size_bytes"]) == (201, size)
    assert after - before < size / 3
    assert created.status_code == 201, created.text
    assert result == digest


def _stored(client: Client, source: str, key: str) -> None:
    assert client.http.put(f"/compute/assets/{key}", content=source.encode()).status_code == 201


def test_a_version_keeps_the_content_it_was_linked_to(client: Client) -> None:
    key = f"{client.collection}.js"
    client.function("f", says("old"))
    link = {"asset_name": "index.js", "asset_value": key, "link": True}
    _stored(client, says("first"), key)
    client.http.patch(path(client, "f"), json={"assets": [link]})

    _stored(client, says("second"), key)

    assert client.result("f") == ["first", "2"]
    assert read(client, path(client, "f"))["assets"] == [item(says("first"))]
