"""The routes of collections and of runtimes, from request to answer, over in-memory stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from stoker.testing.site import STRANGER, Site

REQUEST: dict[str, Any] = {
    "name": "my-function",
    "compute_asset": {"collection_topic": "datahub", "handler": "index.handler"},
    "monitor_config": {},
}
ALL = "/compute/collections"
ONE = f"{ALL}/1753641292"
DATAHUB = {
    "collection_type": "function",
    "description": "all of it",
    "name": "datahub",
    "subject": "ms.compute.1753641292.collection",
    "type": "created",
    "modified": 1714378974,
}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site(REQUEST)
    async with site.client:
        created = await site.client.post(ALL, json={"name": "datahub", "description": "all of it"})
        assert (created.status_code, created.json()) == (201, {"body": DATAHUB})
        yield site


@pytest.mark.parametrize("path", ["1753641292", "datahub", "data%68ub", "ms.compute.1753641292.collection"])
async def test_a_collection_is_found_by_topic_subject_and_name(site: Site, path: str) -> None:
    answer = await site.client.get(f"{ALL}/{path}")

    assert (answer.status_code, answer.json()) == (200, {"body": DATAHUB})


async def test_what_is_not_given_has_its_default(site: Site) -> None:
    body = {"name": "plain", "description": None, "collection_type": None}

    answer = (await site.client.post(f"{ALL}?strict=true", json=body)).json()["body"]

    assert (answer["description"], answer["collection_type"]) == ("", "function")


async def test_a_function_is_put_there_by_the_collections_name(site: Site) -> None:
    created = (await site.create()).json()["body"]

    assert created["compute_asset"]["collection_topic"] == "1753641292"
    listed = (await site.client.get(f"{ONE}/functions")).json()["body"]
    assert [one["name"] for one in listed["results"]] == ["my-function"]


async def test_lists_hold_all_of_the_account_and_can_be_read_in_pages(site: Site) -> None:
    for name in ("a", "b"):
        await site.client.post(ALL, json={"name": name, "collection_type": "container"})

    whole = (await site.client.get(ALL)).json()["body"]
    page = (await site.client.get(f"{ALL}?limit=2")).json()["body"]
    rest = (await site.client.get(f"{ALL}?cursor={page['next_cursor']}")).json()["body"]

    assert whole["results"][0] == DATAHUB
    assert [one["name"] for one in whole["results"]] == ["datahub", "a", "b"]
    assert [one["name"] for one in page["results"]] == ["datahub", "a"]
    assert [one["name"] for one in rest["results"]] == ["b"]
    assert whole["results_total"] == page["results_total"] == rest["results_total"] == 3


async def test_patch_and_delete_answer_success(site: Site) -> None:
    site.bench.now_ms += 5_000
    patched = await site.client.patch(f"{ONE}?strict=true", json={"name": "hub", "description": None})
    read = (await site.client.get(f"{ALL}/hub")).json()["body"]
    deleted = await site.client.delete(ONE)
    gone = await site.client.get(ONE)
    again = await site.client.post(ALL, json={"name": "datahub", "description": "all of it"})

    assert (patched.status_code, patched.json()) == (200, {"message": "success"})
    assert read == {
        **DATAHUB,
        "name": "hub",
        "description": "",
        "type": "patched",
        "modified": DATAHUB["modified"] + 5,  # type: ignore[operator]
    }
    assert (deleted.status_code, deleted.json()) == (200, {"message": "success"})
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    assert again.json()["body"]["subject"] == DATAHUB["subject"]


async def test_a_collection_that_holds_functions_is_not_deleted(site: Site) -> None:
    await site.create()

    refused = await site.client.delete(ONE)
    await site.client.delete(f"/compute/functions/{1753641292}/my-function")
    deleted = await site.client.delete(ONE)

    assert (refused.status_code, refused.json()["code"]) == (409, "not_empty")
    assert isinstance(refused.json()["error"], str)
    assert deleted.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "field"),
    [
        ("POST", ALL, {}, 400, "request.invalid", "/name"),
        ("POST", ALL, {"name": None}, 400, "request.invalid", "/name"),
        ("POST", ALL, {"name": ""}, 400, "request.invalid", "/name"),
        ("POST", ALL, {"name": "a/b"}, 400, "request.invalid", "/name"),
        ("POST", ALL, {"name": "a", "description": 1}, 400, "request.invalid", "/description"),
        ("POST", ALL, {"name": "a", "collection_type": "x"}, 400, "request.invalid", "/collection_type"),
        ("POST", ALL, {"name": "a", "collection_type": 1}, 400, "request.invalid", "/collection_type"),
        ("POST", ALL, [], 400, "request.invalid", ""),
        ("POST", ALL, {"name": "datahub"}, 409, "name_taken", "/name"),
        ("POST", f"{ALL}?strict=true", {"name": "a", "x": 1}, 400, "request.invalid", "/x"),
        ("PATCH", ONE, {"name": None}, 400, "request.invalid", "/name"),
        ("PATCH", ONE, {"name": "a\n"}, 400, "request.invalid", "/name"),
        ("PATCH", ONE, {"name": "taken"}, 409, "name_taken", "/name"),
        ("PATCH", ONE, {"description": []}, 400, "request.invalid", "/description"),
        ("PATCH", f"{ONE}?strict=true", {"collection_type": "x"}, 400, "request.invalid", "/collection_type"),
    ],
)
async def test_a_refusal_has_code_and_field_and_changes_nothing(
    site: Site, method: str, path: str, body: Any, status: int, code: str, field: str
) -> None:
    await site.client.post(ALL, json={"name": "taken"})

    answer = await site.client.request(method, path, json=body)

    refused = answer.json()
    assert (answer.status_code, refused["code"], refused["field"]) == (status, code, field)
    names = [one["name"] for one in (await site.client.get(ALL)).json()["body"]["results"]]
    assert names == ["datahub", "taken"]


@pytest.mark.parametrize(("tag", "status"), [("*", 200), ("{etag}", 200), ('"0"', 409), ("x", 409)])
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_if_match_lets_a_change_pass_only_at_the_revision_it_names(
    site: Site, method: str, tag: str, status: int
) -> None:
    etag = (await site.client.get(ONE)).headers["etag"]
    headers = {"If-Match": tag.replace("{etag}", etag)}

    answer = await site.client.request(method, ONE, json={"description": "x"}, headers=headers)

    assert answer.status_code == status
    assert answer.json().get("code") == ("version_conflict" if status == 409 else None)


async def test_a_collection_holds_no_containers(site: Site) -> None:
    answer = await site.client.get(f"{ONE}/containers")

    assert (answer.status_code, answer.json()) == (200, {"body": {"results": [], "results_total": 0}})


async def test_runtimes_are_those_that_run_here(site: Site) -> None:
    answer = await site.client.get("/compute/runtimes")
    page = await site.client.get("/compute/runtimes?limit=1")

    body = answer.json()["body"]
    assert [(one["name"], one["version"]) for one in body["results"]] == [
        ("nodejs", "24.1.0"),
        ("python", "3.11.2"),
    ]
    assert [set(one) for one in body["results"]] == [{"name", "version", "description"}] * 2
    assert body["results_total"] == 2
    assert page.json()["body"]["results"] == body["results"][:1]


# -- who may -----------------------------------------------------------------------------------------

EVERY_ROUTE = [
    ("GET", ALL, "functions:read"),
    ("POST", ALL, "functions:write"),
    ("GET", ONE, "functions:read"),
    ("PATCH", ONE, "functions:write"),
    ("DELETE", ONE, "functions:write"),
    ("GET", f"{ONE}/containers", "functions:read"),
    ("GET", "/compute/runtimes", "functions:read"),
]


@pytest.mark.parametrize(("method", "path", "scope"), EVERY_ROUTE)
async def test_a_route_asks_for_a_token_and_then_for_its_scope(
    site: Site, method: str, path: str, scope: str
) -> None:
    codes = {}
    for token in ("guess", "nobody", "caller", "reader", "writer"):
        answer = await site.client.request(method, path, headers={"Authorization": f"Bearer {token}"})
        codes[token] = answer.json().get("code")

    refused = "auth.forbidden"
    assert (codes["guess"], codes["nobody"], codes["caller"]) == ("auth.invalid", refused, refused)
    assert (codes["reader"] == refused) is (scope == "functions:write")
    assert codes["writer"] != refused


@pytest.mark.parametrize(("method", "path", "scope"), EVERY_ROUTE[2:6])
@pytest.mark.parametrize("token", ["nobody", STRANGER])
async def test_what_is_not_there_or_another_accounts_is_404_before_anything_else_is_looked_at(
    site: Site, method: str, path: str, scope: str, token: str
) -> None:
    if token == "nobody":
        path = path.replace("1753641292", "none")

    answer = await site.client.request(
        method, path, content=b"no JSON", headers={"Authorization": f"Bearer {token}"}
    )

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", ALL, "GET, HEAD, POST"),
        ("POST", ONE, "DELETE, GET, HEAD, PATCH"),
        ("POST", f"{ONE}/containers", "GET, HEAD"),
        ("POST", "/compute/runtimes", "GET, HEAD"),
    ],
)
async def test_another_verb_is_405(site: Site, method: str, path: str, allow: str) -> None:
    answer = await site.client.request(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
