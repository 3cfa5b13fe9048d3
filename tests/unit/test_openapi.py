"""The API's description: what it says of every route, and that it can be believed."""

from __future__ import annotations

import base64
import hashlib
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest

from stoker.edge import http
from stoker.edge.errors import STATUS_OF_CODE, ErrorAnswers, status_of
from stoker.edge.http.app import make_app
from stoker.edge.http.openapi.codes import EXAMPLES
from stoker.edge.http.openapi.document import codes_of, make_document
from stoker.edge.http.openapi.routes import OpenApiRoutes
from stoker.edge.http.openapi.table import OPERATIONS, TAGS
from stoker.edge.http.scopes import INVOKE, TABLE
from stoker.model import errors
from stoker.model.limits import Limits
from stoker.testing.site import Log

LIMITS = Limits(name_chars_max=77, record_wait_ms_max=1234)
DOCUMENT: dict[str, Any] = json.loads(json.dumps(make_document(OPERATIONS, TAGS, LIMITS, "1.2.3")))
PUBLIC = {("GET", path) for path in ("/healthz", "/readyz", "/openapi.json", "/docs")}

CONTRACT = """
POST /compute/functions
GET /compute/functions
GET /compute/collections/{}/functions
GET PATCH DELETE /compute/functions/{}/{}
POST /compute/functions/{}/{}/invoke
GET PATCH /compute/compute-assets/{}/{}
GET /compute/compute-assets/{}/{}/history
POST /compute/compute-assets/{}/{}/rollback
PUT /compute/assets/{}
GET /compute/invocations/{}
GET /compute/invocations
GET /compute/invocations/{}/log
POST /compute/invocations/{}/cancel
POST /compute/invocations/{}/replay
GET /compute/functions/{}/{}/log
GET /compute/functions/{}/{}/dead-letters
POST /compute/functions/{}/{}/dead-letters/{}/redrive
DELETE /compute/functions/{}/{}/dead-letters/{}
POST GET /accounts
PUT /accounts/{}/limits
DELETE /accounts/{}
POST GET /tokens
DELETE /tokens/{}
GET /limits
PUT DELETE /secrets/{}
GET /secrets
GET POST /compute/collections
GET PATCH DELETE /compute/collections/{}
GET /compute/collections/{}/containers
GET /compute/runtimes
GET /compute/machines
GET /compute/services
GET /healthz
GET /readyz
GET /metrics
GET /openapi.json
GET /docs
GET /backup
"""
"""The routes in the tables of the contracts, placeholders without their names, and what is ours alone."""


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each operation with its verb and path."""
    for path, item in DOCUMENT["paths"].items():
        for verb, operation in item.items():
            yield f"{verb.upper()} {path}", operation


def nameless(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def faults_of(schema: dict[str, Any], value: object) -> list[str]:
    """Return how a value breaks a schema of the document."""
    whole = {**schema, "components": DOCUMENT["components"]}
    return [str(error) for error in jsonschema_rs.iter_errors(whole, value)]


def examples_of(content: dict[str, Any]) -> list[object]:
    return (
        [one["value"] for one in content["examples"].values()]
        if "examples" in content
        else [content["example"]]
    )


# -- what is described -------------------------------------------------------------------------------


def test_just_the_routes_of_the_contract_are_described() -> None:
    described = {
        f"{verb.upper()} {nameless(path)}" for path, item in DOCUMENT["paths"].items() for verb in item
    }
    contract = {
        f"{verb} {line.split()[-1]}" for line in CONTRACT.split("\n") if line for verb in line.split()[:-1]
    }
    assert described == contract


def test_just_the_routes_that_ask_for_a_token_are_described_so() -> None:
    assert {(one.verb, one.path) for one in OPERATIONS} == set(TABLE) | PUBLIC
    public = {name for name, operation in operations() if not operation["security"]}
    assert public == {f"{verb} {path}" for verb, path in PUBLIC}


def live_routes() -> Iterator[tuple[str, str]]:
    """Yield verb and path of every route that some door of the HTTP server has."""
    for module in pkgutil.walk_packages(http.__path__, "stoker.edge.http."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if kind.__module__.startswith("stoker.") and hasattr(kind, "routes") and not is_protocol(kind):
                for route in kind.routes(object.__new__(kind)):
                    for verb in route.methods - {"HEAD"}:
                        yield verb, route.path


def is_protocol(kind: Any) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def test_just_the_routes_that_there_are_are_described() -> None:
    of_the_application = {("GET", "/healthz"), ("GET", "/readyz"), ("POST", INVOKE)}
    assert {(one.verb, one.path) for one in OPERATIONS} == {*live_routes(), *of_the_application}


def test_every_operation_says_what_it_is_and_which_scope_it_needs() -> None:
    ids = [operation["operationId"] for _, operation in operations()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)
    for one in OPERATIONS:
        described = next(operation for _, operation in operations() if operation["operationId"] == one.id)
        needs = TABLE.get((one.verb, one.path))
        assert described["summary"]
        assert described["tags"][0] in TAGS
        assert described.get("x-scope") == (needs.scope if needs else None)


def test_links_lead_to_operations_and_fill_their_parameters() -> None:
    by_id = {operation["operationId"]: operation for _, operation in operations()}
    for _, operation in operations():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                target = by_id[link["operationId"]]
                needed = {one["name"] for one in target.get("parameters", ()) if one["in"] == "path"}
                assert set(link["parameters"]) == needed


def test_numbers_in_it_are_those_of_the_server() -> None:
    assert DOCUMENT["components"]["schemas"]["FunctionCreate"]["properties"]["name"]["maxLength"] == 77
    wait = next(
        parameter
        for name, operation in operations()
        if name == "GET /compute/invocations/{invocation_id}"
        for parameter in operation["parameters"]
        if parameter["name"] == "wait"
    )
    assert wait["schema"]["maximum"] == 1234
    assert "limits." not in json.dumps(DOCUMENT["components"])


# -- that it can be believed -------------------------------------------------------------------------


def test_every_schema_is_one() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})
        assert schema["type"] == "object", name


def test_every_example_of_a_request_fits_its_schema() -> None:
    for name, operation in operations():
        for content in operation.get("requestBody", {"content": {}})["content"].values():
            values = examples_of(content)
            assert values, name
            assert [fault for value in values for fault in faults_of(content["schema"], value)] == [], name
        for parameter in operation.get("parameters", ()):
            if "example" in parameter:
                assert faults_of(parameter["schema"], parameter["example"]) == [], (name, parameter["name"])
            else:
                assert not parameter["required"], (name, parameter["name"])


def test_every_example_of_an_answer_fits_its_schema() -> None:
    for name, operation in operations():
        for status, response in operation["responses"].items():
            for content in response["content"].values():
                values = examples_of(content)
                assert values, (name, status)
                for value in values:
                    assert faults_of(content["schema"], value) == [], (name, status)


def test_an_answer_may_hold_nothing_that_is_not_described() -> None:
    for name, operation in operations():
        for status, response in operation["responses"].items():
            for media, content in response["content"].items():
                if media != "application/json" or name == "GET /openapi.json":
                    continue
                for value in examples_of(content):
                    assert isinstance(value, dict)
                    assert faults_of(content["schema"], {**value, "more": 1}) != [], (name, status)
                    inner = value.get("body")
                    if isinstance(inner, dict):
                        more = {"body": {**inner, "more": 1}}
                        assert faults_of(content["schema"], more) != [], (name, status)


def test_a_code_stands_under_its_status_and_nowhere_else() -> None:
    for name, operation in operations():
        for status, response in operation["responses"].items():
            for content in response["content"].values():
                for code, example in content.get("examples", {}).items():
                    assert str(status_of(code)) == status, (name, code)
                    assert example["value"]["code"] == code


def test_every_code_that_there_is_stands_at_an_operation() -> None:
    shown = {code for one in OPERATIONS for code in codes_of(one)}
    assert shown == set(EXAMPLES)
    elsewhere = {
        "method_not_allowed",  # of no operation, as there is none
        "invocation.expired",  # of Async invocations alone: in records
    }
    assert {code for code in STATUS_OF_CODE if not code.startswith("quota.")} - shown == elsewhere
    raised = {
        kind.code
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.StokerError) and kind is not errors.QuotaExceeded
    }
    assert raised - shown == {"method_not_allowed"}


# -- the routes --------------------------------------------------------------------------------------


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = make_app([OpenApiRoutes(LIMITS, "1.2.3")], ErrorAnswers(Log()), lambda: None, dict)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://stoker") as found:
        yield found


async def test_the_document_is_public_and_the_same_each_time(client: httpx.AsyncClient) -> None:
    first = await client.get("/openapi.json")
    assert (first.status_code, first.headers["content-type"]) == (200, "application/json")
    assert first.json() == DOCUMENT
    assert (await client.get("/openapi.json")).content == first.content


async def test_the_page_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    page = answer.text

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page) == ["openapi.json"]
    assert not re.search(r"https?://|@import|url\(|innerHTML|document\.write", page)


async def test_a_browser_is_told_to_run_just_the_pages_own_script(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy
    assert "connect-src 'self'" in policy
    assert not re.search(r"\son\w+=", answer.text)
