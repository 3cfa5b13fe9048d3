"""The API's description held against the server: every example is sent, schemathesis looks for what differs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema_rs
import pytest

from tests.e2e.conftest import Client, ServerProcess

SCHEMATHESIS = Path(sys.executable).with_name("st")
CONFIG = Path(__file__).with_name("schemathesis.toml")
SCHEMATHESIS_S_MAX = 300.0
"""A guard against a hang, not a promise."""
VERBS = ("get", "post", "put", "patch", "delete")
SLOW = "exports.handler = () => new Promise((end) => setTimeout(end, 60000));"
FAILS = "exports.handler = () => { throw new Error('no such city'); };"

Description = dict[str, Any]
Path_ = dict[str, str]


@pytest.fixture
def own_server(isolated: None, data: Path) -> Iterator[ServerProcess]:
    """A server that nobody else has made anything in."""
    running = ServerProcess(data).wait_ready()
    yield running
    assert running.stop() == 0, "".join(running.stderr)


@pytest.fixture
def own_client(own_server: ServerProcess) -> Iterator[Client]:
    """A client of that server, in the collection of the examples."""
    with own_server.client() as found:
        found.collection = "my-namespace"
        yield found


def described(client: Client) -> Description:
    """Return the document, which needs no token."""
    answer = httpx.get(f"{client.url}/openapi.json")
    assert answer.status_code == 200
    found: Description = answer.json()
    return found


def operations_of(document: Description) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return verb, path and description of each operation by its id."""
    return {
        operation["operationId"]: (verb.upper(), path, operation)
        for path, item in document["paths"].items()
        for verb, operation in item.items()
    }


def check_answer(document: Description, operation_id: str, answer: httpx.Response) -> None:
    """Hold an answer against what is said of it: status, medium, headers, and the body's schema."""
    _, _, operation = operations_of(document)[operation_id]
    said = operation["responses"].get(str(answer.status_code))
    assert said is not None, (operation_id, answer.status_code, answer.text)
    media = answer.headers["content-type"].partition(";")[0]
    assert media in said["content"], (operation_id, media)
    assert [name for name in said.get("headers", {}) if name not in answer.headers] == []
    if media == "application/json":
        schema = {**said["content"][media]["schema"], "components": document["components"]}
        errors = [str(error) for error in jsonschema_rs.iter_errors(schema, answer.json())]
        assert errors == [], (operation_id, answer.text)


def requests_of(
    client: Client, document: Description, operation_id: str, path_values: Path_ | None = None
) -> Iterator[httpx.Request]:
    """Yield the request of each example of an operation; `path_values` are for what only a server knows."""
    verb, path, operation = operations_of(document)[operation_id]
    query, headers = {}, {}
    for parameter in operation.get("parameters", ()):
        name, example = parameter["name"], parameter.get("example")
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", quote((path_values or {}).get(name, example), ""))
        elif example is not None and parameter["in"] == "query":
            query[name] = ",".join(example) if isinstance(example, list) else str(example).lower()
            if isinstance(example, str):
                query[name] = example
        elif example is not None:
            headers[name] = example
    (media, content), *_ = operation.get("requestBody", {"content": {"": {}}})["content"].items()
    for example in content.get("examples", {"": {"value": None}}).values():
        value = example["value"]
        body = None if value is None else value if isinstance(value, str) else json.dumps(value)
        more = {"Content-Type": media} if body is not None else {}
        yield client.http.build_request(verb, path, params=query, headers={**headers, **more}, content=body)


class World:
    """What the examples need to be there that only a server can give a name."""

    def __init__(self, client: Client) -> None:
        self._client = client
        client.function("slow", SLOW)
        client.function("fails", FAILS, retry={"attempts": 1}, monitor_config={"store_payload": True})
        self.letters = [self._letter() for _ in range(2)]
        self.running = self._later("slow")

    def _later(self, name: str) -> str:
        answer = self._client.http.post(
            f"/compute/functions/{self._client.collection}/{name}/invoke",
            json={"payload": None, "invocation_type": "Async"},
        )
        assert answer.status_code == 200, answer.text
        return answer.headers["x-invocation-id"]

    def _letter(self) -> str:
        invocation_id = self._later("fails")
        path = f"/compute/invocations/{invocation_id}?wait=60000"
        assert self._client.http.get(path).json()["body"]["status"] == "error"
        return invocation_id


# -- the examples ------------------------------------------------------------------------------------


