"""Secrets that stay outside: put into requests by the broker, and never in the function's hands."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.e2e import world as w
from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import wait_until
from tests.e2e.world import World, make_world, serve_headers

VALUE = "the-real-value-0123456789"
INJECT = {"hosts": ["public.test"], "header": "Authorization", "format": "Bearer {}"}
ASK = {
    "fetch": """
exports.handler = async ({ url, headers, body, method }) => {
  const answer = await fetch(url, { method: method ?? (body ? 'POST' : 'GET'), headers, body });
  return [answer.status, await answer.text()];
};
""",
    "node:http": """
const http = require('node:http');
exports.handler = ({ url, headers, body, method }) => new Promise((resolve, reject) => {
  const request = http.request(url, { method: method ?? (body ? 'POST' : 'GET'), headers }, (answer) => {
    let text = '';
    answer.on('data', (part) => { text += part; });
    answer.on('end', () => resolve([answer.statusCode, text]));
  }).on('error', reject);
  request.end(body);
});
""",
    "urllib": """
import urllib.error, urllib.request
def handler(event):
    body = event.get('body')
    request = urllib.request.Request(
        event['url'], None if body is None else body.encode(), event.get('headers') or {}, method=event.get('method')
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return [answer.status, answer.read().decode()]
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode()]
""",
}
EVERY_WAY = pytest.mark.parametrize("way", list(ASK))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def world(isolated: None, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose https servers say in their answers what they were sent."""
    with make_world(tmp_path_factory.mktemp("world")) as made, ExitStack() as undo:
        for address, port, names in (
            (w.PUBLIC, 443, ["public.test", "sub.public.test"]),
            (w.PUBLIC, 8443, ["public.test"]),
            (w.SECOND, 443, ["another-name.test"]),
        ):
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(*names).configure_cert(tls)
            serve_headers(made.listen(address, port), undo, tls)
        untrusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("six.test").configure_cert(untrusted)
        serve_headers(made.listen(w.PUBLIC_6, 443), undo, untrusted)
        serve_headers(made.listen(w.PUBLIC, 8080), undo, None)
        yield made


