"""Functions reach the world through the broker, and nothing else: hostile ones in both languages, real servers."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import signal
import ssl
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import world as w
from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import descendants, wait_until
from tests.e2e.world import World, make_world, serve_http

BOTH = pytest.mark.parametrize("runtime", ["nodejs", "python"])
GET = {
    "nodejs": """
exports.handler = async ({ url }) => {
  try { const r = await fetch(url); return [r.status, await r.text()]; } catch (e) { return [0, String(e.cause ?? e)]; }
};
""",
    "python": """
import urllib.error, urllib.request
def handler(event):
    try:
        with urllib.request.urlopen(event['url'], timeout=20) as answer:
            return [answer.status, answer.read().decode()]
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode()]
    except OSError as error:
        return [0, repr(error)]
""",
}
RAW = """
import socket
def handler(event):
    with socket.create_connection(('127.0.0.1', 808), 20) as proxy:
        proxy.sendall(event['bytes'].encode('latin-1'))
        answer = b''
        while b'\\r\\n\\r\\n' not in answer:
            if not (more := proxy.recv(65536)):
                break
            answer += more
        return answer.decode('latin-1')
"""
"""Speaks to the proxy in words of its own."""
CONNECT = """
import socket
held = []
def handler(event):
    for _ in range(event.get('count', 1)):
        proxy = socket.create_connection(('127.0.0.1', 808), 20)
        proxy.sendall(f"CONNECT {event['to']} HTTP/1.1\\r\\n\\r\\n".encode())
        answer = proxy.recv(4096)
        if not answer.startswith(b'HTTP/1.1 200'):
            return [len(held), answer.decode().splitlines()[0]]
        held.append(proxy)
    return [len(held), '']
"""


@pytest.fixture(scope="module")
def world(isolated: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with make_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def outside(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on the host of the world."""
    folder = tmp_path_factory.mktemp("server")
    server = ServerProcess(folder / "data", under=world.prefix).wait_ready()
    yield server
    assert server.stop() == 0, "".join(server.stderr)


@pytest.fixture
def client(outside: ServerProcess) -> Iterator[Client]:
    with outside.client() as made:
        yield made


def fetches(client: Client, runtime: str, name: str, **network: Any) -> str:
    rest = {"network": network} if network else {}
    return client.function(f"{name}-{runtime}", GET[runtime], runtime=runtime, timeout=60_000, **rest)


def fetched(client: Client, name: str, url: str) -> tuple[int, str, str]:
    """Return status and text that a function got, and the log of its call."""
    answer = client.invoke(name, {"url": url})
    assert answer.status_code == 200, answer.text
    status, text = json.loads(answer.json()["body"])
    return status, text, client.log(answer)


@BOTH
@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://public.test/", w.PUBLIC),
        (f"http://{w.PUBLIC}/", w.PUBLIC),
        ("http://PUBLIC.test./", w.PUBLIC),
        ("http://mixed.test/", w.PUBLIC),
        ("http://six.test/", w.PUBLIC_6),
        (f"http://[{w.PUBLIC_6}]/", w.PUBLIC_6),
    ],
)
def test_by_default_the_public_web_is_reached(client: Client, runtime: str, url: str, place: str) -> None:
    name = (
        fetches(client, runtime, "default")
        if not _has(client, f"default-{runtime}")
        else f"default-{runtime}"
    )

    assert fetched(client, name, url) == (200, f"this is {place}", "")


def _has(client: Client, name: str) -> bool:
    return client.http.get(f"/compute/compute-assets/{client.collection}/{name}").status_code == 200


