"""Who may do what, from outside: every route with every scope, and accounts that learn nothing of each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest

from stoker.catalog.principal import SCOPES
from stoker.edge.http.scopes import TABLE
from tests.e2e.conftest import Client, ServerProcess

ECHO = "exports.handler = async (event) => { console.log('printed'); return event; };"
FAIL = "exports.handler = async () => { throw new Error('no'); };"
NOBODY_ID = "01900000-0000-7000-8000-000000000000"


def test_the_principal_scopes_are_those_of_the_table() -> None:
    assert {needs.scope for needs in TABLE.values()} - {None} == set(SCOPES)


@dataclass
class World:
    """An account with one of everything."""

    admin: Client
    """A token that may do all there is."""
    collection: str
    places: dict[str, str] = field(default_factory=dict)
    """What to put into the braces of a path."""

    def fill(self) -> World:
        """Make what is not there, or not there any more."""
        client, http = self.admin, self.admin.http
        client.collection = self.collection
        if http.get(f"/compute/functions/{self.collection}/echo").status_code == 404:
            client.function("echo", ECHO, monitor_config={"store_payload": True})
        if http.get(f"/compute/functions/{self.collection}/fail").status_code == 404:
            client.function("fail", FAIL, retry={"attempts": 1})
        http.put("/secrets/SPARE", json={"value": "x"})
        made = http.post("/tokens", json={"name": "spare", "scopes": ["functions:read"]}).json()["body"]
        self.places |= {
            "collection": self.collection,
            "function": "echo",
            "invocation": client.invoke("echo", "seen").headers["x-invocation-id"],
            "name": "SPARE",
            "token": made["id"],
            "key": "spare.js",
        }
        return self

    def dead_letter(self) -> str:
        """Make a dead letter of the function `fail`; return its id."""
        body = {"payload": "null", "invocation_type": "Async"}
        accepted = self.admin.http.post(f"/compute/functions/{self.collection}/fail/invoke", json=body)
        invocation = accepted.headers["x-invocation-id"]
        ended = self.admin.http.get(f"/compute/invocations/{invocation}?wait=30000").json()["body"]
        assert ended["status"] == "error"
        return str(invocation)


BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/compute/functions"): {
        "name": "made",
        "monitor_config": {},
        "compute_asset": {"collection_topic": "", "handler": "index.handler"},
    },
    ("PATCH", "/compute/functions/{collection}/{function}"): {"description": "d"},
    ("POST", "/compute/functions/{collection}/{function}/invoke"): {
        "payload": "1",
        "invocation_type": "RequestResponse",
    },
    ("PATCH", "/compute/compute-assets/{collection}/{function}"): {"timeout": 10_000},
    ("POST", "/compute/compute-assets/{collection}/{function}/rollback"): {"version": 1},
    ("POST", "/compute/collections"): {"name": ""},
    ("PATCH", "/compute/collections/{collection}"): {"description": "d"},
    ("PUT", "/secrets/{name}"): {"value": "x"},
    ("POST", "/tokens"): {"name": "t", "scopes": []},
    ("POST", "/accounts"): {"name": ""},
    ("PUT", "/accounts/{account}/limits"): {},
}
"""Bodies that would do; what is empty in them is filled in."""
GOOD = {
    # What a request that is allowed ends in, where that is not a plain success.
    ("POST", "/compute/invocations/{invocation}/cancel"): 409,  # it has ended
    ("DELETE", "/compute/collections/{collection}"): 409,  # it holds functions
}


def send(client: httpx.Client, world: World, row: tuple[str, str], scope: str) -> httpx.Response:
    """Send a request to a route, as one does who may and knows how."""
    verb, path = row
    places = dict(world.places)
    if "dead-letters/" in path:
        places |= {"function": "fail", "invocation": world.dead_letter()}
    if "{account}" in path:
        name = f"spare-{uuid4().hex[:8]}"
        assert world.admin.http.post("/accounts", json={"name": name}).status_code == 201
        places["account"] = name
    if row == ("DELETE", "/compute/functions/{collection}/{function}"):
        name = f"f-{uuid4().hex[:8]}"
        world.admin.function(name, ECHO)
        places["function"] = name
    body = json.loads(json.dumps(BODIES.get(row)))
    match row:
        case ("POST", "/compute/functions"):
            body |= {"name": uuid4().hex}
            body["compute_asset"]["collection_topic"] = world.collection
        case ("POST", "/compute/collections") | ("POST", "/accounts"):
            body["name"] = uuid4().hex
        case ("POST", "/tokens"):
            body["scopes"] = [scope]
    query = "?follow=true" if path.endswith("/log") and "functions" in path else ""
    if query:
        with client.stream(verb, path.format(**places) + query) as answer:
            return answer
    return client.request(verb, path.format(**places) + query, json=body)


@pytest.fixture
def world(client: Client) -> World:
    return World(client, client.collection).fill()


def with_scopes(world: World, *scopes: str, **rest: Any) -> httpx.Client:
    """Return a client whose token has these scopes."""
    body = {"name": "-".join(scopes) or "none", "scopes": scopes, **rest}
    made = world.admin.http.post("/tokens", json=body)
    assert made.status_code == 201, made.text
    headers = {"Authorization": f"Bearer {made.json()['body']['token']}"}
    return httpx.Client(base_url=world.admin.url, headers=headers, timeout=60)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_with_one_scope_may_do_what_the_table_says_and_nothing_else(world: World, scope: str) -> None:
    wrong = []
    with with_scopes(world, scope) as client:
        for row, needs in TABLE.items():
            noun, _, verb = (needs.scope or "").partition(":")
            allowed = needs.scope in (None, scope) or (verb == "read" and scope == f"{noun}:write")
            world.fill()

            answer = send(client, world, row, scope)

            expected = GOOD.get(row, 200) if allowed else 403
            if answer.status_code != expected and not (allowed and answer.status_code == 201):
                wrong.append((row, answer.status_code, expected))
    assert wrong == []


def test_without_a_token_or_with_a_wrong_one_there_is_nothing(world: World) -> None:
    for headers in ({}, {"Authorization": "Bearer stk_wrong"}, {"X-Api-Key": "stk_wrong"}):
        with httpx.Client(base_url=world.admin.url, headers=headers, timeout=60) as client:
            for verb, path in TABLE:
                places = {**world.places, "account": "default"}
                answer = client.request(verb, path.format(**places))
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path


def test_a_token_may_look_up_the_calls_that_it_made(world: World) -> None:
    with with_scopes(world, "functions:invoke") as client:
        body = {"payload": "1", "invocation_type": "RequestResponse"}
        own = client.post(f"/compute/functions/{world.collection}/echo/invoke", json=body)

        seen = client.get(f"/compute/invocations/{own.headers['x-invocation-id']}")
        of_others = client.get(f"/compute/invocations/{world.places['invocation']}")

    assert (own.status_code, seen.status_code, of_others.status_code) == (200, 200, 403)


# -- two accounts ------------------------------------------------------------------------------------


@pytest.fixture
def stranger(client: Client) -> Iterator[httpx.Client]:
    """Another account's client; the account goes when the test is over."""
    name = f"stranger-{uuid4().hex[:8]}"
    made = client.http.post("/accounts", json={"name": name}).json()["body"]
    headers = {"Authorization": f"Bearer {made['token']}"}
    with httpx.Client(base_url=client.url, headers=headers, timeout=60) as http:
        yield http
    client.http.delete(f"/accounts/{name}")