FIRST = (
    *("getHealth", "getReadiness", "getDescription", "getDocs", "getMetrics", "getLimits", "listRuntimes"),
    *("createCollection", "getCollection", "patchCollection", "listCollections", "listContainers"),
    *("putObject", "putSecret", "listSecrets"),
    *("createFunction", "listFunctions", "listFunctionsOfCollection", "getFunction", "patchFunction"),
    *("getComputeAsset", "patchComputeAsset", "listVersions", "rollBack"),
)
LATER = (
    *("listInvocations", "listServices", "listMachines", "createAccount", "listAccounts", "limitAccount"),
    *("deleteAccount", "listTokens", "getBackup", "deleteSecret", "deleteFunction", "deleteCollection"),
)


def test_every_example_of_the_description_does_what_is_said_of_it(own_client: Client) -> None:
    client = own_client
    document = described(client)
    sent: set[str] = set()

    def send(operation_id: str, **path_values: str) -> httpx.Response:
        sent.add(operation_id)
        for request in requests_of(client, document, operation_id, path_values):
            answer = client.http.send(request)
            assert answer.is_success, (operation_id, answer.text)
            check_answer(document, operation_id, answer)
        return answer

    for operation_id in FIRST:
        send(operation_id)
    world = World(client)
    sync = next(requests_of(client, document, "invokeFunction"))
    called = client.http.send(sync).headers["x-invocation-id"]
    assert send("invokeFunction").json()["body"].startswith('{"invocation_id"')
    for operation_id in ("getInvocation", "getLog", "replayInvocation"):
        send(operation_id, invocation_id=called)
    send("cancelInvocation", invocation_id=world.running)
    send("listDeadLetters", function_topic="fails")
    send("redriveDeadLetter", function_topic="fails", invocation_id=world.letters[0])
    send("deleteDeadLetter", function_topic="fails", invocation_id=world.letters[1])
    send("deleteToken", token_id=send("createToken").json()["body"]["id"])
    for operation_id in LATER:
        send(operation_id)

    assert set(operations_of(document)) - sent == {"followLog"}


def test_the_example_of_an_operation_whose_answer_does_not_end(own_client: Client) -> None:
    client = own_client
    document = described(client)
    client.function("greet", "exports.handler = () => { console.log('hello'); };")

    (request,) = requests_of(client, document, "followLog")
    answer = client.http.send(request, stream=True)
    lines = answer.iter_lines()
    assert next(lines) == ": following"
    client.invoke("greet")

    assert [next(lines) for _ in range(2)][1] == "event: log"
    assert json.loads(next(lines).removeprefix("data: "))["line"] == "hello"
    answer.close()
    assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"


# -- the codes ---------------------------------------------------------------------------------------

Provoke = Callable[[Client], httpx.Response]
FUNCTION = "/compute/functions/my-namespace/greet"
INVOKE = f"{FUNCTION}/invoke"
SYNC = {"payload": "{}", "invocation_type": "RequestResponse"}


def calling(source: str, **rest: Any) -> Provoke:
    """Return what creates a function of its own and calls it."""

    def provoke(client: Client) -> httpx.Response:
        client.function("other", source, **rest)
        return client.invoke("other")

    return provoke


def of_account(limits: dict[str, int], then: Provoke) -> Provoke:
    """Return what does it as an account with limits."""

    def provoke(client: Client) -> httpx.Response:
        made = client.http.post("/accounts", json={"name": "limited", "limits": limits}).json()["body"]
        with Client(client.url, made["token"], client.collection) as other:
            other.create("greet", {"index.js": "exports.handler = () => 1;"})
            return then(other)

    return provoke


def with_token(scopes: list[str], then: Provoke, **rest: Any) -> Provoke:
    """Return what does it with a token that may little."""

    def provoke(client: Client) -> httpx.Response:
        made = client.http.post("/tokens", json={"name": "little", "scopes": scopes, **rest}).json()["body"]
        with Client(client.url, made["token"], client.collection) as other:
            return then(other)

    return provoke


def twice(then: Provoke) -> Provoke:
    """Return what does it two times, of which the second is answered."""

    def provoke(client: Client) -> httpx.Response:
        then(client)
        return then(client)

    return provoke


def keyed_with_another_body(client: Client) -> httpx.Response:
    headers = {"Idempotency-Key": "k"}
    client.http.post(INVOKE, json=SYNC, headers=headers)
    return client.http.post(INVOKE, json={**SYNC, "payload": "[]"}, headers=headers)


def cancelled_too_late(client: Client) -> httpx.Response:
    invocation_id = client.invoke("greet", {}).headers["x-invocation-id"]
    return client.http.post(f"/compute/invocations/{invocation_id}/cancel")


def secret_in_use(client: Client) -> httpx.Response:
    client.http.put("/secrets/S", json={"value": "v"})
    client.function("other", "exports.handler = () => 1;", secrets=["S"])
    return client.http.delete("/secrets/S")


