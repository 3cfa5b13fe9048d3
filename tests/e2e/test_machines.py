"""Machines from outside: real instances, real figures, and nobody else's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.model.limits import MIB
from tests.e2e.conftest import Client, ServerProcess, a_server
from tests.e2e.processes import wait_until


@pytest.fixture(scope="module")
def server(isolated: None) -> Iterator[ServerProcess]:
    """A server of these tests' own: there is room on it for one more instance."""
    with a_server() as running:
        yield running


WORK = {
    "nodejs": """
const kept = [];
exports.handler = async (event) => {
  if (event.mb) kept.push(Buffer.alloc(event.mb << 20, 1));
  const end = process.cpuUsage().user + (event.cpu_ms || 0) * 1000;
  while (process.cpuUsage().user < end);
  if (event.ms) await new Promise((done) => setTimeout(done, event.ms));
  return process.version;
};
""",
    "python": """
import platform, time
kept = []
def handler(event):
    if event.get('mb'):
        kept.append(bytearray(event['mb'] << 20))
    end = time.process_time() + event.get('cpu_ms', 0) / 1000
    while time.process_time() < end:
        pass
    return platform.python_version()
""",
}
BOTH = pytest.mark.parametrize("runtime", ["nodejs", "python"])


def machines(client: Client, **query: str) -> list[dict[str, Any]]:
    answer = client.http.get("/compute/machines", params={"namespace": client.collection, **query})
    assert answer.status_code == 200, answer.text
    body = answer.json()["body"]
    assert len(body["results"]) == body["results_total"]
    found: list[dict[str, Any]] = body["results"]
    return found


@BOTH
def test_an_instance_that_serves_is_a_machine_with_its_figures(client: Client, runtime: str) -> None:
    name = client.function("worker", WORK[runtime], runtime=runtime, size="256MB")
    assert machines(client) == []
    version = client.result(name, {"mb": 40, "cpu_ms": 200})

    (machine,) = machines(client)

    assert re.fullmatch(r"[0-9a-f]{12}", machine["id"])
    assert (machine["status"], machine["type"]) == ("running", "Compute Function")
    assert (machine["runtime"], machine["runtime_version"]) == (runtime, version.lstrip("v"))
    assert machine["memory"] == "256.00 MB"
    assert machine["rootfs"] == f"{runtime}-{machine['runtime_version'].split('.')[0]}"
    assert all(isinstance(value, str) for value in machine["annotations"].values())
    assert machine["annotations"]["service.version"] == "1"
    assert Path(f"/proc/{machine['pid']}").exists()
    assert machine["id"] in Path(f"/proc/{machine['pid']}/cgroup").read_text()
    assert machine["stats"]["Interfaces"] == []
    stats = machine["stats"]["CgroupStats"]
    assert stats["cpu"]["usage"]["total"] >= 200_000_000
    used = stats["memory"]["usage"]
    assert used["limit"] == 256 * MIB
    assert 40 * MIB <= used["usage"] <= used["max"] <= 256 * MIB
    assert 1 <= stats["pids"]["current"] < stats["pids"]["limit"]


def test_the_figures_move_with_what_the_function_does(client: Client) -> None:
    name = client.function("worker", WORK["nodejs"])
    client.result(name, {})
    (before,) = machines(client)

    client.result(name, {"mb": 50, "cpu_ms": 100})
    (after,) = machines(client)

    assert after["id"] == before["id"]
    spent, grown = (
        [one["stats"]["CgroupStats"]["cpu"]["usage"]["total"] for one in (before, after)],
        [one["stats"]["CgroupStats"]["memory"]["usage"]["max"] for one in (before, after)],
    )
    assert spent[1] - spent[0] >= 100_000_000
    assert grown[1] - grown[0] >= 40 * MIB


def test_filters_find_the_machine_and_nothing_else(client: Client) -> None:
    for runtime, name in (("nodejs", "one"), ("python", "two")):
        client.result(client.function(name, WORK[runtime], runtime=runtime), {})
    one, two = sorted(machines(client), key=lambda machine: str(machine["runtime"]))

    assert [found["id"] for found in machines(client, runtime="python")] == [two["id"]]
    assert [found["id"] for found in machines(client, machine=one["id"])] == [one["id"]]
    assert [found["id"] for found in machines(client, service="one")] == [one["id"]]
    assert [found["id"] for found in machines(client, service=two["annotations"]["service"])] == [two["id"]]
    assert len(machines(client, status="running", runtime="*")) == 2
    assert machines(client, status="stopped") == []
    assert machines(client, namespace="nowhere") == []
    refused = client.http.get("/compute/machines?status=broken")
    assert refused.status_code == 400
    assert "running, paused, stopped, *" in refused.json()["error"]


def test_a_machine_is_gone_with_its_function_and_nothing_of_the_host_is_told(
    client: Client, server: ServerProcess
) -> None:
    name = client.function("worker", WORK["nodejs"])
    client.result(name, {})
    text = client.http.get("/compute/machines", params={"namespace": client.collection}).text

    client.http.delete(f"/compute/functions/{client.collection}/{name}")

    assert machines(client) == []
    assert str(server.data.parent) not in text
    assert "/sys/fs" not in text
    assert os.sep not in text.replace("\\/", "")


def test_new_code_has_its_machine_before_it_is_called(client: Client) -> None:
    name = client.function("worker", WORK["nodejs"])
    client.result(name, {})
    (before,) = machines(client)

    path = f"/compute/compute-assets/{client.collection}/{name}"
    assert client.http.patch(path, json={"timeout": 9000}).status_code == 200

    def versions() -> list[str]:
        return [one["annotations"]["service.version"] for one in machines(client)]

    wait_until(lambda: versions() == ["2"])
    assert before["annotations"]["service.version"] == "1"
    assert machines(client, machine=before["id"]) == []


def test_who_may_not_read_functions_sees_no_machine(server: ServerProcess) -> None:
    with Client(server.url, "no-such-token") as stranger:
        assert stranger.http.get("/compute/machines").status_code == 401
