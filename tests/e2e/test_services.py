"""`GET /compute/services` from outside."""

from __future__ import annotations

import re
from typing import Any

from tests.e2e.conftest import Client, ServerProcess

ECHO = "exports.handler = async (event) => event;"
THROW = "exports.handler = () => { throw new Error('no'); };"


def services_of(client: Client) -> dict[str, dict[str, Any]]:
    """Return the services of the test's own collection by name."""
    answer = client.http.get("/compute/services")
    assert answer.status_code == 200, answer.text
    body = answer.json()["body"]
    assert body["results_total"] == len(body["results"])
    return {one["name"]: one for one in body["results"] if one["metadata"]["collection"] == client.collection}


def test_a_deployed_function_is_a_service(client: Client) -> None:
    client.function("my adder", ECHO, description="adds")
    subject = client.http.get(f"/compute/functions/{client.collection}/my%20adder").json()["body"]["subject"]

    service = services_of(client)["my_adder"]

    metadata = {
        "account": "default",
        "collection": client.collection,
        "function": "my adder",
        "runtime": "nodejs",
    }
    assert re.fullmatch("[A-Za-z0-9_-]+", service.pop("id"))
    assert service == {
        "name": "my_adder",
        "version": "1.0.0",
        "description": "adds",
        "endpoints": [{"name": "invoke", "subject": subject, "queue_group": "stoker", "metadata": metadata}],
        "metadata": metadata,
        "type": "io.nats.micro.v1.info_response",
        "stats": {"requests": 0, "errors": 0, "average_processing_ms": 0.0},
    }


def test_what_was_called_is_counted_and_what_was_refused_is_not(client: Client) -> None:
    client.function("good", ECHO, schema={"input": {"type": "integer"}})
    client.function("bad", THROW)

    for number in range(3):
        client.invoke("good", number)
        client.invoke("bad")
    assert client.invoke("good", "refused").status_code == 400

    services = services_of(client)
    good, bad = services["good"]["stats"], services["bad"]["stats"]
    assert (good["requests"], good["errors"]) == (3, 0)
    assert (bad["requests"], bad["errors"]) == (3, 3)
    assert good["average_processing_ms"] > 0


def test_a_service_has_the_version_of_its_code_and_goes_with_its_function(client: Client) -> None:
    client.function("changing", ECHO)
    before = services_of(client)["changing"]
    path = f"{client.collection}/changing"
    assert client.http.patch(f"/compute/compute-assets/{path}", json={"timeout": 1000}).status_code == 200

    after = services_of(client)["changing"]
    assert client.http.delete(f"/compute/functions/{path}").status_code == 200

    assert (before["version"], after["version"]) == ("1.0.0", "2.0.0")
    assert before["id"] == after["id"]
    assert services_of(client) == {}


def test_services_come_in_pages(client: Client) -> None:
    for number in range(3):
        client.function(f"paged-{number}", ECHO)
    whole = client.http.get("/compute/services").json()["body"]["results"]

    seen: list[dict[str, Any]] = []
    query = "?limit=2"
    while True:
        body = client.http.get(f"/compute/services{query}").json()["body"]
        assert len(body["results"]) <= 2
        seen += body["results"]
        if "next_cursor" not in body:
            break
        query = f"?limit=2&cursor={body['next_cursor']}"

    assert [one["id"] for one in seen] == [one["id"] for one in whole]


def test_services_are_for_who_has_a_token(server: ServerProcess, client: Client) -> None:
    with server.client("wrong") as stranger:
        answer = stranger.http.get("/compute/services")

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert client.http.post("/compute/services").headers["allow"] == "GET, HEAD"
    assert client.http.get("/compute/services?limit=0").status_code == 400
