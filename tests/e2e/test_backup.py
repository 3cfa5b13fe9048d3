"""`stoker backup` and `stoker restore`: a server that is called meanwhile, and the one made of its backup.

Source: the operating contract, *The command line*.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import STOKER, Client, ServerProcess
from tests.e2e.processes import wait_until
from tests.e2e.test_async import busy, cancel, letters
from tests.e2e.test_invocations import ECHO, KEPT, files_with, id_of, listed, look_up, record, send
from tests.e2e.test_versions import change, path, read, says

VALUE = "a value that nobody may read"
FAILS = "exports.handler = () => { throw new Error('as always'); };"
TELLS = "exports.handler = () => process.env.API_KEY;"
LARGE = "// " + "x" * 1_500_000 + "\n"


def stoker(*words: str | Path, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command, as on a machine where nobody set anything."""
    done = subprocess.run(
        [str(STOKER), *map(str, words)],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("STOKER_")}, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert VALUE not in done.stdout + done.stderr
    return done


@dataclass
class World:
    """A server with some of everything, and what it answered."""

    server: ServerProcess
    client: Client
    file: Path
    key: Path
    calls: list[str] = field(default_factory=list)
    """Invocations that were answered."""
    keyed: httpx.Response = field(default_factory=lambda: httpx.Response(500))
    dead: str = ""
    runs: str = ""
    waits: list[str] = field(default_factory=list)
    other_token: str = ""
    revoked: str = ""
    before: list[str] = field(default_factory=list)
    """Those that were answered before the backup began."""
    shown: dict[str, Any] = field(default_factory=dict)
    said: str = ""


def call_keyed(client: Client) -> httpx.Response:
    return client.invoke("echo", {"back": "once"}, headers={"Idempotency-Key": "a-key"})


def shown(client: Client, world: World) -> dict[str, Any]:
    """Return all that does not change by itself, as the API shows it."""
    functions = read(client, "/compute/functions")["results"]
    return {
        "functions": functions,
        "history": read(client, f"{path(client, 'echo')}/history"),
        "collections": read(client, "/compute/collections"),
        "secrets": read(client, "/secrets"),
        "tokens": read(client, "/tokens"),
        "accounts": read(client, "/accounts"),
        "dead letters": letters(client, "fails"),
        "records": {one: record(client, one, "") for one in sorted({*world.before, world.dead})},
    }


def make_world(server: ServerProcess, client: Client, world: World) -> None:
    client.http.put("/secrets/API_KEY", json={"value": VALUE})
    client.function("echo", ECHO, monitor_config=KEPT, schema={"input": {"type": "object"}})
    change(client, "echo", LARGE + ECHO.replace("?? null", "?? 'second'"))
    client.function("tells", TELLS, secrets=["API_KEY"])
    client.function("fails", FAILS, retry={"attempts": 1})
    client.function("slow", ECHO, concurrency={"max_instances": 1}, monitor_config=KEPT)
    client.function("gone", ECHO)
    client.http.delete(f"/compute/functions/{client.collection}/gone")
    world.calls += [id_of(client.invoke("echo", {"back": number})) for number in range(30)]
    world.keyed = call_keyed(client)
    world.dead = id_of(send(client, "fails"))
    assert record(client, world.dead)["status"] == "error"
    world.runs = id_of(busy(client, "slow"))
    world.waits = [id_of(send(client, "slow", {"back": number})) for number in range(5)]
    world.other_token = client.http.post("/accounts", json={"name": "other"}).json()["body"]["token"]
    with Client(client.url, world.other_token) as other:
        other.function("theirs", says("theirs"))
    made = client.http.post("/tokens", json={"name": "old", "scopes": ["functions:read"]}).json()["body"]
    client.http.delete(f"/tokens/{made['id']}")
    world.revoked = made["token"]


