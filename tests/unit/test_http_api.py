"""Bodies of the API: what a request may hold, where a refusal points, what linked assets lead to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stoker.edge.http import api, bodies
from stoker.model.errors import InvalidRequest

GOOD: dict[str, Any] = {
    "name": "f",
    "compute_asset": {"collection_topic": "c", "handler": "index.handler", "assets": []},
    "monitor_config": {},
}


def read(body: dict[str, Any], *, strict: bool = False) -> tuple[bodies.FunctionCreate, dict[str, Any]]:
    return api.read_body(msgspec.json.encode(body), bodies.FunctionCreate, strict=strict)


def with_asset(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "compute_asset": {**GOOD["compute_asset"], **changes}}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "/name"),
        ({"name": "f"}, "/compute_asset"),
        ({"name": "f", "compute_asset": {"handler": "a.b"}}, "/monitor_config"),
        ({**GOOD, "name": 3}, "/name"),
        ({**GOOD, "name": None}, "/name"),
        ({**GOOD, "compute_asset": []}, "/compute_asset"),
        ({**GOOD, "compute_asset": {}}, "/compute_asset/handler"),
        ({**GOOD, "description": 1}, "/description"),
        ({**GOOD, "size": 512}, "/size"),
        ({**GOOD, "schema": []}, "/schema"),
        ({**GOOD, "schema": {"input": "x"}}, "/schema/input"),
        ({**GOOD, "monitor_config": {"ttl": "7d"}}, "/monitor_config/ttl"),
        ({**GOOD, "monitor_config": {"store_payload": 1}}, "/monitor_config/store_payload"),
        ({**GOOD, "retry": {"attempts": True}}, "/retry/attempts"),
        ({**GOOD, "concurrency": {"per_instance": 1.5}}, "/concurrency/per_instance"),
        (with_asset(timeout="30s"), "/compute_asset/timeout"),
        (with_asset(timeout=1.5), "/compute_asset/timeout"),
        (with_asset(read_only_fs="yes"), "/compute_asset/read_only_fs"),
        (with_asset(env_vars={"A": "1"}), "/compute_asset/env_vars"),
        (with_asset(env_vars=["A=1", 2]), "/compute_asset/env_vars/1"),
        (with_asset(network={"egress": [1]}), "/compute_asset/network/egress/0"),
        (with_asset(assets=[{"asset_name": "a"}]), "/compute_asset/assets/0/asset_value"),
        (
            with_asset(assets=[{"asset_name": "a", "asset_value": ""}, {"asset_value": ""}]),
            "/compute_asset/assets/1/asset_name",
        ),
        (
            with_asset(assets=[{"asset_name": "a", "asset_value": "", "link": "yes"}]),
            "/compute_asset/assets/0/link",
        ),
    ],
)
def test_a_refusal_points_at_the_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(body)

    assert refused.value.field == field


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"{'a':1}", b"\xff", b'{"name":"\xff"}', b"[" * 100_000, b'{"a":NaN}', b'{"name":"\\ud800"}'],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not JSON"):
        api.read_body(body, bodies.FunctionCreate, strict=False)


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"null", b"3"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        api.read_body(body, bodies.FunctionCreate, strict=False)

    assert refused.value.field == ""


def test_of_a_key_given_twice_the_last_counts() -> None:
    body = msgspec.json.encode(GOOD)[:-1] + b',"name":"last"}'

    typed, plain = api.read_body(body, bodies.FunctionCreate, strict=False)

    assert (typed.name, plain["name"]) == ("last", "last")


def test_unknown_keys_are_ignored_for_the_vendors_clients_sake() -> None:
    typed, _ = read({**with_asset(container="x"), "tags": ["a"]})

    assert typed.name == "f"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**GOOD, "tags": []}, "/tags"),
        ({**GOOD, "a/b~c": 1}, "/a~1b~0c"),
        (with_asset(container="x"), "/compute_asset/container"),
        (with_asset(network={"ingress": []}), "/compute_asset/network/ingress"),
        (
            with_asset(assets=[{"asset_name": "a", "asset_value": "", "mode": 7}]),
            "/compute_asset/assets/0/mode",
        ),
        ({**GOOD, "monitor_config": {"ttl_ms": 1}}, "/monitor_config/ttl_ms"),
        ({**GOOD, "schema": {"error": {}}}, "/schema/error"),
    ],
)
def test_unknown_keys_are_refused_where_the_request_says_strict(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(body, strict=True)

    assert refused.value.field == field


def test_strict_takes_everything_the_contract_names_and_looks_into_no_schema() -> None:
    body = with_asset(
        namespace="c",
        runtime="python",
        assets=[{"asset_name": "a", "asset_value": "", "asset_type": "file", "link": False}],
        timeout=1,
        read_only_fs=False,
        env_vars=["A=1"],
        secrets=["S"],
        network={"egress": []},
    )
    body |= {
        "description": "d",
        "size": "small",
        "schema": {"input": {"x-mine": {"deep": [1]}}, "output": True},
        "retry": {"attempts": 1, "backoff_ms": 1, "max_age_ms": 1000},
        "concurrency": {"per_instance": 1, "max_instances": 1, "min_instances": 0},
        "monitor_config": {"ttl": 1, "store_payload": True},
    }

    typed, _ = read(body, strict=True)

    assert typed.compute_asset.runtime == "python"


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_714_378_974_005, "2024-04-29T08:22:54.005Z"),
        (1_714_378_974_999, "2024-04-29T08:22:54.999Z"),
    ],
)
def test_a_time_is_written_in_utc_with_milliseconds(at_ms: int, text: str) -> None:
    assert api.rfc3339(at_ms) == text