@BOTH
def test_no_way_leads_to_what_is_not_public(
    client: Client, world: World, outside: ServerProcess, runtime: str
) -> None:
    name = fetches(client, runtime, "hostile", egress=["*:80", f"*:{outside.url.rpartition(':')[2]}"])
    port = outside.url.rpartition(":")[2]
    before = len(world.requests)
    refused = {
        f"http://{w.METADATA}/": "link-local",
        "http://metadata.test/": "link-local",
        f"http://[::ffff:{w.METADATA}]/": "link-local",
        "http://[::ffff:a9fe:a9fe]/": "link-local",
        "http://[64:ff9b::a9fe:a9fe]/": "link-local",
        "http://[2002:a9fe:a9fe::1]/": "link-local",
        "http://0xa9.0xfe.0xa9.0xfe/": "",
        "http://2852039166/": "",
        "http://0251.0376.0251.0376/": "",
        "http://mapped.test/": "link-local",
        "http://loopback.test/": "loopback",
        f"http://{w.PRIVATE}/": "private",
        "http://private.test/": "private",
        f"http://{w.SHARED}/": "private",
        f"http://{w.GATEWAY}/": "private",
        f"http://{w.HOST}:{port}/healthz": "private",
        f"http://{w.HOST_PUBLIC}:{port}/healthz": "an address of this machine",
        f"http://host.test:{port}/healthz": "an address of this machine",
        "http://224.0.0.1/": "multicast",
        "http://[fe80::1]/": "link-local",
        f"http://public.test/to?http://{w.METADATA}/": "link-local",
        "http://public.test:81/": "no rule allows it",
    }

    got = {url: fetched(client, name, url) for url in refused}

    for url, reason in refused.items():
        status, text, log = got[url]
        assert status != 200, url
        assert "this is" not in text, url
        assert reason in log, (url, log)
        assert log.startswith("stoker: "), (url, log)
    assert {place for place, _, _ in world.requests[before:]} <= {w.PUBLIC}


@BOTH
def test_the_hosts_loopback_is_not_the_sandboxes(
    client: Client, outside: ServerProcess, runtime: str
) -> None:
    name = fetches(client, runtime, "loopback")

    status, text, _ = fetched(client, name, f"{outside.url}/healthz")

    assert status == 0, text


def test_what_is_spelled_by_hand_reaches_nothing_more(client: Client, world: World) -> None:
    name = client.function("raw", RAW, runtime="python", network={"egress": ["*:80"]})
    before = len(world.requests)
    heads = {
        "CONNECT 0xa9fea9fe:80 HTTP/1.1\r\n\r\n": "400",
        "CONNECT 2852039166:80 HTTP/1.1\r\n\r\n": "400",
        "CONNECT 169.254.43518:80 HTTP/1.1\r\n\r\n": "400",
        "CONNECT 0251.254.169.254:80 HTTP/1.1\r\n\r\n": "400",
        "CONNECT [::ffff:169.254.169.254]:80 HTTP/1.1\r\n\r\n": "403",
        "CONNECT localhost:80 HTTP/1.1\r\n\r\n": "",
        "CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n": "403",
        "CONNECT [::]:80 HTTP/1.1\r\n\r\n": "403",
        "CONNECT 0.0.0.0:80 HTTP/1.1\r\n\r\n": "403",
        "GET / HTTP/1.1\r\nHost: public.test\r\n\r\n": "400",
        "GET http://169.254.169.254/ HTTP/1.1\r\nHost: public.test\r\n\r\n": "403",
        "GET http://public.test@169.254.169.254/ HTTP/1.1\r\n\r\n": "403",
        "nonsense\r\n\r\n": "400",
        "A" * 70_000: "400",
    }

    for head, status in heads.items():
        answer = client.result(name, {"bytes": head})
        assert answer.startswith(f"HTTP/1.1 {status or ('4', '5')[0]}") or not status, (head, answer)
        assert " 200 " not in answer.split("\r\n")[0], head
    assert len(world.requests) == before


