"""A server's life as its operator sees it: ready, stopped, killed, started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import STOKER, ServerProcess
from tests.e2e.processes import descendants, leftovers, wait_until, wait_until_gone

ECHO = "exports.handler = async (event) => event;"
SPIN = "exports.handler = () => { console.log('spinning'); for (;;) {} };"


@pytest.fixture
def running(isolated: None, data: Path) -> Iterator[list[ServerProcess]]:
    """A list: what a test puts into it is ended after it."""
    started: list[ServerProcess] = []
    yield started
    for one in started:
        one.kill()


def start(running: list[ServerProcess], data: Path, *options: str) -> ServerProcess:
    running.append(ServerProcess(data, *options))
    return running[-1].wait_ready()


def run_to_its_end(data: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(STOKER), "serve", "--listen", "127.0.0.1:0", "--data", str(data), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_sigterm_lets_a_running_call_finish_and_leaves_nothing_behind(
    running: list[ServerProcess], data: Path
) -> None:
    server = start(running, data)
    with server.client() as client:
        slow = "exports.handler = () => new Promise((done) => setTimeout(() => done('finished'), 700));"
        client.function("slow", slow)
        client.invoke("slow")
        answers: list[httpx.Response] = []
        calling = threading.Thread(target=lambda: answers.append(client.invoke("slow")))
        calling.start()
        wait_until(lambda: _connections(server) >= 1)
        family = descendants(server.process.pid)

        code = server.stop()

        calling.join(10)
    assert code == 0
    assert answers[0].json() == {"body": '"finished"'}
    assert wait_until_gone(family) == []
    assert leftovers(data) == []


def _connections(server: ServerProcess) -> int:
    port = f":{int(server.url.rsplit(':', 1)[1]):04X} "
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if port in line.split(maxsplit=2)[1] + " " and line.split()[3] == "01")


def test_what_was_acknowledged_is_there_after_a_kill_in_the_middle_of_work(
    running: list[ServerProcess], data: Path
) -> None:
    server = start(running, data)
    acknowledged: list[str] = []
    client = server.client()

    def create_on_and_on() -> None:
        for number in range(1000):
            try:
                if client.create(f"made-{number}", {"index.js": ECHO}).status_code == 201:
                    acknowledged.append(f"made-{number}")
            except httpx.TransportError:
                return

    creating = threading.Thread(target=create_on_and_on)
    creating.start()
    wait_until(lambda: len(acknowledged) >= 20)

    server.kill()

    creating.join(30)
    client.http.close()
    again = start(running, data)
    with again.client() as second:
        listed = second.http.get("/compute/functions").json()["body"]["results"]
        stored = {function["name"] for function in listed}
        assert set(acknowledged) <= stored
        assert len(stored) <= len(acknowledged) + 1  # the one whose answer was cut off
        assert second.result(acknowledged[-1], {"still": "here"}) == {"still": "here"}


def test_kill_9_of_the_server_ends_even_spinning_handlers(running: list[ServerProcess], data: Path) -> None:
    server = start(running, data)
    client = server.client()
    client.function("spins", SPIN)
    calling = threading.Thread(target=lambda: _ignore_the_end(client.http, "spins"))
    calling.start()
    wait_until(lambda: _spinning(server.process.pid))
    family = descendants(server.process.pid)

    os.kill(server.process.pid, signal.SIGKILL)

    assert wait_until_gone(family) == []
    calling.join(10)
    client.http.close()


def _ignore_the_end(http: httpx.Client, name: str) -> None:
    with pytest.raises(httpx.TransportError):
        http.post(
            f"/compute/functions/tests/{name}/invoke",
            json={"payload": "1", "invocation_type": "RequestResponse"},
        )


def _spinning(pid: int) -> bool:
    for one in descendants(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            name = Path(f"/proc/{one}/comm").read_text().strip()
        except OSError:
            continue
        if name in ("node", "MainThread") and int(fields[11]) > 40:  # 0.4 s of user time
            return True
    return False


def test_a_start_after_a_kill_cleans_up_what_was_left(running: list[ServerProcess], data: Path) -> None:
    server = start(running, data)
    os.kill(server.process.pid, signal.SIGKILL)
    server.stop()

    again = start(running, data)
    code = again.stop()

    assert code == 0
    assert leftovers(data) == []


def test_a_second_server_on_the_same_data_directory_is_told_so(
    running: list[ServerProcess], data: Path
) -> None:
    start(running, data)

    second = run_to_its_end(data)

    assert second.returncode == 2
    assert str(data) in second.stderr


def test_two_servers_with_different_data_directories_leave_each_other_alone(
    running: list[ServerProcess], data: Path
) -> None:
    first = start(running, data)
    second = start(running, data.parent / "other")
    client = first.client()
    client.function("echo", ECHO)
    assert client.result("echo", 1) == 1

    assert second.stop() == 0

    assert client.result("echo", 2) == 2
    client.http.close()


def test_a_port_in_use_is_said_with_what_to_do(isolated: None, data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        ended = run_to_its_end(data, "--listen", f"127.0.0.1:{port}")

    assert ended.returncode == 3
    assert str(port) in ended.stderr
    assert "--listen" in ended.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--listen", "nowhere"), "--listen"),
        (("--isolation", "magic"), "--isolation"),
        (("--pool", "many"), "--pool"),
        (("--tls-cert", "a.pem"), "--tls-key"),
        (("--egress-allow-range", "10.0.0.1/8"), "--egress-allow-range"),
        (("--no-such-option",), "--no-such-option"),
    ],
)
def test_a_wrong_option_is_named_and_exits_2(data: Path, options: tuple[str, ...], word: str) -> None:
    ended = run_to_its_end(data, *options)

    assert ended.returncode == 2
    assert word in ended.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pol = '4,4'", ("pol is not known",)),
        ("[limits]\nlog_bytes = 1", ("limits.log_bytes is not known",)),
        ("[limits]\nlog_bytes_max = 0", ("limits.log_bytes_max is from 1 to ", ", not 0")),
        ("[limits]\ntimeout_ms_max = 10", ("limits.timeout_ms_default (30000)", "timeout_ms_max (10)")),
    ],
)
def test_a_wrong_key_of_the_file_is_named_and_exits_2(data: Path, text: str, words: tuple[str, ...]) -> None:
    data.mkdir(mode=0o700)
    (data / "server.toml").write_text(f"{text}\n")

    ended = run_to_its_end(data)

    assert ended.returncode == 2
    assert all(word in ended.stderr for word in words), ended.stderr


def test_nats_killed_alone_comes_back_and_nobody_hangs(running: list[ServerProcess], data: Path) -> None:
    server = start(running, data)
    client = server.client()
    client.function("echo", ECHO)
    nats = [p for p in descendants(server.process.pid) if _comm(p) == "nats-server"]
    assert len(nats) == 1

    os.kill(nats[0], signal.SIGKILL)

    assert client.result("echo", 1) == 1  # calls need no store
    answers = [client.create(f"after-{number}", {"index.js": ECHO}) for number in range(5)]
    for answer in answers:
        assert answer.status_code == 201 or (
            answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        ), answer.text
    wait_until(lambda: client.http.get("/readyz").status_code == 200)
    assert client.create("at-last", {"index.js": ECHO}).status_code == 201
    client.http.close()


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_only_the_supervisor_has_root(running: list[ServerProcess], data: Path) -> None:
    server = start(running, data)

    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    )

    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    nats = next(p for p in descendants(server.process.pid) if _comm(p) == "nats-server")
    assert os.stat(f"/proc/{nats}").st_uid != 0


def test_a_given_token_replaces_the_one_before_and_is_stored_as_a_hash(
    running: list[ServerProcess], data: Path
) -> None:
    first = start(running, data, "--token", "first-token-of-the-test")
    with first.client("first-token-of-the-test").http as http:
        assert http.get("/compute/functions").status_code == 200
    first.stop()

    second = start(running, data, "--token", "second-token-of-the-test")

    with second.client("first-token-of-the-test").http as http:
        assert http.get("/compute/functions").status_code == 401
    with second.client("second-token-of-the-test").http as http:
        assert http.get("/compute/functions").status_code == 200
    second.stop()
    third = start(running, data)
    with third.client("second-token-of-the-test").http as http:
        assert http.get("/compute/functions").status_code == 200
    stored = b"".join(path.read_bytes() for path in (data / "nats").rglob("*") if path.is_file())
    assert b"second-token-of-the-test" not in stored


def test_without_isolation_it_says_so_at_start_and_when_asked(
    running: list[ServerProcess], data: Path
) -> None:
    server = start(running, data, "--isolation", "process")
    client = server.client()
    client.function("echo", ECHO)

    assert client.result("echo", {"a": 1}) == {"a": 1}
    assert "isolation" in client.http.get("/readyz").json()["warning"]
    assert any("no_isolation" in line for line in server.stderr)
    client.http.close()


@pytest.mark.parametrize("harm", ["vanished", "cut", "emptied"])
def test_a_damaged_store_is_refused_with_the_file_and_the_way_out(
    running: list[ServerProcess], data: Path, harm: str
) -> None:
    server = start(running, data)
    client = server.client()
    for number in range(5):
        client.function(f"made-{number}", ECHO)
    client.http.close()
    server.stop()
    blocks = sorted((data / "nats").rglob("CATALOG/msgs/*.blk"))
    assert blocks
    if harm == "vanished":
        import shutil

        shutil.rmtree(blocks[0].parents[1])
    elif harm == "cut":
        with blocks[-1].open("r+b") as file:
            file.truncate(blocks[-1].stat().st_size // 2)
    else:
        blocks[-1].write_bytes(b"")

    ended = run_to_its_end(data)

    assert ended.returncode == 3, ended.stderr
    assert str(data / "nats") in ended.stderr
    assert "backup" in ended.stderr