@contextmanager
def called_meanwhile(client: Client, calls: list[str]) -> Iterator[None]:
    """Have a function called, and another changed, on and on."""
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            answer = client.invoke("echo", {"back": 1})
            if answer.status_code == 200:
                calls.append(id_of(answer))

    def deploy() -> None:
        number = 0
        while not over.is_set():
            change(client, "changes", says(number := number + 1))

    client.function("changes", says("at first"))
    threads = [threading.Thread(target=work) for work in (call, call, deploy)]
    for thread in threads:
        thread.start()
    before = len(calls)
    wait_until(lambda: len(calls) > before + 20)
    yield
    over.set()
    for thread in threads:
        thread.join(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backup")


@pytest.fixture(scope="module")
def world(isolated: None, folder: Path) -> Iterator[World]:
    """A server whose backup was taken while it was called."""
    server = ServerProcess(folder / "data", "--pool", "1,1").wait_ready()
    with server.client() as client:
        world = World(server, client, folder / "all.stoker", folder / "all.key")
        make_world(server, client, world)
        with called_meanwhile(client, world.calls):
            world.before = list(world.calls)
            done = stoker(
                "backup", world.file, "--data", server.data, "--with-key", world.key, STOKER_URL=client.url
            )
        world.said = done.stdout
        world.shown = shown(client, world)
        yield world
    server.kill()


def restored(world: World, name: str, *options: str | Path) -> tuple[ServerProcess, str]:
    data = world.file.with_name(name)
    done = stoker("restore", world.file, "--data", data, *options)
    return ServerProcess(data, "--pool", "1,1").wait_ready(), done.stdout


def test_what_is_restored_is_what_was_there(world: World) -> None:
    server, said = restored(world, "same", "--key", world.key)
    with server.client(world.client.token) as client:
        again = shown(client, world)
        found = {one["invocation_id"] for one in listed(client, limit=1000)["results"]}

        for made in (again, world.shown):
            made["functions"] = [one for one in made["functions"] if one["name"] != "changes"]
        assert again == world.shown
        assert (
            set(world.before)
            <= found
            <= {*world.calls, world.dead, world.runs, *world.waits, id_of(world.keyed)}
        )
        assert "sealed" not in said

        # what was accepted runs, once what was under way, and so runs again, makes room
        assert {record(client, one, "")["status"] for one in world.waits} == {"queued"}
        wait_until(lambda: record(client, world.runs, "")["status"] == "running")
        cancel(client, id_is(world.runs))
        assert [record(client, one)["result"] for one in world.waits] == [str(n) for n in range(5)]

        # functions answer, secrets open, versions go back and on
        assert client.result("tells") == VALUE
        assert client.result("echo", {}) == "second"
        assert client.http.post(f"{path(client, 'echo')}/rollback", json={"version": 1}).status_code == 200
        assert client.result("echo", {}) is None
        assert client.invoke("echo", 1).status_code == 400
        assert client.invoke("changes").status_code == 200
        assert change(client, "changes", says("after")).status_code == 200
        assert client.result("changes")[0] == "after"

        # keys, dead letters
        once = call_keyed(client)
        assert (id_of(once), once.json()) == (id_of(world.keyed), world.keyed.json())
        redrive = f"/compute/functions/{client.collection}/fails/dead-letters/{world.dead}/redrive"
        assert client.http.post(redrive).status_code == 200

        # tokens
        with server.client(world.other_token) as other:
            assert other.result("theirs")[0] == "theirs"
            assert look_up(other, world.before[0]).status_code == 404
        with server.client(world.revoked) as nobody:
            assert nobody.http.get("/compute/functions").status_code == 401
    server.kill()


def id_is(invocation_id: str) -> httpx.Response:
    return httpx.Response(200, headers={"x-invocation-id": invocation_id})


def test_without_the_key_all_but_secrets_is_there(world: World) -> None:
    server, said = restored(world, "sealed")
    with server.client(world.client.token) as client:
        refused = client.invoke("tells")
        client.http.put("/secrets/API_KEY", json={"value": "another"})

        assert "1 of the secrets are sealed" in said
        assert refused.status_code == 500
        assert "sealed with another key" in refused.text
        assert client.result("tells") == "another"
        assert client.result("echo", {"back": 1}) == 1
    server.kill()


def test_a_backup_holds_no_secret_no_key_and_no_token(world: World) -> None:
    key = world.key.read_text().strip()
    token = (world.server.data / "token").read_text().strip()

    assert [text for text in (VALUE, key, token) if text.encode() in world.file.read_bytes()] == []
    assert files_with(world.file.parent / "sealed", VALUE.encode()) == []
    assert {oct(file.stat().st_mode & 0o777) for file in (world.file, world.key)} == {"0o600"}
    assert "is written and checked" in world.said
    assert "keep it apart from the backup" in world.said


def test_a_damaged_cut_or_foreign_file_is_refused_with_what_is_wrong(world: World, tmp_path: Path) -> None:
    whole = world.file.read_bytes()
    middle = len(whole) // 2
    flipped = bytearray(whole)
    flipped[middle] ^= 1
    cases = {
        "cut short": whole[:middle],
        "damaged": bytes(flipped),
        "no backup of stoker": b"PK\x03\x04 an archive of something",
        "knows format 1": whole.replace(b"stoker backup 1\n", b"stoker backup 9\n", 1),
    }
    for wrong, content in cases.items():
        (tmp_path / "a.stoker").write_bytes(content)

        done = stoker("restore", tmp_path / "a.stoker", "--data", tmp_path / "data", code=3)

        assert wrong in done.stderr, done.stderr
        assert [file.name for file in tmp_path.iterdir()] == ["a.stoker"]
    missing = stoker("restore", tmp_path / "none", "--data", tmp_path / "data", "--json", code=3)
    assert "No such file" in json.loads(missing.stdout)["error"]


def test_a_directory_that_has_something_and_a_wrong_key_are_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "wrong.key").write_text("A" * 43 + "=")
    (tmp_path / "no.key").write_text("guess")
    data = tmp_path / "data"

    store = stoker("restore", world.file, "--data", world.server.data, code=3)
    wrong = stoker("restore", world.file, "--data", data, "--key", tmp_path / "wrong.key", code=3)
    none = stoker("restore", world.file, "--data", data, "--key", tmp_path / "no.key", code=2)

    assert "has a store already" in store.stderr
    assert "move it aside" in store.stderr
    assert "holds another key" in wrong.stderr
    assert "--key" in none.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"wrong.key", "no.key"}


