"""Collections and runtimes over HTTP.

Source: the compute API contract, *Collections, runtimes, machines, services*.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Client, ServerProcess

ECHO = "exports.handler = async (event) => event;"
ALL = "/compute/collections"


def body(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()["body"]


def test_a_collection_from_its_create_to_its_delete(client: Client) -> None:
    name = f"a name with ü {client.collection}"
    created = body(client.http.post(ALL, json={"name": name, "description": "all of it"}), 201)
    topic = created["subject"].split(".")[2]
    client.collection = topic
    client.function("echo", ECHO)

    assert created == {
        "collection_type": "function",
        "description": "all of it",
        "name": name,
        "subject": f"ms.compute.{topic}.collection",
        "type": "created",
        "modified": created["modified"],
    }
    assert topic.isdigit()
    for spelled in (topic, created["subject"], name):
        assert body(client.http.get(f"{ALL}/{spelled}")) == created
    assert client.result("echo", 5) == 5
    assert [one["name"] for one in body(client.http.get(f"{ALL}/{name}/functions"))["results"]] == ["echo"]
    assert body(client.http.get(f"{ALL}/{topic}/containers")) == {"results": [], "results_total": 0}
    assert created in body(client.http.get(ALL))["results"]

    patched = client.http.patch(f"{ALL}/{topic}", json={"name": f"new-{topic}", "description": None})
    full = client.http.delete(f"{ALL}/{topic}")
    client.http.delete(f"/compute/functions/{topic}/echo")
    deleted = client.http.delete(f"{ALL}/new-{topic}")
    gone = client.http.get(f"{ALL}/{topic}")

    assert (patched.status_code, patched.json()) == (200, {"message": "success"})
    assert (full.status_code, full.json()["code"]) == (409, "not_empty")
    assert (deleted.status_code, deleted.json()) == (200, {"message": "success"})
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")


def test_the_topic_is_the_hash_of_the_name_also_after_a_restart(isolated: None, data: Path) -> None:
    server = ServerProcess(data).wait_ready()
    with server.client() as client:
        created = body(client.http.post(ALL, json={"name": "datahub"}), 201)
        client.http.patch(f"{ALL}/datahub", json={"name": "hub"})
        body(client.http.post(ALL, json={"name": "gone", "collection_type": "container"}), 201)
        client.http.delete(f"{ALL}/gone")
        before = body(client.http.get(ALL))
    server.kill()

    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            after = body(client.http.get(ALL))
            again = body(client.http.post(ALL, json={"name": "datahub"}), 201)
    finally:
        server.stop()

    assert created["subject"] == "ms.compute.1753641292.collection"
    assert after == before
    assert [(one["name"], one["type"]) for one in after["results"]] == [("hub", "patched")]
    assert again["subject"] == "ms.compute.1753641293.collection"


REFUSALS: list[tuple[str, str, Any, int, str | None]] = [
    ("POST", ALL, {}, 400, "/name"),
    ("POST", ALL, {"name": "a/b"}, 400, "/name"),
    ("POST", ALL, {"name": "x" * 129}, 400, "/name"),
    ("POST", ALL, {"name": "x", "collection_type": "folder"}, 400, "/collection_type"),
    ("POST", f"{ALL}?strict=true", {"name": "x", "more": 1}, 400, "/more"),
    ("POST", ALL, {"name": "{c}"}, 409, "/name"),
    ("GET", f"{ALL}?limit=x", None, 400, None),
    ("GET", f"{ALL}/none", None, 404, None),
    ("PATCH", f"{ALL}/none", {}, 404, None),
    ("PATCH", f"{ALL}/{{c}}", {"name": ""}, 400, "/name"),
    ("DELETE", f"{ALL}/none", None, 404, None),
    ("GET", f"{ALL}/none/containers", None, 404, None),
    ("PUT", ALL, {}, 405, None),
    ("POST", "/compute/runtimes", {}, 405, None),
]


@pytest.mark.parametrize(("method", "url", "sent", "status", "field"), REFUSALS)
def test_what_must_be_refused_is(
    client: Client, method: str, url: str, sent: Any, status: int, field: str | None
) -> None:
    client.function("echo", ECHO)
    url = url.replace("{c}", client.collection)
    if sent and sent.get("name") == "{c}":
        sent = {"name": client.collection}

    answer = client.http.request(method, url, json=sent)
    stranger = httpx.request(method, client.url + url, headers={"X-Api-Key": "guess"})

    assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
    assert isinstance(answer.json()["error"], str)
    assert stranger.status_code == (405 if status == 405 else 401)


def test_runtimes_are_those_that_functions_see(client: Client) -> None:
    client.function("node", "exports.handler = () => process.versions.node;")
    client.function(
        "python",
        "import platform\n\n\ndef handler(event, context):\n    return platform.python_version()\n",
        runtime="python",
    )

    listed = body(client.http.get("/compute/runtimes"))

    assert listed["results_total"] == len(listed["results"]) == 2
    versions = {one["name"]: one["version"] for one in listed["results"]}
    assert versions == {"nodejs": client.result("node"), "python": client.result("python")}
    assert all(one["description"] for one in listed["results"])
