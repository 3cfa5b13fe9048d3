"""The routes of functions and stored assets, from request to answer, over in-memory stores."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stoker.testing.site import Site

SEED: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "seed.json").read_text())
"""Request and answer of the reference page, as they stand there."""
FUNCTION = "/compute/functions/my-namespace/my-function"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site(SEED["request"])
    async with site.client:
        yield site


# -- create ------------------------------------------------------------------------------------------


async def test_the_seeds_request_gives_the_seeds_answer(site: Site) -> None:
    answer = await site.create()

    expected = SEED["answer"]
    expected["body"]["subject"] = "ms.compute.my-namespace.function.3970185486"
    expected["body"]["compute_asset"]["service"] = "3970185486"
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert json.dumps(answer.json()) == json.dumps(expected)  # the same keys in the same order


async def test_get_answers_what_create_did_with_assets_version_and_etag(site: Site) -> None:
    created = (await site.create()).json()["body"]

    answer = await site.client.get(FUNCTION)

    body = answer.json()["body"]
    assert body.pop("version") == 1
    assert body["compute_asset"].pop("assets") == SEED["request"]["compute_asset"]["assets"]
    assert body == created
    assert re.fullmatch(r'"[0-9]+"', answer.headers["etag"])


async def test_what_was_given_beyond_the_seed_is_answered_as_it_was_given(site: Site) -> None:
    await site.bench.put_secret("S")
    asset = {
        **SEED["request"]["compute_asset"],
        "runtime": "python",
        "env_vars": ["A=1"],
        "secrets": ["S"],
        "network": {"egress": ["*:443"]},
    }
    extras = {"size": "1 gb", "retry": {"attempts": 2}, "concurrency": {"per_instance": 3}}

    body = (await site.create(compute_asset=asset, **extras)).json()["body"]

    assert {key: body[key] for key in extras} == extras
    given = {key: body["compute_asset"][key] for key in ("env_vars", "secrets", "network")}
    assert given == {"env_vars": ["A=1"], "secrets": ["S"], "network": {"egress": ["*:443"]}}
    assert body["runtime"] == body["compute_asset"]["runtime"] == "python"


async def test_namespace_is_another_word_for_collection_topic(site: Site) -> None:
    asset = {"namespace": "tools", "handler": "index.handler"}

    answer = await site.create(compute_asset=asset)

    assert answer.status_code == 201
    assert answer.json()["body"]["compute_asset"]["collection_topic"] == "tools"


@pytest.mark.parametrize(
    ("changes", "status", "code", "field"),
    [
        ({"name": "a/b"}, 400, "request.invalid", "/name"),
        (
            {"compute_asset": {"handler": "index.handler"}},
            400,
            "request.invalid",
            "/compute_asset/collection_topic",
        ),
        ({"schema": {"input": {"type": 1}}}, 400, "request.invalid", "/schema/input/type"),
        ({"monitor_config": None}, 400, "request.invalid", "/monitor_config"),
    ],
)
async def test_a_refusal_has_error_code_and_field(
    site: Site, changes: dict[str, Any], status: int, code: str, field: str
) -> None:
    answer = await site.create(**changes)

    body = answer.json()
    assert (answer.status_code, body["code"], body["field"]) == (status, code, field)
    assert isinstance(body["error"], str)


async def test_a_name_that_is_taken_is_409(site: Site) -> None:
    await site.create()

    answer = await site.create()

    assert (answer.status_code, answer.json()["code"]) == (409, "name_taken")


@pytest.mark.parametrize(("query", "status"), [("", 201), ("?strict=false", 201), ("?strict=true", 400)])
async def test_strict_refuses_unknown_keys(site: Site, query: str, status: int) -> None:
    body = {**SEED["request"], "tags": []}

    answer = await site.client.post(f"/compute/functions{query}", json=body)

    assert answer.status_code == status


async def test_a_linked_asset_takes_the_bytes_stored_beforehand(site: Site) -> None:
    stored = await site.client.put("/compute/assets/code%2Fone.js", content=b"exports.handler = 1")
    asset = {
        "collection_topic": "tools",
        "handler": "index.handler",
        "assets": [{"asset_name": "index.js", "asset_value": "code/one.js", "link": True}],
    }

    created = await site.create(compute_asset=asset)

    read = (await site.client.get("/compute/functions/tools/my-function")).json()["body"]
    (item,) = read["compute_asset"]["assets"]
    assert (stored.status_code, created.status_code) == (201, 201)
    assert base64.b64decode(item["asset_value"]) == b"exports.handler = 1"
    assert item["link"] is False


# -- list --------------------------------------------------------------------------------------------


async def test_lists_hold_what_the_contract_names_and_their_total(site: Site) -> None:
    await site.create()
    await site.create(name="other", compute_asset={"collection_topic": "tools", "handler": "a.b"})

    everything = (await site.client.get("/compute/functions")).json()["body"]
    one = (await site.client.get("/compute/collections/tools/functions")).json()["body"]

    assert everything["results_total"] == 2
    assert list(everything) == ["results", "results_total"]
    assert list(everything["results"][0]) == ["description", "name", "runtime", "subject", "type", "modified"]
    assert [item["name"] for item in one["results"]] == ["other"]


async def test_a_list_can_be_read_in_pages(site: Site) -> None:
    for name in "abcde":
        await site.create(name=name)

    names, cursor, pages = [], "", 0
    while True:
        page = (await site.client.get(f"/compute/functions?limit=2{cursor}")).json()["body"]
        names += [item["name"] for item in page["results"]]
        pages += 1
        assert page["results_total"] == 5
        if "next_cursor" not in page:
            break
        cursor = f"&cursor={page['next_cursor']}"

    assert (names, pages) == (list("abcde"), 3)


async def test_a_page_starts_after_what_was_deleted_meanwhile(site: Site) -> None:
    for name in "abc":
        await site.create(name=name)
    page = (await site.client.get("/compute/functions?limit=2")).json()["body"]
    await site.client.delete("/compute/functions/my-namespace/b")

    rest = (await site.client.get(f"/compute/functions?cursor={page['next_cursor']}")).json()["body"]

    assert [item["name"] for item in rest["results"]] == ["c"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=10001",
        "limit=000000000000001",
        "limit=",
        "cursor=!",
        "cursor=ü",
    ],
)
async def test_a_limit_or_cursor_that_means_nothing_is_refused(site: Site, query: str) -> None:
    answer = await site.client.get(f"/compute/functions?{query}")

    assert (answer.status_code, answer.json()["code"]) == (400, "request.invalid")


async def test_the_list_of_a_collection_that_is_not_there_is_404(site: Site) -> None:
    answer = await site.client.get("/compute/collections/none/functions")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


# -- change ------------------------------------------------------------------------------------------


async def test_patch_and_delete_answer_success(site: Site) -> None:
    await site.create()

    patched = await site.client.patch(FUNCTION, json={"description": None, "size": "small"})
    read = (await site.client.get(FUNCTION)).json()["body"]
    deleted = await site.client.delete(FUNCTION)
    gone = await site.client.get(FUNCTION)

    assert (patched.status_code, patched.json()) == (200, {"message": "success"})
    assert (read["description"], read["size"], read["type"]) == ("", "small", "patched")
    assert (deleted.status_code, deleted.json()) == (200, {"message": "success"})
    assert gone.status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/compute/functions/my-namespace/3970185486",
        "/compute/functions/ms.compute.my-namespace.collection/ms.compute.my-namespace.function.3970185486",
        "/compute/functions/my%2Dnamespace/%6Dy-function",
    ],
)
async def test_a_path_may_be_spelt_in_every_way_the_contract_names(site: Site, path: str) -> None:
    await site.create()

    assert (await site.client.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("tag", "status"),
    [
        ("*", 200),
        ("{etag}", 200),
        ('"0", {etag}', 200),
        ('"0"', 409),
        ("x", 409),
        ("W/{etag}", 409),
        ('"', 409),
    ],
)
async def test_if_match_lets_a_change_pass_only_at_the_revision_it_names(
    site: Site, tag: str, status: int
) -> None:
    await site.create()
    etag = (await site.client.get(FUNCTION)).headers["etag"]
    headers = {"If-Match": tag.replace("{etag}", etag)}

    patched = await site.client.patch(FUNCTION, json={}, headers=headers)
    deleted = await site.client.delete(FUNCTION, headers=headers)

    assert (patched.status_code, deleted.status_code) == (status, status)
    if status == 409:
        assert patched.json()["code"] == "version_conflict"


async def test_an_etag_changes_with_every_change(site: Site) -> None:
    await site.create()
    before = (await site.client.get(FUNCTION)).headers["etag"]

    await site.client.patch(FUNCTION, json={"description": "x"}, headers={"If-Match": before})

    assert (await site.client.get(FUNCTION)).headers["etag"] != before


@pytest.mark.parametrize("body", [{"name": None}, {"monitor_config": None}, {"schema": 1}, {"size": 1}])
async def test_a_patch_with_a_wrong_value_changes_nothing(site: Site, body: dict[str, Any]) -> None:
    await site.create()

    answer = await site.client.patch(FUNCTION, json=body)

    assert (answer.status_code, answer.json()["field"]) == (400, f"/{next(iter(body))}")
    assert site.bench.entry().function.type == "created"


# -- who may -----------------------------------------------------------------------------------------

EVERY_ROUTE = [
    ("POST", "/compute/functions"),
    ("GET", "/compute/functions"),
    ("GET", "/compute/collections/my-namespace/functions"),
    ("GET", FUNCTION),
    ("PATCH", FUNCTION),
    ("DELETE", FUNCTION),
    ("PUT", "/compute/assets/key"),
]


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_no_route_answers_without_a_token_or_without_the_scope(
    site: Site, method: str, path: str
) -> None:
    await site.create()

    unknown = await site.client.request(method, path, headers={"Authorization": "Bearer guess"})
    lacking = await site.client.request(method, path, headers={"Authorization": "Bearer nobody"})

    assert (unknown.status_code, unknown.headers["www-authenticate"]) == (401, "Bearer")
    assert (lacking.status_code, lacking.json()["code"]) == (403, "auth.forbidden")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/compute/collections/none/functions"),
        ("GET", "/compute/functions/none/my-function"),
        ("PATCH", "/compute/functions/my-namespace/none"),
        ("DELETE", "/compute/functions/my-namespace/none"),
    ],
)
async def test_what_is_not_there_is_404_before_the_scope_is_looked_at(
    site: Site, method: str, path: str
) -> None:
    await site.create()

    answer = await site.client.request(method, path, headers={"Authorization": "Bearer nobody"})

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_token_that_may_read_may_not_write(site: Site) -> None:
    await site.create()
    headers = {"X-Api-Key": "reader"}
    del site.client.headers["Authorization"]

    read = await site.client.get(FUNCTION, headers=headers)
    written = await site.client.patch(FUNCTION, json={}, headers=headers)

    assert (read.status_code, written.status_code) == (200, 403)


# -- everything else ---------------------------------------------------------------------------------


async def test_health_and_readiness_need_no_token(site: Site) -> None:
    del site.client.headers["Authorization"]

    healthy = await site.client.get("/healthz")
    ready = await site.client.get("/readyz")
    site.problem = "the disk is full"
    unready = await site.client.get("/readyz")

    assert (healthy.status_code, ready.status_code) == (200, 200)
    assert ready.json() == {"status": "ready", "isolation": "crun"}
    assert (unready.status_code, unready.json()["error"]) == (503, "the disk is full")


@pytest.mark.parametrize("path", ["/", "/compute", "/compute/functions/", "/compute/functions//x", "/x%00"])
async def test_an_unknown_path_is_404_in_json(site: Site, path: str) -> None:
    answer = await site.client.get(path)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/compute/functions", "GET, HEAD, POST"),
        ("PUT", FUNCTION, "DELETE, GET, HEAD, PATCH"),
        ("GET", f"{FUNCTION}/invoke", "POST"),
        ("TRACE", f"{FUNCTION}/invoke", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
async def test_another_verb_is_405_and_names_those_that_are_allowed(
    site: Site, method: str, path: str, allow: str
) -> None:
    answer = await site.client.request(method, path)

    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allow


async def test_a_mistake_of_ours_is_left_to_who_serves_the_application(site: Site) -> None:
    # The connection answers it and logs it under an id; a second handler here would log it twice.
    site.bench.unpacker.error = RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await site.create()

    assert site.log.events == []
