"""What a call used of the network: counted by host in its record, and bounded."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import world as w
from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import wait_until
from tests.e2e.test_egress import broker_of
from tests.e2e.world import World, make_world

BOTH = pytest.mark.parametrize("runtime", ["nodejs", "python"])
MOVES = {
    "nodejs": """
exports.handler = async ({ urls, send }) => {
  const sizes = [];
  for (const url of urls) {
    try {
      const answer = await fetch(url, send ? { method: 'POST', body: 'x'.repeat(send) } : {});
      sizes.push((await answer.text()).length);
    } catch (error) { sizes.push(String(error.cause?.code ?? error.message)); }
  }
  return sizes;
};
""",
    "python": """
import http.client, urllib.request
def handler(event):
    sizes = []
    for url in event['urls']:
        try:
            with urllib.request.urlopen(url, b'x' * event['send'] if event.get('send') else None, timeout=20) as answer:
                sizes.append(len(answer.read()))
        except (OSError, http.client.HTTPException) as error:
            sizes.append(str(error))
    return sizes
""",
}
LIMITS = """
[limits]
egress_bytes_max = 1_000_000
egress_account_bytes_max = 6_000_000
"""


@pytest.fixture(scope="module")
def world(isolated: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with make_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def outside(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    server = ServerProcess(folder / "data", under=world.prefix).wait_ready()
    yield server
    assert server.stop() == 0, "".join(server.stderr)


@pytest.fixture
def client(outside: ServerProcess) -> Iterator[Client]:
    with outside.client() as made:
        yield made


def moves(client: Client, runtime: str, **rest: Any) -> str:
    return client.function(
        f"moves-{os.urandom(4).hex()}", MOVES[runtime], runtime=runtime, timeout=60_000, **rest
    )


def used(client: Client, name: str, *urls: str, **event: Any) -> tuple[Any, dict[str, Any], str]:
    """Return what a call answered, what its record says of each host, and its log."""
    answer = client.invoke(name, {"urls": urls, **event})
    assert answer.status_code == 200, answer.text
    record = client.http.get(f"/compute/invocations/{answer.headers['x-invocation-id']}").json()["body"]
    hosts = {one.pop("host"): one for one in record.get("network", [])}
    return json.loads(answer.json()["body"]), hosts, client.log(answer)


@BOTH
def test_a_record_says_what_its_call_used_of_each_host(client: Client, runtime: str) -> None:
    name = moves(client, runtime)

    sizes, hosts, _ = used(client, name, "http://public.test/", "http://second.test/", send=100_000)

    assert sizes == [100_000, 100_000]
    assert set(hosts) == {"public.test:80", "second.test:80"}
    for host in hosts.values():
        assert (host["connections"], host["refused"]) == (1, 0)
        assert 100_000 < host["bytes_sent"] < 101_000
        assert 100_000 < host["bytes_received"] < 101_000


@BOTH
def test_each_call_has_what_passed_while_it_ran_also_in_a_connection_that_stood(
    client: Client, runtime: str
) -> None:
    name = moves(client, runtime)

    seen = [
        used(client, name, "http://public.test/", send=size)[1]["public.test:80"] for size in (1_000, 50_000)
    ]

    assert [one["bytes_sent"] // 1_000 for one in seen] == [1, 50]
    assert sum(one["connections"] for one in seen) == (1 if runtime == "nodejs" else 2)


def test_a_call_that_used_nothing_says_nothing(client: Client) -> None:
    name = moves(client, "nodejs")

    assert used(client, name)[1] == {}


@BOTH
def test_what_was_refused_is_counted_too(client: Client, runtime: str) -> None:
    name = moves(client, runtime, network={"egress": ["public.test:80"]})

    _, hosts, _ = used(client, name, "http://second.test/", "http://public.test/")

    assert hosts["second.test:80"]["refused"] == 1
    assert hosts["second.test:80"]["connections"] == 0
    assert hosts["public.test:80"]["refused"] == 0


def test_past_fifty_hosts_the_rest_is_one_entry(client: Client) -> None:
    name = moves(client, "python", network={"egress": []})
    urls = [f"http://host{number}.test/" for number in range(60)]

    _, hosts, _ = used(client, name, *urls)

    assert len(hosts) == 51
    assert hosts["other"]["refused"] == 10
    assert sum(one["refused"] for one in hosts.values()) == 60


def test_a_call_that_ran_out_of_time_has_its_use_in_its_record(client: Client) -> None:
    source = """