def comparable(answer: httpx.Response) -> tuple[int, str, dict[str, str]]:
    """Return all of an answer but for the time, a random id, and whether it came before the request's body."""
    own = ("date", "connection", "x-invocation-id")
    headers = {name: value for name, value in answer.headers.items() if name not in own}
    return answer.status_code, answer.text, headers


def test_what_is_another_accounts_answers_byte_for_byte_as_what_does_not_exist(
    world: World, stranger: httpx.Client
) -> None:
    there = {**world.places, "account": "default"}
    letter = {**there, "function": "fail", "invocation": world.dead_letter()}
    hash_like = str(world.admin.http.get(f"/compute/functions/{world.collection}/echo").json())
    service = re.search(r"function\.(\d+)", hash_like)
    assert service is not None
    nowhere = {
        "collection": "c" * len(world.collection),
        "function": "nono",
        "invocation": NOBODY_ID,
        "name": "NOPES",
        "token": "tok_0000000000000000",
        "key": "other.js",
        "account": "nobodys",
    }
    by_topic = {**there, "function": service[1]}
    compared = 0
    for verb, path in TABLE:
        if "{" not in path or verb == "PUT":
            continue  # nothing is named, or what is put is the stranger's own
        for places in (there, by_topic, letter):
            body = json.loads(json.dumps(BODIES.get((verb, path))))
            answers = [
                stranger.request(verb, path.format(**named) + "?follow=true", json=body)
                for named in (places, nowhere)
            ]
            one, other = (comparable(answer) for answer in answers)
            assert one == other, path
            assert one[0] in (403, 404), (path, one)
            assert one[0] == 404 or "accounts" in path, path
            compared += 1
    assert compared > 60


