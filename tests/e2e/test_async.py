"""Async invocations over HTTP: accepted at once, tried again, ended once, through stops and kills.

Source: the compute API contract, *Invocations* and *What can end a call*.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import wait_until
from tests.e2e.test_invocations import ECHO, id_of, listed, look_up, record, send
from tests.e2e.test_versions import change, says

FAILING = """
exports.handler = async (e) => {
  if (e.fails) throw new Error('as it was told');
  return 'done';
};
"""


def letters(client: Client, name: str) -> list[str]:
    answer = client.http.get(f"/compute/functions/{client.collection}/{name}/dead-letters")
    assert answer.status_code == 200, answer.text
    return [letter["invocation_id"] for letter in answer.json()["body"]["results"]]


def status(client: Client, answer: httpx.Response) -> str:
    found: str = record(client, answer, "")["status"]
    return found


def busy(client: Client, name: str, *, sleep_ms: int = 60_000) -> httpx.Response:
    """Take the one instance of a function; returns once it is taken."""
    answer = send(client, name, {"sleep": sleep_ms})
    wait_until(lambda: status(client, answer) == "running")
    return answer


def cancel(client: Client, answer: httpx.Response) -> httpx.Response:
    return client.http.post(f"/compute/invocations/{id_of(answer)}/cancel")


# -- acceptance ------------------------------------------------------------------------------------------


def test_what_could_be_refused_is_refused_before_it_is_accepted(client: Client) -> None:
    client.function("f", ECHO, schema={"input": {"type": "object", "required": ["n"]}})
    path = f"/compute/functions/{client.collection}/f/invoke"

    def refused(payload: str, url: str = path, token: str | None = None) -> tuple[int, str]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        body = {"payload": payload, "invocation_type": "Async"}
        answer = client.http.post(url, json=body, headers=headers)
        return answer.status_code, answer.json()["code"]

    assert refused("{}") == (400, "schema.input")
    assert refused("nope") == (400, "request.invalid")
    assert refused('{"n":1}', path.replace("/f/", "/none/")) == (404, "not_found")
    assert refused('{"n":1}', path + "?version=9") == (404, "not_found")
    assert refused('{"n":1}', path, "guess") == (401, "auth.invalid")
    assert refused(json.dumps({"n": "x" * 1024 * 1024})) == (413, "too_large")
    assert listed(client, function=f"{client.collection}/f")["results_total"] == 0


def test_an_accepted_one_is_queued_at_once_runs_when_there_is_room_and_ends_once(client: Client) -> None:
    client.function("f", ECHO, concurrency={"max_instances": 1}, monitor_config={"store_payload": True})
    first = busy(client, "f")

    second = send(client, "f", {"back": "mine"})
    before = record(client, second, "?wait=0")
    cancel(client, first)
    after = record(client, second)

    assert (before["status"], before["attempts"], before["started"]) == ("queued", 0, None)
    assert (after["status"], after["result"], after["attempts"]) == ("ok", '"mine"', 1)
    assert record(client, second) == after
    assert record(client, first)["status"] == "cancelled"


# -- trying again ----------------------------------------------------------------------------------------


def test_one_that_fails_is_tried_again_and_in_the_end_a_dead_letter_that_can_be_redriven(
    client: Client,
) -> None:
    client.function("f", FAILING, retry={"attempts": 3, "backoff_ms": 50})

    dead = send(client, "f", {"fails": True})
    ended = record(client, dead)
    change(client, "f", says("repaired"))
    redrive = f"/compute/functions/{client.collection}/f/dead-letters/{id_of(dead)}/redrive"
    before = letters(client, "f")
    redriven = client.http.post(redrive)

    assert (ended["status"], ended["code"], ended["attempts"]) == ("error", "function.error", 3)
    assert ended["error"]["error"] == "as it was told"
    assert before == [id_of(dead)]
    assert redriven.status_code == 200, redriven.text
    assert letters(client, "f") == []
    again = record(client, redriven)
    assert (again["status"], again["version"], again["replay_of"]) == ("ok", 2, id_of(dead))
    assert record(client, dead)["status"] == "error"
    assert client.http.post(redrive).status_code == 404


def test_between_two_attempts_it_is_queued_and_each_wait_is_longer(client: Client) -> None:
    client.function("f", FAILING, retry={"attempts": 9, "backoff_ms": 60_000})

    one = send(client, "f", {"fails": True})
    wait_until(lambda: record(client, one, "")["attempts"] == 1 and status(client, one) == "queued")
    cancelled = cancel(client, one)

    assert cancelled.status_code == 200
    found = record(client, one)
    assert (found["status"], found["attempts"]) == ("cancelled", 1)
    assert letters(client, "f") == []


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("exports.nothing = 1;", "function.load_failed"),
        ("exports.handler = () => 1n;", "function.result_invalid"),
    ],
)
def test_what_would_fail_again_is_not_tried_again(client: Client, source: str, code: str) -> None:
    client.function("f", source, retry={"attempts": 5, "backoff_ms": 1})

    found = record(client, one := send(client, "f"))

    assert (found["code"], found["attempts"]) == (code, 1)
    assert letters(client, "f") == [id_of(one)]


def test_one_that_waited_too_long_expires_and_is_no_dead_letter(client: Client) -> None:
    client.function("f", ECHO, concurrency={"max_instances": 1}, retry={"max_age_ms": 1000})
    first = busy(client, "f", sleep_ms=2500)

    found = record(client, send(client, "f"))

    assert (found["status"], found["code"], found["attempts"]) == ("error", "invocation.expired", 0)
    assert record(client, first)["status"] == "ok"
    assert letters(client, "f") == []


# -- cancelling ------------------------------------------------------------------------------------------


def test_what_waits_and_what_runs_is_cancelled_once(client: Client) -> None:
    client.function("f", ECHO, concurrency={"max_instances": 1})
    runs, waits = busy(client, "f"), send(client, "f")

    assert [cancel(client, one).json() for one in (waits, runs)] == [{"message": "success"}] * 2

    found = [record(client, one) for one in (runs, waits)]
    assert [(one["status"], one["code"]) for one in found] == [("cancelled", "invocation.cancelled")] * 2
    assert [one["attempts"] for one in found] == [1, 0]
    again = [cancel(client, one) for one in (runs, waits)]
    assert [(one.status_code, one.json()["code"]) for one in again] == [(409, "invocation.ended")] * 2
    assert letters(client, "f") == []
    assert client.invoke("f", {"back": 1}).status_code == 200


# -- versions, changes and deletes -------------------------------------------------------------------------


def test_what_waits_runs_the_code_of_its_turn_or_the_version_it_asked_for(client: Client) -> None:
    source = ECHO.replace("return e.back ?? null", "return 'old'")
    client.function("f", source, concurrency={"max_instances": 1}, monitor_config={"store_payload": True})
    first = busy(client, "f")
    path = f"/compute/functions/{client.collection}/f/invoke?version=1"
    pinned = client.http.post(path, json={"payload": "{}", "invocation_type": "Async"})
    free = send(client, "f", {})

    change(client, "f", says("new"))
    cancel(client, first)

    found = [record(client, one) for one in (pinned, free)]
    assert [(one["version"], one["result"]) for one in found] == [(1, '"old"'), (2, '["new","2"]')]


def test_what_waits_for_a_function_that_is_deleted_is_cancelled_and_what_runs_ends(client: Client) -> None:
    client.function("f", ECHO, concurrency={"max_instances": 1})
    runs = busy(client, "f", sleep_ms=1500)
    waits = [send(client, "f") for _ in range(5)]

    client.http.delete(f"/compute/functions/{client.collection}/f")

    assert {record(client, one)["status"] for one in waits} == {"cancelled"}
    assert record(client, runs)["status"] == "ok"


# -- a backlog -------------------------------------------------------------------------------------------


@pytest.fixture
def backlog(client: Client) -> list[str]:
    """Two thousand quick invocations of one function, of which one runs at a time."""
    client.function("many", ECHO, concurrency={"max_instances": 1})
    client.function("other", ECHO)
    first = busy(client, "many")
    with ThreadPoolExecutor(16) as threads:
        answers = threads.map(lambda _: send(client, "many", {"sleep": 3}), range(2000))
    ids = [id_of(answer) for answer in answers]
    cancel(client, first)
    return ids


def left(client: Client) -> int:
    total: int = listed(client, function=f"{client.collection}/many", status="queued", limit=1)[
        "results_total"
    ]
    return total


def test_a_backlog_holds_up_neither_another_function_nor_a_call_of_its_own(
    client: Client, backlog: list[str]
) -> None:
    other = record(client, send(client, "other", {"back": 1}))
    answers = [client.invoke("other", {"back": 1}), client.invoke("many", {"back": 1})]
    answers.append(client.invoke("many", {"back": 1}, headers={"Idempotency-Key": "k"}))
    still_waiting = left(client)

    assert other["status"] == "ok"
    assert [answer.status_code for answer in answers] == [200] * 3
    assert still_waiting > 0
    assert [one for one in backlog if record(client, one)["status"] != "ok"] == []
    assert left(client) == 0


# -- through a restart -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [ServerProcess.kill, ServerProcess.stop], ids=["kill -9", "SIGTERM"])
def test_a_backlog_outlives_the_server_and_each_of_it_ends_once(
    isolated: None, data: Path, how: object
) -> None:
    assert callable(how)
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        client.function("f", ECHO, concurrency={"max_instances": 2}, monitor_config={"store_payload": True})
        answers = [send(client, "f", {"sleep": 50, "back": n}) for n in range(60)]
        wait_until(lambda: record(client, answers[3], "")["status"] == "ok")
    how(server)
    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            assert [look_up(client, id_of(answer)).status_code for answer in answers] == [200] * 60
            found = [record(client, answer) for answer in answers]
            assert [(one["status"], one["result"]) for one in found] == [("ok", str(n)) for n in range(60)]
            assert listed(client)["results_total"] == 60
            assert listed(client, status="ok")["results_total"] == 60
            assert letters(client, "f") == []
    finally:
        server.stop()


def test_a_wait_before_the_next_attempt_outlives_the_server(isolated: None, data: Path) -> None:
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        client.function("f", FAILING, retry={"attempts": 2, "backoff_ms": 2000})
        one = send(client, "f", {"fails": True})
        wait_until(lambda: record(client, one, "")["attempts"] == 1 and status(client, one) == "queued")
    server.kill()
    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            found = record(client, one)
            assert (found["status"], found["attempts"]) == ("error", 2)
            assert letters(client, "f") == [id_of(one)]
    finally:
        server.stop()


def test_many_who_wait_for_one_are_all_told_of_its_end(client: Client) -> None:
    client.function("f", ECHO, monitor_config={"store_payload": True})
    one = busy(client, "f", sleep_ms=1000)
    told: list[str] = []

    def wait() -> None:
        with Client(client.url, client.token) as other:
            told.append(record(other, one)["status"])

    waiting = [threading.Thread(target=wait) for _ in range(30)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()

    assert told == ["ok"] * 30
