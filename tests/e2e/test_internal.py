"""A function that calls a function: `stoker.internal`, with what its invocation may do, and no stored secret."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Client, ServerProcess, a_server
from tests.e2e.processes import wait_until

NETWORK = {"tunnels": ["stoker.internal:80"]}
ASK = {
    "fetch": """
exports.handler = async ({ path, body, headers, method }) => {
  const answer = await fetch('http://stoker.internal' + path, { method: method ?? 'POST',
    headers: { 'content-type': 'application/json', ...headers }, body: body && JSON.stringify(body) });
  return [answer.status, await answer.json()];
};
""",
    "node:http": """
const http = require('node:http');
exports.handler = ({ path, body, headers, method }) => new Promise((resolve, reject) => {
  const request = http.request('http://stoker.internal' + path, { method: method ?? 'POST',
    headers: { 'content-type': 'application/json', ...headers } }, (answer) => {
    const parts = [];
    answer.on('data', (part) => parts.push(part));
    answer.on('end', () => resolve([answer.statusCode, JSON.parse(Buffer.concat(parts))]));
  }).on('error', reject);
  request.end(body && JSON.stringify(body));
});
""",
    "urllib": """
import json, urllib.error, urllib.request
def handler(event):
    request = urllib.request.Request(
        'http://stoker.internal' + event['path'],
        data=json.dumps(event['body']).encode() if event.get('body') else None,
        headers={'content-type': 'application/json', **event.get('headers', {})},
        method=event.get('method', 'POST'),
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return [answer.status, json.loads(answer.read())]
    except urllib.error.HTTPError as error:
        return [error.code, json.loads(error.read())]
""",
    "socket": """
import json, socket
def handler(event):
    body = json.dumps(event['body']).encode() if event.get('body') else b''
    head = f"{event.get('method', 'POST')} {event['path']} HTTP/1.1\\r\\nHost: stoker.internal\\r\\n"
    head += ''.join(f'{name}: {value}\\r\\n' for name, value in event.get('headers', {}).items())
    with socket.create_connection(('stoker.internal', 80), 20) as sock:
        sock.sendall(f'{head}Content-Length: {len(body)}\\r\\nConnection: close\\r\\n\\r\\n'.encode() + body)
        answer = b''
        while (more := sock.recv(65536)):
            answer += more
    head, _, body = answer.partition(b'\\r\\n\\r\\n')
    return [int(head.split()[1]), json.loads(body)]
""",
}
NUMBERS = itertools.count()
EVERY_WAY = pytest.mark.parametrize("way", list(ASK))


@pytest.fixture(scope="module")
def server(isolated: None) -> Iterator[ServerProcess]:
    """A server of its own, whose records are looked at."""
    with a_server() as running:
        yield running


def asks(client: Client, way: str, name: str = "asks", **rest: Any) -> str:
    runtime = "nodejs" if way in ("fetch", "node:http") else "python"
    rest = {"network": NETWORK, "timeout": 60_000, **rest}
    return client.function(f"{name}-{next(NUMBERS)}", ASK[way], runtime=runtime, **rest)


def call(client: Client, name: str, payload: object = None, kind: str = "RequestResponse") -> dict[str, Any]:
    """Return what a function has to ask to call another."""
    path = f"/compute/functions/{client.collection}/{name}/invoke"
    return {"path": path, "body": {"payload": json.dumps(payload), "invocation_type": kind}}


def asked(client: Client, name: str, question: dict[str, Any]) -> tuple[int, Any, httpx.Response]:
    """Return status and body that a function got for its question, and the answer of its own call."""
    answer = client.invoke(name, question)
    assert answer.status_code == 200, answer.text
    status, body = json.loads(answer.json()["body"])
    return status, body, answer


def record(client: Client, invocation_id: str) -> dict[str, Any]:
    found = client.http.get(f"/compute/invocations/{invocation_id}?wait=10000")
    assert found.status_code == 200, found.text
    body: dict[str, Any] = found.json()["body"]
    return body


def children(client: Client, invocation_id: str, **query: str) -> list[dict[str, Any]]:
    found = client.http.get("/compute/invocations", params={"parent": invocation_id, **query})
    assert found.status_code == 200, found.text
    body = found.json()["body"]
    assert body["results_total"] == len(body["results"])
    results: list[dict[str, Any]] = body["results"]
    return results


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with server.client() as made:
        yield made


@pytest.fixture
def double(client: Client) -> str:
    return client.function(
        f"double-{next(NUMBERS)}",
        "exports.handler = async (n) => 2 * n;",
        monitor_config={"store_payload": True},
    )


@EVERY_WAY
def test_a_function_calls_another_without_any_secret_and_their_records_are_linked(
    client: Client, double: str, way: str
) -> None:
    name = asks(client, way)

    status, body, answer = asked(client, name, call(client, double, 21))

    assert (status, json.loads(body["body"])) == (200, 42)
    parent = answer.headers["x-invocation-id"]
    [child] = children(client, parent)
    assert child["parent_invocation_id"] == parent
    assert child["depth"] == 1
    assert child["caller"] == f"invocation:{parent}"
    assert record(client, child["invocation_id"])["result"] == "42"
    assert "parent_invocation_id" not in record(client, parent)
    assert "depth" not in record(client, parent)


def test_a_list_of_children_can_be_narrowed_and_an_id_that_is_none_is_refused(
    client: Client, double: str
) -> None:
    name = asks(client, "fetch")
    _, _, answer = asked(client, name, call(client, double, 1))
    parent = answer.headers["x-invocation-id"]

    assert len(children(client, parent, status="ok", function=f"{client.collection}/{double}")) == 1
    assert children(client, parent, status="error") == []
    assert children(client, parent, function=f"{client.collection}/{name}") == []
    wrong = client.http.get("/compute/invocations", params={"parent": "me"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "request.invalid")


@EVERY_WAY
def test_what_an_invocation_may_is_to_invoke_and_nothing_else(client: Client, double: str, way: str) -> None:
    name = asks(client, way)

    for method, path in (
        ("GET", "/compute/functions"),
        ("DELETE", f"/compute/functions/{client.collection}/{double}"),
        ("GET", "/compute/invocations"),
        ("GET", "/secrets"),
        ("POST", "/tokens"),
        ("GET", "/readyz"),
        ("GET", "/openapi.json"),
        ("GET", "/metrics"),
    ):
        status, body, _ = asked(client, name, {"method": method, "path": path})
        assert (status, body["code"]) == (403, "auth.forbidden"), path


def test_an_invocation_sees_the_calls_that_it_made(client: Client, double: str) -> None:
    source = """
exports.handler = async ({ path, body }) => {
  const accepted = await (await fetch('http://stoker.internal' + path, { method: 'POST', body: JSON.stringify(body) })).json();
  const id = JSON.parse(accepted.body).invocation_id;
  const seen = await (await fetch(`http://stoker.internal/compute/invocations/${id}?wait=10000`)).json();
  return [seen.body.status, seen.body.result];
};
"""
    name = client.function(f"waits-{next(NUMBERS)}", source, network=NETWORK)

    assert client.result(name, call(client, double, 4, "Async")) == ["ok", "8"]


def test_another_accounts_function_is_not_there(client: Client, server: ServerProcess) -> None:
    token = client.http.post("/accounts", json={"name": "other"}).json()["body"]["token"]
    with server.client(token) as other:
        other.function("theirs", "exports.handler = async () => 'theirs';")
        question = call(other, "theirs")
    name = asks(client, "fetch")

    status, body, _ = asked(client, name, question)

    assert (status, body["code"]) == (404, "not_found")


@EVERY_WAY
def test_a_function_that_did_not_ask_for_it_does_not_reach_it(client: Client, double: str, way: str) -> None:
    name = asks(client, way, "unlisted", network={"egress": ["*:80"]})

    answer = client.invoke(name, call(client, double, 1))

    log = client.log(answer)
    if way == "socket":
        assert answer.status_code == 500
        assert answer.json()["error_type"] == "gaierror"
    else:
        assert answer.status_code == 500
        assert 'add "stoker.internal:80" to network.tunnels' in log


@pytest.mark.parametrize("way", ["fetch", "urllib"])
def test_calls_within_calls_end_at_sixteen(client: Client, way: str) -> None:
    source = {
        "fetch": """
exports.handler = async ({ path, depth }) => {
  const payload = JSON.stringify({ path, depth: depth + 1 });
  const answer = await fetch('http://stoker.internal' + path, { method: 'POST',
    body: JSON.stringify({ payload, invocation_type: 'RequestResponse' }) });
  const body = await answer.json();
  return answer.status === 200 ? JSON.parse(body.body) : { depth, status: answer.status, ...body };
};
""",
        "urllib": """
import json, urllib.error, urllib.request
def handler(event):
    payload = json.dumps({**event, 'depth': event['depth'] + 1})
    body = json.dumps({'payload': payload, 'invocation_type': 'RequestResponse'}).encode()
    try:
        with urllib.request.urlopen('http://stoker.internal' + event['path'], body, timeout=60) as answer:
            return json.loads(json.loads(answer.read())['body'])
    except urllib.error.HTTPError as error:
        return {'depth': event['depth'], 'status': error.code, **json.loads(error.read())}
""",
    }[way]
    name = client.function(
        f"deep-{way}",
        source,
        runtime="nodejs" if way == "fetch" else "python",
        network=NETWORK,
        timeout=60_000,
        size="128MB",
    )

    found = client.result(name, {"path": call(client, name)["path"], "depth": 0})

    assert (found["depth"], found["status"], found["code"]) == (16, 403, "auth.forbidden")
    assert "16 invocations deep" in found["error"]


def test_an_async_call_keeps_its_place_in_the_chain_when_its_parent_has_ended(
    client: Client, double: str
) -> None:
    inner = asks(client, "urllib", "inner")
    outer = asks(client, "fetch", "outer")

    question = call(client, inner, call(client, double, 4), "Async")
    status, body, answer = asked(client, outer, question)

    assert status == 200
    child = json.loads(body["body"])["invocation_id"]
    found = record(client, child)
    assert (found["status"], found["parent_invocation_id"], found["depth"]) == (
        "ok",
        answer.headers["x-invocation-id"],
        1,
    )
    wait_until(lambda: len(children(client, child)) == 1)
    [grandchild] = children(client, child)
    assert (grandchild["depth"], grandchild["status"]) == (2, "ok")


def test_a_keyed_call_is_linked_as_well(client: Client, double: str) -> None:
    name = asks(client, "fetch")
    question = {**call(client, double, 5), "headers": {"idempotency-key": "once"}}

    first = asked(client, name, question)
    second = asked(client, name, question)

    assert first[:2] == second[:2]
    [child] = children(client, first[2].headers["x-invocation-id"])
    assert child["depth"] == 1
    assert children(client, second[2].headers["x-invocation-id"]) == []


def test_a_connection_that_is_kept_belongs_to_the_call_that_runs(client: Client, double: str) -> None:
    source = """
import json, socket
kept = []
def handler(event):
    if not kept:
        kept.append(socket.create_connection(('stoker.internal', 80), 20))
    body = json.dumps(event['body']).encode()
    kept[0].sendall(f"POST {event['path']} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n".encode() + body)
    answer = b''
    while not answer.endswith(b'}'):
        answer += kept[0].recv(65536)
    return answer.decode().partition('\\r\\n')[0]
"""
    name = client.function("keeps", source, runtime="python", network=NETWORK)

    answers = [client.invoke(name, call(client, double, number)) for number in (1, 2)]

    for answer in answers:
        assert answer.json()["body"] == '"HTTP/1.1 200 OK"', answer.text
        assert len(children(client, answer.headers["x-invocation-id"])) == 1


def test_of_calls_that_share_an_instance_a_header_says_which_one_calls(client: Client, double: str) -> None:
    source = """
const waiting = [];
exports.handler = async (question, context) => {
  await new Promise((resolve) => { waiting.push(resolve); if (waiting.length === 2) waiting.forEach((go) => go()); });
  const { path, body, named } = question;
  const headers = named ? { 'x-parent-invocation': named === 'me' ? context.awsRequestId : named } : {};
  const answer = await fetch('http://stoker.internal' + path, { method: 'POST', headers, body: JSON.stringify(body) });
  return [answer.status, await answer.json()];
};
"""
    name = client.function(
        "shares",
        source,
        network=NETWORK,
        concurrency={"per_instance": 2, "max_instances": 1},
        timeout=60_000,
    )

    questions = [{**call(client, double, 3), "named": named} for named in ("me", "0" * 32)]
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda question: client.invoke(name, question), questions))

    results = [json.loads(answer.json()["body"]) for answer in answers]
    assert results[0][0] == 200, results
    assert (results[1][0], results[1][1]["code"]) == (403, "auth.forbidden")
    [child] = children(client, answers[0].headers["x-invocation-id"])
    assert child["parent_invocation_id"] == answers[0].headers["x-invocation-id"]


def test_a_child_ends_with_the_parent_that_waits_for_it(client: Client) -> None:
    slow = client.function("slow", "exports.handler = () => new Promise(() => {});", timeout=60_000)
    name = asks(client, "fetch", "impatient", timeout=1_000)

    answer = client.invoke(name, call(client, slow))

    assert answer.json()["code"] == "function.timeout"
    parent = answer.headers["x-invocation-id"]
    wait_until(lambda: [one["status"] for one in children(client, parent)] == ["cancelled"])


def test_the_header_means_nothing_from_outside(client: Client, double: str) -> None:
    answer = client.invoke(double, 1, headers={"x-parent-invocation": "0" * 32})

    assert answer.status_code == 200
    assert "parent_invocation_id" not in record(client, answer.headers["x-invocation-id"])
