"""Every limit of what a request may hold: what is just within it is taken, what is just past it is refused.

The same tests run against the defaults and against a server with small limits.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import Any
from uuid import uuid4

import httpx
import pytest

from stoker.model.limits import DAY_MS, Limits
from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.limited import Place, limited

SMALL = Limits(
    request_bytes_max=4_000,
    header_bytes_max=4_096,
    code_bytes_max=1_000,
    code_files_max=5,
    payload_bytes_max=700,
    async_payload_bytes_max=300,
    timeout_ms_min=50,
    timeout_ms_default=2_000,
    timeout_ms_max=5_000,
    ttl_ms_max=8 * DAY_MS,
    name_chars_max=20,
    topic_chars_max=20,
    description_chars_max=30,
    settings_bytes_max=1_024,
    schema_bytes_max=300,
    schema_depth_max=3,
    env_bytes_max=100,
    connections_max=20,
    record_wait_ms_max=50_000,
)
LENGTH = {
    "nodejs": "exports.handler = (event) => event[0].length;",
    "python": "def handler(event):\n    return len(event[0])",
}


@pytest.fixture(scope="module")
def small(isolated: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with limited(tmp_path_factory, SMALL) as running:
        yield running


@pytest.fixture(params=["the defaults", "small limits"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A server with a collection of the test's own."""
    name, limits = {"the defaults": ("server", Limits()), "small limits": ("small", SMALL)}[request.param]
    server: ServerProcess = request.getfixturevalue(name)
    with server.client() as client:
        client.collection = f"test-{uuid4().hex[:12]}"
        yield Place(client, limits)


def refusal(answer: httpx.Response) -> tuple[int, str, str | None]:
    body = answer.json()
    return answer.status_code, body.get("code"), body.get("field")