def test_who_may_not_or_cannot_gets_no_file(world: World, tmp_path: Path) -> None:
    made = world.client.http.post("/tokens", json={"name": "r", "scopes": ["functions:read"]}).json()["body"]
    file = tmp_path / "a.stoker"

    forbidden = stoker("backup", file, STOKER_URL=world.client.url, STOKER_TOKEN=made["token"], code=3)
    away = stoker("backup", file, STOKER_URL="http://127.0.0.1:9", STOKER_TOKEN="x", code=3)
    empty = stoker("backup", file, "--data", tmp_path, code=3)

    assert "accounts:write" in forbidden.stderr
    assert "cannot be reached" in away.stderr
    assert "there is no store in" in empty.stderr
    assert list(tmp_path.iterdir()) == []


def test_another_server_than_that_of_the_directory_is_not_taken_for_it(
    world: World, server: ServerProcess, tmp_path: Path
) -> None:
    with server.client() as client:
        token = client.token
    file, key = tmp_path / "a.stoker", tmp_path / "a.key"

    done = stoker(
        "backup", file, "--data", world.server.data, "--with-key", key, "--url", server.url, "--token", token,
        code=3,
    )  # fmt: skip

    assert "is not the one of" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_backup_at_a_time_and_who_leaves_makes_room(world: World) -> None:
    http = world.client.http
    with http.stream("GET", "/backup") as first:
        assert first.status_code == 200
        second = http.get("/backup")
    wait_until(lambda: http.get("/backup").status_code == 200)

    assert (second.status_code, second.json()["code"]) == (503, "no_capacity")
    assert second.headers["retry-after"] == "5"


def test_a_stopped_server_and_a_store_that_was_lost(world: World, isolated: None, tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "a.stoker"
    server = ServerProcess(data, "--pool", "0,0").wait_ready()
    with server.client() as client:
        token = client.token
        client.function("f", says("here"))
    assert server.stop() == 0
    owner = data.stat().st_uid

    told = json.loads(stoker("backup", file, "--data", data, "--json").stdout)

    assert told["secrets"] == 0
    assert told["events"] >= 3
    assert told["file_bytes"] == file.stat().st_size
    assert {entry.lstat().st_uid for entry in data.rglob("*")} == {owner}
    shutil.rmtree(data / "nats" / "jetstream")
    lost = stoker("serve", "--data", data, "--listen", "127.0.0.1:0", code=3)
    assert "stoker restore FILE" in lost.stderr
    data.rename(tmp_path / "data.before")
    stoker("restore", file, "--data", data)
    again = ServerProcess(data, "--pool", "0,0").wait_ready()
    with again.client(token) as client:
        assert client.result("f")[0] == "here"
    again.kill()