@BOTH
def test_a_list_of_rules_is_all_that_is_reached(client: Client, world: World, runtime: str) -> None:
    name = fetches(client, runtime, "listed", egress=["public.test:80", "*.public.test:80", f"{w.SECOND}:80"])
    world.queries.clear()

    assert fetched(client, name, "http://public.test/")[0] == 200
    assert fetched(client, name, "http://sub.public.test/")[0] == 200
    assert fetched(client, name, f"http://{w.SECOND}/")[0] == 200
    status, text, log = fetched(client, name, "http://second.test/")

    assert status != 200, text
    assert 'add "second.test:80" to network.egress' in log
    assert "second.test" not in world.queries


@BOTH
def test_an_empty_list_is_nothing_not_even_a_name(client: Client, world: World, runtime: str) -> None:
    name = fetches(client, runtime, "nothing", egress=[])
    world.queries.clear()
    before = len(world.requests)

    for url in ("http://public.test/", f"http://{w.PUBLIC}/", "https://public.test/"):
        status, text, log = fetched(client, name, url)
        assert status != 200, text
        assert "no rule allows it (nothing)" in log

    assert not world.queries
    assert len(world.requests) == before


@BOTH
def test_a_name_that_is_rebound_is_looked_up_once_and_reaches_what_was_checked(
    client: Client, world: World, runtime: str
) -> None:
    name = fetches(client, runtime, "rebound")
    world.rebind_to[:] = [w.PUBLIC, w.METADATA]
    world.queries.clear()

    first = fetched(client, name, "http://rebind.test/")
    looked_up = world.queries["rebind.test"]
    second = fetched(client, name, "http://rebind.test/")

    assert first[:2] == (200, f"this is {w.PUBLIC}")
    assert looked_up == 2, "one question for each of the two kinds of address"
    # Node may send the second by the connection that stands, which goes where it went.
    assert second[1] == f"this is {w.PUBLIC}" or "link-local" in second[2]
    assert not [one for one in world.requests if one[0] == w.METADATA]


@BOTH
def test_a_new_version_has_rules_of_its_own(client: Client, runtime: str) -> None:
    name = fetches(client, runtime, "versioned", egress=[])
    before = fetched(client, name, "http://public.test/")[0]
    patched = client.http.patch(
        f"/compute/compute-assets/{client.collection}/{name}", json={"network": {"egress": ["*.test:80"]}}
    )

    assert before != 200
    assert patched.status_code == 200, patched.text
    assert fetched(client, name, "http://public.test/")[0] == 200


@pytest.mark.parametrize("rule", ["public.test", "127.1:80", "0x7f.1:80", "*.10.0.0.1:80", "a..b:80", "a:0"])
def test_a_rule_that_does_not_parse_is_refused_with_its_field(client: Client, rule: str) -> None:
    answer = client.create("bad", {"index.js": "1"}, network={"egress": ["*:443", rule]})

    assert answer.status_code == 400
    assert answer.json()["field"] == "/compute_asset/network/egress/1"


TLS = {
    "nodejs": """
const https = require('node:https');
exports.handler = ({ url }) => new Promise((resolve, reject) => {
  https.get(url, { rejectUnauthorized: false }, (answer) => {
    const seen = answer.socket.getPeerCertificate().fingerprint256;
    let text = '';
    answer.on('data', (some) => { text += some; });
    answer.on('end', () => resolve([text, seen]));
  }).on('error', reject);
});
""",
    "python": """
import hashlib, ssl, urllib.request
def handler(event):
    context = ssl._create_unverified_context()
    with urllib.request.urlopen(event['url'], context=context, timeout=20) as answer:
        seen = hashlib.sha256(answer.fp.raw._sock.getpeercert(True)).hexdigest()
        return [answer.read().decode(), ':'.join(seen[i:i + 2] for i in range(0, 64, 2)).upper()]
""",
}