# -- what a create holds -------------------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    """Return a schema with so many subschemas within each other, beside the outermost."""
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def zipped(files: dict[str, int]) -> list[dict[str, Any]]:
    """Return assets: an archive of files of zeros with these sizes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in files.items():
            with archive.open(name, "w", force_zip64=True) as file:
                for at in range(0, size, 1 << 20):
                    file.write(bytes(min(1 << 20, size - at)))
    value = base64.b64encode(packed.getvalue()).decode()
    return [{"asset_name": "code", "asset_type": "archive", "asset_value": value}]


def of_bytes(size: int) -> dict[str, Any]:
    """Return an object that is so large as JSON."""
    return {"more": "x" * (size - len('{"more":""}'))}


def env_of(size: int) -> list[str]:
    half = size // 2
    return ["A=" + "x" * (half - 2), "B=" + "x" * (size - half - 2)]


Make = Callable[[int], dict[str, Any]]
CREATES: dict[str, tuple[Callable[[Limits], int], Make, int, str]] = {
    "name": (lambda limits: limits.name_chars_max, lambda n: {"name": "n" * n}, 400, "/name"),
    "name_in_other_scripts": (
        lambda limits: limits.name_chars_max,
        lambda n: {"name": "語" * n},
        400,
        "/name",
    ),
    "topic": (
        lambda limits: limits.topic_chars_max,
        lambda n: {"collection": f"{uuid4().hex}-_A{uuid4().hex}"[-n:]},
        400,
        "/compute_asset/collection_topic",
    ),
    "description": (
        lambda limits: limits.description_chars_max,
        lambda n: {"description": "d" * n},
        400,
        "/description",
    ),
    "asset_type": (
        lambda limits: limits.name_chars_max,
        lambda n: {"assets": [{"asset_name": "index.js", "asset_type": "t" * n, "asset_value": ""}]},
        400,
        "/compute_asset/assets/0/asset_type",
    ),
    "timeout": (
        lambda limits: limits.timeout_ms_max,
        lambda n: {"timeout": n},
        400,
        "/compute_asset/timeout",
    ),
    "ttl": (
        lambda limits: limits.ttl_ms_max,
        lambda n: {"monitor_config": {"ttl": n}},
        400,
        "/monitor_config/ttl",
    ),
    "monitor_config": (
        lambda limits: limits.settings_bytes_max,
        lambda n: {"monitor_config": of_bytes(n)},
        400,
        "/monitor_config",
    ),
    "retry": (lambda limits: limits.settings_bytes_max, lambda n: {"retry": of_bytes(n)}, 400, "/retry"),
    "concurrency": (
        lambda limits: limits.settings_bytes_max,
        lambda n: {"concurrency": of_bytes(n)},
        400,
        "/concurrency",
    ),
    "network": (
        lambda limits: limits.settings_bytes_max,
        lambda n: {"network": of_bytes(n)},
        400,
        "/compute_asset/network",
    ),
    "schema": (
        lambda limits: limits.schema_bytes_max,
        lambda n: {"schema": {"input": {"title": "x" * (n - len('{"title":""}'))}}},
        400,
        "/schema/input",
    ),
    "schema_rest": (
        lambda limits: limits.settings_bytes_max,
        lambda n: {"schema": of_bytes(n)},
        400,
        "/schema",
    ),
    "schema_depth": (
        lambda limits: limits.schema_depth_max,
        lambda n: {"schema": {"output": nested(n)}},
        400,
        "/schema/output/items",
    ),
    "env_vars": (
        lambda limits: limits.env_bytes_max,
        lambda n: {"env_vars": env_of(n)},
        413,
        "/compute_asset/env_vars",
    ),
    "code_bytes": (
        lambda limits: limits.code_bytes_max,
        lambda n: {"assets": zipped({"a": n // 2, "b": n - n // 2})},
        400,
        "/compute_asset/assets/0/asset_value",
    ),
    "code_files": (
        lambda limits: limits.code_files_max,
        lambda n: {"assets": zipped(dict.fromkeys((f"f{i}" for i in range(n)), 0))},
        400,
        "/compute_asset/assets/0/asset_value",
    ),
}


@pytest.mark.parametrize("what", CREATES)
def test_a_create_is_taken_up_to_the_limit_and_refused_one_past_it(place: Place, what: str) -> None:
    limit_of, make, status, field = CREATES[what]
    limit = limit_of(place.limits)

    def create(number: int) -> httpx.Response:
        wanted = make(number)
        place.client.collection = wanted.pop("collection", place.client.collection)
        return place.client.create(wanted.pop("name", "at-the-limit"), {"index.js": ""}, **wanted)

    past = create(limit + 1)
    at = create(limit)

    assert past.status_code == status, past.text
    assert past.json()["field"].startswith(field)
    assert past.json()["code"] == ("too_large" if status == 413 else "request.invalid")
    assert at.status_code == 201, at.text


@pytest.mark.parametrize("what", ["timeout_ms_min", "timeout_ms_default"])
def test_a_timeout_is_no_shorter_than_the_least_and_the_default_where_none_is_given(
    place: Place, what: str
) -> None:
    least, default = place.limits.timeout_ms_min, place.limits.timeout_ms_default
    if what == "timeout_ms_default":
        answer = place.client.create("default", {"index.js": ""})
        assert answer.json()["body"]["compute_asset"]["timeout"] == default
        return

    assert place.client.create("least", {"index.js": ""}, timeout=least).status_code == 201
    assert refusal(place.client.create("less", {"index.js": ""}, timeout=least - 1)) == (
        400,
        "request.invalid",
        "/compute_asset/timeout",
    )


@pytest.mark.parametrize(
    "what", ["name", "description", "ttl", "monitor_config", "retry", "concurrency", "schema", "schema_rest"]
)
def test_a_patch_is_held_against_the_same_limits(place: Place, what: str) -> None:
    limit_of, make, status, field = CREATES[what]
    place.client.function("patched", "")
    topic = place.client.collection
    service = place.client.http.get(f"/compute/functions/{topic}/patched").json()["body"]["compute_asset"][
        "service"
    ]
    path = f"/compute/functions/{topic}/{service}"

    past = place.client.http.patch(path, json=make(limit_of(place.limits) + 1))
    at = place.client.http.patch(path, json=make(limit_of(place.limits)))

    assert refusal(past) == (status, "request.invalid", field)
    assert at.status_code == 200, at.text


@pytest.mark.parametrize("what", ["timeout", "asset_type", "network", "env_vars", "code_bytes", "code_files"])
def test_a_new_version_is_held_against_the_same_limits(place: Place, what: str) -> None:
    limit_of, make, status, field = CREATES[what]
    place.client.function("newer", "")
    path = f"/compute/compute-assets/{place.client.collection}/newer"

    past = place.client.http.patch(path, json=make(limit_of(place.limits) + 1))
    at = place.client.http.patch(path, json=make(limit_of(place.limits)))

    assert past.status_code == status, past.text
    assert past.json()["field"] == field.removeprefix("/compute_asset")
    assert at.status_code == 200, at.text
    assert place.client.http.get(path).json()["body"]["version"] == 2


@pytest.mark.parametrize("what", ["name", "description"])
def test_a_collection_is_held_against_the_same_limits(place: Place, what: str) -> None:
    path = "/compute/collections"
    limit = CREATES[what][0](place.limits)

    def wanted(length: int) -> dict[str, str]:
        name = uuid4().hex[:10]
        return {"name": name.ljust(length, "n")} if what == "name" else {"name": name, what: "d" * length}

    past, at = (place.client.http.post(path, json=wanted(length)) for length in (limit + 1, limit))

    assert refusal(past) == (400, "request.invalid", f"/{what}")
    assert at.status_code == 201, at.text
    one = f"{path}/{at.json()['body']['subject'].split('.')[2]}"
    past, at = (place.client.http.patch(one, json={what: wanted(n)[what]}) for n in (limit + 1, limit))
    assert refusal(past) == (400, "request.invalid", f"/{what}")
    assert at.status_code == 200, at.text


@pytest.mark.parametrize("place", ["small limits"], indirect=True)
def test_a_stored_object_is_taken_up_to_the_limit(place: Place) -> None:
    most = place.limits.code_bytes_max

    past = place.client.http.put("/compute/assets/large", content=b"x" * (most + 1))
    at = place.client.http.put("/compute/assets/large", content=b"x" * most)

    assert refusal(past) == (413, "too_large", None)
    assert at.status_code == 201, at.text


@pytest.mark.parametrize("place", ["small limits"], indirect=True)
def test_contents_that_are_no_archive_count_as_they_are(place: Place) -> None:
    most = place.limits.code_bytes_max

    past = place.client.create("large", {"a.js": b"a" * (most // 2), "b.js": b"b" * (most - most // 2 + 1)})
    at = place.client.create("large", {"a.js": b"a" * (most // 2), "b.js": b"b" * (most - most // 2)})

    assert refusal(past) == (413, "too_large", "/compute_asset/assets")
    assert at.status_code == 201, at.text


# -- requests as such ----------------------------------------------------------------------------------


def test_a_body_is_read_up_to_the_limit(place: Place) -> None:
    place.client.function("body", "")
    path = f"/compute/functions/{place.client.collection}/body"
    most = place.limits.request_bytes_max

    past = place.client.http.patch(path, content=b"{}" + b" " * (most - 1))
    at = place.client.http.patch(path, content=b"{}" + b" " * (most - 2))

    assert refusal(past) == (413, "too_large", None)
    assert str(most) in past.json()["error"]
    assert at.status_code == 200, at.text


def test_a_head_is_read_up_to_the_limit(place: Place) -> None:
    def ask(head_bytes: int) -> tuple[bytes, bytes]:
        target = "/healthz"
        headers = [("Host", "x"), ("Connection", "close")]
        used = len(target) + sum(len(name) + len(value) + 4 for name, value in headers)
        headers.append(("X", "x" * (head_bytes - used - 5)))
        text = f"GET {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
        with connect(place.client) as sock:
            sock.sendall(text.encode() + b"\r\n")
            head, _, body = read_to_the_end(sock).partition(b"\r\n\r\n")
        return head.split(b"\r\n")[0], body

    at, past = ask(place.limits.header_bytes_max), ask(place.limits.header_bytes_max + 1)

    assert at[0] == b"HTTP/1.1 200 OK"
    assert past[0] == b"HTTP/1.1 400 Bad Request"
    assert str(place.limits.header_bytes_max).encode() in past[1]


def connect(client: Client) -> socket.socket:
    host, port = client.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def read_to_the_end(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65_536), b""))


@pytest.mark.parametrize("runtime", ["nodejs", "python"])
@pytest.mark.parametrize("spelled", ["as a string of JSON", "as a value"])
def test_a_payload_is_taken_up_to_the_limit(place: Place, runtime: str, spelled: str) -> None:
    name = place.client.function("payload", LENGTH[runtime], runtime=runtime)
    path = f"/compute/functions/{place.client.collection}/{name}/invoke"
    most = place.limits.payload_bytes_max

    def call(payload_bytes: int) -> httpx.Response:
        text = '["' + "x" * (payload_bytes - 4) + '"]'
        body = json.dumps(text) if spelled == "as a string of JSON" else text
        return place.client.http.post(
            path, content=f'{{"payload":{body},"invocation_type":"RequestResponse"}}'.encode()
        )

    past, at = call(most + 1), call(most)

    assert refusal(past) == (413, "too_large", "/payload")
    assert str(most) in past.json()["error"]
    assert at.json() == {"body": str(most - 4)}


def test_an_async_payload_is_taken_up_to_its_own_limit(place: Place) -> None:
    name = place.client.function("queued", LENGTH["nodejs"], monitor_config={"store_payload": True})
    path = f"/compute/functions/{place.client.collection}/{name}/invoke"
    most = place.limits.async_payload_bytes_max

    def call(payload_bytes: int) -> httpx.Response:
        text = '["' + "x" * (payload_bytes - 4) + '"]'
        return place.client.http.post(path, json={"payload": text, "invocation_type": "Async"})

    past, at = call(most + 1), call(most)

    assert refusal(past) == (413, "too_large", "/payload")
    assert str(most) in past.json()["error"]
    assert at.status_code == 200, at.text
    one = f"/compute/invocations/{at.headers['x-invocation-id']}"
    wait_ms = place.limits.record_wait_ms_max
    record = place.client.http.get(one, params={"wait": wait_ms}).json()["body"]
    assert (record["status"], record["result"], len(record["payload"])) == ("ok", str(most - 4), most)


def test_the_end_of_an_invocation_is_waited_for_up_to_the_limit(place: Place) -> None:
    name = place.client.function("waited", "")
    one = place.client.invoke(name).headers["x-invocation-id"]
    most = place.limits.record_wait_ms_max

    past, at = (place.client.http.get(f"/compute/invocations/{one}?wait={ms}") for ms in (most + 1, most))

    assert refusal(past)[:2] == (400, "request.invalid")
    assert str(most) in past.json()["error"]
    assert at.json()["body"]["status"] == "error"  # it has ended: nobody waits


def test_there_are_as_many_connections_as_the_limit_and_then_the_oldest_makes_room(
    small: ServerProcess,
) -> None:
    host = small.url.removeprefix("http://")

    def served(connection: HTTPConnection) -> bool:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status == 200 and bool(answer.read())

    def connected() -> HTTPConnection:
        connection = HTTPConnection(host, timeout=60)
        connection.connect()
        connection.auto_open = 0
        stack.callback(connection.close)
        return connection

    with ExitStack() as stack:
        open_ = [connected() for _ in range(SMALL.connections_max)]
        assert all(served(one) for one in open_)

        another = connected()

        assert served(another)
        assert ended(open_[0].sock)
        assert all(served(one) for one in open_[1:])


def ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(65_536) == b""
    except ConnectionResetError:
        return True
