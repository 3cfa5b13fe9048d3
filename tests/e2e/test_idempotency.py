"""Idempotency-Key over HTTP: what comes with one runs once, and is answered as it was, whatever is killed.

Source: the compute API contract, *Invoke* and *Invocations*.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.callers import at_once
from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import wait_until
from tests.e2e.test_invocations import id_of, listed, record

COUNTING = """
let count = 0;
exports.handler = async (e) => {
  count += 1;
  if (e.sleep) await new Promise((later) => setTimeout(later, e.sleep));
  if (e.fails) throw new TypeError('count ' + count);
  return { count, pad: 'x'.repeat(e.pad ?? 0) };
};
"""


def call(
    client: Client, key: str, payload: object = None, *, name: str = "f", kind: str = "RequestResponse"
) -> httpx.Response:
    return client.http.post(
        f"/compute/functions/{client.collection}/{name}/invoke",
        json={"payload": json.dumps(payload or {}), "invocation_type": kind},
        headers={"Idempotency-Key": key},
    )


def told(answer: httpx.Response) -> tuple[int, Any, str]:
    return answer.status_code, answer.json(), id_of(answer)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def runs(client: Client, name: str = "f") -> int:
    """Return how many invocations of a function there ever were."""
    total: int = listed(client, function=f"{client.collection}/{name}")["results_total"]
    return total


@pytest.mark.parametrize(
    "payload", [{}, {"fails": True}, {"pad": 700_000}], ids=["a result", "a failure", "a large result"]
)
def test_the_same_request_again_is_answered_as_it_was_and_runs_nothing(
    client: Client, payload: object
) -> None:
    client.function("f", COUNTING)

    first = call(client, "k", payload)
    again = [call(client, "k", payload) for _ in range(3)]
    other = call(client, "another", payload)

    assert first.status_code == (500 if payload == {"fails": True} else 200)
    assert [told(answer) for answer in again] == [told(first)] * 3
    assert id_of(other) != id_of(first)
    assert runs(client) == 2


def test_another_request_with_the_key_is_refused_and_runs_nothing(client: Client) -> None:
    client.function("f", COUNTING)
    call(client, "k")

    others = [call(client, "k", {"pad": 1}), call(client, "k", kind="Async")]

    assert [refusal(answer) for answer in others] == [(409, "idempotency.conflict")] * 2
    assert runs(client) == 1


def test_while_the_first_still_runs_the_same_request_is_told_to_come_again(client: Client) -> None:
    client.function("f", COUNTING)
    answers: list[httpx.Response] = []
    first = threading.Thread(target=lambda: answers.append(call(client, "k", {"sleep": 1500})))
    first.start()
    wait_until(lambda: bool(listed(client, function=f"{client.collection}/f", status="running")["results"]))

    meanwhile, other = call(client, "k", {"sleep": 1500}), call(client, "k", {"sleep": 1501})
    first.join()

    assert refusal(meanwhile) == (409, "idempotency.in_progress")
    assert int(meanwhile.headers["retry-after"]) == meanwhile.json()["retry_after"] >= 1
    assert refusal(other) == (409, "idempotency.conflict")
    assert told(call(client, "k", {"sleep": 1500})) == told(answers[0])


@pytest.mark.parametrize("kind", ["RequestResponse", "Async"])
def test_fifty_clients_at_once_with_one_key_run_it_once(client: Client, kind: str) -> None:
    client.function("f", COUNTING)
    clients = [Client(client.url, client.token, client.collection) for _ in range(50)]

    answers = at_once(50, lambda n: call(clients[n], "k", {"sleep": 200}, kind=kind))
    for one in clients:
        one.http.close()

    good = [answer for answer in answers if answer.status_code == 200]
    rest = [refusal(answer) for answer in answers if answer.status_code != 200]
    assert good
    assert len({id_of(answer) for answer in good}) == 1
    assert set(rest) <= {(409, "idempotency.in_progress")}
    assert kind == "RequestResponse" or not rest
    assert record(client, good[0])["attempts"] == 1
    assert runs(client) == 1


def test_a_key_belongs_to_its_function(client: Client) -> None:
    client.function("f", COUNTING)
    client.function("g", COUNTING)

    first, other = call(client, "k"), call(client, "k", {"pad": 3}, name="g")

    assert (first.status_code, other.status_code) == (200, 200)
    assert id_of(first) != id_of(other)


def test_an_async_key_answers_the_same_id(client: Client) -> None:
    client.function("f", COUNTING)

    first = call(client, "k", kind="Async")
    before_its_end = call(client, "k", kind="Async")
    record(client, first)
    after_its_end = call(client, "k", kind="Async")

    assert told(before_its_end) == told(after_its_end) == told(first)
    assert refusal(call(client, "k", {"pad": 1}, kind="Async")) == (409, "idempotency.conflict")
    assert runs(client) == 1


@pytest.mark.parametrize("key", ["k", "k" * 255, "a b/c.d*>#%", "'\""])
def test_a_key_is_any_text_of_up_to_255_characters(client: Client, key: str) -> None:
    client.function("f", COUNTING)

    assert told(call(client, key)) == told(call(client, key))


@pytest.mark.parametrize("key", ["", "k" * 256])
@pytest.mark.parametrize("kind", ["RequestResponse", "Async"])
def test_a_key_that_is_none_or_too_long_runs_nothing(client: Client, key: str, kind: str) -> None:
    client.function("f", COUNTING)

    assert refusal(call(client, key, kind=kind)) == (400, "request.invalid")
    assert runs(client) == 0


def test_what_was_refused_leaves_the_key_free(client: Client) -> None:
    client.function("f", COUNTING, schema={"input": {"type": "object", "required": ["pad"]}})

    refused = call(client, "k", {})
    taken = call(client, "k", {"pad": 1})

    assert refusal(refused) == (400, "schema.input")
    assert taken.status_code == 200


def test_a_caller_who_leaves_finds_the_outcome_when_it_asks_again(client: Client) -> None:
    client.function("f", COUNTING)
    with Client(client.url, client.token, client.collection) as impatient:
        impatient.http.timeout = httpx.Timeout(0.4)
        with pytest.raises(httpx.ReadTimeout):
            call(impatient, "k", {"sleep": 1500})

    wait_until(lambda: call(client, "k", {"sleep": 1500}).status_code != 409)

    answer = call(client, "k", {"sleep": 1500})
    assert json.loads(answer.json()["body"])["count"] == 1
    assert record(client, answer)["status"] == "ok"


def test_a_key_is_known_through_a_stop_and_through_a_kill(isolated: None, data: Path) -> None:
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        client.function("f", COUNTING, monitor_config={"ttl": 0})
        first = [told(call(client, key, payload)) for key, payload in KEYS]
    assert server.stop() == 0
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        stopped = [told(call(client, key, payload)) for key, payload in KEYS]
    server.kill()
    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            killed = [told(call(client, key, payload)) for key, payload in KEYS]
            conflict = refusal(call(client, "a", {"pad": 2}))
    finally:
        server.stop()

    assert stopped == killed == first
    assert conflict == (409, "idempotency.conflict")


KEYS: list[tuple[str, dict[str, Any]]] = [("a", {}), ("b", {"fails": True}), ("c", {"pad": 500_000})]


def test_one_that_a_kill_cut_off_is_lost_and_never_run_again(isolated: None, data: Path) -> None:
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        client.function("f", COUNTING)
        cut: list[Exception] = []

        def calling() -> None:
            try:
                call(client, "k", {"sleep": 20_000})
            except httpx.TransportError as error:
                cut.append(error)

        thread = threading.Thread(target=calling)
        thread.start()
        wait_until(lambda: bool(listed(client, status="running")["results"]))
        one = listed(client)["results"][0]["invocation_id"]
        server.kill()
        thread.join()
    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            found = record(client, one)
            answers = [call(client, "k", {"sleep": 20_000}) for _ in range(2)]
            total = runs(client)
    finally:
        server.stop()

    assert len(cut) == 1
    assert (found["status"], found["code"]) == ("lost", "platform.lost")
    assert [(*refusal(answer), id_of(answer)) for answer in answers] == [(500, "platform.lost", one)] * 2
    assert total == 1