@pytest.fixture(scope="module")
def outside(
    world: World, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    file = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    server = ServerProcess(folder / "data", under=world.prefix, env={"SSL_CERT_FILE": str(file)}).wait_ready()
    yield server
    assert server.stop() == 0, "".join(server.stderr)


@pytest.fixture
def client(outside: ServerProcess) -> Iterator[Client]:
    with outside.client() as made:
        made.collection = f"c{os.urandom(4).hex()}"
        yield made


def keep(client: Client, name: str = "API_KEY", value: str = VALUE, **inject: Any) -> httpx.Response:
    answer = client.http.put(f"/secrets/{name}", json={"value": value, "inject": {**INJECT, **inject}})
    assert answer.status_code in (200, 201), answer.text
    return answer


def asks(client: Client, way: str, *secrets: str, **rest: Any) -> str:
    runtime = "python" if way == "urllib" else "nodejs"
    return client.function(
        f"asks-{os.urandom(4).hex()}",
        ASK[way],
        runtime=runtime,
        secrets=list(secrets),
        timeout=60_000,
        **rest,
    )


def asked(client: Client, name: str, url: str, **rest: Any) -> tuple[int, Any, str]:
    """Return the status that a function got, what the server said that it was sent, and the call's log."""
    answer = client.invoke(name, {"url": url, **rest})
    assert answer.status_code == 200, answer.text + client.log(answer)
    status, text = json.loads(answer.json()["body"])
    return status, json.loads(text) if text.startswith("{") else text, client.log(answer)


@EVERY_WAY
def test_the_value_is_in_the_request_and_the_function_had_a_placeholder(client: Client, way: str) -> None:
    keep(client)
    name = asks(client, way, "API_KEY")
    runtime = "python" if way == "urllib" else "nodejs"
    source = (
        "import os\ndef handler(event):\n    return dict(os.environ)"
        if runtime == "python"
        else "exports.handler = async () => ({ ...process.env });"
    )
    shows = client.function("shows", source, runtime=runtime, secrets=["API_KEY"])

    status, sent, log = asked(client, name, "http://public.test/path?q=1", headers={"Accept": "text/x"})

    assert status == 200
    assert sent["authorization"] == f"Bearer {VALUE}"
    assert (sent["request"], sent["host"], sent["accept"]) == (
        "GET /path?q=1 HTTP/1.1",
        "public.test",
        "text/x",
    )
    assert "the secret API_KEY went to public.test:443" in log
    environment = client.result(shows)
    assert environment["API_KEY"] == "stoker-secret-API_KEY"
    assert VALUE not in json.dumps(environment)


@EVERY_WAY
def test_a_body_passes_and_what_the_function_wrote_into_the_header_is_replaced(
    client: Client, way: str
) -> None:
    keep(client)
    name = asks(client, way, "API_KEY")

    headers = {"authorization": "Bearer stoker-secret-API_KEY", "content-type": "text/x"}
    _, sent, _ = asked(client, name, "http://public.test/", body="x" * 300_000, headers=headers)

    assert sent["authorization"] == f"Bearer {VALUE}"
    assert sent["body_bytes"] == 300_000


def test_a_body_in_chunks_passes(client: Client) -> None:
    keep(client)
    source = """
const http = require('node:http');
exports.handler = () => new Promise((resolve, reject) => {
  const request = http.request('http://public.test/', { method: 'POST' }, (answer) => {
    let text = '';
    answer.on('data', (part) => { text += part; });
    answer.on('end', () => resolve(JSON.parse(text)));
  }).on('error', reject);
  request.write('one'); setTimeout(() => request.end('two'), 50);
});
"""
    name = client.function("chunks", source, secrets=["API_KEY"])

    sent = client.result(name)

    assert (sent["authorization"], sent["body_bytes"]) == (f"Bearer {VALUE}", 6)


@EVERY_WAY
def test_a_placeholder_sent_anywhere_else_stays_one(client: Client, way: str, world: World) -> None:
    keep(client)
    name = asks(client, way, "API_KEY", network={"egress": ["*:80", "*:443", "*:8080"]})
    headers = {"authorization": "Bearer stoker-secret-API_KEY", "x-other": "stoker-secret-API_KEY"}

    _, elsewhere, log = asked(client, name, "http://public.test:8080/", headers=headers)
    _, sent, _ = asked(client, name, "http://public.test/stoker-secret-API_KEY", headers=headers)

    assert elsewhere["authorization"] == "Bearer stoker-secret-API_KEY"
    assert "API_KEY went to" not in log
    assert sent["x-other"] == "stoker-secret-API_KEY"
    assert sent["request"] == "GET /stoker-secret-API_KEY HTTP/1.1"


def test_a_subdomain_is_another_host(client: Client, world: World) -> None:
    keep(client)
    name = asks(client, "fetch", "API_KEY")

    _, text, log = asked(client, name, "http://sub.public.test/", headers={"authorization": "x"})

    assert text == f"this is {w.PUBLIC}", "answered by the server of plain http"
    assert "went to" not in log


@EVERY_WAY
def test_a_new_value_serves_the_next_request_of_the_same_instance(client: Client, way: str) -> None:
    keep(client)
    source = (
        ASK[way]
        .replace("exports.handler =", "let n = 0; const ask =")
        .replace("def handler", "n = [0]\ndef ask")
    )
    source += (
        "\ndef handler(event):\n    n[0] += 1\n    return [n[0], ask(event)]"
        if way == "urllib"
        else "\nexports.handler = async (event) => [++n, await ask(event)];"
    )
    runtime = "python" if way == "urllib" else "nodejs"
    name = client.function("counts", source, runtime=runtime, secrets=["API_KEY"])
    first = client.result(name, {"url": "http://public.test/"})

    keep(client, value="another-value")
    second = client.result(name, {"url": "http://public.test/"})
    keep(client, value="a-third", header="X-Key", format="{}")
    third = client.result(name, {"url": "http://public.test/"})

    assert [found[0] for found in (first, second, third)] == [1, 2, 3], "one instance"
    assert json.loads(first[1][1])["authorization"] == f"Bearer {VALUE}"
    assert json.loads(second[1][1])["authorization"] == "Bearer another-value"
    assert json.loads(third[1][1])["x-key"] == "a-third"
    assert "authorization" not in json.loads(third[1][1])


def test_a_secret_that_is_put_nowhere_any_more_is_the_functions_again(client: Client) -> None:
    keep(client)
    source = "exports.handler = async () => process.env.API_KEY;"
    name = client.function("sees", source, secrets=["API_KEY"])
    assert client.result(name) == "stoker-secret-API_KEY"

    client.http.put("/secrets/API_KEY", json={"value": "plain"}).raise_for_status()
    assert client.result(name) == "plain"
    keep(client)
    assert client.result(name) == "stoker-secret-API_KEY"


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("six.test", "self-signed certificate|unable to get local issuer"),
        ("second.test", "Hostname mismatch"),
    ],
)
@EVERY_WAY
def test_nothing_is_sent_to_who_cannot_show_that_it_is_that_host(
    client: Client, way: str, host: str, why: str
) -> None:
    keep(client, hosts=[host])
    name = asks(client, way, "API_KEY")

    status, text, log = asked(client, name, f"http://{host}/")

    assert status == 502
    assert any(one in log for one in why.split("|")), log
    assert "its certificate is not to be trusted" in text
    assert VALUE not in log