def test_nothing_of_another_account_is_in_any_list(world: World, stranger: httpx.Client) -> None:
    world.admin.invoke("echo", 1)
    for verb, path in TABLE:
        if verb != "GET" or "{" in path:
            continue
        answer = stranger.get(path)

        assert world.collection not in answer.text, path
        for secret in (world.places["token"], world.places["invocation"], "SPARE"):
            assert secret not in answer.text, path
        if answer.status_code == 200 and "results_total" in answer.text and "runtimes" not in path:
            assert answer.json()["body"]["results_total"] == (1 if path == "/tokens" else 0), path
    for query in (
        f"namespace={world.collection}",
        "service=echo",
        "machine=*",
        "status=*",
        "runtime=nodejs",
    ):
        machines = stranger.get(f"/compute/machines?{query}").json()["body"]
        assert machines == {"results": [], "results_total": 0}
    subject = world.admin.http.get(f"/compute/functions/{world.collection}/echo").json()["body"]["subject"]
    listed = stranger.get("/compute/invocations", params={"function": subject}).json()["body"]
    assert listed == {"results": [], "results_total": 0}


def test_two_accounts_have_the_same_names_and_do_not_meet(world: World, stranger: httpx.Client) -> None:
    other = Client(world.admin.url, stranger.headers["authorization"].split()[1], world.collection)
    with other:
        other.function("echo", "exports.handler = () => 'the stranger';")

        assert other.result("echo", "mine") == "the stranger"
        assert world.admin.result("echo", "mine") == "mine"
        assert other.http.delete(f"/compute/functions/{world.collection}/echo").status_code == 200
        assert world.admin.result("echo", "mine") == "mine"


def test_an_object_of_another_account_cannot_be_linked(world: World, stranger: httpx.Client) -> None:
    world.admin.http.put("/compute/assets/shared.js", content=b"exports.handler = () => 1;")
    asset = {"asset_name": "index.js", "asset_value": "shared.js", "link": True}

    answer = stranger.post(
        "/compute/functions",
        json={
            "name": "f",
            "monitor_config": {},
            "compute_asset": {"collection_topic": "c", "handler": "index.handler", "assets": [asset]},
        },
    )

    assert (answer.status_code, answer.json()["code"]) == (400, "request.invalid")


# -- one collection ----------------------------------------------------------------------------------

ALL_BUT_ACCOUNT = [s for s in SCOPES if s not in ("accounts:write", "secrets:write")]