@pytest.fixture(scope="module")
def certificate(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The fingerprint of the certificate that `https://public.test` has."""
    folder = tmp_path_factory.mktemp("tls")
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=public.test", *files]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    with ExitStack() as undo:
        serve_http(world, world.listen(w.PUBLIC, 443), w.PUBLIC, undo, context)
        printed = subprocess.run(
            ["openssl", "x509", "-in", str(folder / "cert"), "-noout", "-fingerprint", "-sha256"],
            check=True,
            capture_output=True,
            text=True,
        )
        yield printed.stdout.strip().partition("=")[2]


@BOTH
def test_tls_is_passed_through_unopened(client: Client, certificate: str, runtime: str) -> None:
    name = client.function(f"tls-{runtime}", TLS[runtime], runtime=runtime, timeout=60_000)

    text, seen = client.result(name, {"url": "https://public.test/"})

    assert text == f"this is {w.PUBLIC}"
    assert seen == certificate


LIBRARIES = """
import asyncio, json, urllib.request
import aiohttp, httpx, requests
def handler(event):
    url = event['url']
    async def asynchronous():
        async with httpx.AsyncClient() as client:
            return (await client.get(url)).text
    async def trusting():
        async with aiohttp.ClientSession(trust_env=True) as session, session.get(url) as answer:
            return await answer.text()
    first = [requests.get(url, timeout=20).text, httpx.get(url).text]
    return [*first, asyncio.run(asynchronous()), asyncio.run(trusting())]
"""
PACKAGES = (
    *("requests", "urllib3", "idna", "certifi", "charset_normalizer"),
    *("httpx", "httpcore", "h11", "anyio", "sniffio", "typing_extensions"),
    *(
        "aiohttp",
        "aiosignal",
        "aiohappyeyeballs",
        "attr",
        "attrs",
        "frozenlist",
        "multidict",
        "propcache",
        "yarl",
    ),
)


def test_the_usual_libraries_of_python_work_unchanged(client: Client) -> None:
    with io.BytesIO() as packed:
        with zipfile.ZipFile(packed, "w") as archive:
            for name in PACKAGES:
                found = importlib.util.find_spec(name)
                if found is None or found.origin is None:
                    continue
                origin = Path(found.origin)
                root = origin.parent if found.submodule_search_locations else origin
                for file in [root] if root.is_file() else root.rglob("*"):
                    if file.is_file() and "__pycache__" not in file.parts:
                        archive.write(file, str(file.relative_to(root.parent)))
            archive.writestr("main.py", LIBRARIES)
        item = {"asset_name": "code.zip", "asset_type": "archive"}
        item["asset_value"] = base64.b64encode(packed.getvalue()).decode()
    created = client.create("libraries", {}, runtime="python", assets=[item], timeout=60_000)
    assert created.status_code == 201, created.text

    assert client.result("libraries", {"url": "http://public.test/"}) == [f"this is {w.PUBLIC}"] * 4


HTTP_MODULE = """
const http = require('node:http');
exports.handler = ({ url, body }) => new Promise((resolve, reject) => {
  const request = http.request(url, { method: 'POST' }, (answer) => {
    let size = 0;
    answer.on('data', (some) => { size += some.length; });
    answer.on('end', () => resolve([answer.statusCode, size]));
  }).on('error', reject);
  request.end('x'.repeat(body));
});
"""


def test_what_is_large_passes_both_ways_through_nodes_http(client: Client) -> None:
    name = client.function("posts", HTTP_MODULE, timeout=60_000)

    assert client.result(name, {"url": "http://public.test/", "body": 8_000_000}) == [200, 8_000_000]


def test_a_refusal_of_a_large_request_is_heard(client: Client) -> None:
    name = client.function("posts-refused", HTTP_MODULE, timeout=60_000)

    status, _ = client.result(name, {"url": f"http://{w.PRIVATE}/", "body": 300_000})

    assert status == 403


def test_two_hundred_connections_stand_at_once(client: Client) -> None:
    name = client.function("many", CONNECT, runtime="python", timeout=60_000)

    assert client.result(name, {"to": "public.test:80", "count": 200}) == [200, ""]


def test_past_its_bound_an_instance_gets_no_connection(client: Client) -> None:
    name = client.function("greedy", CONNECT, runtime="python", timeout=60_000)

    answer = client.invoke(name, {"to": "public.test:80", "count": 300})

    assert json.loads(answer.json()["body"]) == [256, "HTTP/1.1 403 Forbidden"]
    assert "the instance has 256 connections already" in client.log(answer)


def broker_of(server: ServerProcess) -> int | None:
    for pid in descendants(server.process.pid):
        try:
            if Path(f"/proc/{pid}/comm").read_text() == "stoker-egress\n":
                return pid
        except OSError:
            continue
    return None


def test_while_the_broker_stands_still_nothing_gets_out_and_another_one_serves_on(
    client: Client, outside: ServerProcess, world: World
) -> None:
    name = client.function("patient", GET["python"].replace("timeout=20", "timeout=3"), runtime="python")
    assert fetched(client, name, "http://public.test/")[0] == 200
    first = broker_of(outside)
    assert first is not None

    os.kill(first, signal.SIGSTOP)
    before = len(world.requests)
    stopped = fetched(client, name, "http://public.test/")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: broker_of(outside) not in (None, first))
    after = fetched(client, name, "http://public.test/")

    assert stopped[0] == 0
    assert len(world.requests) - before <= 2, (
        "what waited for the first broker and was given up, and the last"
    )
    assert after[:2] == (200, f"this is {w.PUBLIC}"), "the same instance, which was not started anew"


def test_the_broker_has_no_privilege_and_nothing_of_the_server(
    client: Client, outside: ServerProcess
) -> None:
    pid = broker_of(outside)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    files = [os.readlink(f"/proc/{pid}/fd/{one}") for one in os.listdir(f"/proc/{pid}/fd")]

    assert set(status["Uid"].split()) == {"999999"}
    assert set(status["Gid"].split()) == {"999999"}
    assert status["Groups"].strip() == ""
    assert {status[kind] for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert not [one for one in files if str(outside.data) in one]


def test_a_connection_ends_with_its_instance(client: Client, outside: ServerProcess, world: World) -> None:
    listening = world.listen(w.PUBLIC, 4000)
    name = client.function("holds", CONNECT, runtime="python", network={"egress": ["public.test:4000"]})
    assert client.result(name, {"to": "public.test:4000"}) == [1, ""]
    listening.settimeout(20)
    accepted, _ = listening.accept()
    accepted.settimeout(20)

    client.http.delete(f"/compute/functions/{client.collection}/{name}").raise_for_status()

    try:
        assert accepted.recv(1) == b""
    except ConnectionResetError:
        pass
    finally:
        accepted.close()


def test_the_operator_opens_a_private_range_and_nothing_else(world: World, data: Path) -> None:
    options = (
        "--egress",
        "none",
        "--egress-allow-range",
        "10.0.0.0/8",
        "--egress-allow-range",
        "169.254.0.0/16",
    )
    server = ServerProcess(data, *options, under=world.prefix).wait_ready()
    try:
        with server.client() as client:
            name = fetches(client, "python", "private")

            assert fetched(client, name, "http://private.test/")[:2] == (200, f"this is {w.PRIVATE}")
            assert "--egress none" in fetched(client, name, "http://public.test/")[2]
            assert "link-local" in fetched(client, name, "http://metadata.test/")[2]
            assert "private" in fetched(client, name, f"http://{w.SHARED}/")[2]
            assert "an address of this machine" in fetched(client, name, f"http://{w.HOST}/")[2]
    finally:
        assert server.stop() == 0, "".join(server.stderr)


def test_an_operator_may_let_nothing_out(world: World, data: Path) -> None:
    server = ServerProcess(data, "--egress", "none", under=world.prefix).wait_ready()
    world.queries.clear()
    try:
        with server.client() as client:
            name = fetches(client, "nodejs", "none", egress=["*:80"])
            status, _, log = fetched(client, name, "http://public.test/")
    finally:
        assert server.stop() == 0, "".join(server.stderr)

    assert status != 200
    assert "the operator lets nothing out (--egress none)" in log
    assert not world.queries