def test_a_function_that_does_not_list_the_secret_gets_nothing_of_it(client: Client) -> None:
    keep(client)
    keep(client, "OTHER", hosts=["second.test"])
    name = asks(client, "urllib", "OTHER")

    _, text, _ = asked(client, name, "http://public.test/")

    assert text == f"this is {w.PUBLIC}"


@EVERY_WAY
def test_tls_of_the_functions_own_passes_as_it_is(client: Client, way: str, authority: trustme.CA) -> None:
    keep(client)
    source = {
        "urllib": "import ssl\nCONTEXT = ssl.create_default_context(cadata='''CA''')\n"
        + ASK["urllib"].replace("timeout=20", "timeout=20, context=CONTEXT"),
    }.get(way, ASK[way].replace("require('node:http')", "require('node:https')"))
    pem = authority.cert_pem.bytes().decode()
    source = source.replace("CA'''", f"{pem}'''") if way == "urllib" else source
    files: dict[str, str | bytes] = {"ca.pem": pem, "main.py" if way == "urllib" else "index.js": source}
    env = ["NODE_EXTRA_CA_CERTS=/code/ca.pem", "NODE_TLS_REJECT_UNAUTHORIZED=0"]
    created = client.create(
        "own", files, runtime="python" if way == "urllib" else "nodejs", secrets=["API_KEY"], env_vars=env
    )
    assert created.status_code == 201, created.text

    _, sent, log = asked(client, "own", "https://public.test/", headers={"authorization": "mine"})

    assert sent["authorization"] == "mine"
    assert "went to" not in log


def test_more_secrets_than_a_request_can_hold_are_refused_and_harm_nobody(client: Client) -> None:
    names = [f"LONG_{number}" for number in range(30)]
    for name in names:
        keep(client, name, "x" * 8000, header=f"X-{name.replace('_', '-')}")
    keep(client)
    greedy, usual = asks(client, "urllib", *names), asks(client, "urllib", "API_KEY")

    status, _, log = asked(client, greedy, "http://public.test/")

    assert status == 502
    assert "more than a request can hold" in log
    assert asked(client, usual, "http://public.test/")[1]["authorization"] == f"Bearer {VALUE}"


def test_the_port_of_a_host_may_be_another(client: Client) -> None:
    keep(client, hosts=["public.test:8443"])
    name = asks(client, "fetch", "API_KEY", network={"egress": ["public.test:8443"]})

    _, sent, log = asked(client, name, "http://public.test:8443/")

    assert (sent["authorization"], sent["host"]) == (f"Bearer {VALUE}", "public.test:8443")
    assert "the secret API_KEY went to public.test:8443" in log


@pytest.mark.parametrize("rule", ["public.test:443", "public.test:80"])
def test_a_rule_for_the_host_is_needed_by_either_port(client: Client, rule: str) -> None:
    keep(client)
    name = asks(client, "urllib", "API_KEY", network={"egress": [rule]})
    closed = asks(client, "urllib", "API_KEY", network={"egress": ["second.test:443"]})

    assert asked(client, name, "http://public.test/")[0] == 200
    status, _, log = asked(client, closed, "http://public.test/")
    assert status == 403
    assert "no rule allows it" in log
    assert "went to" not in log


def test_of_two_secrets_for_one_header_the_placeholder_says_which(client: Client) -> None:
    keep(client, "FIRST", "first-value")
    keep(client, "SECOND", "second-value")
    name = asks(client, "urllib", "FIRST", "SECOND")

    def with_header(value: str) -> Any:
        return asked(client, name, "http://public.test/", headers={"authorization": value})[1][
            "authorization"
        ]

    assert with_header("Bearer stoker-secret-SECOND") == "Bearer second-value"
    assert with_header("Bearer stoker-secret-FIRST") == "Bearer first-value"
    assert with_header("else") == "Bearer first-value"