def test_a_token_limited_to_a_collection_sees_and_touches_that_alone(world: World) -> None:
    elsewhere = Client(world.admin.url, world.admin.token, f"{world.collection}-2")
    with elsewhere, with_scopes(world, *ALL_BUT_ACCOUNT, collection=f"{world.collection}-2") as limited:
        elsewhere.function("other", ECHO)
        world.admin.http.put("/secrets/OURS", json={"value": "x"})
        world.admin.function("keeps", ECHO, secrets=["OURS"])
        letter = world.dead_letter()
        own = elsewhere.invoke("other").headers["x-invocation-id"]

        # what is named
        nowhere = {"collection": "nono", "function": "nono", "invocation": NOBODY_ID, "token": "tok_0"}
        for verb, path in TABLE:
            if "{" not in path or "account" in path or "secrets" in path or verb == "PUT":
                continue
            for places in ({**world.places}, {**world.places, "function": "fail", "invocation": letter}):
                body = json.loads(json.dumps(BODIES.get((verb, path))))
                answers = [
                    comparable(limited.request(verb, path.format(**named) + "?follow=true", json=body))
                    for named in (places, nowhere)
                ]
                assert answers[0] == answers[1], path
                assert answers[0][0] == 404, path
        # what is listed
        for path in ("/compute/functions", "/compute/collections", "/compute/services"):
            names = [one["name"] for one in limited.get(path).json()["body"]["results"]]
            assert names == [elsewhere.collection if "collections" in path else "other"], path
        listed = limited.get("/compute/invocations").json()["body"]
        assert [one["invocation_id"] for one in listed["results"]] == [own]
        assert listed["results_total"] == 1
        subject = world.admin.http.get(f"/compute/functions/{world.collection}/echo").json()["body"][
            "subject"
        ]
        hidden = limited.get("/compute/invocations", params={"function": subject}).json()["body"]
        assert hidden == {"results": [], "results_total": 0}
        machines = limited.get("/compute/machines").json()["body"]["results"]
        assert {one["annotations"]["namespace"] for one in machines} == {elsewhere.collection}
        tokens = limited.get("/tokens").json()["body"]["results"]
        assert {one["collection"] for one in tokens} == {elsewhere.collection}
        assert limited.get("/limits").json() == {"body": {}}

        # what is made
        def create(name: str, **given: Any) -> httpx.Response:
            asset = {"collection_topic": elsewhere.collection, "handler": "index.handler", **given}
            body = {"name": name, "monitor_config": {}, "compute_asset": asset}
            return limited.post("/compute/functions", json=body)

        assert create("mine").status_code == 201
        for text in (world.collection, "not-there-yet", f"ms.compute.{world.collection}.collection"):
            refused = create("theirs", collection_topic=text)
            assert (refused.status_code, refused.json()["code"]) == (403, "auth.forbidden")
        secret = create("curious", secrets=["OURS"])
        assert (secret.status_code, secret.json()["field"]) == (400, "/compute_asset/secrets/0")
        world.admin.http.put("/compute/assets/code.js", content=b"exports.handler = () => 1;")
        item = {"asset_name": "index.js", "asset_value": "code.js", "link": True}
        assert create("linked", assets=[item]).status_code == 400
        assert (
            limited.put("/compute/assets/code.js", content=b"exports.handler = () => 2;").status_code == 201
        )
        assert create("linked", assets=[item]).status_code == 201
        own_path = f"/compute/collections/{elsewhere.collection}"
        assert limited.patch(own_path, json={"description": "ours"}).status_code == 200
        for verb, path, body in (
            ("POST", "/compute/collections", {"name": "another"}),
            ("PATCH", own_path, {"name": world.collection}),
            ("PATCH", own_path, {"name": "free"}),
            ("GET", "/secrets", None),
            ("PUT", "/secrets/OURS", {"value": "y"}),
            ("GET", "/accounts", None),
        ):
            assert limited.request(verb, path, json=body).status_code == 403, path
        assert elsewhere.http.get("/compute/functions/" + world.collection + "/echo").status_code == 200


# -- revocation --------------------------------------------------------------------------------------


def test_a_revoked_token_opens_nothing_more_also_on_an_open_connection(world: World) -> None:
    made = world.admin.http.post("/tokens", json={"name": "t", "scopes": list(SCOPES)}).json()["body"]
    headers = {"Authorization": f"Bearer {made['token']}"}
    with httpx.Client(base_url=world.admin.url, headers=headers, timeout=60) as client:
        body = {"payload": "1", "invocation_type": "RequestResponse"}
        invoke = f"/compute/functions/{world.collection}/echo/invoke"
        child = client.post("/tokens", json={"name": "child", "scopes": ["functions:read"]}).json()["body"]
        world.admin.function("slow", "exports.handler = (e) => new Promise((r) => setTimeout(r, 1500, e));")
        slow = client.post(
            f"/compute/functions/{world.collection}/slow/invoke",
            json={"payload": "7", "invocation_type": "Async"},
        )
        assert client.post(invoke, json=body).status_code == 200

        assert world.admin.http.delete(f"/tokens/{made['id']}").status_code == 200

        for answer in (client.post(invoke, json=body), client.get("/compute/functions")):
            assert (answer.status_code, answer.json()["code"]) == (401, "auth.invalid")
        assert client.get("/tokens", headers={"Authorization": f"Bearer {child['token']}"}).status_code == 401
    ended = world.admin.http.get(f"/compute/invocations/{slow.headers['x-invocation-id']}?wait=30000").json()[
        "body"
    ]
    assert ended["status"] == "ok"  # what was accepted goes on