def create_another(client: Client) -> httpx.Response:
    return client.create("other", {"index.js": "exports.handler = () => 2;"})


CODES: dict[str, tuple[str, Provoke]] = {
    "request.invalid": ("createFunction", lambda client: client.http.post("/compute/functions", json={})),
    "auth.missing": ("listFunctions", lambda client: httpx.get(f"{client.url}/compute/functions")),
    "auth.invalid": (
        "listFunctions",
        lambda client: httpx.get(f"{client.url}/compute/functions", headers={"X-Api-Key": "x"}),
    ),
    "auth.forbidden": ("createFunction", with_token(["functions:read"], create_another)),
    "not_found": ("getFunction", lambda client: client.http.get("/compute/functions/my-namespace/nothing")),
    "name_taken": ("createFunction", twice(create_another)),
    "not_empty": ("deleteCollection", lambda client: client.http.delete("/compute/collections/my-namespace")),
    "version_conflict": (
        "deleteFunction",
        lambda client: client.http.delete(FUNCTION, headers={"If-Match": '"0"'}),
    ),
    "idempotency.conflict": ("invokeFunction", keyed_with_another_body),
    "invocation.ended": ("cancelInvocation", cancelled_too_late),
    "secret.in_use": ("deleteSecret", secret_in_use),
    "too_large": ("putSecret", lambda client: client.http.put("/secrets/S", json={"value": "v" * 100_000})),
    "schema.input": (
        "invokeFunction",
        calling("exports.handler = () => 1;", schema={"input": {"type": "object"}}),
    ),
    "quota.functions": ("createFunction", of_account({"functions": 1}, create_another)),
    "quota.code_bytes": ("createFunction", of_account({"code_bytes": 30}, create_another)),
    "quota.invocations_per_minute": (
        "invokeFunction",
        of_account({"invocations_per_minute": 1}, twice(lambda client: client.invoke("greet", {}))),
    ),
    "quota.concurrent_invocations": (
        "invokeFunction",
        of_account({"concurrent_invocations": 0}, lambda client: client.invoke("greet", {})),
    ),
    "quota.calls_per_minute": (
        "invokeFunction",
        with_token(
            ["functions:invoke"], twice(lambda client: client.invoke("greet", {})), calls_per_minute=1
        ),
    ),
    "function.error": ("invokeFunction", calling(FAILS)),
    "function.load_failed": ("invokeFunction", calling("")),
    "function.exited": ("invokeFunction", calling("exports.handler = () => process.exit(1);")),
    "function.timeout": ("invokeFunction", calling(SLOW, timeout=200)),
    "function.out_of_memory": (
        "invokeFunction",
        calling(
            "exports.handler = () => { const all = []; for (;;) all.push(Buffer.alloc(1 << 24, 1)); };",
            size="128MB",
        ),
    ),
    "function.result_invalid": ("invokeFunction", calling("exports.handler = () => 1n;")),
    "function.result_too_large": ("invokeFunction", calling("exports.handler = () => 'x'.repeat(7 << 20);")),
    "schema.output": (
        "invokeFunction",
        calling(
            "exports.handler = () => ({message: 1});",
            schema={"output": {"properties": {"message": {"type": "string"}}}},
        ),
    ),
}
NOT_PROVOKED = {
    # What cannot be brought about in a moment; other tests do: full disks, machines without room, crashes.
    *("platform.error", "platform.lost", "no_capacity", "storage.full", "request.timeout"),
    *("invocation.cancelled", "function.busy", "function.too_many_processes", "idempotency.in_progress"),
    *("quota.tokens", "quota.secrets"),
}


def test_every_code_is_answered_as_its_example_shows(own_client: Client) -> None:
    client = own_client
    document = described(client)
    client.function("greet", "exports.handler = () => 1;")
    shown = {
        code: (operation_id, example["value"])
        for operation_id, (_, _, operation) in operations_of(document).items()
        for response in operation["responses"].values()
        for code, example in response["content"].get("application/json", {}).get("examples", {}).items()
    }
    assert set(shown) == set(CODES) | NOT_PROVOKED
    wrong = {}

    for code, (operation_id, provoke) in CODES.items():
        answer = provoke(client)
        check_answer(document, operation_id, answer)
        body = answer.json()
        # Where it is wrong differs from one request to another.
        if body.get("code") != code or {*body, "field"} != {*shown[code][1], "field"}:
            wrong[code] = (answer.status_code, body)
        client.http.delete("/compute/functions/my-namespace/other")
        client.http.delete("/accounts/limited")

    assert not wrong, json.dumps(wrong, indent=1)