RAW = """
import socket
def handler(event):
    with socket.create_connection(('127.0.0.1', 808), 20) as proxy:
        answer = b''
        for said in event['say']:
            proxy.sendall(said.encode('latin-1'))
            answer += proxy.recv(65536)
        while (more := proxy.recv(65536)):
            answer += more
    return answer.decode('latin-1')
"""
CONNECT = "CONNECT public.test:80 HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        "GET / HTTP/1.1\nHost: public.test\n\n\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
        "GET http://second.test/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nX: a\rInjected: b\r\n\r\n",
    ],
)
def test_what_two_readers_might_read_differently_is_refused(client: Client, head: str) -> None:
    keep(client)
    name = client.function("raw", RAW, runtime="python", secrets=["API_KEY"])

    answer = client.result(name, {"say": [CONNECT, head]})

    assert answer.startswith("HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 400 Bad Request\r\n"), (
        answer
    )
    assert VALUE not in answer


def test_a_host_that_the_function_forged_is_not_sent(client: Client) -> None:
    keep(client)
    name = client.function("raw", RAW, runtime="python", secrets=["API_KEY"])
    forged = "GET / HTTP/1.1\r\nHost: evil.test\r\nHost: other.test\r\n\r\n"

    answer = client.result(name, {"say": [CONNECT, forged]})
    absolute = client.result(name, {"say": [forged.replace("GET /", "GET http://public.test/")]})

    for one in (answer, absolute):
        sent = json.loads(one[one.index("{") :])
        assert (sent["host"], sent["authorization"]) == ("public.test", f"Bearer {VALUE}")


def test_a_second_request_in_the_same_connection_gets_nothing(client: Client) -> None:
    keep(client)
    name = client.function("raw", RAW, runtime="python", secrets=["API_KEY"])
    two = "GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\n"

    answer = client.result(name, {"say": [CONNECT, two]})

    assert answer.count(VALUE) == 1
    assert "GET /one" in answer


def test_the_value_is_nowhere_but_sealed(client: Client, outside: ServerProcess) -> None:
    value = f"unique-{os.urandom(16).hex()}"
    keep(client, value=value)
    name = asks(client, "fetch", "API_KEY", monitor_config={"store_payload": True})
    status, sent, log = asked(client, name, "http://public.test/quiet")
    wait_until(lambda: '"event": "secret_used"' in "".join(outside.stderr))

    assert (status, sent) == (200, {"authorization": True})
    holding = [path for path in outside.data.rglob("*") if path.is_file() and _holds(path, value)]
    assert holding == []
    assert value not in "".join(outside.stderr)
    assert value not in log
    assert value not in client.http.get("/secrets").text


def _holds(path: Path, value: str) -> bool:
    try:
        return value.encode() in path.read_bytes()
    except OSError:
        return False


def test_a_list_says_where_a_secret_goes_and_nothing_of_it(client: Client) -> None:
    keep(client, "LISTED", hosts=["Public.test.", "[2001:DB8::1]:8443"], format="Key {}")

    [found] = [
        one for one in client.http.get("/secrets").json()["body"]["results"] if one["name"] == "LISTED"
    ]

    assert found["inject"] == {
        "hosts": ["public.test:443", "[2001:db8::1]:8443"],
        "header": "Authorization",
        "format": "Key {}",
    }


@pytest.mark.parametrize(
    ("inject", "field"),
    [
        ({"hosts": []}, "/inject/hosts"),
        ({"hosts": ["*.public.test"]}, "/inject/hosts/0"),
        ({"hosts": ["a.test", "127.1"]}, "/inject/hosts/1"),
        ({"hosts": ["a.test:0"]}, "/inject/hosts/0"),
        ({"hosts": [f"h{number}.test" for number in range(21)]}, "/inject/hosts"),
        ({"header": "Host"}, "/inject/header"),
        ({"header": "X Key"}, "/inject/header"),
        ({"header": "Content-Length"}, "/inject/header"),
        ({"format": "Bearer"}, "/inject/format"),
        ({"format": "{} {}"}, "/inject/format"),
        ({"format": "{}\r\nX: y"}, "/inject/format"),
    ],
)
def test_a_wrong_description_is_refused_by_its_field(
    client: Client, inject: dict[str, Any], field: str
) -> None:
    answer = client.http.put("/secrets/WRONG", json={"value": "x", "inject": {**INJECT, **inject}})

    assert (answer.status_code, answer.json()["field"]) == (400, field)


@pytest.mark.parametrize("value", ["", " x", "a\nb", "ä", "x" * 9000])
def test_a_value_that_no_header_can_hold_is_refused(client: Client, value: str) -> None:
    answer = client.http.put("/secrets/WRONG", json={"value": value, "inject": INJECT})

    assert (answer.status_code, answer.json()["field"]) == (400, "/value")
