"""Tokens of an issuer that the operator trusts, at a server that is started with its keys."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.e2e.conftest import ServerProcess

KEY = ec.generate_private_key(ec.SECP256R1())
JWKS = json.dumps({"keys": [{**json.loads(ECAlgorithm.to_jwk(KEY.public_key())), "kid": "k"}]})
OPTIONS = ("--pool", "1,1", "--jwt-issuer", "me", "--jwt-audience", "stoker", "--jwt-algorithm", "ES256")


def a_token(**claims: Any) -> str:
    given = {"iss": "me", "aud": "stoker", "sub": "ada", "exp": int(time.time()) + 600, **claims}
    return jwt.encode(given, KEY, "ES256", headers={"kid": "k"})


@pytest.fixture
def keys_url() -> Iterator[str]:
    """A server of the issuer's keys."""

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(JWKS.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/jwks.json"
        server.shutdown()


def test_a_token_of_the_issuer_opens_what_its_claims_say(isolated: None, data: Path, keys_url: str) -> None:
    server = ServerProcess(data, *OPTIONS, "--jwt-jwks", keys_url).wait_ready()
    with server.client() as admin:
        admin.function("echo", "exports.handler = (e) => e;")
    with server.client(a_token(scope="functions:invoke", collection="tests")) as ada:
        called = ada.invoke("echo", 1)
        assert called.status_code == 200
        record = f"/compute/invocations/{called.headers['x-invocation-id']}"
        assert ada.http.get(record).json()["body"]["caller"] == "jwt:ada"
        assert ada.http.get("/compute/functions").status_code == 403

        del ada.http.headers["Authorization"]
        assert ada.http.get(record, headers={"X-Api-Key": ada.token}).status_code == 200
    for token in (a_token(aud="another"), a_token(exp=1), a_token(account="nobody"), a_token() + "x"):
        with server.client(token) as other:
            answer = other.http.get("/limits")
            assert (answer.status_code, answer.json()["code"]) == (401, "auth.invalid")
    assert server.stop() == 0


def test_keys_that_are_not_there_are_a_wrong_setting(isolated: None, data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    for name in ("missing.json", "bad.json"):
        server = ServerProcess(data, *OPTIONS, "--jwt-jwks", str(tmp_path / name))
        assert server.process.wait(60) == 2
        server.stop()
        assert any("--jwt-jwks" in line for line in server.stderr), server.stderr