# -- routes and schemathesis -------------------------------------------------------------------------


def test_the_server_takes_just_the_verbs_that_are_described(own_client: Client) -> None:
    document = described(own_client)
    wrong = {}

    for path, item in document["paths"].items():
        answer = own_client.http.request("TRACE", path.replace("{", "").replace("}", ""))
        allowed = set(answer.headers.get("allow", "").split(", ")) - {"HEAD"}
        if answer.status_code != 405 or allowed != {verb.upper() for verb in item}:
            wrong[path] = allowed

    assert wrong == {}


def with_what_is_there(client: Client, document: Description) -> Description:
    """Return the document with examples of what is there, and of throw-away things for what deletes."""
    world = World(client)
    create = next(requests_of(client, document, "createFunction"))
    for name in ("greet", "old"):
        body = {**json.loads(create.content), "name": name}
        assert client.http.post("/compute/functions", json=body).status_code == 201
    called = client.http.send(next(requests_of(client, document, "invokeFunction"))).headers[
        "x-invocation-id"
    ]
    for name in ("greeters", "old-collection"):
        assert client.http.post("/compute/collections", json={"name": name}).status_code == 201
    for name in ("acme", "old-account"):
        assert client.http.post("/accounts", json={"name": name}).status_code == 201
    assert client.http.put("/secrets/OLD", json={"value": "v"}).status_code == 201
    token = client.http.post("/tokens", json={"name": "old", "scopes": ["functions:read"]}).json()["body"][
        "id"
    ]
    there = {
        "deleteFunction": {"function_topic": "old"},
        "deleteCollection": {"collection_topic": "old-collection"},
        "deleteAccount": {"account": "old-account"},
        "deleteSecret": {"name": "OLD"},
        "deleteToken": {"token_id": token},
        "getInvocation": {"invocation_id": called},
        "getLog": {"invocation_id": called},
        "replayInvocation": {"invocation_id": called},
        "cancelInvocation": {"invocation_id": world.running},
        "listDeadLetters": {"function_topic": "fails"},
        "redriveDeadLetter": {"function_topic": "fails", "invocation_id": world.letters[0]},
        "deleteDeadLetter": {"function_topic": "fails", "invocation_id": world.letters[1]},
    }
    for operation_id, values in there.items():
        for parameter in operations_of(document)[operation_id][2]["parameters"]:
            if parameter["name"] in values:
                parameter["example"] = values[parameter["name"]]
    # The first of an invocation's examples makes the names that exist already: a new one for each.
    for operation_id, name in (("createCollection", "more"), ("createAccount", "more")):
        (example,) = _body_examples(document, operation_id).values()
        example["value"]["name"] = name
    for index, example in enumerate(_body_examples(document, "createFunction").values()):
        example["value"]["name"] = f"more-{index}"
    return document


def _body_examples(document: Description, operation_id: str) -> dict[str, Any]:
    found: dict[str, Any] = operations_of(document)[operation_id][2]["requestBody"]["content"][
        "application/json"
    ]["examples"]
    return found


def successes_in(events: Path) -> Counter[str]:
    """Return how many answers of 2xx each operation has given, as schemathesis reports it."""
    found: Counter[str] = Counter()
    for line in events.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for case_id, exchange in recorder.get("interactions", {}).items():
            case = recorder["cases"][case_id]["value"]
            response = exchange.get("response")
            if response is not None and response["status_code"] < 300:
                found[f"{case['method']} {case['path']}"] += 1
    return found


def test_schemathesis_finds_nothing(own_server: ServerProcess, own_client: Client, tmp_path: Path) -> None:
    document = with_what_is_there(own_client, described(own_client))
    described_in, events = tmp_path / "openapi.json", tmp_path / "events.ndjson"
    described_in.write_text(json.dumps(document))

    ran = subprocess.run(
        [
            *(str(SCHEMATHESIS), "--config-file", str(CONFIG), "run", str(described_in)),
            *("--url", own_client.url, "-H", f"Authorization: Bearer {own_client.token}"),
            *("--phases", "examples,coverage,fuzzing,stateful", "--no-color", "--warnings", "off"),
            *("--report", "ndjson", "--report-ndjson-path", str(events)),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SCHEMATHESIS_S_MAX,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr
    succeeded = successes_in(events)
    operations = operations_of(document)
    never = [
        operation_id
        for operation_id, (verb, path, _) in operations.items()
        if not succeeded[f"{verb} {path}"] and operation_id != "followLog"
    ]
    assert never == []
    assert own_client.http.get("/readyz").status_code == 200
    assert [line for line in own_server.stderr if "request failed" in line] == []