def test_a_live_tail_ends_with_its_token(world: World) -> None:
    made = world.admin.http.post("/tokens", json={"name": "t", "scopes": ["records:read"]}).json()["body"]
    headers = {"Authorization": f"Bearer {made['token']}"}
    path = f"/compute/functions/{world.collection}/echo/log?follow=true"
    with httpx.stream("GET", world.admin.url + path, headers=headers, timeout=60) as tail:
        lines = tail.iter_lines()
        assert next(lines) == ": following"
        world.admin.invoke("echo", 1)
        first = [next(lines) for _ in range(4)]
        assert any("printed" in line for line in first)

        world.admin.http.delete(f"/tokens/{made['id']}")
        world.admin.invoke("echo", 2)

        rest = list(lines)
    assert not any("printed" in line for line in rest)
    assert any("event: end" in line for line in rest)


# -- quotas ------------------------------------------------------------------------------------------


def refused(answer: httpx.Response) -> str:
    """Return the code of a 429, which says when to come back."""
    assert answer.status_code == 429, answer.text
    body = answer.json()
    assert int(answer.headers["retry-after"]) == body["retry_after"] >= 1
    return str(body["code"])


def test_quotas_are_refused_with_429_and_shown(server: ServerProcess, client: Client) -> None:
    name = f"bounded-{uuid4().hex[:8]}"
    limits = {"functions": 2, "code_bytes": 2000, "invocations_per_minute": 4, "concurrent_invocations": 1}
    made = client.http.post("/accounts", json={"name": name, "limits": limits}).json()["body"]
    assert made["limits"] == limits
    with server.client(made["token"]) as bounded:
        bounded.function("echo", ECHO)
        assert refused(bounded.create("large", {"index.js": "x" * 3000})) == "quota.code_bytes"
        assert refused(bounded.http.put("/compute/assets/k", content=b"x" * 3000)) == "quota.code_bytes"
        sleep = "exports.handler = (ms) => new Promise((r) => setTimeout(r, ms));"
        bounded.function("sleep", sleep)
        assert refused(bounded.create("third", {"index.js": ECHO})) == "quota.functions"

        accepted = bounded.http.post(
            f"/compute/functions/{bounded.collection}/sleep/invoke",
            json={"payload": "3000", "invocation_type": "Async"},
        )
        running = f"/compute/invocations/{accepted.headers['x-invocation-id']}"
        while bounded.http.get(running).json()["body"]["status"] == "queued":
            pass
        assert refused(bounded.invoke("echo")) == "quota.concurrent_invocations"
        used = bounded.http.get("/limits").json()["body"]
        assert used["functions"] == {"limit": 2, "used": 2}
        assert used["code_bytes"] == {"limit": 2000, "used": len(ECHO) + len(sleep)}
        assert used["concurrent_invocations"] == {"limit": 1, "used": 1}
        assert used["invocations_per_minute"] == {"limit": 4, "used": 1}
        assert used["record_bytes"]["limit"] is None
        assert bounded.http.get(running + "?wait=30000").json()["body"]["status"] == "ok"

        for _ in range(3):
            assert bounded.invoke("echo").status_code == 200
        assert refused(bounded.invoke("echo")) == "quota.invocations_per_minute"
        asynchronous = bounded.http.post(
            f"/compute/functions/{bounded.collection}/echo/invoke",
            json={"payload": "1", "invocation_type": "Async"},
        )
        assert refused(asynchronous) == "quota.invocations_per_minute"
        client.http.put(f"/accounts/{name}/limits", json={})
        assert bounded.invoke("echo").status_code == 200
        assert bounded.http.get("/limits").json()["body"]["functions"] == {"limit": None, "used": 2}
    client.http.delete(f"/accounts/{name}")


def test_a_tokens_rate_counts_for_all_that_were_made_with_it(world: World) -> None:
    body = {"payload": "1", "invocation_type": "RequestResponse"}
    path = f"/compute/functions/{world.collection}/echo/invoke"
    scopes = ("functions:invoke", "tokens:write")
    with with_scopes(world, *scopes, calls_per_minute=2) as maker:
        child = maker.post("/tokens", json={"name": "c", "scopes": ["functions:invoke"]}).json()["body"]
        assert maker.post(path, json=body).status_code == 200
        headers = {"Authorization": f"Bearer {child['token']}"}
        assert maker.post(path, json=body, headers=headers).status_code == 200

        for sent in ({}, headers):
            assert refused(maker.post(path, json=body, headers=sent)) == "quota.calls_per_minute"
        assert maker.get("/limits").json()["body"]["calls_per_minute"] == {"limit": 2, "used": 2}
    assert world.admin.invoke("echo").status_code == 200
