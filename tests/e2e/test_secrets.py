"""Secrets and accounts, from outside: where a value shows up, and what is left of what is gone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import wait_until

NODE = "exports.handler = async () => [process.env.API_KEY ?? null, process.env.PLAIN ?? null];"
PYTHON = "import os\ndef handler(event):\n    return [os.environ.get('API_KEY'), os.environ.get('PLAIN')]\n"


@pytest.fixture
def own(isolated: None, data: Path) -> Iterator[ServerProcess]:
    """A server of the test's own, as it is looked into and restarted."""
    running = ServerProcess(data, "--pool", "1,1").wait_ready()
    yield running
    running.stop()


def files_with(data: Path, text: str) -> list[str]:
    """Return the files below a directory that hold a text."""
    needle = text.encode()
    found = []
    for path in data.rglob("*"):
        try:
            if path.is_file() and needle in path.read_bytes():
                found.append(str(path.relative_to(data)))
        except OSError:
            continue  # it went while we looked
    return found


def environments_with(text: str) -> list[str]:
    """Return the processes whose environment, as they were started with it, holds a text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(("runtime", "source"), [("nodejs", NODE), ("python", PYTHON)])
def test_a_function_gets_the_secrets_that_it_lists(client: Client, runtime: str, source: str) -> None:
    client.http.put("/secrets/API_KEY", json={"value": "a välue"})
    client.function("lists", source, runtime=runtime, secrets=["API_KEY"], env_vars=["API_KEY=x", "PLAIN=y"])
    client.function("does-not", source, runtime=runtime)

    assert client.result("lists") == ["a välue", "y"]
    assert client.result("does-not") == [None, None]


def test_the_call_after_a_new_value_has_it_and_calls_that_run_end_on_the_old_one(client: Client) -> None:
    name = f"ROTATED_{uuid4().hex[:8]}"
    slow = f"exports.handler = (ms) => new Promise((r) => setTimeout(r, ms, process.env.{name}));"
    client.http.put(f"/secrets/{name}", json={"value": "one"})
    client.function("slow", slow, secrets=[name])
    assert client.result("slow", 0) == "one"
    accepted = client.http.post(
        f"/compute/functions/{client.collection}/slow/invoke",
        json={"payload": "1500", "invocation_type": "RequestResponse"},
        headers={"Idempotency-Key": uuid4().hex},
    )
    assert json.loads(accepted.json()["body"]) == "one"

    for value in ("two", "three", "four"):
        client.http.put(f"/secrets/{name}", json={"value": value})
        assert client.result("slow", 0) == value


def test_a_value_is_in_no_file_no_log_no_answer_and_no_other_process(own: ServerProcess) -> None:
    value, later = f"v-{uuid4().hex}", f"w-{uuid4().hex}"
    with own.client() as client:
        answers = [client.http.put("/secrets/API_KEY", json={"value": value})]
        source = "exports.handler = () => process.env.API_KEY.length;"
        client.function("f", source, secrets=["API_KEY"], monitor_config={"store_payload": True})
        answers.append(client.invoke("f"))
        wrong = client.http.put("/secrets/API_KEY", json={"value": [value]})
        large = client.http.put("/secrets/API_KEY", json={"value": value * 10_000})
        broken = client.http.put("/secrets/API_KEY", content=f'{{"value": "{value}')
        assert (wrong.status_code, large.status_code, broken.status_code) == (400, 413, 400)
        answers += [wrong, large, broken]
        for path in ("/secrets", "/compute/functions", "/compute/invocations", "/compute/machines"):
            answers.append(client.http.get(path))
        answers.append(client.http.get(f"/compute/functions/{client.collection}/f"))
        answers.append(client.http.get(f"/compute/compute-assets/{client.collection}/f/history"))
        answers.append(client.http.put("/secrets/API_KEY", json={"value": later}))
        assert client.result("f") == len(later)

        assert [answer.request.url for answer in answers if value in answer.text] == []
        assert environments_with(value) == environments_with(later) == []
        assert files_with(own.data, value) == files_with(own.data, later) == []
    assert own.stop() == 0
    assert files_with(own.data, value) == files_with(own.data, later) == []
    assert not any(value in line or later in line for line in own.stderr)

    key = own.data / "secrets.key"
    assert key.stat().st_mode & 0o777 == 0o600
    again = ServerProcess(own.data, "--pool", "1,1").wait_ready()
    with again.client() as client:
        assert client.result("f") == len(later)
        assert [one["name"] for one in client.http.get("/secrets").json()["body"]["results"]] == ["API_KEY"]
    assert again.stop() == 0


def test_without_the_key_nothing_opens_and_what_is_wrong_is_said(own: ServerProcess, tmp_path: Path) -> None:
    with own.client() as client:
        client.http.put("/secrets/API_KEY", json={"value": "x"})
        client.function("f", NODE, secrets=["API_KEY"])
        client.function("plain", NODE)
    own.stop()
    key = tmp_path / "another.key"
    key.write_text("no key\n")
    refused = ServerProcess(own.data, "--secrets-key", str(key))
    assert refused.process.wait(30) == 2
    refused.stop()
    assert any("--secrets-key" in line and str(key) in line for line in refused.stderr)

    os.rename(own.data / "secrets.key", key)
    without = ServerProcess(own.data, "--pool", "1,1").wait_ready()
    with without.client() as client:
        failed = client.invoke("f")
        assert (failed.status_code, failed.json()["code"]) == (500, "platform.error")
        assert client.result("plain") == [None, None]
    without.stop()
    assert any("secrets_of_another_key" in line for line in without.stderr)

    given = ServerProcess(own.data, "--pool", "1,1", env={"STOKER_SECRETS_KEY": str(key)}).wait_ready()
    with given.client() as client:
        assert client.result("f") == ["x", None]
    given.stop()


def test_of_a_deleted_account_nothing_is_left_while_others_go_on(own: ServerProcess) -> None:
    mark = f"m{uuid4().hex}"
    with own.client() as admin:
        admin.function("stays", "exports.handler = (e) => e;", monitor_config={"store_payload": True})
        kept = admin.invoke("stays", "kept").headers["x-invocation-id"]
        made = admin.http.post("/accounts", json={"name": "acme"}).json()["body"]
        with own.client(made["token"]) as acme:
            acme.http.put("/secrets/API_KEY", json={"value": "x"})
            source = f"exports.handler = (e) => {{ console.log('{mark}'); return e; }};"
            acme.function(
                "f",
                source,
                secrets=["API_KEY"],
                env_vars=[f"MARK={mark}"],
                monitor_config={"store_payload": True},
            )
            acme.http.patch(
                f"/compute/functions/{acme.collection}/f", json={"description": mark}
            ).raise_for_status()
            fails = "exports.handler = () => { throw new Error('no'); };"
            acme.function("fails", fails, retry={"attempts": 1})
            acme.http.put("/compute/assets/lib.js", content=f"// {mark}".encode() * 1000)
            invoke = f"/compute/functions/{acme.collection}/f/invoke"
            body = {"payload": json.dumps(mark), "invocation_type": "RequestResponse"}
            assert acme.http.post(invoke, json=body).status_code == 200
            assert acme.http.post(invoke, json=body, headers={"Idempotency-Key": "k"}).status_code == 200
            large = {**body, "payload": json.dumps(mark * 20_000), "invocation_type": "Async"}
            for path in (invoke, invoke.replace("/f/", "/fails/")):
                accepted = acme.http.post(path, json=large)
                record = f"/compute/invocations/{accepted.headers['x-invocation-id']}?wait=30000"
                assert acme.http.get(record).json()["body"]["ended"]
            acme.http.get("/compute/invocations")
            assert files_with(own.data, mark)

            assert admin.http.delete("/accounts/acme").status_code == 200

            assert acme.http.get("/compute/functions").status_code == 401
            assert acme.http.post(invoke, json=body).status_code == 401
            assert admin.result("stays", "on") == "on"
        wait_until(lambda: not files_with(own.data, mark))
        record = admin.http.get(f"/compute/invocations/{kept}").json()["body"]
        assert record["payload"] == '"kept"'
        again = admin.http.post("/accounts", json={"name": "acme"}).json()["body"]
        with own.client(again["token"]) as acme:
            for path in ("/compute/functions", "/compute/collections", "/secrets", "/compute/invocations"):
                assert acme.http.get(path).json()["body"] == {"results": [], "results_total": 0}
            made_anew = acme.create("f", {"index.js": NODE}).json()["body"]
            assert made_anew["type"] == "created"
            path = f"/compute/functions/{acme.collection}/f"
            assert acme.http.get(path).json()["body"]["version"] == 1
    assert own.stop() == 0
    again_started = ServerProcess(own.data, "--pool", "1,1").wait_ready()
    with again_started.client() as admin:
        assert admin.result("stays", "on") == "on"
        names = [one["name"] for one in admin.http.get("/accounts").json()["body"]["results"]]
        assert names == ["default", "acme"]
    assert again_started.stop() == 0
