"""Functions over HTTP: create, get, list, PATCH, DELETE, addressing, status codes.

Source: the reference page and the compute API contract.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
import zipfile
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Client, ServerProcess

SEED = {
    "name": "my-function",
    "description": "A serverless function",
    "compute_asset": {
        "collection_topic": "my-namespace",
        "handler": "index.handler",
        "assets": [
            {
                "asset_name": "index.js",
                "asset_type": "file",
                "asset_value": "Y29uc29sZS5sb2coIkhlbGxvLCBXb3JsZCEiKTsK",
                "link": False,
            }
        ],
        "timeout": 30000,
        "read_only_fs": True,
    },
    "monitor_config": {"ttl": 604800000, "store_payload": True},
    "schema": {
        "input": {"type": "object", "properties": {"name": {"type": "string"}}},
        "output": {"type": "object", "properties": {"message": {"type": "string"}}},
    },
}
SEED_ANSWER = {
    "description": "A serverless function",
    "name": "my-function",
    "runtime": "nodejs",
    "subject": "ms.compute.my-namespace.function.3970185486",
    "type": "created",
    "compute_asset": {
        "collection_topic": "my-namespace",
        "service": "3970185486",
        "runtime": "nodejs",
        "handler": "index.handler",
        "timeout": 30000,
        "read_only_fs": True,
    },
    "monitor_config": {"ttl": 604800000, "store_payload": True},
    "schema": SEED["schema"],
}
ECHO = "exports.handler = async (event) => event;"


def test_the_seed_request_gets_the_seed_answer_and_its_call_names_the_missing_export(client: Client) -> None:
    created = client.http.post("/compute/functions", json=SEED)

    body = created.json()["body"]
    assert created.status_code == 201
    assert isinstance(body.pop("modified"), int)
    assert body == SEED_ANSWER
    called = client.http.post(
        "/compute/functions/my-namespace/my-function/invoke",
        json={"payload": "{}", "invocation_type": "RequestResponse"},
    )
    assert called.json()["code"] == "function.load_failed"
    assert "handler" in called.json()["error"]
    assert client.log(called) == "Hello, World!\n"


@pytest.mark.parametrize(
    ("collection", "function"),
    [
        ("{topic}", "{service}"),
        ("{topic}", "{subject}"),
        ("{topic}", "a%20name%20with%20%C3%BC"),
        ("ms.compute.{topic}.collection", "{service}"),
    ],
)
def test_a_function_is_found_by_topic_subject_and_name(
    client: Client, collection: str, function: str
) -> None:
    created = client.create("a name with ü", {"index.js": ECHO}).json()["body"]
    words = {
        "topic": client.collection,
        "service": created["compute_asset"]["service"],
        "subject": created["subject"],
    }

    found = client.http.get(f"/compute/functions/{collection.format(**words)}/{function.format(**words)}")

    assert found.status_code == 200
    assert found.json()["body"]["subject"] == created["subject"]
    assert found.json()["body"]["version"] == 1


def test_get_answers_as_created_with_the_assets_inline(client: Client) -> None:
    rest: dict[str, Any] = {
        "env_vars": ["A=1"],
        "size": "1 gb",
        "retry": {"attempts": 5},
        "concurrency": {"max_instances": 2},
    }
    created = client.create("whole", {"index.js": ECHO, "lib/x.js": "1"}, **rest).json()["body"]

    found = client.http.get(f"/compute/functions/{client.collection}/whole").json()["body"]

    assets = found["compute_asset"].pop("assets")
    assert found.pop("version") == 1
    assert found == created
    assert {a["asset_name"]: base64.b64decode(a["asset_value"]).decode() for a in assets} == {
        "index.js": ECHO,
        "lib/x.js": "1",
    }
    assert all(a["link"] is False and a["asset_type"] == "file" for a in assets)


def test_lists_hold_what_is_there_in_pages_if_asked(client: Client) -> None:
    names = [f"listed-{number}" for number in range(5)]
    for name in names:
        client.function(name, ECHO)
    path = f"/compute/collections/{client.collection}/functions"

    whole = client.http.get(path).json()["body"]
    pages: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = client.http.get(path, params=query).json()["body"]
        pages += [function["name"] for function in page["results"]]
        if "next_cursor" not in page:
            break
        query["cursor"] = page["next_cursor"]

    assert whole["results_total"] == 5
    assert [function["name"] for function in whole["results"]] == names == pages
    assert set(whole["results"][0]) == {"description", "name", "runtime", "subject", "type", "modified"}
    assert names[0] in [f["name"] for f in client.http.get("/compute/functions").json()["body"]["results"]]


def test_patch_changes_what_is_given_and_a_rename_keeps_the_identity(client: Client) -> None:
    service = client.create("old", {"index.js": ECHO}, description="before").json()["body"]["compute_asset"][
        "service"
    ]
    path = f"/compute/functions/{client.collection}/{service}"

    answer = client.http.patch(path, json={"name": "new", "size": "small", "monitor_config": {"ttl": 5000}})

    assert (answer.status_code, answer.json()) == (200, {"message": "success"})
    found = client.http.get(path).json()["body"]
    assert (found["name"], found["description"], found["type"]) == ("new", "before", "patched")
    assert (found["size"], found["monitor_config"]) == ("small", {"ttl": 5000})
    assert client.result("new", 7) == 7
    assert client.http.get(f"/compute/functions/{client.collection}/old").status_code == 404


def test_a_deleted_function_is_gone_and_comes_back_under_the_same_id(client: Client) -> None:
    first = client.create("comes-back", {"index.js": ECHO}).json()["body"]
    path = f"/compute/functions/{client.collection}/comes-back"

    assert client.http.delete(path).json() == {"message": "success"}

    assert client.http.get(path).status_code == client.invoke("comes-back").status_code == 404
    assert client.http.delete(path).status_code == 404
    second = client.create("comes-back", {"index.js": ECHO}).json()["body"]
    assert second["subject"] == first["subject"]
    assert client.http.get(path).json()["body"]["version"] == 2
    assert client.result("comes-back", "again") == "again"


def test_a_name_is_taken_once_in_a_collection(client: Client) -> None:
    client.function("taken", ECHO)

    again = client.create("taken", {"index.js": ECHO})

    assert (again.status_code, again.json()["code"], again.json()["field"]) == (409, "name_taken", "/name")


def _seed_with(path: str, value: object) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(json.dumps(SEED))
    *way, last = path.strip("/").split("/")
    at: Any = body
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    if value is KeyError:
        del at[last]
    else:
        at[last] = value
    return body


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("/name", KeyError),
        ("/name", ""),
        ("/name", "a/b"),
        ("/name", "x" * 129),
        ("/name", 7),
        ("/compute_asset", KeyError),
        ("/compute_asset", []),
        ("/compute_asset/handler", KeyError),
        ("/compute_asset/handler", "nodot"),
        ("/compute_asset/handler", "../up.handler"),
        ("/compute_asset/runtime", "cobol"),
        ("/compute_asset/collection_topic", KeyError),
        ("/compute_asset/collection_topic", "not a topic"),
        ("/compute_asset/timeout", 0),
        ("/compute_asset/timeout", 900_001),
        ("/compute_asset/timeout", "30000"),
        ("/compute_asset/read_only_fs", "yes"),
        ("/compute_asset/env_vars", ["NOVALUE"]),
        ("/compute_asset/secrets", ["not a name"]),
        ("/compute_asset/network", {"egress": ["nonsense"]}),
        ("/compute_asset/assets/0/asset_value", "!!!"),
        ("/compute_asset/assets/0/asset_name", "../up.js"),
        ("/compute_asset/assets/0/asset_name", "/abs.js"),
        ("/compute_asset/assets/0/asset_name", "a\0b"),
        ("/compute_asset/assets/0/asset_name", "x" * 300),
        ("/monitor_config", KeyError),
        ("/monitor_config/ttl", -1),
        ("/monitor_config/ttl", 366 * 24 * 3600 * 1000),
        ("/schema/input", {"type": "nothing"}),
        ("/schema/input", {"$ref": "https://example.com/x"}),
        ("/schema/input", {"$ref": "#/nowhere"}),
        ("/schema/output", {"type": "string", "pattern": "(?=a)b"}),
        ("/size", "tiny"),
        ("/size", "5GB"),
        ("/retry", {"attempts": 0}),
        ("/concurrency", {"max_instances": 0}),
    ],
)
def test_a_body_that_breaks_the_contract_is_400_and_names_the_field(
    client: Client, field: str, value: object
) -> None:
    body = _seed_with(field, value)
    if field != "/name":
        body["name"] = "refused"

    answer = client.http.post("/compute/functions", json=body)

    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "request.invalid"
    assert answer.json()["field"].startswith(field)
    assert client.http.get("/compute/functions/my-namespace/refused").status_code == 404


def test_unknown_keys_are_ignored_unless_the_request_is_strict(client: Client) -> None:
    body = {
        "name": "more",
        "monitor_config": {},
        "compute_asset": {"collection_topic": client.collection, "handler": "a.b", "more": 1},
    }

    strict = client.http.post("/compute/functions?strict=true", json=body)
    lax = client.http.post("/compute/functions", json=body)

    assert (strict.status_code, strict.json()["field"]) == (400, "/compute_asset/more")
    assert lax.status_code == 201


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
def test_either_header_takes_the_token(server: ServerProcess, header: str) -> None:
    token = (server.data / "token").read_text().strip()
    value = f"Bearer {token}" if header == "Authorization" else token

    assert httpx.get(f"{server.url}/compute/functions", headers={header: value}).status_code == 200


@pytest.mark.parametrize("path", ["/compute/functions", "/compute/functions/a/b"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "auth.missing"),
        ({"Authorization": "Bearer wrong"}, "auth.invalid"),
        ({"Authorization": "Basic x"}, "auth.invalid"),
        ({"X-Api-Key": ""}, "auth.invalid"),
    ],
)
def test_nobody_gets_in_without_the_token(
    server: ServerProcess, path: str, headers: dict[str, str], code: str
) -> None:
    answer = httpx.get(server.url + path, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert "www-authenticate" in answer.headers


def test_unknown_paths_and_verbs_are_json_too(client: Client) -> None:
    nothing = client.http.get("/no/such/path")
    verb = client.http.put("/compute/functions", json={})
    invoke = client.http.get("/compute/functions/a/b/invoke")

    assert (nothing.status_code, nothing.json()["code"]) == (404, "not_found")
    assert (verb.status_code, verb.json()["code"]) == (405, "method_not_allowed")
    assert {"GET", "POST"} <= set(verb.headers["allow"].split(", "))
    assert (invoke.status_code, invoke.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"invocation_type": "RequestResponse"}, "/payload"),
        ({"payload": "{}"}, "/invocation_type"),
        ({"payload": "{}", "invocation_type": "Later"}, "/invocation_type"),
        ({"payload": "{not json", "invocation_type": "RequestResponse"}, "/payload"),
        ({"payload": "{}", "invocation_type": 5}, "/invocation_type"),
    ],
)
def test_a_call_that_breaks_the_contract_is_400_and_names_the_field(
    client: Client, body: dict[str, Any], field: str
) -> None:
    client.function("echo", ECHO)

    answer = client.http.post(f"/compute/functions/{client.collection}/echo/invoke", json=body)

    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text


@pytest.mark.parametrize("payload", [{"a": [1, 2.5, None, "ü"]}, [1], 7, True, None, '"text"', "null"])
def test_a_payload_may_be_json_text_or_any_other_value(client: Client, payload: object) -> None:
    client.function("echo", ECHO)

    answer = client.http.post(
        f"/compute/functions/{client.collection}/echo/invoke",
        json={"payload": payload, "invocation_type": "RequestResponse"},
    )

    expected = json.loads(payload) if isinstance(payload, str) else payload
    assert json.loads(answer.json()["body"]) == expected


def _zip(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def _tar(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    return out.getvalue()


@pytest.mark.parametrize("pack", [_zip, _tar])
def test_an_archive_is_unpacked_into_the_root(client: Client, pack: Any) -> None:
    files = {
        "src/app.js": "exports.handler = () => require('../lib/name');",
        "lib/name.js": "module.exports = 'unpacked';",
    }
    item = {
        "asset_name": "code.bin",
        "asset_type": "archive",
        "asset_value": base64.b64encode(pack(files)).decode(),
    }

    created = client.create("packed", {}, assets=[item], handler="/src/app.handler")

    assert created.status_code == 201, created.text
    assert client.result("packed") == "unpacked"


@pytest.mark.parametrize("spelled", ["base64", "plain"])
def test_a_linked_asset_is_what_was_stored_under_its_key(client: Client, spelled: str) -> None:
    key = f"{client.collection}-code"
    assert client.http.put(f"/compute/assets/{key}", content=ECHO.encode()).status_code in (200, 201)
    value = base64.b64encode(key.encode()).decode() if spelled == "base64" else key
    item = {"asset_name": "index.js", "asset_type": "file", "asset_value": value, "link": True}

    created = client.create("linked", {}, assets=[item])

    assert created.status_code == 201, created.text
    assert client.result("linked", 5) == 5


def test_a_link_to_nothing_is_400(client: Client) -> None:
    item = {"asset_name": "index.js", "asset_value": "bm93aGVyZQ==", "link": True}

    answer = client.create("linked", {}, assets=[item])

    assert (answer.status_code, answer.json()["field"]) == (400, "/compute_asset/assets/0/asset_value")


def test_an_async_call_is_accepted_with_an_id_whose_record_tells_its_end(client: Client) -> None:
    client.function("echo", ECHO, monitor_config={"store_payload": True})
    path = f"/compute/functions/{client.collection}/echo/invoke"

    accepted = client.http.post(path, json={"payload": '{"a":1}', "invocation_type": "Async"})

    assert accepted.status_code == 200, accepted.text
    invocation_id = json.loads(accepted.json()["body"])["invocation_id"]
    assert accepted.headers["x-invocation-id"] == invocation_id
    record = client.http.get(f"/compute/invocations/{invocation_id}?wait=60000").json()["body"]
    assert (record["status"], record["invocation_type"], record["attempts"]) == ("ok", "Async", 1)
    assert (record["payload"], record["result"]) == ('{"a":1}', '{"a":1}')


def test_the_same_key_answers_the_first_outcome_and_another_body_is_a_conflict(client: Client) -> None:
    client.function("once", "exports.handler = () => require('node:crypto').randomUUID();")
    key = {"Idempotency-Key": "k"}

    first, again, other = (client.invoke("once", payload, headers=key) for payload in (1, 1, 2))

    assert first.status_code == again.status_code == 200
    assert (first.json(), first.headers["x-invocation-id"]) == (
        again.json(),
        again.headers["x-invocation-id"],
    )
    assert (other.status_code, other.json()["code"]) == (409, "idempotency.conflict")
