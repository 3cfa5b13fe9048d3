"""The routes of code, from request to answer, over in-memory stores."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stoker.model.limits import Limits
from stoker.testing.site import STRANGER, Site

OLD, NEW = b"exports.handler = () => 1\n", b"exports.handler = () => 2\n"
PATH = "/compute/compute-assets/tools/my-function"
FUNCTION = "/compute/functions/tools/my-function"


def item(content: bytes, name: str = "index.js", kind: str = "file") -> dict[str, Any]:
    return {
        "asset_name": name,
        "asset_type": kind,
        "asset_value": base64.b64encode(content).decode(),
        "link": False,
    }


REQUEST: dict[str, Any] = {
    "name": "my-function",
    "compute_asset": {"collection_topic": "tools", "handler": "index.handler", "assets": [item(OLD)]},
    "monitor_config": {},
}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site(REQUEST)
    async with site.client:
        created = await site.create()
        assert created.status_code == 201
        yield site


async def get(site: Site, path: str = PATH) -> dict[str, Any]:
    answer = await site.client.get(path)
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()["body"]
    return body


# -- read --------------------------------------------------------------------------------------------


async def test_code_is_answered_with_its_assets_version_and_time(site: Site) -> None:
    answer = await site.client.get(PATH)

    assert answer.json() == {
        "body": {
            "collection_topic": "tools",
            "service": "3970185486",
            "runtime": "nodejs",
            "handler": "index.handler",
            "timeout": 30000,
            "read_only_fs": True,
            "version": 1,
            "modified": 1714378974,
            "assets": [item(OLD)],
        }
    }
    assert answer.headers["etag"] == (await site.client.get(FUNCTION)).headers["etag"]


# -- change ------------------------------------------------------------------------------------------


async def test_a_patch_is_a_new_version_of_what_it_names(site: Site) -> None:
    await site.bench.put_secret("S")
    body = {
        "assets": [item(NEW, "app.py"), item(b"x", "lib/x.py")],
        "handler": "app.handler",
        "runtime": "python",
        "timeout": 5,
        "env_vars": ["A=1"],
        "read_only_fs": False,
        "secrets": ["S"],
        "network": {"egress": ["*:443"]},
    }

    answer = await site.client.patch(f"{PATH}?strict=true", json=body)

    read = await get(site)
    assert (answer.status_code, answer.json()) == (200, {"message": "success"})
    assert {key: read[key] for key in body} == body
    assert read["version"] == 2
    function = await get(site, FUNCTION)
    assert (function["type"], function["runtime"], function["version"]) == ("patched", "python", 2)


async def test_null_is_what_a_create_has_by_default(site: Site) -> None:
    await site.bench.put_secret("S")
    given = {"timeout": 5, "env_vars": ["A=1"], "read_only_fs": False, "secrets": ["S"]}
    given |= {"network": {"egress": []}}
    before = await get(site)
    await site.client.patch(PATH, json=given)

    answer = await site.client.patch(PATH, json=dict.fromkeys(given))

    assert answer.status_code == 200
    assert await get(site) == {**before, "version": 3}


async def test_an_empty_patch_is_no_version(site: Site) -> None:
    answer = await site.client.patch(PATH, json={"unknown": 1})

    assert answer.status_code == 200
    assert (await get(site))["version"] == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"handler": None}, "/handler"),
        ({"handler": "index"}, "/handler"),
        ({"runtime": None}, "/runtime"),
        ({"runtime": "ruby"}, "/runtime"),
        ({"assets": None}, "/assets"),
        ({"assets": [{"asset_name": "a"}]}, "/assets/0/asset_value"),
        ({"assets": [item(b""), {"asset_name": "a", "asset_value": "!"}]}, "/assets/1/asset_value"),
        ({"assets": [{"asset_name": "a", "asset_value": "no", "link": True}]}, "/assets/0/asset_value"),
        ({"timeout": 0}, "/timeout"),
        ({"timeout": "5"}, "/timeout"),
        ({"env_vars": ["A"]}, "/env_vars/0"),
        ({"env_vars": "A=1"}, "/env_vars"),
        ({"read_only_fs": 1}, "/read_only_fs"),
        ({"secrets": ["a b"]}, "/secrets/0"),
        ({"network": {"egress": ["x"]}}, "/network/egress/0"),
        ([], ""),
    ],
)
async def test_a_patch_with_a_wrong_value_is_refused_with_its_field_and_changes_nothing(
    site: Site, body: Any, field: str
) -> None:
    answer = await site.client.patch(PATH, json=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "request.invalid")
    assert answer.json()["field"] == field
    assert (await get(site))["version"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PATCH", PATH, {"tags": []}, "/tags"),
        ("PATCH", PATH, {"collection_topic": "x"}, "/collection_topic"),
        ("PATCH", PATH, {"assets": [{**item(b""), "mode": 7}]}, "/assets/0/mode"),
        ("POST", f"{PATH}/rollback", {"version": 1, "force": True}, "/force"),
    ],
)
async def test_strict_refuses_unknown_keys(site: Site, method: str, path: str, body: Any, field: str) -> None:
    strict = await site.client.request(method, f"{path}?strict=true", json=body)
    lax = await site.client.request(method, path, json=body)

    assert (strict.status_code, strict.json()["field"], lax.status_code) == (400, field, 200)


async def test_a_patch_takes_what_was_stored_beforehand(site: Site) -> None:
    await site.client.put("/compute/assets/new.js", content=NEW)
    linked = {"asset_name": "index.js", "asset_value": "new.js", "link": True}

    answer = await site.client.patch(PATH, json={"assets": [linked]})

    assert answer.status_code == 200
    assert (await get(site))["assets"] == [item(NEW)]


@pytest.mark.parametrize(
    ("tag", "status"), [("*", 200), ("{etag}", 200), ('"0", {etag}', 200), ('"0"', 409), ("x", 409)]
)
@pytest.mark.parametrize("what", ["patch", "empty patch", "rollback"])
async def test_if_match_lets_a_change_pass_only_at_the_revision_it_names(
    site: Site, what: str, tag: str, status: int
) -> None:
    etag = (await site.client.get(PATH)).headers["etag"]
    headers = {"If-Match": tag.replace("{etag}", etag)}

    if what == "rollback":
        answer = await site.client.post(f"{PATH}/rollback", json={"version": 1}, headers=headers)
    else:
        body = {"timeout": 5} if what == "patch" else {}
        answer = await site.client.patch(PATH, json=body, headers=headers)

    assert answer.status_code == status
    assert answer.json().get("code") == ("version_conflict" if status == 409 else None)
    changed = status == 200 and what != "empty patch"
    assert ((await site.client.get(PATH)).headers["etag"] != etag) is changed


# -- history and rollback ----------------------------------------------------------------------------


async def test_a_rollback_answers_the_new_version_which_equals_the_old_one(site: Site) -> None:
    first = await get(site)
    await site.client.patch(PATH, json={"assets": [item(NEW)], "timeout": 5})
    site.bench.now_ms += 5_000

    answer = await site.client.post(f"{PATH}/rollback", json={"version": 1})

    assert answer.status_code == 200
    assert answer.json()["body"] == {**first, "version": 3, "modified": first["modified"] + 5}
    assert answer.json()["body"] == await get(site)
    assert answer.headers["etag"] == (await site.client.get(PATH)).headers["etag"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"version": 2}, 404, "not_found"),
        ({"version": 0}, 404, "not_found"),
        ({"version": -1}, 404, "not_found"),
        ({"version": 10**18}, 404, "not_found"),
        ({"version": "1"}, 400, "request.invalid"),
        ({"version": 1.5}, 400, "request.invalid"),
        ({"version": True}, 400, "request.invalid"),
        ({"version": None}, 400, "request.invalid"),
        ({}, 400, "request.invalid"),
    ],
)
async def test_a_rollback_to_what_is_no_version_is_refused(
    site: Site, body: Any, status: int, code: str
) -> None:
    answer = await site.client.post(f"{PATH}/rollback", json=body)

    refused = answer.json()
    assert (answer.status_code, refused["code"], refused["field"]) == (status, code, "/version")
    assert (await get(site))["version"] == 1


async def test_the_history_holds_every_version_the_oldest_first(site: Site) -> None:
    first = await get(site)
    site.bench.now_ms += 5_000
    await site.client.patch(PATH, json={"assets": [item(NEW), item(b"x", "b.js")], "env_vars": ["A=1"]})
    second = await get(site)
    await site.client.patch(PATH, json={"assets": []})
    third = await get(site)

    answer = await site.client.get(f"{PATH}/history")

    assert answer.json() == {"body": {"results": [first, second, third], "results_total": 3}}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["etag"] == (await site.client.get(PATH)).headers["etag"]


async def test_a_history_can_be_read_in_pages(site: Site) -> None:
    for timeout in range(1, 5):
        await site.client.patch(PATH, json={"timeout": timeout})

    versions, query = [], "?limit=2"
    while True:
        page = await get(site, f"{PATH}/history{query}")
        versions.append([one["version"] for one in page["results"]])
        assert page["results_total"] == 5
        if "next_cursor" not in page:
            break
        query = f"?limit=2&cursor={page['next_cursor']}"
    after_the_end = await get(site, f"{PATH}/history?cursor=OTk5")

    assert versions == [[1, 2], [3, 4], [5]]
    assert after_the_end == {"results": [], "results_total": 5}


async def test_a_history_is_answered_an_item_at_a_time(site: Site) -> None:
    await site.client.patch(PATH, json={"assets": [item(NEW), item(b"x", "b.js")]})
    fetched: list[str] = []
    content = site.bench.blobs.get

    async def get_content(account: str, digest: str) -> bytes:
        fetched.append(digest)
        return await content(account, digest)

    site.bench.blobs.get = get_content  # type: ignore[method-assign]
    sent: list[tuple[int, bytes]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.get_running_loop().create_future()  # the client stays
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            sent.append((len(fetched), message["body"]))

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"{PATH}/history",
        "raw_path": f"{PATH}/history".encode(),
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer admin")],
    }
    await site.app(scope, receive, send)

    assert len(json.loads(b"".join(body for _, body in sent))["body"]["results"]) == 2
    with_content = [seen for seen, body in sent if b"asset_value" in body]
    assert with_content == [1, 2, 3]  # none was fetched before the one before it was out


# -- objects -----------------------------------------------------------------------------------------


async def test_an_object_is_stored_as_it_arrives(site: Site) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one, "
        yield b"two"

    answer = await site.client.put("/compute/assets/a%2Fkey", content=pieces())

    assert (answer.status_code, answer.json()) == (201, {"body": {"key": "a/key", "size_bytes": 8}})
    stored = site.bench.catalog.objects.find("default", "a/key")
    assert stored is not None
    assert await site.bench.catalog.content("default", stored.digest) == b"one, two"


@pytest.mark.parametrize(("size", "status"), [(0, 201), (100, 201), (101, 413)])
async def test_an_object_has_a_limit_that_is_looked_at_while_it_is_read(size: int, status: int) -> None:
    site = Site(REQUEST, limits=Limits(code_bytes_max=100))
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(size):
            read += 1
            yield b"x"
        if size > 100:
            pytest.fail("it was read past the limit")

    async with site.client:
        answer = await site.client.put("/compute/assets/key", content=pieces())

    assert (answer.status_code, read) == (status, size)
    assert len(await site.bench.blobs.list()) == (status == 201)


@pytest.mark.parametrize("key", ["x" * 1025, "%ff"])
async def test_a_key_that_cannot_be_one_is_refused(site: Site, key: str) -> None:
    answer = await site.client.put(f"/compute/assets/{key}", content=b"x")

    assert (answer.status_code, answer.json()["code"]) == (400, "request.invalid")


# -- who may -----------------------------------------------------------------------------------------

EVERY_ROUTE = [
    ("GET", PATH, "functions:read"),
    ("PATCH", PATH, "functions:write"),
    ("GET", f"{PATH}/history", "functions:read"),
    ("POST", f"{PATH}/rollback", "functions:write"),
    ("PUT", "/compute/assets/key", "functions:write"),
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


@pytest.mark.parametrize(("method", "path", "scope"), EVERY_ROUTE[:4])
@pytest.mark.parametrize("token", ["nobody", STRANGER])
async def test_what_is_not_there_or_another_accounts_is_404_before_anything_else_is_looked_at(
    site: Site, method: str, path: str, scope: str, token: str
) -> None:
    if token == "nobody":
        path = path.replace("my-function", "none")

    answer = await site.client.request(
        method, path, content=b"no JSON", headers={"Authorization": f"Bearer {token}"}
    )

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", PATH, "GET, HEAD, PATCH"),
        ("DELETE", f"{PATH}/history", "GET, HEAD"),
        ("GET", f"{PATH}/rollback", "POST"),
        ("GET", "/compute/assets/key", "PUT"),
    ],
)
async def test_another_verb_is_405(site: Site, method: str, path: str, allow: str) -> None:
    answer = await site.client.request(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