exports.handler = async () => { await (await fetch('http://public.test/')).text(); await new Promise(() => {}); };
"""
    name = client.function("late", source, timeout=1_000)

    answer = client.invoke(name)
    record = client.http.get(f"/compute/invocations/{answer.headers['x-invocation-id']}").json()["body"]

    assert record["status"] == "timeout"
    assert [(one["host"], one["connections"]) for one in record["network"]] == [("public.test:80", 1)]


def test_metrics_add_it_up(client: Client) -> None:
    def figures() -> list[float]:
        lines = client.http.get("/metrics").text.splitlines()
        names = ("stoker_egress_connections_total", 'stoker_egress_bytes_total{direction="sent"}')
        return [
            float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1]) for name in names
        ]

    name = moves(client, "python")
    before = figures()

    used(client, name, "http://public.test/", "http://public.test/", send=10_000)

    connections, sent = (now - then for now, then in zip(figures(), before, strict=True))
    assert connections == 2
    assert 20_000 < sent < 21_000


@pytest.fixture
def bounded(world: World, data: Any) -> Iterator[Client]:
    """A client of a server with small budgets."""
    config = data.parent / "stoker.toml"
    config.write_text(LIMITS)
    server = ServerProcess(data, "--config", str(config), under=world.prefix).wait_ready()
    with server.client() as made:
        yield made
    assert server.stop() == 0, "".join(server.stderr)


def test_a_call_moves_as_many_bytes_as_it_may_and_the_next_one_again(bounded: Client) -> None:
    name = moves(bounded, "python")
    urls = ["http://public.test/"] * 4

    below, _, quiet = used(bounded, name, *urls, send=120_000)
    above, hosts, log = used(bounded, name, *urls, send=130_000)
    again, _, _ = used(bounded, name, *urls, send=120_000)

    assert below == again == [120_000] * 4
    assert quiet == ""
    assert above[:3] == [130_000] * 3
    assert above[3] != 130_000
    assert "the call has moved 1000000 bytes, as many as it may (egress_bytes_max)" in log
    assert hosts["public.test:80"]["bytes_sent"] > 390_000


def test_an_account_moves_as_many_bytes_in_a_minute_as_it_may(bounded: Client) -> None:
    name = moves(bounded, "python")
    moved, log, calls = 0, "", 0

    while not log and calls < 40:
        _, hosts, log = used(bounded, name, "http://public.test/", send=450_000)
        calls += 1
        moved += sum(one["bytes_sent"] + one["bytes_received"] for one in hosts.values())

    assert "the account has moved 6000000 bytes within a minute" in log
    assert moved >= 6_000_000


def test_when_the_broker_was_killed_the_record_says_that_nobody_counted(
    client: Client, outside: ServerProcess, world: World
) -> None:
    listening = world.listen(w.PUBLIC, 4100)
    source = """
import socket
def handler(event):
    with socket.create_connection(('127.0.0.1', 808), 20) as proxy:
        proxy.sendall(b'CONNECT public.test:4100 HTTP/1.1\\r\\n\\r\\n')
        try:
            while proxy.recv(65536):
                pass
        except ConnectionResetError:
            pass
"""
    name = client.function("cut", source, runtime="python", network={"egress": ["public.test:4100"]})
    answers: list[Any] = []
    calling = threading.Thread(target=lambda: answers.append(client.invoke(name)))
    calling.start()
    listening.settimeout(20)
    accepted, _ = listening.accept()
    first = broker_of(outside)
    assert first is not None

    os.kill(first, signal.SIGKILL)
    calling.join(30)
    accepted.close()
    wait_until(lambda: broker_of(outside) not in (None, first))

    record = client.http.get(f"/compute/invocations/{answers[0].headers['x-invocation-id']}").json()["body"]
    assert [one["host"] for one in record["network"]] == ["unknown"]
