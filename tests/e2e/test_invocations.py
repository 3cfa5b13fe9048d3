"""Invocations looked up over HTTP: every end, payloads and results, logs, what goes and when, replays.

Source: the compute API contract, *Invocations*.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import wait_until
from tests.e2e.test_ends_of_calls import SOURCES

ECHO = """
exports.handler = async (e) => {
  if (e.print) process.stdout.write(Buffer.from(e.print, 'hex'));
  if (e.noise) process.stdout.write(Buffer.alloc(e.noise, 0xff));
  if (e.sleep) await new Promise((later) => setTimeout(later, e.sleep));
  return e.back ?? null;
};
"""
KEPT = {"store_payload": True}
KIB = 1024


def id_of(answer: httpx.Response) -> str:
    return answer.headers["x-invocation-id"]


def look_up(client: Client, invocation_id: str, query: str = "") -> httpx.Response:
    return client.http.get(f"/compute/invocations/{invocation_id}{query}")


def record(client: Client, answer: httpx.Response | str, query: str = "?wait=60000") -> dict[str, Any]:
    """Return the record of what a call answered, once it has ended."""
    found = look_up(client, answer if isinstance(answer, str) else id_of(answer), query)
    assert found.status_code == 200, found.text
    body: dict[str, Any] = found.json()["body"]
    return body


def send(client: Client, name: str, payload: object = None, **rest: Any) -> httpx.Response:
    """Accept an Async invocation."""
    answer = client.http.post(
        f"/compute/functions/{client.collection}/{name}/invoke",
        json={"payload": json.dumps(payload), "invocation_type": "Async"},
        **rest,
    )
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.json()["body"]) == {"invocation_id": id_of(answer)}
    return answer


def listed(client: Client, **query: Any) -> dict[str, Any]:
    answer = client.http.get("/compute/invocations", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()["body"]
    return body


def files_with(data: Path, text: bytes) -> list[str]:
    """Return the files below a folder that hold a text."""
    found = []
    for folder, _, names in os.walk(data):
        for path in (Path(folder, name) for name in names):
            try:
                if text in path.read_bytes():
                    found.append(str(path))
            except OSError:
                continue  # it went meanwhile
    return found


# -- one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [Client.invoke, send], ids=["RequestResponse", "Async"])
def test_a_call_can_be_looked_up_as_soon_as_it_is_answered(
    client: Client, how: Callable[..., httpx.Response]
) -> None:
    client.function("f", ECHO)

    for _ in range(20):
        answer = how(client, "f", {"back": 1})
        assert look_up(client, id_of(answer)).status_code == 200
        assert record(client, answer)["status"] == "ok"


def test_a_record_tells_what_happened(client: Client) -> None:
    client.function("f", ECHO)
    answer = client.invoke("f", {"print": "68690a", "sleep": 30})

    found = record(client, answer)

    subject = client.http.get(f"/compute/functions/{client.collection}/f").json()["body"]["subject"]
    assert (found["function"], found["version"], found["caller"]) == (subject, 1, "administrator")
    assert (found["invocation_type"], found["status"], found["code"]) == ("RequestResponse", "ok", None)
    assert (found["attempts"], found["log_bytes"]) == (1, 3)
    assert found["created"] <= found["started"] <= found["ended"]
    assert found["timings"]["run_ms"] >= 30
    assert found["timings"]["init_ms"] > 0
    assert found["timings"]["queue_ms"] >= 0
    assert found["memory_bytes"] > 1024 * KIB
    assert not {"payload", "result", "error", "replay_of"} & found.keys()


ENDS = [
    ("throw", "error", "function.error"),
    ("exit", "error", "function.exited"),
    ("spin", "timeout", "function.timeout"),
    ("memory", "memory", "function.out_of_memory"),
    ("fork", "processes", "function.too_many_processes"),
    ("not-json", "output", "function.result_invalid"),
    ("large", "output", "function.result_too_large"),
    ("schema", "output_schema", "schema.output"),
]


@pytest.mark.parametrize(("what", "status", "code"), ENDS, ids=[end[0] for end in ENDS])
def test_every_end_has_its_record_sync_and_async(client: Client, what: str, status: str, code: str) -> None:
    client.function(
        "f",
        SOURCES["nodejs"],
        size="128MB",
        timeout=1500,
        retry={"attempts": 1},
        schema={"output": {"type": "object", "properties": {"done": {"enum": ["x"]}}}},
    )

    sync = client.invoke("f", {"do": what})
    later = send(client, "f", {"do": what})

    told = sync.json()
    for found in (record(client, sync), record(client, later)):
        assert (found["status"], found["code"], found["attempts"]) == (status, code, 1)
        assert found["error"]["error"] == told["error"]
        assert found["error"]["error_type"] == told.get("error_type")
        assert "result" not in found
    letters = client.http.get(f"/compute/functions/{client.collection}/f/dead-letters").json()["body"]
    assert [letter["invocation_id"] for letter in letters["results"]] == [id_of(later)]
    if what not in ("memory", "large", "schema"):
        assert client.log(sync) == f"got {what}\n"


@pytest.mark.parametrize("how", [Client.invoke, send], ids=["RequestResponse", "Async"])
@pytest.mark.parametrize("keeps", [True, False])
def test_payload_and_result_are_part_of_the_record_if_the_function_says_so(
    client: Client, how: Callable[..., httpx.Response], keeps: bool
) -> None:
    client.function("f", ECHO, monitor_config={"store_payload": keeps})

    found = record(client, how(client, "f", {"back": {"ü": [1, 2.5]}}))

    if keeps:
        assert (found["payload"], found["result"]) == (
            json.dumps({"back": {"ü": [1, 2.5]}}),
            '{"ü":[1,2.5]}',
        )
    else:
        assert not {"payload", "result"} & found.keys()


@pytest.mark.parametrize("size", [255 * KIB, 257 * KIB, 6 * KIB * KIB - 100])
def test_a_large_body_is_kept_byte_for_byte(client: Client, size: int) -> None:
    client.function("f", ECHO, monitor_config=KEPT)
    payload = {"back": "aé" * (size // 3)}
    text = json.dumps(payload, ensure_ascii=False)
    answer = client.http.post(
        f"/compute/functions/{client.collection}/f/invoke",
        json={"payload": text, "invocation_type": "RequestResponse"},
    )

    first = record(client, answer)
    assert listed(client, function=f"{client.collection}/f", limit=1)["results"]  # now search has it as well
    then = record(client, answer)

    assert (first["payload"], first["result"]) == (text, answer.json()["body"])
    assert then == first


# -- logs ------------------------------------------------------------------------------------------------


def test_half_a_character_is_shown_as_such_and_nothing_was_cut(client: Client) -> None:
    client.function("f", ECHO)

    answer = client.invoke("f", {"print": b"a\xc3".hex()})

    assert client.log(answer) == "a\ufffd"
    assert record(client, answer)["log_bytes"] == 2


def test_a_log_of_noise_that_was_cut_says_so(client: Client) -> None:
    client.function("f", ECHO)

    answer = client.invoke("f", {"noise": 300_000})

    log = client.log(answer)
    assert log.count("\ufffd") == 256 * KIB
    assert log.endswith(f"[stoker: {300_000 - 256 * KIB} more bytes were cut]\n")
    assert record(client, answer)["log_bytes"] == 300_000


# -- what goes -------------------------------------------------------------------------------------------


def test_a_function_without_records_leaves_none_but_an_async_one_until_its_end(client: Client) -> None:
    client.function("f", ECHO, monitor_config={"ttl": 0, "store_payload": True})

    sync, later = client.invoke("f", {"back": 1}), send(client, "f", {"sleep": 300, "back": 2})

    assert look_up(client, id_of(sync)).status_code == 404
    assert record(client, later, "")["status"] in ("queued", "running")
    assert record(client, later)["result"] == "2"
    for path in ("", "/log"):
        assert look_up(client, id_of(later), path).status_code == 404
    assert listed(client, function=f"{client.collection}/f")["results_total"] == 0


def test_an_expired_record_is_gone_from_everywhere_and_from_the_disk(
    client: Client, server: ServerProcess
) -> None:
    client.function("f", ECHO, monitor_config={"ttl": 1000, "store_payload": True})
    mark = f"mark-{os.urandom(8).hex()}"
    answers = [
        client.invoke("f", {"print": mark.encode().hex()}),
        client.invoke("f", {"mark": mark}),
        client.invoke("f", {"back": mark * 20_000}),
        send(client, "f", {"back": mark * 20_000}),
        client.invoke("f", {"mark": mark}, headers={"Idempotency-Key": mark}),
    ]
    assert record(client, answers[3])["status"] == "ok"

    wait_until(lambda: all(look_up(client, id_of(answer)).status_code == 404 for answer in answers))

    assert all(look_up(client, id_of(answer), "/log").status_code == 404 for answer in answers)
    assert listed(client, function=f"{client.collection}/f") == {"results": [], "results_total": 0}
    wait_until(lambda: not files_with(server.data / "nats", mark.encode()))
    wait_until(lambda: not files_with(server.data, mark.encode()))


def test_the_records_of_a_function_that_is_gone_are_found_by_its_subject(client: Client) -> None:
    client.function("f", ECHO, monitor_config=KEPT)
    answer = client.invoke("f", {"back": 1})
    subject = record(client, answer)["function"]

    client.http.delete(f"/compute/functions/{client.collection}/f")

    assert [one["invocation_id"] for one in listed(client, function=subject)["results"]] == [id_of(answer)]
    assert record(client, answer)["result"] == "1"
    assert client.http.get(f"/compute/invocations?function={client.collection}/f").status_code == 404
    assert client.http.post(f"/compute/invocations/{id_of(answer)}/replay").status_code == 404


# -- lists -----------------------------------------------------------------------------------------------


def test_a_list_has_every_call_that_was_answered_newest_first_in_pages_or_whole(client: Client) -> None:
    client.function("f", ECHO)
    client.function("g", ECHO)
    made = [id_of(client.invoke("f", {"back": n})) for n in range(7)]
    client.invoke("g")
    function = f"{client.collection}/f"

    whole = listed(client, function=function)
    pages: list[str] = []
    query: dict[str, Any] = {"function": function, "limit": 3}
    while True:
        page = listed(client, **query)
        pages += [one["invocation_id"] for one in page["results"]]
        assert page["results_total"] == 7
        if "next_cursor" not in page:
            break
        query["cursor"] = page["next_cursor"]

    assert [one["invocation_id"] for one in whole["results"]] == pages == sorted(made, reverse=True)
    assert whole["results_total"] == 7


def test_a_keyed_call_that_runs_is_listed_as_running_and_counted_once(client: Client) -> None:
    client.function("f", ECHO)
    function = f"{client.collection}/f"
    calling = threading.Thread(
        target=client.invoke, args=("f", {"sleep": 3000}), kwargs={"headers": {"Idempotency-Key": "k"}}
    )
    calling.start()
    wait_until(lambda: bool(listed(client, function=function, status="running")["results"]))

    counts = {
        status: listed(client, function=function, status=status)["results_total"]
        for status in ("queued", "running", "queued,running", "ok", "running,ok", "queued,ok")
    }
    calling.join()

    assert counts == {
        "queued": 0,
        "running": 1,
        "queued,running": 1,
        "ok": 0,
        "running,ok": 1,
        "queued,ok": 0,
    }
    assert listed(client, function=function, status="ok")["results_total"] == 1


# -- replays ---------------------------------------------------------------------------------------------


def test_a_replay_runs_the_old_payload_on_the_code_of_now_or_on_a_version(client: Client) -> None:
    source = "exports.handler = async (e, c) => [e, c.functionVersion];"
    client.function("f", source, monitor_config=KEPT)
    first = client.invoke("f", {"n": 1})
    client.http.patch(f"/compute/compute-assets/{client.collection}/f", json={"timeout": 9999})
    replay = f"/compute/invocations/{id_of(first)}/replay"

    now, then = client.http.post(replay), client.http.post(replay, json={"version": 1})
    again = client.http.post(f"/compute/invocations/{id_of(now)}/replay")

    assert [answer.json()["body"] for answer in (now, then, again)] == [
        '[{"n":1},"2"]',
        '[{"n":1},"1"]',
        '[{"n":1},"2"]',
    ]
    found = [record(client, answer) for answer in (now, then, again)]
    assert [one["replay_of"] for one in found] == [id_of(first), id_of(first), id_of(now)]
    assert [one["version"] for one in found] == [2, 1, 2]


def test_who_leaves_a_replay_cancels_it(client: Client) -> None:
    client.function("f", ECHO, monitor_config=KEPT)
    first = client.invoke("f", {"sleep": 2000})
    function = f"{client.collection}/f"

    with pytest.raises(httpx.ReadTimeout):
        client.http.post(f"/compute/invocations/{id_of(first)}/replay", timeout=0.5)

    wait_until(lambda: listed(client, function=function)["results_total"] == 2)
    replayed = listed(client, function=function)["results"][0]
    assert (replayed["status"], replayed["replay_of"]) == ("cancelled", id_of(first))


# -- through a restart -----------------------------------------------------------------------------------


def test_records_are_there_after_a_stop_and_those_of_a_moment_ago_after_a_kill(
    isolated: None, data: Path
) -> None:
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        client.function("f", ECHO, monitor_config=KEPT)
        stopped = [client.invoke("f", {"back": n}) for n in range(20)]
    assert server.stop() == 0
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        kept = [record(client, answer) for answer in stopped]
        killed = [client.invoke("f", {"back": n}) for n in range(20)]
        assert listed(client)["results_total"] == 40  # a list waits until what has ended is stored
    server.kill()
    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            assert [one["result"] for one in kept] == [str(n) for n in range(20)]
            assert [record(client, answer) for answer in stopped] == kept
            assert [record(client, answer)["result"] for answer in killed] == [str(n) for n in range(20)]
            assert listed(client)["results_total"] == 40
    finally:
        server.stop()


def asks_and_waits(server: ServerProcess, client: Client, answer: httpx.Response) -> HTTPConnection:
    """Send a look-up that waits, on a connection that the server has accepted; its answer is to be read."""
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    headers = {"Authorization": f"Bearer {client.token}"}
    connection.request("GET", f"/compute/invocations/{id_of(answer)}?wait=30000", headers=headers)
    return connection


def test_a_server_that_stops_answers_who_waits_for_what_will_not_begin(isolated: None, data: Path) -> None:
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        client.function("f", ECHO, concurrency={"max_instances": 1})
        first, second = send(client, "f", {"sleep": 2000, "back": 1}), send(client, "f", {"back": 2})
        wait_until(lambda: record(client, first, "")["status"] == "running")
        waiting = [asks_and_waits(server, client, answer) for answer in (first, second)]
        # What was sent before it has been read when this is answered.
        assert record(client, first, "")["status"] == "running"

        assert server.stop() == 0
        told = [json.loads(one.getresponse().read())["body"]["status"] for one in waiting]
        for one in waiting:
            one.close()

    assert told == ["ok", "queued"]
    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            assert [record(client, answer)["status"] for answer in (first, second)] == ["ok", "ok"]
    finally:
        server.stop()
