"""Instances: how many a function gets, who waits, what a reused or fresh one carries."""

from __future__ import annotations

import json
import socket

import pytest

from tests.e2e.callers import at_once, results
from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import groups_with_memory_limit, wait_until

BOTH = pytest.mark.parametrize("runtime", ["nodejs", "python"])
WHO = {
    "nodejs": """
const me = require('node:crypto').randomUUID();
let calls = 0;
exports.handler = async (event) => {
  calls += 1;
  if (event && event.ms) await new Promise((done) => setTimeout(done, event.ms));
  return { me, calls, random: Math.random() };
};
""",
    "python": """
import random, time, uuid
me = str(uuid.uuid4())
calls = 0
def handler(event):
    global calls
    calls += 1
    if event and event.get('ms'):
        time.sleep(event['ms'] / 1000)
    return {'me': me, 'calls': calls, 'random': random.random()}
""",
}


@BOTH
def test_an_instance_is_kept_and_serves_the_next_call(client: Client, runtime: str) -> None:
    name = client.function("kept", WHO[runtime], runtime=runtime)

    first, second = client.result(name), client.result(name)

    assert first["me"] == second["me"]
    assert (first["calls"], second["calls"]) == (1, 2)


@BOTH
def test_200_callers_of_a_new_function_meet_its_four_instances(client: Client, runtime: str) -> None:
    name = client.function("herd", WHO[runtime], runtime=runtime, concurrency={"max_instances": 4})

    seen = results(at_once(200, lambda _: client.invoke(name, {"ms": 20})))

    assert len({one["me"] for one in seen}) == 4
    assert sum(1 for one in seen if one["calls"] == 1) == 4


def test_a_function_at_its_own_limit_is_busy_after_the_wait(client: Client) -> None:
    name = client.function("busy", WHO["nodejs"], concurrency={"max_instances": 1}, timeout=9000)

    answers = at_once(3, lambda _: client.invoke(name, {"ms": 7000}))

    busy = [a for a in answers if a.status_code == 429]
    assert len(busy) == 2, [a.text for a in answers]
    assert busy[0].json()["code"] == "function.busy"
    assert int(busy[0].headers["retry-after"]) == busy[0].json()["retry_after"]


@BOTH
def test_calls_at_once_in_one_instance_have_their_own_results_and_logs(client: Client, runtime: str) -> None:
    source = (
        """
exports.handler = async (event) => {
  console.log('begin', event.n);
  await new Promise((done) => setTimeout(done, 30));
  console.log('end', event.n);
  return event.n;
};
"""
        if runtime == "nodejs"
        else """
import asyncio
async def handler(event):
    print('begin', event['n'])
    await asyncio.sleep(0.03)
    print('end', event['n'])
    return event['n']
"""
    )
    limits = {"per_instance": 20, "max_instances": 1}
    name = client.function("shared", source, runtime=runtime, concurrency=limits)

    answers = at_once(20, lambda n: client.invoke(name, {"n": n}))

    assert sorted(results(answers)) == list(range(20))
    for answer in answers:
        n = json.loads(answer.json()["body"])
        assert client.log(answer) == f"begin {n}\nend {n}\n"


@BOTH
def test_two_instances_differ_in_what_is_random(client: Client, runtime: str) -> None:
    name = client.function("random", WHO[runtime], runtime=runtime, concurrency={"max_instances": 4})

    seen = results(at_once(8, lambda _: client.invoke(name, {"ms": 100})))

    assert len({one["random"] for one in seen}) == len(seen)
    assert len({one["me"] for one in seen}) > 1


def test_a_change_of_size_ends_the_old_instances_and_the_next_call_meets_a_new_one(client: Client) -> None:
    name = client.function("changed", WHO["nodejs"])
    before = client.result(name)

    client.http.patch(f"/compute/functions/{client.collection}/{name}", json={"size": "small"})

    after = client.result(name)
    assert after["me"] != before["me"]
    assert after["calls"] == 1


def test_min_instances_are_there_before_the_first_call(client: Client) -> None:
    name = client.function("ready", WHO["nodejs"], concurrency={"min_instances": 2}, size="131MB")

    wait_until(lambda: len(groups_with_memory_limit(131 * 1024 * 1024)) == 2)

    seen = results(at_once(2, lambda _: client.invoke(name, {"ms": 100})))
    assert len({one["me"] for one in seen}) == 2


def test_a_deleted_functions_instances_end(client: Client) -> None:
    name = client.function("deleted", WHO["nodejs"], size="133MB")
    client.result(name)
    assert len(groups_with_memory_limit(133 * 1024 * 1024)) == 1

    client.http.delete(f"/compute/functions/{client.collection}/{name}")

    wait_until(lambda: not groups_with_memory_limit(133 * 1024 * 1024))


@BOTH
def test_a_flood_of_output_is_cut_and_drained_and_the_call_ends_as_it_ends(
    client: Client, runtime: str
) -> None:
    source = (
        "const line = 'x'.repeat(1 << 20); exports.handler = () => { for (let i = 0; i < 300; i++) console.log(line); return 'done'; };"
        if runtime == "nodejs"
        else "line = 'x' * (1 << 20)\ndef handler(e):\n    for _ in range(300): print(line)\n    return 'done'"
    )
    name = client.function("flood", source, runtime=runtime)

    answer = client.invoke(name)

    assert answer.json() == {"body": '"done"'}
    record = client.http.get(f"/compute/invocations/{answer.headers['x-invocation-id']}").json()["body"]
    assert record["log_bytes"] == 300 * ((1 << 20) + 1)
    assert len(client.log(answer)) < 300 * 1024
    assert "more bytes were cut" in client.log(answer)


def test_a_caller_who_leaves_has_the_call_cancelled_and_the_place_is_free(
    client: Client, server: ServerProcess
) -> None:
    name = client.function("left", WHO["nodejs"], concurrency={"max_instances": 1}, timeout=60_000)
    me = client.result(name)["me"]
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"payload": '{"ms":50000}', "invocation_type": "RequestResponse"}).encode()
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(
            f"POST /compute/functions/{client.collection}/{name}/invoke HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {client.token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        for _ in range(3):  # each takes turns of the server's loop: by now it has read what was sent before
            client.http.get("/healthz")

    after = client.result(name)

    assert after["me"] != me


def test_a_caller_who_only_stops_sending_gets_the_answer(client: Client, server: ServerProcess) -> None:
    name = client.function("half", WHO["nodejs"])
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"payload": '{"ms":300}', "invocation_type": "RequestResponse"}).encode()
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(
            f"POST /compute/functions/{client.collection}/{name}/invoke HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {client.token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        caller.shutdown(socket.SHUT_WR)

        answer = b"".join(iter(lambda: caller.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'\\"calls\\":1' in answer
